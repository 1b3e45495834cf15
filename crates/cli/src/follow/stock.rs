//! Taking stock: which pages of which processes are where.

use std::{collections::BTreeSet, time::Duration};

use cohmem::{ReasonCounts, Tier};

use super::{
    Followed, Follower, Seen, chunks, is_passing,
    machine::{Machine, Obstacle, Step},
    pieces::is_candidate,
};
use crate::policy::Area;

/// Looking at a process and moving its pages took time T: no look without a cause follows for so many
/// times T, and times the number of processes.
const SHARE: u32 = 50;
/// Longest pause between two looks without a cause, but for their cost.
const LONGEST_REST: Duration = Duration::from_secs(10);
/// Times that a process is looked at until its mappings stand still.
const NR_TRIES: usize = 3;

/// What taking stock came to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stock {
    /// The counts are upper bounds of what is on the devices.
    pub(super) is_certain: bool,
    /// Every process that was found is followed, or hidden. What has ended, or is about to become another
    /// program, is found and not followed.
    pub(super) is_complete: bool,
    /// A process changed since it was last looked at.
    pub(super) has_news: bool,
}

impl<M: Machine> Follower<M> {
    /// Whether there is nothing to look at and nothing to move.
    pub(super) fn is_idle(&self) -> bool {
        let now = self.machine.now();
        self.followed.values().all(|one| {
            now < one.next_look
                && one.seen.iter().all(|seen| seen.nr_candidates == 0)
                && one.signature.is_some()
                && one.signature == self.machine.signature(&one.process)
        })
    }

    /// How long there is no look without a cause after work on one process that took so long.
    pub(super) fn pause_after(&self, took: Duration) -> Duration {
        let nr_followed = u32::try_from(self.followed.len()).unwrap_or(u32::MAX);
        took * SHARE.saturating_mul(nr_followed.max(1))
    }

    /// Looks at what has changed, until there is no process that was not asked.
    pub(super) fn take_stock(&mut self) -> Step<Stock> {
        let mut stock = Stock {
            is_certain: true,
            is_complete: false,
            has_news: false,
        };
        let mut asked = BTreeSet::new();
        loop {
            let mut new = self.find();
            new.retain(|&pid| asked.insert(pid));
            if new.is_empty() {
                let is_known =
                    |pid| self.followed.contains_key(pid) || self.tally.hidden.contains(pid);
                stock.is_complete = asked.iter().all(is_known);
                return Ok(stock);
            }
            for pid in new {
                self.ask(pid, &mut stock)?;
            }
        }
    }

    fn ask(&mut self, pid: u32, stock: &mut Stock) -> Step<()> {
        // The second time it is the program that it has become, if it has.
        for _try in 0..2 {
            if self.tally.hidden.contains(&pid) {
                return Ok(());
            }
            match self.ask_once(pid, stock) {
                Ok(()) => return Ok(()),
                Err(Obstacle::Gone) => self.forget(pid),
                Err(Obstacle::Hidden) => {
                    self.forget(pid);
                    self.tally.hidden.insert(pid);
                }
                Err(Obstacle::Later) => {
                    stock.is_certain = false;
                    return Ok(());
                }
                Err(other) => return Err(other),
            }
        }
        Ok(())
    }

    fn ask_once(&mut self, pid: u32, stock: &mut Stock) -> Step<()> {
        let begin = self.machine.now();
        let mut one = match self.followed.remove(&pid) {
            Some(one) => one,
            None => Followed {
                process: self.machine.open(pid)?,
                signature: None,
                seen: Vec::new(),
                rest: Duration::ZERO,
                next_look: begin,
                not_before: begin,
            },
        };
        // Read before the pages are looked at: what comes meanwhile is seen the next time.
        let signature = self.machine.signature(&one.process);
        let has_changed = signature != one.signature;
        let is_due = if has_changed {
            begin >= one.not_before
        } else {
            begin >= one.next_look
        };
        let looked = match signature {
            None => Err(Obstacle::Gone),
            Some(_) if is_due => self.look_over(&mut one),
            Some(_) => Ok(true),
        };
        if is_due && let Ok(is_certain) = looked {
            stock.is_certain &= is_certain;
            stock.has_news |= has_changed;
            one.signature = if is_certain { signature } else { None };
            let now = self.machine.now();
            let cost = self.pause_after(now - begin);
            one.rest = if has_changed {
                self.patience
            } else {
                (one.rest * 2).min(LONGEST_REST)
            };
            one.next_look = now + one.rest.max(cost);
            one.not_before = now + cost.min(self.patience);
        }
        // Also when it is gone: its counts are added up when it is forgotten.
        self.followed.insert(pid, one);
        looked.map(drop)
    }

