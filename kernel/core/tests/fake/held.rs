// SPDX-License-Identifier: GPL-2.0
//! What the current thread holds, and what it therefore must not do.

use std::{
    cell::Cell,
    ops::{Deref, DerefMut},
    sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use cohmem_kcore::host::SleepLock;

/// Locks and batches of one thread.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Held {
    pub(crate) gates: u32,
    pub(crate) spaces: u32,
    pub(crate) batches: u32,
}

thread_local! {
    static HELD: Cell<Held> = const { Cell::new(Held { gates: 0, spaces: 0, batches: 0 }) };
}

pub(crate) fn held() -> Held {
    HELD.get()
}

pub(crate) fn change(change_fn: impl FnOnce(&mut Held)) {
    let mut held = HELD.get();
    change_fn(&mut held);
    HELD.set(held);
}

/// Fails the test when `what`, which may sleep or allocate, is done with a batch in flight.
#[track_caller]
pub(crate) fn assert_no_batch(what: &str) {
    assert_eq!(held().batches, 0, "{what} while a batch is in flight");
}

/// Fails the test when `what` is done with a lock held.
#[track_caller]
pub(crate) fn assert_no_lock(what: &str) {
    assert_no_batch(what);
    let held = held();
    assert_eq!(held.gates + held.spaces, 0, "{what} with a lock held");
}

/// The gate: a reader-writer lock that knows the lock order.
#[derive(Debug)]
pub(crate) struct Gate<T>(RwLock<T>);

impl<T> Gate<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(RwLock::new(value))
    }
}

fn enter(max_spaces: u32) {
    assert_no_batch("taking the gate");
    let held = held();
    assert_eq!(held.gates, 0, "taking the gate twice");
    assert!(
        held.spaces <= max_spaces,
        "taking the gate under {} address spaces",
        held.spaces
    );
    change(|held| held.gates += 1);
}

#[derive(Debug)]
pub(crate) struct ReadGate<'a, T>(RwLockReadGuard<'a, T>);

#[derive(Debug)]
pub(crate) struct WriteGate<'a, T>(RwLockWriteGuard<'a, T>);

impl<T: std::fmt::Debug + Send + Sync> SleepLock<T> for Gate<T> {
    type ReadGuard<'a>
        = ReadGate<'a, T>
    where
        T: 'a;
    type WriteGuard<'a>
        = WriteGate<'a, T>
    where
        T: 'a;

    fn read(&self) -> ReadGate<'_, T> {
        enter(1);
        ReadGate(self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn write(&self) -> WriteGate<'_, T> {
        enter(0);
        WriteGate(self.0.write().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<T> Deref for ReadGate<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> Deref for WriteGate<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> DerefMut for WriteGate<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

impl<T> Drop for ReadGate<'_, T> {
    fn drop(&mut self) {
        change(|held| held.gates -= 1);
    }
}

impl<T> Drop for WriteGate<'_, T> {
    fn drop(&mut self) {
        change(|held| held.gates -= 1);
    }
}
