//! Placing: moves to the devices what may move, as far as there is room.

use std::time::Duration;

use cohmem::{AddrRange, PageEntry, Reason};

use super::{
    Follower, Lack, Round, Seen, chunks, is_passing,
    machine::{Machine, Obstacle, Step},
    part,
    pieces::{is_candidate, next_home, next_in},
};
use crate::policy::Full;

/// What there is room for in this round.
#[derive(Debug)]
struct Room {
    /// Pages that the limit leaves.
    left: u64,
    /// Free frames of each device, by preference; none for one that takes no pages.
    free: Vec<(u32, u64)>,
    /// Mappings that nothing more could be taken home from.
    stuck: Vec<Spot>,
}

/// A mapping: the process, and its index there.
type Spot = (u32, usize);

impl Room {
    /// The device to move to, and how many pages may come.
    fn pick(&self) -> Result<(u32, u64), Lack> {
        let open = self.free.iter().find(|(_, nr_free)| *nr_free > 0);
        match open {
            _ if self.left == 0 => Err(Lack::Limit),
            Some(&(device, nr_free)) => Ok((device, nr_free.min(self.left))),
            None => Err(Lack::Frames),
        }
    }

    fn took(&mut self, device: u32, nr_pages: u64) {
        self.left = self.left.saturating_sub(nr_pages);
        self.change(device, |nr_free| nr_free.saturating_sub(nr_pages));
    }

    fn gave(&mut self, device: u32, nr_pages: u64) {
        self.left = self.left.saturating_add(nr_pages);
        self.change(device, |nr_free| nr_free.saturating_add(nr_pages));
    }

    fn close(&mut self, device: u32) {
        self.change(device, |_| 0);
    }

    fn change(&mut self, wanted: u32, new_fn: impl Fn(u64) -> u64) {
        for (device, nr_free) in &mut self.free {
            if *device == wanted {
                *nr_free = new_fn(*nr_free);
            }
        }
    }
}

impl<M: Machine> Follower<M> {
    /// Moves all candidates of the last look for which there is room.
    pub(super) fn place(&mut self, round: &mut Round) -> Step<()> {
        let spots: Vec<Spot> = self
            .followed
            .iter()
            .flat_map(|(&pid, one)| {
                let areas = one.seen.iter().enumerate();
                areas
                    .filter(|(_, seen)| seen.nr_candidates > 0)
                    .map(move |(index, _)| (pid, index))
            })
            .collect();
        if spots.is_empty() {
            return Ok(());
        }
        let mut room = self.room()?;
        for spot in spots {
            let begin = self.machine.now();
            let placed = self.place_area(spot, &mut room, round);
            self.rest_after(spot.0, begin);
            match placed {
                // It ended, or changed what it is: the next round sees that.
                Ok(()) | Err(Obstacle::Gone | Obstacle::Hidden) => {}
                Err(other) => return Err(other),
            }
        }
        Ok(())
    }

    /// Lets a process rest for the work on it since `begin`, besides what it rests for its look.
    fn rest_after(&mut self, pid: u32, begin: Duration) {
        let pause = self.pause_after(self.machine.now() - begin);
        let patience = self.patience;
        if let Some(one) = self.followed.get_mut(&pid) {
            one.next_look += pause;
            one.not_before += pause.min(patience);
        }
    }

    fn room(&self) -> Step<Room> {
        let mut free = Vec::new();
        for &device in &self.policy.devices {
            match self.machine.free(device) {
                Ok(nr_free) => free.push((device, nr_free)),
                Err(Obstacle::Closed | Obstacle::Later) => free.push((device, 0)),
                Err(other) => return Err(other),
            }
        }
        let limit = self.policy.limit_pages();
        Ok(Room {
            left: limit.map_or(u64::MAX, |limit| limit.saturating_sub(self.nr_here())),
            free,
            stuck: Vec::new(),
        })
    }

