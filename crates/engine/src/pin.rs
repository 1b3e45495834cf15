//! Keeps granules in place.

use std::ops::Range;

use crate::{MemoryType, Region, word::Place};

/// Granules that stay where they are, see [`Region::pin`].
#[derive(Debug)]
#[must_use = "dropping it lets the granules move again"]
pub struct PinGuard<'r> {
    region: &'r Region,
    granules: Range<usize>,
}

impl<'r> PinGuard<'r> {
    pub(crate) fn new(region: &'r Region, granules: Range<usize>) -> Self {
        let inner = region.inner();
        for index in granules.clone() {
            let word = &inner.words[index];
            while word.pin() == Place::Device && inner.memory_type == MemoryType::Private {
                word.unpin();
                // For want of memory it is tried again: whoever touches it would wait as well.
                match inner.bring_home(index) {
                    Ok(()) | Err(_) => {}
                }
            }
        }
        Self { region, granules }
    }

    /// The region.
    #[must_use]
    pub const fn region(&self) -> &Region {
        self.region
    }
}

impl Drop for PinGuard<'_> {
    fn drop(&mut self) {
        for word in &self.region.inner().words[self.granules.clone()] {
            word.unpin();
        }
    }
}
