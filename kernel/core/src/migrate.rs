// SPDX-License-Identifier: GPL-2.0
//! Moving a range of an address space.
//!
//! The range is walked one window at a time. Per window: lock the address space, take the gate, look at
//! the page tables, decide page by page ([`crate::classify`]), collect what moves, carry it
//! ([`crate::window`]), let go of both locks, report. Memory for pages that go home is allocated
//! between windows, never while pages are in flight: a task that the kernel wants to reclaim from, or
//! kill, may be waiting for one of them.

use cohmem_uapi::{Direction, FRAME_BYTES, Reason, ReasonCounts};

use crate::{
    Errno,
    accounts::{Asker, Holder, Unpaid},
    classify,
    device::DeviceId,
    driver::Table,
    host::{AddressSpace, Host, LockedSpace, Mapping, SleepLock, Span, WINDOW_PAGES},
    pass::WindowWork,
    poison,
    request::MigrateRequest,
    window::{Fate, Scratch},
};

/// What a migration did.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) next: u64,
    pub(crate) nr_moved: u64,
    pub(crate) nr_filled: u64,
    pub(crate) stayed: ReasonCounts,
}

impl Outcome {
    fn count(&mut self, fate: Fate) {
        match fate {
            Fate::Moved => self.nr_moved = self.nr_moved.saturating_add(1),
            Fate::Filled => self.nr_filled = self.nr_filled.saturating_add(1),
            Fate::Stays(_) | Fate::Lost => {}
        }
        if let Some(reason) = fate.reason() {
            self.stayed.add(reason, 1);
        }
    }

    const fn is_empty(&self, start: u64) -> bool {
        self.next == start
    }
}

/// What one step along the range came to.
pub(crate) enum Step {
    /// The window up to this address was gone through; the fates tell of its pages.
    Window { end: u64 },
    /// Nothing up to this address can move, for one reason.
    Gap { end: u64, reason: Reason },
    /// Pages can go home once so many system pages were allocated.
    NeedsPages(usize),
    /// Frames can be charged once the user has an account again.
    NeedsAccount,
}

/// One migration under way.
pub(crate) struct Migration<'a, H: Host> {
    pub(crate) host: &'a H,
    pub(crate) gate: &'a H::Lock<Table<H>>,
    pub(crate) id: DeviceId,
    /// Whom frames are charged to, with the jobs that the calling task is in.
    pub(crate) asker: Asker,
    pub(crate) space: H::Space,
    pub(crate) request: MigrateRequest,
    pub(crate) scratch: Scratch<H>,
}