    fn place_area(&mut self, spot: Spot, room: &mut Room, round: &mut Round) -> Step<()> {
        let Some(range) = self.seen(spot).map(|seen| seen.area.range) else {
            return Ok(());
        };
        if let Some(seen) = self.seen_mut(spot) {
            seen.refused = cohmem::ReasonCounts::default();
            seen.nr_candidates = 0;
        }
        let Some(one) = self.followed.get(&spot.0) else {
            return Ok(());
        };
        let Some(occupied) = is_passing(self.machine.occupied(&one.process, range))? else {
            return Ok(());
        };
        for chunk in occupied.into_iter().flat_map(chunks) {
            self.place_chunk(spot, chunk, room, round)?;
        }
        Ok(())
    }

    fn place_chunk(
        &mut self,
        spot: Spot,
        chunk: AddrRange,
        room: &mut Room,
        round: &mut Round,
    ) -> Step<()> {
        let Some(mut entries) = self.look(spot, chunk)? else {
            return Ok(());
        };
        let mut from = 0;
        loop {
            let nr_left = count_candidates(&entries, from);
            if nr_left == 0 {
                return Ok(());
            }
            let (device, nr_room) = match room.pick() {
                Ok(picked) => picked,
                Err(_) if self.make_room(spot, nr_left, room)? => continue,
                Err(lack) => {
                    self.refuse(spot, lack, nr_left, round);
                    return Ok(());
                }
            };
            let Some(piece) = next_in(&entries, from, device, nr_room) else {
                return Ok(());
            };
            from = piece.1;
            let Some(one) = self.followed.get(&spot.0) else {
                return Ok(());
            };
            let moved = match self
                .machine
                .move_in(device, &one.process, part(chunk, piece))
            {
                Ok(moved) => moved,
                Err(Obstacle::Later) => continue,
                Err(Obstacle::Closed) => {
                    room.close(device);
                    from = piece.0;
                    continue;
                }
                Err(other) => return Err(other),
            };
            room.took(device, moved.pages);
            round.is_busy |= moved.pages > 0;
            *self.tally.moved.entry(device).or_default() += moved.pages;
            let is_full = moved.stayed.get(Reason::NoFrame) > 0;
            let now = self.tally.rounds;
            if let Some(seen) = self.seen_mut(spot) {
                seen.here += moved.pages;
                if moved.pages > 0 {
                    seen.last_came = now;
                }
                for (reason, pages) in moved.stayed.iter() {
                    if !is_no_refusal(reason) {
                        seen.refused.add(reason, pages);
                    }
                }
            }
            if is_full {
                room.close(device);
                from = piece.0;
                match self.look(spot, chunk)? {
                    Some(again) => entries = again,
                    None => return Ok(()),
                }
            }
        }
    }

    /// Tells of each page of `chunk` where it is.
    fn look(&self, spot: Spot, chunk: AddrRange) -> Step<Option<Vec<PageEntry>>> {
        let Some(one) = self.followed.get(&spot.0) else {
            return Ok(None);
        };
        is_passing(self.machine.look(&one.process, chunk))
    }

    fn refuse(&mut self, spot: Spot, lack: Lack, nr_pages: u64, round: &mut Round) {
        let reason = match lack {
            Lack::Frames => Reason::NoFrame,
            Lack::Limit => Reason::Quota,
        };
        if let Some(seen) = self.seen_mut(spot) {
            seen.refused.add(reason, nr_pages);
        }
        let already = round.lack.map_or(0, |(_, pages)| pages);
        round.lack = Some((lack, already + nr_pages));
    }

