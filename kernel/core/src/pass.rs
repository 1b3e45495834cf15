// SPDX-License-Identifier: GPL-2.0
//! The work on one window of a migration, under the gate and the address space's lock.

use core::sync::atomic::Ordering::Relaxed;

use cohmem_uapi::{Direction, FRAME_BYTES, MAX_DEVICES, Reason};

use crate::{
    Errno,
    classify::{self, Origin, Verdict},
    device::Device,
    driver::Table,
    history::ProcessId,
    host::{AddressSpace, Host, LockedSpace, Select, Span, Vma, WINDOW_PAGES},
    migrate::Step,
    payers::Payers,
    request::MigrateRequest,
    tell::{BatchPages, Teller},
    window::{Cargo, Destination, Fate, Scratch, Supply, carry},
};

/// Times that a page-table walk is tried again when the tables change under it.
const NR_SNAPSHOT_TRIES: usize = 8;
/// Times that a window is gone through when pages of it were busy for a moment.
const NR_WINDOW_TRIES: usize = 2;

/// One window and what it is worked on with.
pub(crate) struct WindowWork<'a, H: Host> {
    pub(crate) host: &'a H,
    pub(crate) table: &'a Table<H>,
    pub(crate) device: &'a Device<H>,
    pub(crate) request: &'a MigrateRequest,
    /// Whose pages they are.
    pub(crate) process: ProcessId,
    /// Whom frames are charged to; without anybody no page goes to the device.
    pub(crate) payers: Option<Payers>,
    pub(crate) has_swapped: bool,
    pub(crate) vma: Vma,
    pub(crate) window: Span,
    pub(crate) scratch: &'a mut Scratch<H>,
    pub(crate) lost_pages: &'a mut bool,
}

impl<'a, H: Host> WindowWork<'a, H> {
    /// Moves what may move of the window; the scratch's fates tell the rest.
    pub(crate) fn run(
        &mut self,
        space: &mut <H::Space as AddressSpace<H>>::Locked<'_>,
        has_refilled: bool,
    ) -> Result<Step, Errno> {
        self.scratch.fates.fill(Fate::Stays(Reason::Raced));
        for nr_try in 0..NR_WINDOW_TRIES {
            if !self.take_snapshot(space)? {
                break;
            }
            let origins = self.classify();
            let nr_movable = self.count(|verdict| matches!(verdict, Verdict::Move { .. }));
            let is_short =
                self.request.direction == Direction::ToSystem && nr_movable > self.scratch.nr_stock;
            if is_short && nr_try > 0 {
                // The first try spent the stock; going for more would forget what it did.
                break;
            }
            if is_short && !has_refilled {
                return Ok(Step::NeedsPages(nr_movable));
            }
            for number in (0..MAX_DEVICES).filter(|&number| origins.devices & (1 << number) != 0) {
                self.carry_from(space, Origin::Device(number))?;
            }
            if origins.includes_system {
                self.carry_from(space, Origin::System)?;
            }
            if !self.fates().iter().any(|fate| fate.is_passing()) {
                break;
            }
        }
        self.teller().tell_stayed(self.window.start, self.fates());
        Ok(Step::Window {
            end: self.window.end,
        })
    }

    fn nr_pages(&self) -> usize {
        let nr_pages = self.window.end.saturating_sub(self.window.start) / FRAME_BYTES;
        usize::try_from(nr_pages).unwrap_or(0).min(WINDOW_PAGES)
    }

    fn fates(&self) -> &[Fate] {
        self.scratch
            .fates
            .get(..self.nr_pages())
            .unwrap_or_default()
    }

    fn count(&self, is_counted_fn: impl Fn(&Verdict) -> bool) -> usize {
        self.scratch
            .verdicts
            .iter()
            .take(self.nr_pages())
            .filter(|verdict| is_counted_fn(verdict))
            .count()
    }

