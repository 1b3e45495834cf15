// SPDX-License-Identifier: GPL-2.0
//! What a migration writes to the history of its devices.

use cohmem_frames::FrameIndex;
use cohmem_uapi::{Cause, Direction, Event, FRAME_BYTES};

use crate::{
    classify::Verdict,
    device::Device,
    history::{ProcessId, Run, Told, is_told},
    host::{Host, Mapping},
    window::{Cargo, Fate},
};

/// Tells of one migration's pages.
pub(crate) struct Teller<'a, H: Host> {
    pub(crate) host: &'a H,
    pub(crate) device: &'a Device<H>,
    pub(crate) direction: Direction,
    /// Whose pages they are.
    pub(crate) process: ProcessId,
}

/// The pages of one batch, when it was committed.
pub(crate) struct BatchPages<'a> {
    /// Address of the first.
    pub(crate) start: u64,
    pub(crate) cargo: Cargo,
    /// What was mapped before.
    pub(crate) mappings: &'a [Mapping],
    pub(crate) verdicts: &'a [Verdict],
    pub(crate) fates: &'a [Fate],
    /// Where pages that moved to a device are on it.
    pub(crate) frames: &'a [FrameIndex],
}

impl<H: Host> Teller<'_, H> {
    /// Tells the devices what a batch moved, to the migration's or from `source`.
    pub(crate) fn tell_moved(&self, source: Option<&Device<H>>, pages: &BatchPages<'_>) {
        if self.direction == Direction::ToDevice {
            let history = self.device.ledger().history();
            for (event, fate) in [(Event::Arrived, Fate::Moved), (Event::Filled, Fate::Filled)] {
                let told = Told {
                    event,
                    cause: Cause::Migrate,
                    other: source.map(|source| source.id.number),
                };
                let runs = pages.met(fate).map(|(start, _mapping, frame)| Run {
                    frame: Some(frame),
                    ..self.page(start)
                });
                history.write(self.host, told, runs);
            }
        }
        if let Some(source) = source {
            let told = Told {
                event: Event::Left,
                cause: Cause::Migrate,
                other: match self.direction {
                    Direction::ToDevice => Some(self.device.id.number),
                    Direction::ToSystem => None,
                },
            };
            let runs = pages.met(Fate::Moved).map(|(start, mapping, _frame)| Run {
                frame: match mapping {
                    Mapping::Present { pfn, .. } => source.frame_of(pfn),
                    Mapping::Absent | Mapping::Poisoned | Mapping::Forbidden => None,
                },
                ..self.page(start)
            });
            source.ledger().history().write(self.host, told, runs);
        }
    }

    /// Tells the device which pages from `start` on stayed for a reason that may pass.
    pub(crate) fn tell_stayed(&self, start: u64, fates: &[Fate]) {
        let told = Told {
            event: match self.direction {
                Direction::ToDevice => Event::Stayed,
                Direction::ToSystem => Event::Stuck,
            },
            cause: Cause::Migrate,
            other: None,
        };
        let runs = addresses(start).zip(fates).filter_map(|(address, fate)| {
            let reason = fate.reason().filter(|&reason| is_told(reason))?;
            Some(Run {
                reason: Some(reason),
                ..self.page(address)
            })
        });
        self.device.ledger().history().write(self.host, told, runs);
    }

    /// One page of the process, of which nothing else is told yet.
    fn page(&self, start: u64) -> Run {
        Run {
            process: self.process,
            start: if self.process.is_known() { start } else { 0 },
            frame: None,
            nr_pages: 1,
            reason: None,
        }
    }
}

impl BatchPages<'_> {
    /// The pages that met `fate` in this batch: address, what was mapped before, frame that it came to.
    fn met(&self, fate: Fate) -> impl Iterator<Item = (u64, Mapping, FrameIndex)> {
        let pages = self.mappings.iter().zip(self.verdicts);
        let ends = self.fates.iter().zip(self.frames);
        addresses(self.start).zip(pages).zip(ends).filter_map(
            move |((address, (&mapping, &verdict)), (&met, &frame))| {
                (met == fate && self.cargo.includes(verdict)).then_some((address, mapping, frame))
            },
        )
    }
}

/// The addresses of pages from `start` on.
fn addresses(start: u64) -> impl Iterator<Item = u64> {
    (0u64..).map(move |page| start.saturating_add(page.saturating_mul(FRAME_BYTES)))
}
