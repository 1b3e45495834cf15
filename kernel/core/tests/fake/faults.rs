// SPDX-License-Identifier: GPL-2.0
//! Which call of which operation fails.

use std::sync::{Mutex, PoisonError};

/// An operation that a test can make fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fallible {
    NewLock,
    NewBuffer,
    NewWords,
    Share,
    NewArrays,
    NewStock,
    /// Yields one page less than asked for.
    Refill,
    OwnSpace,
    LockSpace,
    Snapshot,
    Collect,
    /// One page of a batch is not collected.
    CollectPage,
    /// The hardware lost the page.
    Copy,
    /// The page turns out to be in use.
    Commit,
    Claim,
    Register,
    Publish,
    WriteUser,
    Killed,
    Signalled,
}

impl Fallible {
    pub(crate) const ALL: [Self; 20] = [
        Self::NewLock,
        Self::NewBuffer,
        Self::NewWords,
        Self::Share,
        Self::NewArrays,
        Self::NewStock,
        Self::Refill,
        Self::OwnSpace,
        Self::LockSpace,
        Self::Snapshot,
        Self::Collect,
        Self::CollectPage,
        Self::Copy,
        Self::Commit,
        Self::Claim,
        Self::Register,
        Self::Publish,
        Self::WriteUser,
        Self::Killed,
        Self::Signalled,
    ];
}

#[derive(Debug)]
struct Plan {
    what: Fallible,
    nth: u64,
    is_lasting: bool,
    nr_calls: u64,
    nr_fired: u64,
}

/// The failures that are planned: none or one.
#[derive(Debug, Default)]
pub(crate) struct Faults(Mutex<Option<Plan>>);

impl Faults {
    /// Makes the `nth` call (from 1) of `what` fail, and, if `is_lasting`, all after it.
    pub(crate) fn plan(&self, what: Fallible, nth: u64, is_lasting: bool) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Plan {
            what,
            nth,
            is_lasting,
            nr_calls: 0,
            nr_fired: 0,
        });
    }

    /// Ends the failures; returns how many there were.
    pub(crate) fn clear(&self) -> u64 {
        let plan = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        plan.map_or(0, |plan| plan.nr_fired)
    }

    /// Whether this call of `what` fails.
    pub(crate) fn hit(&self, what: Fallible) -> bool {
        let mut plan = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(plan) = plan.as_mut().filter(|plan| plan.what == what) else {
            return false;
        };
        plan.nr_calls += 1;
        let is_hit = plan.nr_calls == plan.nth || (plan.is_lasting && plan.nr_calls > plan.nth);
        plan.nr_fired += u64::from(is_hit);
        is_hit
    }
}
