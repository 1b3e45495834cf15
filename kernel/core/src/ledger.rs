// SPDX-License-Identifier: GPL-2.0
//! Who owns which frame of a device.
//!
//! The ledger outlives every frame of its device: the kernel reports a free through
//! [`Ledger::frame_freed`] from any context, hard interrupts included, so nothing here waits.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use cohmem_frames::{FrameIndex, FramePool, FrameRun, FreeError, words_needed};
use cohmem_uapi::Reason;

use crate::{
    Errno,
    accounts::{self, Accounts},
    history::History,
    host::{Host, Point},
    payers::Payers,
};

/// Counts of what happened to a device's pages. Statistics only: no other memory depends on them.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) moved_in: AtomicU64,
    pub(crate) moved_out: AtomicU64,
    pub(crate) filled: AtomicU64,
    pub(crate) freed: AtomicU64,
}

/// The frames of one device.
#[derive(Debug)]
pub struct Ledger<H: Host> {
    pool: FramePool<H::Words>,
    accounts: Accounts<H::Words>,
    history: History<H>,
    chunk_frames: u64,
    nr_metadata: AtomicU64,
    pub(crate) counters: Counters,
    /// Bit n: chunk n held poison that a process had mapped.
    kept_chunks: AtomicU64,
    is_evicting: AtomicBool,
}

impl<H: Host> Ledger<H> {
    pub(crate) fn new(
        host: &H,
        device: u32,
        nr_frames: u64,
        chunk_frames: u64,
    ) -> Result<Self, Errno> {
        let words = host.new_words(words_needed(nr_frames))?;
        let pool = FramePool::new(words, nr_frames).map_err(|_size| Errno::EOVERFLOW)?;
        Ok(Self {
            pool,
            accounts: Accounts::new(host.new_words(accounts::words_needed(nr_frames))?),
            history: History::new(host, device, nr_frames)?,
            chunk_frames,
            nr_metadata: AtomicU64::new(0),
            counters: Counters::default(),
            kept_chunks: AtomicU64::new(0),
            is_evicting: AtomicBool::new(false),
        })
    }

    /// Takes a frame back whose last reference is gone.
    ///
    /// A poisoned frame is never handed out again.
    ///
    /// **Context:** any, hard interrupts included; never waits.
    ///
    /// # Errors
    ///
    /// The frame was not handed out; nothing has changed. The kernel never frees a page twice, so the
    /// caller should complain.
    pub fn frame_freed(&self, frame: FrameIndex, is_poisoned: bool) -> Result<(), FreeError> {
        if is_poisoned {
            self.pool.withdraw(frame)?;
        }
        self.release(frame)?;
        self.counters.freed.fetch_add(1, Relaxed);
        Ok(())
    }

    /// Takes up to `max` consecutive frames, charged to each of `payers`; else tells what there is none of.
    /// Without anybody who can pay there is no quota.
    ///
    /// Under the gate.
    pub(crate) fn take(
        &self,
        host: &H,
        payers: Option<Payers>,
        max: u64,
    ) -> Result<FrameRun, Reason> {
        host.reached(Point::Allocating);
        let payers = payers.ok_or(Reason::Quota)?;
        let nr_granted = self.accounts.charge(payers, max);
        if nr_granted == 0 {
            return Err(Reason::Quota);
        }
        let run = self.pool.allocate_run(nr_granted);
        let nr_taken = run.map_or(0, FrameRun::len);
        self.accounts
            .uncharge(payers, nr_granted.saturating_sub(nr_taken));
        let run = run.ok_or(Reason::NoFrame)?;
        self.accounts.assign(run, payers);
        Ok(run)
    }

    /// Gives back a frame that never became a page.
    pub(crate) fn untake(&self, frame: FrameIndex) -> Result<(), FreeError> {
        self.release(frame)
    }

    /// Gives a frame back to the pool, and then the charge for it.
    fn release(&self, frame: FrameIndex) -> Result<(), FreeError> {
        // Before it is free: then it may be another's at once.
        let payers = self.accounts.payers_of(frame);
        self.pool.free(frame)?;
        // After: the other way round a payer could hold one frame too many for a moment.
        if let Some(payers) = payers {
            self.accounts.uncharge(payers, 1);
        }
        Ok(())
    }

    /// Withdraws the frames of `run`, which hold struct pages.
    pub(crate) fn set_metadata(&self, run: FrameRun) -> Result<(), FreeError> {
        for frame in run.iter() {
            self.pool.withdraw(frame)?;
        }
        self.nr_metadata.fetch_add(run.len(), Relaxed);
        Ok(())
    }

    pub(crate) const fn pool(&self) -> &FramePool<H::Words> {
        &self.pool
    }

    pub(crate) const fn accounts(&self) -> &Accounts<H::Words> {
        &self.accounts
    }

    pub(crate) const fn history(&self) -> &History<H> {
        &self.history
    }

    pub(crate) fn nr_metadata(&self) -> u64 {
        self.nr_metadata.load(Relaxed)
    }

    pub(crate) fn nr_poisoned(&self) -> u64 {
        self.pool.nr_withdrawn().saturating_sub(self.nr_metadata())
    }

    /// Remembers that the chunk of `frame` held poison that a process had mapped.
    pub(crate) fn keep_chunk_of(&self, frame: FrameIndex) {
        // Ordering: read again only under the gate's write side, after the batch that set it.
        self.kept_chunks.fetch_or(self.chunk_bit(frame), Relaxed);
    }

    pub(crate) fn is_chunk_kept(&self, first: FrameIndex) -> bool {
        self.kept_chunks.load(Relaxed) & self.chunk_bit(first) != 0
    }

    fn chunk_bit(&self, frame: FrameIndex) -> u64 {
        let chunk = frame.get().checked_div(self.chunk_frames).unwrap_or(0);
        let shift = u32::try_from(chunk).unwrap_or(u32::MAX);
        1u64.checked_shl(shift).unwrap_or(0)
    }

    /// Claims the right to evict; one task at a time holds it.
    pub(crate) fn begin_eviction(&self) -> Option<EvictionGuard<'_>> {
        let was_evicting = self.is_evicting.swap(true, Relaxed);
        (!was_evicting).then(|| EvictionGuard {
            flag: &self.is_evicting,
        })
    }
}

/// The right to evict a device, until it is dropped.
#[derive(Debug)]
pub(crate) struct EvictionGuard<'a> {
    flag: &'a AtomicBool,
}

impl Drop for EvictionGuard<'_> {
    fn drop(&mut self) {
        self.flag.store(false, Relaxed);
    }
}
