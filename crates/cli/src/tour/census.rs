//! Who holds the device's frames: counted in every process of the machine, by `/proc/PID/pagemap`,
//! while the programs that moved stand still.

use std::{
    collections::{BTreeMap, BTreeSet},
    thread,
    time::{Duration, Instant},
};

use cohmem::{Device, FRAME_BYTES, PhysRange};

use super::{
    stopped::{Stopped, family},
    trouble::{Stop, Trouble},
};

/// Frames that one program, or one other process, maps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Share {
    pub(super) name: String,
    pub(super) pid: u32,
    pub(super) frames: u64,
}

/// The frames of a device, and who has them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Census {
    /// Frames that the device has handed out.
    pub(super) allocated: u64,
    /// Different frames that the programs and their children map.
    pub(super) mapped: u64,
    /// The same by program; a frame that two of them map is in both.
    pub(super) programs: Vec<Share>,
    /// Frames that others map: there should be none.
    pub(super) others: Vec<Share>,
    /// Other processes that were looked at.
    pub(super) nr_others: usize,
    /// Processes that could not be looked at.
    pub(super) nr_unseen: u64,
    /// For how long the programs stood still.
    pub(super) still_for: Duration,
}

/// Times to count again while frames are on their way back to the device.
const TRIES: u32 = 10;

/// A program to count for, with its children.
#[derive(Clone, Copy, Debug)]
pub(super) struct Root {
    pub(super) name: &'static str,
    /// Number of its first process.
    pub(super) pid: u32,
}

impl Census {
    /// Counts.
    ///
    /// Where frames are handed out that nobody maps it counts again a little later: a frame that
    /// was just freed may wait in a list of the kernel's for a moment.
    pub(super) fn take(device: &Device, roots: &[Root], stop: &Stop) -> Result<Self, Trouble> {
        let range = device.query_status()?.range;
        let mut tries = 0;
        loop {
            tries += 1;
            let (census, allocated_after) = Self::count(range, Some(device), roots, stop)?;
            let is_settled =
                census.allocated == allocated_after && census.allocated == census.mapped;
            if is_settled || !census.others.is_empty() || tries == TRIES {
                return Ok(census);
            }
            thread::sleep(Duration::from_millis(50));
            stop.check()?;
        }
    }

    /// Counts after the device is gone: nothing is handed out, and nobody may map its range.
    pub(super) fn take_without_device(
        range: PhysRange,
        roots: &[Root],
        stop: &Stop,
    ) -> Result<Self, Trouble> {
        Ok(Self::count(range, None, roots, stop)?.0)
    }

    /// Counts once; also how many frames are handed out at the end of the count.
    fn count(
        range: PhysRange,
        device: Option<&Device>,
        roots: &[Root],
        stop: &Stop,
    ) -> Result<(Self, u64), Trouble> {
        let allocated = || match device {
            Some(device) => device.query_status().map(|status| status.nr_allocated),
            None => Ok(0),
        };
        let step = usize::try_from(FRAME_BYTES).unwrap_or(usize::MAX);
        let frames: Vec<u64> = (range.start()..range.end()).step_by(step).collect();
        let mut families = Vec::new();
        for &root in roots {
            let pids = family(root.pid)?;
            families.push(Family { root, pids });
        }
        let pids = families.iter().flat_map(|family| &family.pids);
        let pids: Vec<u32> = pids.copied().collect();

        let started = Instant::now();
        let still = Stopped::new(&pids, stop)?;
        let allocated_before = allocated()?;
        let held = cohmem::holders(&frames)?;
        let allocated_after = allocated()?;
        drop(still);
        let still_for = started.elapsed();

        let maps = held.by_frame.iter().flat_map(|(&frame, holders)| {
            holders
                .iter()
                .map(move |holder| (frame, holder.pid, holder.name.as_str()))
        });
        let tally = Tally::of(&maps.collect::<Vec<_>>(), &families);
        let census = Self {
            allocated: allocated_before,
            mapped: tally.mapped,
            programs: tally.programs,
            others: tally.others,
            nr_others: count_processes()?.saturating_sub(pids.len()),
            nr_unseen: held.nr_unseen,
            still_for,
        };
        Ok((census, allocated_after))
    }

    /// Frames that are handed out and that no process maps.
    pub(super) fn mapped_nowhere(&self) -> u64 {
        let by_others: u64 = self.others.iter().map(|share| share.frames).sum();
        self.allocated.saturating_sub(self.mapped + by_others)
    }

    /// Whether only the programs have frames, but for `named` that the driver has named one by one.
    pub(super) fn holds(&self, named: u64) -> bool {
        self.others.is_empty() && self.nr_unseen == 0 && self.allocated == self.mapped + named
    }

    /// The equation, and who else holds frames, for people.
    pub(super) fn text(&self, named: u64) -> String {
        let sum: u64 = self.programs.iter().map(|share| share.frames).sum();
        let mut parts: Vec<_> = self
            .programs
            .iter()
            .map(|share| format!("{} {}", share.name, share.frames))
            .collect();
        if sum > self.mapped {
            parts.push(format!("of which {} in both", sum - self.mapped));
        }
        let is = match self.allocated == self.mapped + named {
            true => "=",
            false => "differs from",
        };
        let mut text = format!(
            "allocated {} {is} mapped by {}",
            self.allocated,
            parts.join(" + ")
        );
        if named > 0 {
            text += &format!(" + {named} held by the kernel");
        }
        text + "; " + &self.others_text()
    }

    /// Who holds frames of a range without a device, for people.
    pub(super) fn text_without_device(&self) -> String {
        let ours = match self.mapped {
            0 => "neither program holds a frame of its range".to_owned(),
            mapped => format!("the programs hold {mapped} frames of its range"),
        };
        ours + "; " + &self.others_text()
    }