    /// Reads the page tables; `false` when they would not hold still.
    fn take_snapshot(
        &mut self,
        space: &mut <H::Space as AddressSpace<H>>::Locked<'_>,
    ) -> Result<bool, Errno> {
        let nr_pages = self.nr_pages();
        for _try in 0..NR_SNAPSHOT_TRIES {
            let mappings = self
                .scratch
                .mappings
                .get_mut(..nr_pages)
                .unwrap_or_default();
            match space.snapshot(self.window, mappings) {
                Ok(()) => return Ok(true),
                Err(Errno::EBUSY) => self.host.relax(),
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    /// Decides on each page; pages that stay get their fate at once.
    fn classify(&mut self) -> Origins {
        let mut origins = Origins::default();
        let nr_pages = self.nr_pages();
        let absent = self.absent_verdict();
        let goes_home = self.request.direction == Direction::ToSystem;
        let Scratch {
            mappings,
            verdicts,
            fates,
            ..
        } = &mut *self.scratch;
        let pages = mappings
            .iter()
            .zip(verdicts.iter_mut())
            .zip(fates.iter_mut());
        for ((&mapping, verdict), fate) in pages.take(nr_pages) {
            let place = classify::place(self.host, mapping, |pfn| {
                self.table.resident(pfn, self.device, goes_home)
            });
            *verdict = classify::verdict(self.host, place, self.request, self.device.id.number);
            if *verdict == Verdict::Absent {
                *verdict = absent;
            }
            match *verdict {
                Verdict::Stay(reason) if !fate.is_settled() => *fate = Fate::Stays(reason),
                Verdict::Stay(_) => {}
                Verdict::Move {
                    from: Origin::Device(number),
                    ..
                } => origins.devices |= 1 << number,
                Verdict::Move {
                    from: Origin::System,
                    ..
                } => origins.includes_system = true,
                Verdict::Absent => match self.request.direction {
                    Direction::ToDevice => origins.includes_system = true,
                    Direction::ToSystem => origins.devices |= 1 << self.device.id.number,
                },
            }
        }
        origins
    }

    /// What to do where nothing is present: stays `Absent` when a batch must tell or fill.
    fn absent_verdict(&self) -> Verdict {
        let fills_holes = self.request.fills_holes && !self.vma.is_file_private;
        if fills_holes && self.vma.awaits_userfault {
            Verdict::Stay(Reason::Userfault)
        } else if fills_holes || self.has_swapped {
            Verdict::Absent
        } else {
            Verdict::Stay(Reason::Untouched)
        }
    }

    /// Collects and carries the window's pages that come from `origin`.
    fn carry_from(
        &mut self,
        space: &mut <H::Space as AddressSpace<H>>::Locked<'_>,
        origin: Origin,
    ) -> Result<(), Errno> {
        let takes_absent = match self.request.direction {
            Direction::ToDevice => origin == Origin::System,
            Direction::ToSystem => true,
        };
        let cargo = Cargo {
            origin,
            fills_holes: takes_absent && self.request.fills_holes && !self.vma.is_file_private,
            tells_swapped: takes_absent && self.has_swapped,
        };
        let nr_pages = self.nr_pages();
        let verdicts = self.scratch.verdicts.get(..nr_pages).unwrap_or_default();
        let Some(first) = verdicts.iter().position(|&verdict| cargo.includes(verdict)) else {
            return Ok(());
        };
        let last = verdicts
            .iter()
            .rposition(|&verdict| cargo.includes(verdict))
            .unwrap_or(first);
        let pages = first..last.saturating_add(1);
        let span = Span {
            start: self.address_of(pages.start),
            end: self.address_of(pages.end),
        };
        let source = match origin {
            Origin::System => None,
            Origin::Device(number) => Some(self.table.by_number(number).ok_or(Errno::ENODEV)?),
        };
        let select = match source {
            None => Select::System,
            Some(source) => Select::Device(source.first_chunk().ok_or(Errno::ENODEV)?),
        };
        let teller = self.teller();
        let Scratch {
            arrays,
            stock,
            nr_stock,
            mappings,
            verdicts,
            fates,
            frames,
        } = &mut *self.scratch;
        let mappings = mappings.get(pages.clone()).unwrap_or_default();
        let verdicts = verdicts.get(pages.clone()).unwrap_or_default();
        let fates = fates.get_mut(pages.clone()).unwrap_or_default();
        let frames = frames.get_mut(pages).unwrap_or_default();
        let mut destination = match self.request.direction {
            Direction::ToDevice => {
                let nr_wanted = verdicts
                    .iter()
                    .filter(|&&verdict| cargo.includes(verdict))
                    .count();
                Destination::Device {
                    device: self.device,
                    frames: &mut *frames,
                    supply: Supply::new(self.payers, nr_wanted as u64),
                }
            }
            Direction::ToSystem => Destination::System { stock, nr_stock },
        };
        let mut batch = space.collect(span, select, arrays)?;
        let before = tally(fates);
        let carried = carry(
            self.host,
            &mut batch,
            cargo,
            verdicts,
            fates,
            &mut destination,
        );
        let after = tally(fates);
        let batch_pages = BatchPages {
            start: span.start,
            cargo,
            mappings,
            verdicts,
            fates,
            frames,
        };
        // While the batch has the pages: nobody else moves them before this is told.
        teller.tell_moved(source, &batch_pages);
        drop(batch);
        *self.lost_pages |= fates.contains(&Fate::Lost);
        let nr_moved = after.moved.saturating_sub(before.moved);
        self.count_moves(source, nr_moved, after.filled.saturating_sub(before.filled));
        carried
    }

    fn count_moves(&self, source: Option<&Device<H>>, nr_moved: u64, nr_filled: u64) {
        if let Some(source) = source {
            source
                .ledger()
                .counters
                .moved_out
                .fetch_add(nr_moved, Relaxed);
        }
        if self.request.direction == Direction::ToDevice {
            let counters = &self.device.ledger().counters;
            counters.moved_in.fetch_add(nr_moved, Relaxed);
            counters.filled.fetch_add(nr_filled, Relaxed);
        }
    }

    fn teller(&self) -> Teller<'a, H> {
        Teller {
            host: self.host,
            device: self.device,
            direction: self.request.direction,
            process: self.process,
        }
    }

    fn address_of(&self, page: usize) -> u64 {
        self.window
            .start
            .saturating_add((page as u64).saturating_mul(FRAME_BYTES))
    }
}

/// Where the pages of a window that may move come from.
#[derive(Default)]
struct Origins {
    includes_system: bool,
    /// Bit n: device n.
    devices: u32,
}

struct Tally {
    moved: u64,
    filled: u64,
}

fn tally(fates: &[Fate]) -> Tally {
    let count = |wanted| fates.iter().filter(|&&fate| fate == wanted).count() as u64;
    Tally {
        moved: count(Fate::Moved),
        filled: count(Fate::Filled),
    }
}
