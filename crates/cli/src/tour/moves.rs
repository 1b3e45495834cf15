//! Migration of a whole running program.

use std::{
    ops::ControlFlow,
    time::{Duration, Instant},
};

use cohmem::{
    ByteCount, Device, Direction, ErrorKind, MigrateOptions, Migrated, Process, Reason,
    ReasonCounts, Target, Tier, Vma, VmaKind,
};

use super::{
    trouble::{Stop, Trouble},
    voice::Voice,
};

/// What a migration of a program did.
#[derive(Clone, Debug)]
pub(super) struct Move {
    /// Pages that moved.
    pub(super) moved: u64,
    /// Pages that stayed, by reason, when they were looked at last.
    pub(super) stayed: ReasonCounts,
    /// Pages that had to be tried again, by reason, each time counted.
    pub(super) retried: ReasonCounts,
    /// Pages of all its mappings.
    pub(super) total: u64,
    /// Pages that the driver told nothing of, or told of twice: none, if it keeps its word.
    pub(super) unaccounted: u64,
    /// How long it took.
    pub(super) elapsed: Duration,
}

/// A page that stays for one of these may move a moment later.
const PASSING: [Reason; 4] = [
    Reason::Locked,
    Reason::ExtraRef,
    Reason::Raced,
    Reason::Pinned,
];
const TRIES: u32 = 5;

/// Moves every page of `process` that can move, while it runs.
pub(super) fn migrate(
    device: &Device,
    process: &Process,
    direction: Direction,
    voice: &Voice,
    stop: &Stop,
) -> Result<Move, Trouble> {
    let vmas: Vec<_> = process
        .read_vmas()?
        .into_iter()
        .filter(is_of_interest)
        .collect();
    let total = vmas.iter().map(|vma| vma.range.nr_pages()).sum();
    let mut done = Move {
        moved: 0,
        stayed: ReasonCounts::default(),
        retried: ReasonCounts::default(),
        total,
        unaccounted: 0,
        elapsed: Duration::ZERO,
    };
    let mut progress = voice.progress("pages looked at", total);
    let mut looked_at = 0;
    let started = Instant::now();
    for vma in &vmas {
        migrate_vma(device, process, direction, vma, stop, &mut done, |part| {
            progress.set(looked_at + part.done());
        })?;
        looked_at += vma.range.nr_pages();
    }
    done.elapsed = started.elapsed();
    Ok(done)
}

fn migrate_vma(
    device: &Device,
    process: &Process,
    direction: Direction,
    vma: &Vma,
    stop: &Stop,
    done: &mut Move,
    mut progress_fn: impl FnMut(&Migrated),
) -> Result<(), Trouble> {
    let options = MigrateOptions {
        step: ByteCount::new(8 << 20),
        ..MigrateOptions::default()
    };
    let mut moved = 0;
    for attempt in 1.. {
        let migrated = device.migrate_with(
            vma.range,
            direction,
            &options,
            Target::Process(process),
            |part| {
                progress_fn(part);
                if stop.is_set() {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            },
        );
        let migrated = match migrated {
            Ok(migrated) => migrated,
            // The program has unmapped it meanwhile.
            Err(error) if error.kind() == ErrorKind::NotMapped => {
                done.stayed
                    .add(Reason::Unmapped, vma.range.nr_pages().saturating_sub(moved));
                break;
            }
            Err(error) => return Err(error.into()),
        };
        stop.check()?;
        done.unaccounted += migrated.total.abs_diff(migrated.done());
        moved += migrated.moved;
        let passing = passing(&migrated.stayed);
        if passing.total() == 0 || attempt == TRIES {
            done.stayed
                .merge(&without_moved(&migrated.stayed, moved - migrated.moved));
            break;
        }
        done.retried.merge(&passing);
    }
    done.moved += moved;
    Ok(())
}

/// Whether it is worth asking the driver about it: all but the kernel's own pages.
fn is_of_interest(vma: &Vma) -> bool {
    vma.kind != VmaKind::Kernel
}

fn passing(stayed: &ReasonCounts) -> ReasonCounts {
    let mut counts = ReasonCounts::default();
    for reason in PASSING {
        counts.add(reason, stayed.get(reason));
    }
    counts
}

/// Takes out the pages that are already there because an earlier try has moved them.
fn without_moved(stayed: &ReasonCounts, moved_before: u64) -> ReasonCounts {
    let mut counts = ReasonCounts::default();
    for (reason, count) in stayed.iter() {
        let before = if reason == Reason::AlreadyThere {
            moved_before
        } else {
            0
        };
        counts.add(reason, count.saturating_sub(before));
    }
    counts
}

/// Where the pages of a program are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Residency {
    /// On the device.
    pub(super) device: u64,
    /// Anonymous memory in system memory.
    pub(super) system: u64,
    /// Pages of files in system memory.
    pub(super) file: u64,
}

/// Asks the driver where the pages of `process` are.
pub(super) fn residency(device: &Device, process: &Process) -> Result<Residency, Trouble> {
    let mut residency = Residency::default();
    for vma in process
        .read_vmas()?
        .iter()
        .filter(|vma| is_of_interest(vma))
    {
        let map = match device.query_counts(vma.range, Target::Process(process)) {
            Ok(map) => map,
            Err(error) if error.kind() == ErrorKind::NotMapped => continue,
            Err(error) => return Err(error.into()),
        };
        residency.device += map.nr_here();
        if vma.kind == VmaKind::Anonymous {
            residency.system += map.count(Tier::System);
        } else {
            residency.file += map.count(Tier::System);
        }
    }
    Ok(residency)
}

/// MiB a second.
pub(super) fn rate(pages: u64, elapsed: Duration) -> f64 {
    let seconds = elapsed.as_secs_f64();
    if seconds > 0.0 {
        mib(pages) / seconds
    } else {
        0.0
    }
}

/// MiB of so many pages.
pub(super) fn mib(pages: u64) -> f64 {
    // Exact up to 2^53 pages.
    #[expect(
        clippy::cast_precision_loss,
        reason = "shown with one digit behind the point"
    )]
    let pages = pages as f64;
    pages / 256.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_passes_is_tried_again() {
        let mut stayed = ReasonCounts::default();
        stayed.add(Reason::File, 10);
        stayed.add(Reason::Raced, 3);
        stayed.add(Reason::Pinned, 1);
        assert_eq!(passing(&stayed).total(), 4);
    }

    #[test]
    fn pages_of_an_earlier_try_are_not_counted_as_staying() {
        let mut stayed = ReasonCounts::default();
        stayed.add(Reason::AlreadyThere, 100);
        stayed.add(Reason::Untouched, 5);
        let counts = without_moved(&stayed, 98);
        assert_eq!(
            (
                counts.get(Reason::AlreadyThere),
                counts.get(Reason::Untouched)
            ),
            (2, 5)
        );
        assert_eq!(without_moved(&stayed, 100).get(Reason::AlreadyThere), 0);
    }

    #[test]
    fn rates_are_in_mebibytes_a_second() {
        assert_eq!(rate(512, Duration::from_secs(2)).to_string(), "1");
        assert_eq!(rate(512, Duration::ZERO).to_string(), "0");
    }
}