    fn others_text(&self) -> String {
        let mut parts: Vec<_> = self
            .others
            .iter()
            .map(|share| {
                format!(
                    "{} (process {}) holds {}",
                    share.name, share.pid, share.frames
                )
            })
            .collect();
        if parts.is_empty() {
            let nr_others = self.nr_others;
            parts.push(format!("none of {nr_others} other processes holds a frame"));
        }
        if self.nr_unseen > 0 {
            let nr_unseen = self.nr_unseen;
            parts.push(format!("{nr_unseen} processes could not be looked at"));
        }
        parts.join("; ")
    }
}

struct Family {
    root: Root,
    pids: Vec<u32>,
}

struct Tally {
    mapped: u64,
    programs: Vec<Share>,
    others: Vec<Share>,
}

impl Tally {
    /// Counts `maps`: a frame, the number and the name of a process that maps it.
    fn of(maps: &[(u64, u32, &str)], families: &[Family]) -> Self {
        let mut mapped = BTreeSet::new();
        let mut by_family = vec![BTreeSet::new(); families.len()];
        let mut by_other: BTreeMap<(u32, &str), BTreeSet<u64>> = BTreeMap::new();
        for &(frame, pid, name) in maps {
            let mut is_ours = false;
            for (family, frames) in families.iter().zip(&mut by_family) {
                if family.pids.contains(&pid) {
                    frames.insert(frame);
                    is_ours = true;
                }
            }
            if is_ours {
                mapped.insert(frame);
            } else {
                by_other.entry((pid, name)).or_default().insert(frame);
            }
        }
        let programs = families
            .iter()
            .zip(by_family)
            .map(|(family, frames)| Share {
                name: family.root.name.to_owned(),
                pid: family.root.pid,
                frames: frames.len() as u64,
            });
        let others = by_other.into_iter().map(|((pid, name), frames)| Share {
            name: name.to_owned(),
            pid,
            frames: frames.len() as u64,
        });
        Self {
            mapped: mapped.len() as u64,
            programs: programs.collect(),
            others: others.collect(),
        }
    }
}

/// Processes of the machine, kernel threads not counted.
fn count_processes() -> Result<usize, Trouble> {
    let entries = std::fs::read_dir("/proc");
    let entries = entries.map_err(Trouble::file("list", std::path::Path::new("/proc")))?;
    let has_memory = |entry: &std::fs::DirEntry| {
        let is_process = entry
            .file_name()
            .to_string_lossy()
            .bytes()
            .all(|b| b.is_ascii_digit());
        // A kernel thread has no executable.
        is_process && std::fs::read_link(entry.path().join("exe")).is_ok()
    };
    Ok(entries.flatten().filter(has_memory).count())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn families() -> [Family; 2] {
        let family = |name, pids: &[u32]| Family {
            root: Root { name, pid: pids[0] },
            pids: pids.to_vec(),
        };
        [family("redis-server", &[10, 11]), family("python3", &[20])]
    }

    fn census(allocated: u64, maps: &[(u64, u32, &str)]) -> Census {
        let tally = Tally::of(maps, &families());
        Census {
            allocated,
            mapped: tally.mapped,
            programs: tally.programs,
            others: tally.others,
            nr_others: 3,
            nr_unseen: 0,
            still_for: Duration::ZERO,
        }
    }

    const OURS: [(u64, u32, &str); 5] = [
        (0x1000, 10, "redis-server"),
        (0x2000, 10, "redis-server"),
        // The child's copy of the same page.
        (0x2000, 11, "redis-server"),
        (0x3000, 20, "python3"),
        (0x3000, 20, "python3"),
    ];

    #[test]
    fn a_frame_counts_once_however_often_it_is_mapped() {
        let census = census(3, &OURS);
        assert!(census.holds(0));
        assert_eq!((census.mapped, census.mapped_nowhere()), (3, 0));
        assert_eq!(
            census.text(0),
            "allocated 3 = mapped by redis-server 2 + python3 1; none of 3 other processes holds a \
             frame"
        );
    }

    #[test]
    fn a_frame_of_somebody_else_fails_and_is_named() {
        let mut maps = OURS.to_vec();
        maps.push((0x9000, 77, "cat"));
        let census = census(4, &maps);
        assert!(!census.holds(0));
        assert_eq!(census.mapped_nowhere(), 0);
        assert!(
            census.text(0).ends_with("cat (process 77) holds 1"),
            "{}",
            census.text(0)
        );
    }

    #[test]
    fn frames_mapped_nowhere_hold_only_if_they_are_named() {
        let census = census(5, &OURS);
        assert_eq!(census.mapped_nowhere(), 2);
        assert!(!census.holds(0) && !census.holds(1) && census.holds(2));
        assert!(
            census
                .text(0)
                .contains("allocated 5 differs from mapped by")
        );
        assert!(census.text(2).contains("+ 2 held by the kernel"));
    }

    #[test]
    fn a_frame_of_both_programs_is_said_to_be() {
        let census = census(1, &[(0x1000, 10, "redis-server"), (0x1000, 20, "python3")]);
        assert!(census.holds(0));
        assert!(census.text(0).contains("python3 1 + of which 1 in both"));
    }

    #[test]
    fn an_unseen_process_is_no_proof() {
        let unseen = Census {
            nr_unseen: 1,
            ..census(3, &OURS)
        };
        assert!(!unseen.holds(0));
        assert!(
            unseen
                .text(0)
                .ends_with("1 processes could not be looked at")
        );
    }
}
