// SPDX-License-Identifier: GPL-2.0
//! Taking every page of a device home.
//!
//! Goes by frame, not by address: frames that fork, mremap or userfaultfd moved elsewhere are found as
//! well. Rounds over all frames in use repeat until none is left or the time is over; between rounds
//! that moved nothing, the processors' LRU batches are drained and the wait grows. Nothing waits for a
//! page without a limit, and nothing that cannot move is touched twice in a round.

use core::sync::atomic::Ordering::Relaxed;

use cohmem_frames::{FrameIndex, FrameRun};
use cohmem_uapi::{Cause, Event, FRAME_BYTES, Reason, ReasonCounts, args};

use crate::{
    Errno,
    classify::{Origin, Verdict},
    device::{Device, DeviceId},
    driver::Table,
    history::{Run, Told},
    host::{Chunk, Host, PageFacts, SleepLock, WINDOW_PAGES},
    poison,
    window::{Cargo, Destination, Fate, Scratch, carry, spare_pages},
};

const WAIT_MS: core::ops::RangeInclusive<u64> = 1..=100;

/// What an eviction came to.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Evicted {
    pub(crate) nr_evicted: u64,
    pub(crate) nr_left: u64,
}

/// One eviction under way.
pub(crate) struct Eviction<'a, H: Host> {
    host: &'a H,
    gate: &'a H::Lock<Table<H>>,
    id: DeviceId,
    cause: Cause,
    scratch: Scratch<H>,
    is_short_of_memory: bool,
    nr_evicted: u64,
}

impl<'a, H: Host> Eviction<'a, H> {
    /// Prepares an eviction: `ENOMEM` when memory and swap cannot hold what the device holds.
    pub(crate) fn new(
        host: &'a H,
        gate: &'a H::Lock<Table<H>>,
        id: DeviceId,
        cause: Cause,
    ) -> Result<Self, Errno> {
        let nr_allocated = gate.read().device(id)?.ledger().pool().nr_allocated();
        if spare_pages(host) < nr_allocated {
            return Err(Errno::ENOMEM);
        }
        let scratch = Scratch::new(host)?;
        Ok(Self {
            host,
            gate,
            id,
            cause,
            scratch,
            is_short_of_memory: false,
            nr_evicted: 0,
        })
    }

    /// Evicts until no frame is in use or `timeout_ms` is over; `EINTR` when the caller was killed.
    ///
    /// With a time limit of 0 there are two rounds, one before and one after the LRU batches are
    /// drained.
    pub(crate) fn run(&mut self, timeout_ms: u64) -> Result<Evicted, Errno> {
        let deadline_ms = self.host.now_ms().saturating_add(timeout_ms);
        let mut wait_ms = *WAIT_MS.start();
        let mut has_drained = false;
        loop {
            let nr_before = self.nr_evicted;
            let nr_left = self.round()?;
            let is_late = self.host.now_ms() >= deadline_ms;
            if nr_left == 0 || (is_late && has_drained) {
                return Ok(Evicted {
                    nr_evicted: self.nr_evicted,
                    nr_left,
                });
            }
            if self.nr_evicted > nr_before && !is_late {
                wait_ms = *WAIT_MS.start();
                continue;
            }
            self.host.drain_processors();
            has_drained = true;
            if !is_late {
                let nr_left_ms = deadline_ms.saturating_sub(self.host.now_ms());
                self.host.sleep_ms(wait_ms.min(nr_left_ms));
                wait_ms = wait_ms.saturating_mul(2).min(*WAIT_MS.end());
            }
        }
    }

    /// Goes once over all frames in use; returns how many are left.
    fn round(&mut self) -> Result<u64, Errno> {
        let mut from = FrameIndex::new(0);
        self.is_short_of_memory = false;
        loop {
            if self.host.is_killed() {
                return Err(Errno::EINTR);
            }
            self.scratch.refill(self.host, WINDOW_PAGES);
            let table = self.gate.read();
            let device = table.device(self.id)?;
            let pool = device.ledger().pool();
            let Some(run) = pool.next_allocated_run(from, WINDOW_PAGES as u64) else {
                return Ok(pool.nr_held());
            };
            let Some(chunk) = device.chunk_of(run.start()) else {
                return Err(Errno::EIO);
            };
            let run = until(run, chunk.run().end());
            from = run.end();
            self.nr_evicted = self.nr_evicted.saturating_add(evict_run(
                self.host,
                device,
                chunk,
                run,
                self.cause,
                &mut self.scratch,
                &mut self.is_short_of_memory,
            )?);
            drop(table);
            self.host.relax();
        }
    }

