// SPDX-License-Identifier: GPL-2.0
//! Frames whose content the hardware lost.
//!
//! The kernel tells a pgmap's owner through its `memory_failure` operation; a driver without one makes
//! the kernel take the page for a file's and fault in the kernel (`mf_generic_kill_procs`,
//! `mm/memory-failure.c`). The frame is withdrawn, marked, and sent through the migration path with no
//! destination: unmapping a marked page leaves entries that send a process that touches them SIGBUS at
//! the right address, and nobody else notices.
//!
//! Those entries name the frame for as long as the process lives, so the chunk is kept until the next
//! boot.

use cohmem_frames::{FrameIndex, FrameRun, Withdrawal};
use cohmem_uapi::{Cause, Event};

use crate::{
    history::Told,
    host::{Batch, Chunk, Host, Source},
    ledger::Ledger,
};

const NR_TRIES: u64 = 5;

/// What became of a failed frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Nobody held it, or nobody maps it any more; it is never handed out again.
    Contained,
    /// It is marked, but something still holds it; it is withdrawn when the last reference goes.
    StillHeld,
}

/// Withdraws a frame and tells the processes that map it.
///
/// **Context:** process context; sleeps. The caller keeps `chunk` registered.
pub fn frame_failed<H: Host>(
    host: &H,
    ledger: &Ledger<H>,
    chunk: &H::Chunk,
    frame: FrameIndex,
) -> Failure {
    match ledger.pool().withdraw(frame) {
        Ok(Withdrawal::WasFree) | Err(_) => return Failure::Contained,
        Ok(Withdrawal::WasAllocated) => tell_lost(host, ledger, frame),
        Ok(Withdrawal::Already) => {}
    }
    if !ledger.pool().is_allocated(frame) {
        return Failure::Contained;
    }
    // Before the first entry can name the frame.
    ledger.keep_chunk_of(frame);
    chunk.mark_poisoned(frame);
    for nr_try in 0..NR_TRIES {
        unmap(host, chunk, frame);
        if !ledger.pool().is_allocated(frame) {
            return Failure::Contained;
        }
        if nr_try == 0 {
            host.drain_processors();
        } else {
            host.sleep_ms(nr_try);
        }
    }
    Failure::StillHeld
}

fn tell_lost<H: Host>(host: &H, ledger: &Ledger<H>, frame: FrameIndex) {
    let told = Told {
        event: Event::Lost,
        cause: Cause::Failure,
        other: None,
    };
    let history = ledger.history();
    history.write(host, told, [history.page_of(frame)]);
}

/// Sends a marked frame through the migration path with no destination.
fn unmap<H: Host>(host: &H, chunk: &H::Chunk, frame: FrameIndex) {
    let Ok(mut arrays) = host.new_arrays() else {
        return;
    };
    let mut batch = chunk.collect(FrameRun::new(frame, 1), &mut arrays);
    if matches!(batch.source(0), Source::Page(_)) {
        batch.commit();
    }
}
