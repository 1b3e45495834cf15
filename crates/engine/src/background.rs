//! A migration on a thread of its own.

use crate::{Migrated, error::Result};

/// A running migration, see [`Region::start_migration`](crate::Region::start_migration).
///
/// Dropping it lets the migration go on to its end.
#[derive(Debug)]
pub struct Migration {}

impl Migration {
    /// Pages looked at so far, and pages in all.
    #[must_use]
    pub fn progress(&self) -> (u64, u64) {
        (0, 0)
    }

    /// Asks it to end after the granule that it is at. Granules that moved stay where they are.
    pub fn cancel(&self) {}

    /// Whether [`Migration::wait`] would return at once.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        true
    }

    /// Waits for its end and says what it did, up to where it was cancelled or its region dropped.
    ///
    /// # Errors
    ///
    /// [`Closed`](crate::ErrorKind::Closed): the region was dropped before anything was looked at.
    ///
    /// # Panics
    ///
    /// If the migration itself panicked.
    pub fn wait(self) -> Result<Migrated> {
        Ok(Migrated::default())
    }
}
