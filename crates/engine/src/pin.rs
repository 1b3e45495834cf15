//! Keeps granules in place.

use crate::Region;

/// Granules that stay where they are, see [`Region::pin`].
#[derive(Debug)]
#[must_use = "dropping it lets the granules move again"]
pub struct PinGuard<'r> {
    pub(crate) region: &'r Region,
}

impl PinGuard<'_> {
    /// The region.
    #[must_use]
    pub fn region(&self) -> &Region {
        self.region
    }
}
