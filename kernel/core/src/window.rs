// SPDX-License-Identifier: GPL-2.0
//! One batch: pages that were collected get destinations, are copied, and are committed.
//!
//! Every path that moves a page comes through [`carry`], so the checks that keep content whole stand
//! here once. They run when the page is locked and unmapped, so what they see cannot change through a
//! mapping any more:
//!
//! - a device page must have exactly one reference, ours. The kernel lets a device page with one
//!   foreign reference through its own check before the copy (`migrate_device_unmap`,
//!   `mm/migrate_device.c`) and looks again only after it; a holder that writes and lets go in between
//!   would lose its write;
//! - a page that KSM merged since it was classified stays: KSM forgets device pages, and would leave
//!   entries behind that no migration can remove.

use cohmem_frames::FrameIndex;
use cohmem_uapi::Reason;

use crate::{
    Errno,
    classify::{Origin, Verdict},
    device::Device,
    host::{Batch, Host, Mapping, PageFacts, Point, Source, WINDOW_PAGES},
    ledger::Ledger,
    payers::Payers,
};

/// What became of one page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Stays(Reason),
    Moved,
    Filled,
    /// Its content could not be read: it stays, and the frame is to be reported as failed.
    Lost,
}

impl Fate {
    pub(crate) const fn reason(self) -> Option<Reason> {
        match self {
            Self::Stays(reason) => Some(reason),
            Self::Lost => Some(Reason::Poisoned),
            Self::Moved | Self::Filled => None,
        }
    }

    pub(crate) const fn is_settled(self) -> bool {
        matches!(self, Self::Moved | Self::Filled)
    }

    /// Trying again at once may help.
    pub(crate) const fn is_passing(self) -> bool {
        matches!(self, Self::Stays(Reason::Raced | Reason::Locked))
    }
}

/// The memory that a command works in, one window at a time.
#[derive(Debug)]
pub(crate) struct Scratch<H: Host> {
    pub(crate) arrays: H::Arrays,
    pub(crate) stock: H::Stock,
    pub(crate) nr_stock: usize,
    pub(crate) mappings: H::Buffer<Mapping>,
    pub(crate) verdicts: H::Buffer<Verdict>,
    pub(crate) fates: H::Buffer<Fate>,
    /// Where pages that moved to a device are on it.
    pub(crate) frames: H::Buffer<FrameIndex>,
}

impl<H: Host> Scratch<H> {
    pub(crate) fn new(host: &H) -> Result<Self, Errno> {
        Ok(Self {
            arrays: host.new_arrays()?,
            stock: host.new_stock()?,
            nr_stock: 0,
            mappings: host.new_buffer(WINDOW_PAGES, Mapping::Absent)?,
            verdicts: host.new_buffer(WINDOW_PAGES, Verdict::Absent)?,
            fates: host.new_buffer(WINDOW_PAGES, Fate::Stays(Reason::Raced))?,
            frames: host.new_buffer(WINDOW_PAGES, FrameIndex::new(0))?,
        })
    }

    /// Brings the stock to `nr_pages` as far as memory allows. Call with no lock held.
    pub(crate) fn refill(&mut self, host: &H, nr_pages: usize) {
        let nr_spare = usize::try_from(spare_pages(host)).unwrap_or(usize::MAX);
        let nr_pages = nr_pages
            .min(WINDOW_PAGES)
            .min(self.nr_stock.saturating_add(nr_spare));
        if self.nr_stock < nr_pages {
            self.nr_stock = host.refill(&mut self.stock, nr_pages);
        }
    }
}

/// System pages that content may come home to, swap included, without starving the rest of the
/// machine: a 64th of the memory, between 16 MiB and 256 MiB, is left alone.
pub(crate) fn spare_pages<H: Host>(host: &H) -> u64 {
    let reserve = (host.total_pages() / 64).clamp(4 << 10, 64 << 10);
    host.available_pages()
        .saturating_add(host.free_swap_pages())
        .saturating_sub(reserve)
}

/// Where the pages of a batch go.
#[derive(Debug)]
pub(crate) enum Destination<'a, H: Host> {
    Device {
        device: &'a Device<H>,
        supply: Supply,
        /// Entry i of the batch came to `frames[i]`.
        frames: &'a mut [FrameIndex],
    },
    System {
        stock: &'a mut H::Stock,
        nr_stock: &'a mut usize,
    },
}

impl<H: Host> Destination<'_, H> {
    /// Gives entry `index` a destination; else tells what there is none of.
    fn assign(&mut self, host: &H, batch: &mut H::Batch<'_>, index: usize) -> Result<(), Reason> {
        match self {
            Self::Device {
                device,
                supply,
                frames,
            } => {
                let frame = supply.next(host, device.ledger())?;
                if let Some(slot) = frames.get_mut(index) {
                    *slot = frame;
                }
                match device.chunk_of(frame) {
                    Some(chunk) => batch.assign_frame(index, chunk, frame),
                    // No chunk covers the frame: it stays handed out, which detach will name.
                    None => return Err(Reason::NoFrame),
                }
            }
            Self::System { stock, nr_stock } => {
                if !batch.assign_system(index, stock) {
                    return Err(Reason::NoMemory);
                }
                **nr_stock = nr_stock.saturating_sub(1);
            }
        }
        Ok(())
    }
}