    /// Lists frames in use: writes up to `max` of them to `stuck_ptr`, counts all by reason.
    pub(crate) fn list_stuck(&self, max: usize, stuck_ptr: u64) -> Result<ReasonCounts, Errno> {
        let mut counts = ReasonCounts::default();
        let mut nr_listed = 0usize;
        let mut from = FrameIndex::new(0);
        loop {
            let stuck = {
                let table = self.gate.read();
                let device = table.device(self.id)?;
                let Some(run) = device.ledger().pool().next_allocated_run(from, 1) else {
                    return Ok(counts);
                };
                from = run.end();
                let facts = device.facts(run.start());
                let reason = stuck_reason(&facts, self.is_short_of_memory);
                counts.add(reason, 1);
                self.tell_stuck(device, run.start(), reason);
                args::Stuck {
                    phys: device.phys_of(run.start()),
                    refs: facts.refs,
                    maps: facts.maps,
                    reason: u32::from(reason as u8),
                    reserved: 0,
                }
            };
            if nr_listed < max {
                let offset = nr_listed.saturating_mul(size_of::<args::Stuck>()) as u64;
                let address = stuck_ptr.checked_add(offset).ok_or(Errno::EFAULT)?;
                self.host.write_user(address, &stuck_bytes(&stuck))?;
                nr_listed = nr_listed.saturating_add(1);
            }
            if self.host.is_killed() {
                return Err(Errno::EINTR);
            }
            self.host.relax();
        }
    }

    fn tell_stuck(&self, device: &Device<H>, frame: FrameIndex, reason: Reason) {
        let history = device.ledger().history();
        let told = Told {
            event: Event::Stuck,
            cause: self.cause,
            other: None,
        };
        let page = Run {
            frame: None,
            reason: Some(reason),
            ..history.page_of(frame)
        };
        history.write(self.host, told, [page]);
    }
}

/// Takes the pages of one run home; returns how many moved.
fn evict_run<H: Host>(
    host: &H,
    device: &Device<H>,
    chunk: &H::Chunk,
    run: FrameRun,
    cause: Cause,
    scratch: &mut Scratch<H>,
    is_short_of_memory: &mut bool,
) -> Result<u64, Errno> {
    let origin = Origin::Device(device.id.number);
    let cargo = Cargo {
        origin,
        fills_holes: false,
        tells_swapped: false,
    };
    let nr_frames = usize::try_from(run.len()).unwrap_or(0);
    let Scratch {
        arrays,
        stock,
        nr_stock,
        verdicts,
        fates,
        ..
    } = scratch;
    let verdicts = verdicts.get_mut(..nr_frames).unwrap_or_default();
    let fates = fates.get_mut(..nr_frames).unwrap_or_default();
    verdicts.fill(Verdict::Move {
        from: origin,
        hint: None,
    });
    fates.fill(Fate::Stays(Reason::Raced));
    let mut destination = Destination::System { stock, nr_stock };
    let mut batch = chunk.collect(run, arrays);
    let carried = carry(host, &mut batch, cargo, verdicts, fates, &mut destination);
    let left = Told {
        event: Event::Left,
        cause,
        other: None,
    };
    let history = device.ledger().history();
    let moved = run
        .iter()
        .zip(fates.iter())
        .filter(|&(_frame, &fate)| fate == Fate::Moved);
    // While the batch has the pages.
    history.write(
        host,
        left,
        moved.map(|(frame, _fate)| history.page_of(frame)),
    );
    drop(batch);
    let mut nr_moved = 0u64;
    for (frame, &fate) in run.iter().zip(fates.iter()) {
        match fate {
            Fate::Moved => nr_moved = nr_moved.saturating_add(1),
            Fate::Lost => {
                poison::frame_failed(host, device.ledger(), chunk, frame);
            }
            Fate::Stays(reason) => *is_short_of_memory |= reason == Reason::NoMemory,
            Fate::Filled => {}
        }
    }
    device
        .ledger()
        .counters
        .moved_out
        .fetch_add(nr_moved, Relaxed);
    carried.map(|()| nr_moved)
}

/// `run`, cut off at `end`.
fn until(run: FrameRun, end: FrameIndex) -> FrameRun {
    let room = end.get().saturating_sub(run.start().get());
    FrameRun::new(run.start(), run.len().min(room))
}

/// Why a frame could not be taken home, as far as the kernel shows it.
fn stuck_reason(facts: &PageFacts, is_short_of_memory: bool) -> Reason {
    if facts.is_poisoned {
        Reason::Poisoned
    } else if facts.maps == 0 {
        Reason::KernelHeld
    } else if facts.is_pinned {
        Reason::Pinned
    } else if facts.refs > facts.maps {
        Reason::ExtraRef
    } else if facts.is_locked {
        Reason::Locked
    } else if is_short_of_memory {
        Reason::NoMemory
    } else {
        Reason::Raced
    }
}

/// The bytes of an entry as the ABI lays them out.
fn stuck_bytes(stuck: &args::Stuck) -> [u8; size_of::<args::Stuck>()] {
    let mut bytes = [0u8; size_of::<args::Stuck>()];
    let words = stuck
        .refs
        .to_ne_bytes()
        .into_iter()
        .chain(stuck.maps.to_ne_bytes());
    let tail = stuck
        .reason
        .to_ne_bytes()
        .into_iter()
        .chain(stuck.reserved.to_ne_bytes());
    for (byte, value) in bytes.iter_mut().zip(
        stuck
            .phys
            .to_ne_bytes()
            .into_iter()
            .chain(words)
            .chain(tail),
    ) {
        *byte = value;
    }
    bytes
}

const _: () = assert!(size_of::<args::Stuck>() == 24 && FRAME_BYTES.is_power_of_two());
