//! What a migration did.

use cohmem_uapi::ReasonCounts;

/// What a migration did, in pages of 4 KiB. Partial success is a value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Migrated {
    /// Pages of the range.
    pub total: u64,
    /// Pages that moved.
    pub moved: u64,
    /// Pages that stayed, by reason; those that were where they were asked to go, too
    /// ([`AlreadyThere`](crate::Reason::AlreadyThere)).
    pub stayed: ReasonCounts,
}

impl Migrated {
    pub(crate) fn merge(&mut self, other: &Self) {
        self.total = self.total.saturating_add(other.total);
        self.moved = self.moved.saturating_add(other.moved);
        self.stayed.merge(&other.stayed);
    }

    /// Pages looked at: less than `total` where a migration was cancelled, or its region dropped.
    #[must_use]
    pub fn done(&self) -> u64 {
        self.moved.saturating_add(self.stayed.total())
    }

    /// Whether every page is now where it was asked to go.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        let already = self.stayed.get(cohmem_uapi::Reason::AlreadyThere);
        self.moved.saturating_add(already) == self.total
    }
}