impl<H: Host> Migration<'_, H> {
    /// Goes through the range until its end, a signal, or an error after the first window.
    pub(crate) fn run(mut self) -> Result<Outcome, Errno> {
        let span = self.request.span;
        self.clear_reasons()?;
        if self.request.direction == Direction::ToDevice {
            self.open_account()?;
        }
        let mut outcome = Outcome {
            next: span.start,
            ..Outcome::default()
        };
        let mut is_mapped = false;
        let mut has_refilled = false;
        while outcome.next < span.end {
            if self.request.direction == Direction::ToSystem && has_refilled {
                // The window before needed pages, so this one will as well.
                self.scratch
                    .refill(self.host, self.pages_left(outcome.next));
            }
            let step = match self.step(outcome.next, has_refilled) {
                Ok(step) => step,
                Err(_later) if !outcome.is_empty(span.start) => break,
                Err(error) => return Err(error),
            };
            match step {
                Step::NeedsPages(nr_pages) => {
                    self.scratch.refill(self.host, nr_pages);
                    has_refilled = true;
                    continue;
                }
                Step::NeedsAccount if self.host.is_killed() => return Err(Errno::EINTR),
                Step::NeedsAccount => match self.open_account() {
                    Ok(()) => continue,
                    Err(_later) if !outcome.is_empty(span.start) => break,
                    Err(error) => return Err(error),
                },
                Step::Window { end } => {
                    is_mapped = true;
                    self.report_window(&mut outcome, end)?;
                }
                Step::Gap { end, reason } => {
                    is_mapped |= reason != Reason::Unmapped;
                    self.report_gap(&mut outcome, end, reason)?;
                }
            }
            if self.host.is_signalled() {
                break;
            }
            self.host.relax();
        }
        if is_mapped || outcome.next < span.end {
            Ok(outcome)
        } else {
            Err(Errno::EADDRNOTAVAIL)
        }
    }

    fn pages_left(&self, at: u64) -> usize {
        let nr_pages = self.request.span.end.saturating_sub(at) / FRAME_BYTES;
        usize::try_from(nr_pages)
            .unwrap_or(WINDOW_PAGES)
            .min(WINDOW_PAGES)
    }

    /// Gives the user an account, which another may take away again while nothing is charged to it.
    fn open_account(&self) -> Result<(), Errno> {
        let has_one = {
            let table = self.gate.read();
            let accounts = table.device(self.id)?.ledger().accounts();
            accounts.find(self.holder()).is_some()
        };
        if has_one {
            return Ok(());
        }
        let table = self.gate.write();
        let accounts = table.device(self.id)?.ledger().accounts();
        accounts.open(self.holder())?;
        Ok(())
    }

    const fn holder(&self) -> Holder {
        Holder::User(self.asker.user)
    }

    fn step(&mut self, at: u64, has_refilled: bool) -> Result<Step, Errno> {
        // Before the gate: others may hold this lock without end, and must not keep devices from coming
        // and going.
        let mut space = self.space.lock()?;
        let table = self.gate.read();
        let device = table.device(self.id)?;
        if self.request.direction == Direction::ToDevice && !table.is_open(device) {
            return Err(Errno::EAGAIN);
        }
        let mut lost_pages = false;
        let step = {
            let end = self.request.span.end;
            let Some(vma) = space.vma_from(at) else {
                return Ok(Step::Gap {
                    end,
                    reason: Reason::Unmapped,
                });
            };
            if vma.span.start > at {
                return Ok(Step::Gap {
                    end: vma.span.start.min(end),
                    reason: Reason::Unmapped,
                });
            }
            let end = vma.span.end.min(end);
            if let Some(reason) =
                classify::vma_reason(&vma, self.request.direction, self.request.moves_executable)
            {
                return Ok(Step::Gap { end, reason });
            }
            let payers = match self.request.direction {
                Direction::ToSystem => None,
                Direction::ToDevice => {
                    match device.ledger().accounts().payers(self.host, self.asker) {
                        Ok(payers) => Some(payers),
                        Err(Unpaid::NoAccount) => return Ok(Step::NeedsAccount),
                        Err(Unpaid::TooMany) => None,
                    }
                }
            };
            let window = Span::window(at, end);
            let mut work = WindowWork {
                host: self.host,
                table: &table,
                device,
                request: &self.request,
                process: self.space.process(),
                payers,
                has_swapped: self.space.has_swapped_pages(),
                vma,
                window,
                scratch: &mut self.scratch,
                lost_pages: &mut lost_pages,
            };
            work.run(&mut space, has_refilled)?
        };
        drop(space);
        if lost_pages {
            self.report_lost(&table);
        }
        Ok(step)
    }

    /// Tells the devices of pages whose content could not be read.
    fn report_lost(&self, table: &Table<H>) {
        for (&fate, &mapping) in self.scratch.fates.iter().zip(self.scratch.mappings.iter()) {
            let (Fate::Lost, Mapping::Present { pfn, .. }) = (fate, mapping) else {
                continue;
            };
            let Some((device, frame)) = table.frame_of(pfn) else {
                continue;
            };
            if let Some(chunk) = device.chunk_of(frame) {
                poison::frame_failed(self.host, device.ledger(), chunk, frame);
            }
        }
    }

    fn report_window(&self, outcome: &mut Outcome, end: u64) -> Result<(), Errno> {
        let nr_pages = usize::try_from(end.saturating_sub(outcome.next) / FRAME_BYTES).unwrap_or(0);
        let mut reasons = [0u8; WINDOW_PAGES];
        for (&fate, byte) in self.scratch.fates.iter().take(nr_pages).zip(&mut reasons) {
            outcome.count(fate);
            *byte = fate.reason().map_or(0, |reason| reason as u8);
        }
        self.write_reasons(outcome.next, reasons.get(..nr_pages).unwrap_or_default())?;
        outcome.next = end;
        Ok(())
    }

    fn report_gap(&self, outcome: &mut Outcome, end: u64, reason: Reason) -> Result<(), Errno> {
        let reasons = [reason as u8; WINDOW_PAGES];
        outcome
            .stayed
            .add(reason, end.saturating_sub(outcome.next) / FRAME_BYTES);
        while self.request.reasons_ptr != 0 && outcome.next < end {
            let nr_pages = usize::try_from(end.saturating_sub(outcome.next) / FRAME_BYTES)
                .unwrap_or(WINDOW_PAGES)
                .min(WINDOW_PAGES);
            self.write_reasons(outcome.next, reasons.get(..nr_pages).unwrap_or_default())?;
            outcome.next = outcome
                .next
                .saturating_add((nr_pages as u64).saturating_mul(FRAME_BYTES));
            if self.host.is_killed() {
                return Err(Errno::EINTR);
            }
            self.host.relax();
        }
        outcome.next = end;
        Ok(())
    }

    /// Finds a bad array before anything moves.
    fn clear_reasons(&self) -> Result<(), Errno> {
        let zeros = [0u8; WINDOW_PAGES];
        let mut at = self.request.span.start;
        while self.request.reasons_ptr != 0 && at < self.request.span.end {
            let nr_pages = self.pages_left(at);
            self.write_reasons(at, zeros.get(..nr_pages).unwrap_or_default())?;
            at = at.saturating_add((nr_pages as u64).saturating_mul(FRAME_BYTES));
            if self.host.is_killed() {
                return Err(Errno::EINTR);
            }
            self.host.relax();
        }
        Ok(())
    }

    fn write_reasons(&self, at: u64, reasons: &[u8]) -> Result<(), Errno> {
        if self.request.reasons_ptr == 0 || reasons.is_empty() {
            return Ok(());
        }
        let index = at.saturating_sub(self.request.span.start) / FRAME_BYTES;
        let address = self
            .request
            .reasons_ptr
            .checked_add(index)
            .ok_or(Errno::EFAULT)?;
        self.host.write_user(address, reasons)
    }
}