    /// Takes up to `nr_wanted` pages of other mappings home: first those of other processes, the
    /// oldest first. Whether there is room now.
    ///
    /// A mapping that yielded once asks no other to, so that nothing goes there and back for ever.
    fn make_room(&mut self, asker: Spot, nr_wanted: u64, room: &mut Room) -> Step<bool> {
        let may_ask = self.seen(asker).is_some_and(|seen| !seen.has_yielded);
        if self.policy.full != Full::Evict || !may_ask {
            return Ok(false);
        }
        let mut others: Vec<(bool, u64, Spot)> = self
            .followed
            .iter()
            .flat_map(|(&pid, one)| {
                let areas = one.seen.iter().enumerate();
                areas.map(move |(index, seen)| (pid, index, seen))
            })
            .filter(|(_, _, seen)| seen.here > 0 && seen.area.is_accessible)
            .map(|(pid, index, seen)| (pid == asker.0, seen.last_came, (pid, index)))
            .filter(|(_, _, spot)| *spot != asker && !room.stuck.contains(spot))
            .collect();
        others.sort_unstable();
        let mut nr_freed = 0;
        for (_, _, spot) in others {
            let nr_more = nr_wanted.saturating_sub(nr_freed);
            if nr_more == 0 {
                break;
            }
            let pages = match self.send_home(spot, nr_more, room) {
                Ok(pages) => pages,
                Err(Obstacle::Gone | Obstacle::Hidden) => 0,
                Err(other) => return Err(other),
            };
            if pages < nr_more {
                room.stuck.push(spot);
            }
            nr_freed += pages;
        }
        self.tally.evicted += nr_freed;
        Ok(nr_freed > 0)
    }

    fn send_home(&mut self, spot: Spot, most: u64, room: &mut Room) -> Step<u64> {
        let (Some(one), Some(seen)) = (self.followed.get(&spot.0), self.seen(spot)) else {
            return Ok(0);
        };
        let range = seen.area.range;
        let mut nr_home = 0;
        for &device in &self.policy.devices {
            let pages = self.bring(device, &one.process, range, most - nr_home)?;
            room.gave(device, pages);
            nr_home += pages;
        }
        if let Some(seen) = self.seen_mut(spot) {
            seen.here = seen.here.saturating_sub(nr_home);
            seen.has_yielded |= nr_home > 0;
        }
        Ok(nr_home)
    }

    /// Moves up to `most` pages of `range` home from `device`.
    fn bring(&self, device: u32, process: &M::Process, range: AddrRange, most: u64) -> Step<u64> {
        let mut nr_home = 0;
        let Some(occupied) = is_passing(self.machine.occupied(process, range))? else {
            return Ok(0);
        };
        for chunk in occupied.into_iter().flat_map(chunks) {
            if nr_home >= most {
                break;
            }
            let Some(entries) = is_passing(self.machine.look(process, chunk))? else {
                continue;
            };
            let mut from = 0;
            while let Some(piece) = next_home(&entries, from, device, most - nr_home) {
                let moved = self.machine.move_home(device, process, part(chunk, piece));
                nr_home += is_passing(moved)?.unwrap_or_default().pages;
                from = piece.1;
            }
        }
        Ok(nr_home)
    }

    /// Moves all pages of a process home; how many moved.
    pub(super) fn take_home(&mut self, pid: u32) -> Step<u64> {
        let opened;
        let process = match self.followed.get(&pid) {
            Some(one) => &one.process,
            None => {
                opened = self.machine.open(pid)?;
                &opened
            }
        };
        if self.machine.signature(process).is_none() {
            return Err(Obstacle::Gone);
        }
        let mut nr_home = 0;
        for area in self.machine.areas(process)? {
            for &device in &self.policy.devices {
                if area.is_accessible {
                    nr_home += self.bring(device, process, area.range, u64::MAX)?;
                }
            }
        }
        Ok(nr_home)
    }

    fn seen(&self, (pid, index): Spot) -> Option<&Seen> {
        self.followed.get(&pid)?.seen.get(index)
    }

    fn seen_mut(&mut self, (pid, index): Spot) -> Option<&mut Seen> {
        self.followed.get_mut(&pid)?.seen.get_mut(index)
    }
}

fn count_candidates(entries: &[PageEntry], from: usize) -> u64 {
    let rest = entries.get(from..).unwrap_or_default();
    rest.iter().filter(|&&entry| is_candidate(entry)).count() as u64
}

/// Reasons that a page in a piece may have without being one that was to move, or that are told
/// when the last device has been tried.
const fn is_no_refusal(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::AlreadyThere | Reason::Untouched | Reason::Unmapped | Reason::NoFrame
    )
}