    /// Counts the pages of a process; `false` when the counts may be too low.
    fn look_over(&self, one: &mut Followed<M::Process>) -> Step<bool> {
        let is_limited = self.policy.limit_pages().is_some();
        for _try in 0..NR_TRIES {
            let areas = self.machine.areas(&one.process)?;
            // It is about to end.
            if areas.is_empty() {
                return Err(Obstacle::Gone);
            }
            let mut is_complete = true;
            let mut seen = Vec::with_capacity(areas.len());
            for area in &areas {
                let mut new = Seen::inherit(area, &one.seen);
                is_complete &= self.look_at(&one.process, &mut new)?;
                seen.push(new);
            }
            // A mapping that went elsewhere meanwhile took its pages with it, uncounted.
            let is_settled =
                !is_limited || is_complete && self.machine.areas(&one.process)? == areas;
            if is_settled {
                one.seen = seen;
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Looks at one mapping, if there is a use for it; `false` when a part was not seen.
    fn look_at(&self, process: &M::Process, seen: &mut Seen) -> Step<bool> {
        let range = seen.area.range;
        let is_limited = self.policy.limit_pages().is_some();
        let may_hold = seen.area.is_anonymous || self.policy.names_mappings();
        let mut is_complete = true;
        let mut here = 0;
        if self.policy.selects(&seen.area) {
            let Some(occupied) = is_passing(self.machine.occupied(process, range))? else {
                return Ok(false);
            };
            for chunk in occupied.into_iter().flat_map(chunks) {
                let Some(entries) = is_passing(self.machine.look(process, chunk))? else {
                    is_complete = false;
                    continue;
                };
                for entry in entries {
                    match (entry.tier(), entry.reason()) {
                        (Tier::Device, _) => here += 1,
                        (Tier::System, _) if is_candidate(entry) => seen.nr_candidates += 1,
                        (Tier::System, Some(reason)) => seen.stays.add(reason, 1),
                        _ => {}
                    }
                }
            }
        } else if may_hold && (is_limited || seen.here > 0) {
            // The driver does not look into what allows no access.
            let counted = if seen.area.is_accessible {
                self.machine.count(process, range)
            } else {
                self.machine.present(process, range)
            };
            match is_passing(counted)? {
                Some(pages) => here = pages,
                None => is_complete = false,
            }
        }
        seen.here = here;
        Ok(is_complete)
    }
}

impl Seen {
    /// What is known of `area` from the mappings that were in its place.
    fn inherit(area: &Area, old: &[Self]) -> Self {
        let mut seen = Self {
            area: area.clone(),
            here: 0,
            nr_candidates: 0,
            stays: ReasonCounts::default(),
            refused: ReasonCounts::default(),
            last_came: 0,
            has_yielded: false,
        };
        let first = old.partition_point(|old| old.area.range.end() <= area.range.start());
        let overlapping = old.iter().skip(first);
        for old in overlapping.take_while(|old| old.area.range.start() < area.range.end()) {
            seen.here += old.here;
            seen.last_came = seen.last_came.max(old.last_came);
            seen.has_yielded |= old.has_yielded;
            if old.area.range == area.range {
                seen.refused = old.refused;
            }
        }
        seen.here = seen.here.min(area.range.nr_pages());
        seen
    }
}
