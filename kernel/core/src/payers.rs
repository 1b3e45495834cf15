// SPDX-License-Identifier: GPL-2.0
//! The few accounts that one frame is charged to, in one word.

use core::iter;

use cohmem_uapi::MAX_NESTED_JOBS;

use crate::accounts::NR_SLOTS;

/// Bits that name an account: its index plus 1, and 0 for none.
const LANE_BITS: u32 = 10;
const LANE_MASK: u64 = (1 << LANE_BITS) - 1;
const NR_LANES: u32 = u64::BITS / LANE_BITS;

const _: () = assert!((NR_SLOTS as u64) < LANE_MASK);
// A user, a run instance, and jobs.
const _: () = assert!(NR_LANES == 2 + MAX_NESTED_JOBS);

/// A slot of the table of accounts.
///
/// # Invariants
///
/// The index is below [`NR_SLOTS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AccountIndex(u16);

impl AccountIndex {
    pub(crate) fn new(index: usize) -> Option<Self> {
        let index = u16::try_from(index).ok()?;
        // INVARIANT: checked.
        (usize::from(index) < NR_SLOTS).then_some(Self(index))
    }

    pub(crate) fn get(self) -> usize {
        usize::from(self.0)
    }

    fn lane(self) -> u64 {
        u64::from(self.0).saturating_add(1)
    }
}

/// Accounts that pay together, each for every frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Payers(u64);

impl Payers {
    pub(crate) fn one(account: AccountIndex) -> Self {
        Self(account.lane())
    }

    /// With one more; `None` when there are as many as a word names.
    pub(crate) fn and(self, account: AccountIndex) -> Option<Self> {
        let has_room = self.0 >> (LANE_BITS * (NR_LANES - 1)) == 0;
        has_room.then(|| Self((self.0 << LANE_BITS) | account.lane()))
    }

    pub(crate) fn iter(self) -> impl Iterator<Item = AccountIndex> {
        iter::successors(Some(self.0), |word| Some(word >> LANE_BITS))
            .map_while(|word| (word & LANE_MASK).checked_sub(1))
            .filter_map(|index| AccountIndex::new(usize::try_from(index).ok()?))
    }

    pub(crate) const fn raw(self) -> u64 {
        self.0
    }

    pub(crate) const fn from_raw(raw: u64) -> Self {
        Self(raw)
    }
}