/// Frames taken from a ledger in runs, charged to the same payers, handed out one by one.
#[derive(Debug)]
pub(crate) struct Supply {
    payers: Option<Payers>,
    next: u64,
    end: u64,
    nr_wanted: u64,
}

impl Supply {
    pub(crate) const fn new(payers: Option<Payers>, nr_wanted: u64) -> Self {
        Self {
            payers,
            next: 0,
            end: 0,
            nr_wanted,
        }
    }

    fn next<H: Host>(&mut self, host: &H, ledger: &Ledger<H>) -> Result<FrameIndex, Reason> {
        if self.next >= self.end {
            let run = ledger.take(host, self.payers, self.nr_wanted.max(1))?;
            self.next = run.start().get();
            self.end = self.next.saturating_add(run.len());
        }
        let frame = FrameIndex::new(self.next);
        self.next = self.next.saturating_add(1);
        self.nr_wanted = self.nr_wanted.saturating_sub(1);
        Ok(frame)
    }

    fn give_back<H: Host>(&mut self, ledger: &Ledger<H>) -> Result<(), Errno> {
        while self.next < self.end {
            ledger
                .untake(FrameIndex::new(self.next))
                .map_err(|_range| Errno::EIO)?;
            self.next = self.next.saturating_add(1);
        }
        Ok(())
    }
}

/// Which entries of a batch to carry.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cargo {
    /// Pages that come from here.
    pub(crate) origin: Origin,
    /// Absent pages: fill them.
    pub(crate) fills_holes: bool,
    /// Absent pages: tell holes from swapped pages.
    pub(crate) tells_swapped: bool,
}

impl Cargo {
    /// The page is one that the batch was collected for.
    pub(crate) fn includes(&self, verdict: Verdict) -> bool {
        match verdict {
            Verdict::Move { from, .. } => from == self.origin,
            Verdict::Absent => self.fills_holes || self.tells_swapped,
            Verdict::Stay(_) => false,
        }
    }
}

/// Moves what `cargo` includes of a collected batch: entry i has `verdicts[i]` and gets `fates[i]`.
///
/// On return the batch was committed; dropping it maps every page again.
pub(crate) fn carry<H: Host>(
    host: &H,
    batch: &mut H::Batch<'_>,
    cargo: Cargo,
    verdicts: &[Verdict],
    fates: &mut [Fate],
    destination: &mut Destination<'_, H>,
) -> Result<(), Errno> {
    host.reached(Point::Collected);
    for (index, (&verdict, fate)) in verdicts.iter().zip(fates.iter_mut()).enumerate() {
        if !cargo.includes(verdict) || fate.is_settled() {
            continue;
        }
        *fate = match (batch.source(index), verdict) {
            (Source::Page(facts), Verdict::Move { from, .. }) => match veto(from, &facts) {
                Some(reason) => Fate::Stays(reason),
                None => load(host, batch, index, destination),
            },
            (Source::Hole, Verdict::Absent) if cargo.fills_holes => {
                match destination.assign(host, batch, index) {
                    Ok(()) => {
                        batch.zero(index);
                        Fate::Filled
                    }
                    Err(reason) => Fate::Stays(reason),
                }
            }
            (Source::Hole, Verdict::Absent) => Fate::Stays(Reason::Untouched),
            (Source::Skipped, Verdict::Absent) => Fate::Stays(Reason::Swapped),
            (Source::Skipped, Verdict::Move { hint, .. }) => {
                Fate::Stays(hint.unwrap_or(Reason::Raced))
            }
            (Source::Hole, Verdict::Move { .. }) | (_, Verdict::Absent | Verdict::Stay(_)) => {
                Fate::Stays(Reason::Raced)
            }
        };
    }
    let returned = match destination {
        Destination::Device { device, supply, .. } => supply.give_back(device.ledger()),
        Destination::System { .. } => Ok(()),
    };
    host.reached(Point::Filled);
    batch.commit();
    host.reached(Point::Committed);
    for (index, (&verdict, fate)) in verdicts.iter().zip(fates.iter_mut()).enumerate() {
        if cargo.includes(verdict) && fate.is_settled() && !batch.is_moved(index) {
            // A page that an earlier batch of this window settled is not in this batch's cargo: its
            // verdict is another origin's, or it was classified anew as already there.
            *fate = Fate::Stays(Reason::Raced);
        }
    }
    returned
}

/// Gives a checked page its destination and its content.
fn load<H: Host>(
    host: &H,
    batch: &mut H::Batch<'_>,
    index: usize,
    destination: &mut Destination<'_, H>,
) -> Fate {
    if let Err(reason) = destination.assign(host, batch, index) {
        return Fate::Stays(reason);
    }
    match batch.copy(index) {
        Ok(()) => Fate::Moved,
        Err(_unreadable) => {
            batch.unassign(index);
            Fate::Lost
        }
    }
}

/// Why a page that was collected must stay after all.
fn veto(from: Origin, facts: &PageFacts) -> Option<Reason> {
    if facts.is_ksm {
        return Some(Reason::Ksm);
    }
    if facts.is_poisoned {
        return Some(Reason::Poisoned);
    }
    match from {
        Origin::Device(_) if facts.refs != 1 => Some(Reason::ExtraRef),
        Origin::Device(_) | Origin::System => None,
    }
}
