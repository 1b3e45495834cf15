//! Where granules are.

use cohmem_uapi::Tier;

use crate::Granule;

/// Where the granules of a range were at the moment of asking.
///
/// System memory that was never touched counts as [`Tier::System`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Residency {
    pub(crate) granule: Granule,
    pub(crate) tiers: Vec<Tier>,
}

impl Residency {
    /// One entry a granule, from the start of the range.
    #[must_use]
    pub fn tiers(&self) -> &[Tier] {
        &self.tiers
    }

    /// The unit of [`Self::tiers`].
    #[must_use]
    pub const fn granule(&self) -> Granule {
        self.granule
    }

    /// Bytes on `tier`.
    #[must_use]
    pub fn bytes_on(&self, tier: Tier) -> usize {
        let nr_granules = self.tiers.iter().filter(|&&found| found == tier).count();
        nr_granules * self.granule.bytes()
    }
}
