//! The bytes of a region: the only way to them.

use std::{ptr::NonNull, slice, sync::Arc, sync::atomic::AtomicU64};

use crate::pool::memory::Memory;

/// The bytes of a memory.
///
/// # Invariants
///
/// `start..start + length` is mapped, readable, writable and initialised as long as `owner` lives,
/// `length` is at most `isize::MAX`, `start` is aligned to a page, and no other value gives slices
/// of it: [`View::new`] takes the memory by value. What else holds the memory moves its pages,
/// which keeps content and addresses.
#[derive(Debug)]
pub(crate) struct View {
    start: NonNull<u8>,
    length: usize,
    owner: Arc<Memory>,
}

impl View {
    /// Shows the first `length` bytes of `memory`.
    ///
    /// # Panics
    ///
    /// It has not so many.
    pub(crate) fn new(memory: Memory, length: usize) -> Self {
        let (start, mapped) = memory.span();
        assert!(length <= mapped, "the view lies in the memory");
        // INVARIANT: `span` is the memory's own mapping, which it keeps until its drop; it was
        // given by value, so that nobody else has a slice of it.
        Self {
            start,
            length,
            owner: Arc::new(memory),
        }
    }

    pub(crate) const fn memory(&self) -> &Arc<Memory> {
        &self.owner
    }

    pub(crate) const fn start(&self) -> NonNull<u8> {
        self.start
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        // SAFETY: Mapped, initialised and short enough by the type invariants; the only slices are
        // those of this view, and its shared borrow keeps exclusive ones away.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.length) }
    }

    pub(crate) fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: As in `as_slice`; the exclusive borrow keeps every other slice away.
        unsafe { slice::from_raw_parts_mut(self.start.as_ptr(), self.length) }
    }

    /// Whole words, for threads to share.
    pub(crate) fn as_atomic_words(&mut self) -> &[AtomicU64] {
        let words: *const AtomicU64 = self.start.as_ptr().cast_const().cast();
        // SAFETY: As in `as_slice`, and the start is page-aligned. Every access for as long as the
        // exclusive borrow lasts goes through these atomics.
        unsafe { slice::from_raw_parts(words, self.length / size_of::<AtomicU64>()) }
    }
}

// SAFETY: The memory is `Send` and `Sync` and belongs to the process, not to a thread; `&View`
// gives only shared slices, `&mut View` the only exclusive one.
unsafe impl Send for View {}
// SAFETY: As for `Send`: through a shared borrow the bytes are only read.
unsafe impl Sync for View {}
