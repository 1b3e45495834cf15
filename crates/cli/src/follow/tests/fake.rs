//! Processes and devices that are only numbers, and change whenever they are asked.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use cohmem::{AddrRange, ByteCount, FRAME_BYTES, PageEntry, Reason, Tier, UserAddr};

use super::super::machine::{Machine, Moved, Obstacle, Signature, Step};
use crate::policy::Area;

/// The process that follows.
pub(crate) const ROOT: u32 = 1;

/// What a process may do between two calls. In a script, the number is an index.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Op {
    Touch(u32, u64, u64),
    Map(u32, u64, u64),
    Unmap(u32, u64, u64),
    /// The mapping at a page goes elsewhere with its pages.
    Move(u32, u64),
    /// The mapping at a page allows no access any more, or again.
    Protect(u32, u64),
    Fork(u32),
    /// Forks, and becomes another program.
    ForkAndReplace(u32),
    Exec(u32),
    Exit(u32),
}

#[derive(Clone, Debug)]
struct FakeArea {
    start: u64,
    end: u64,
    name: String,
    is_accessible: bool,
}

#[derive(Clone, Debug)]
struct FakeProcess {
    parent: u32,
    /// Another one is another program.
    image: u64,
    areas: Vec<FakeArea>,
    /// Page number to frame.
    pages: BTreeMap<u64, u64>,
    faults: u64,
    is_hidden: bool,
}

#[derive(Debug, Default)]
struct State {
    now: Duration,
    look_time: Duration,
    processes: BTreeMap<u32, FakeProcess>,
    /// Frame to device; one that is not here is at home.
    devices: BTreeMap<u64, u32>,
    capacity: Vec<u64>,
    limit: Option<u64>,
    nr_made: u64,
    next_pid: u32,
    nr_looks: usize,
    nr_lists: usize,
    before_move: Option<Op>,
    before_signature: Option<Op>,
    before_look: Vec<Op>,
    /// Operations, each with the calls before it.
    script: VecDeque<(usize, Op)>,
}

/// The machine.
#[derive(Debug)]
pub(crate) struct Fake(RefCell<State>);

/// A program of a process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Handle {
    pid: u32,
    image: u64,
}

impl State {
    fn make(&mut self) -> u64 {
        self.nr_made += 1;
        self.nr_made
    }

    fn nr_maps(&self, frame: u64) -> usize {
        let pages = self.processes.values().flat_map(|one| one.pages.values());
        pages.filter(|&&other| other == frame).count()
    }

    fn held(&self) -> BTreeSet<u64> {
        let pages = self.processes.values().flat_map(|one| one.pages.values());
        pages.copied().collect()
    }

    /// Frees what nobody maps, and checks the limit.
    fn settle(&mut self) {
        let held = self.held();
        self.devices.retain(|frame, _| held.contains(frame));
        let nr_there = self.devices.len() as u64;
        if let Some(limit) = self.limit {
            assert!(nr_there <= limit, "{nr_there} frames, the limit is {limit}");
        }
    }

    fn nr_free(&self, device: u32) -> u64 {
        let used = self
            .devices
            .values()
            .filter(|&&used| used == device)
            .count() as u64;
        self.capacity[device as usize] - used
    }

    fn fork(&mut self, parent: u32) -> Option<u32> {
        let mut child = self.processes.get(&parent)?.clone();
        child.parent = parent;
        child.image = self.make();
        child.faults = 1;
        let pid = self.next_pid;
        self.next_pid += 1;
        self.processes.insert(pid, child);
        Some(pid)
    }

    fn apply(&mut self, op: Op) {
        let image = self.make();
        match op {
            Op::Fork(pid) => {
                self.fork(pid);
            }
            Op::ForkAndReplace(pid) => {
                self.fork(pid);
                self.apply(Op::Exec(pid));
            }
            Op::Exit(pid) => {
                self.processes.remove(&pid);
                for other in self.processes.values_mut() {
                    if other.parent == pid {
                        other.parent = ROOT;
                    }
                }
            }
            Op::Touch(pid, start, nr_pages) => {
                for page in start..start + nr_pages {
                    let frame = self
                        .processes
                        .get(&pid)
                        .and_then(|one| one.pages.get(&page));
                    let is_shared = frame.is_some_and(|&frame| self.nr_maps(frame) > 1);
                    if frame.is_some() && !is_shared {
                        continue;
                    }
                    let new = self.make();
                    let Some(one) = self.processes.get_mut(&pid) else {
                        return;
                    };
                    let mut areas = one.areas.iter();
                    if areas.any(|area| area.is_accessible && area.holds(page)) {
                        one.pages.insert(page, new);
                        one.faults += 1;
                    }
                }
            }
            Op::Map(pid, start, nr_pages) => {
                self.apply(Op::Unmap(pid, start, nr_pages));
                if let Some(one) = self.processes.get_mut(&pid) {
                    one.areas.push(FakeArea {
                        start,
                        end: start + nr_pages,
                        name: String::new(),
                        is_accessible: true,
                    });
                    one.areas.sort_by_key(|area| area.start);
                }
            }
            Op::Unmap(pid, start, nr_pages) => {
                let end = start + nr_pages;
                if let Some(one) = self.processes.get_mut(&pid) {
                    let old = std::mem::take(&mut one.areas);
                    for area in old {
                        for (from, to) in [
                            (area.start, area.end.min(start)),
                            (area.start.max(end), area.end),
                        ] {
                            if from < to {
                                one.areas.push(FakeArea {
                                    start: from,
                                    end: to,
                                    ..area.clone()
                                });
                            }
                        }
                    }
                    one.pages.retain(|page, _| !(start..end).contains(page));
                }
            }
            Op::Move(pid, at) => {
                if let Some(one) = self.processes.get_mut(&pid)
                    && let Some(index) = one.areas.iter().position(|area| area.holds(at))
                {
                    let area = one.areas.remove(index);
                    let to = one
                        .areas
                        .iter()
                        .map(|area| area.end)
                        .max()
                        .unwrap_or(0)
                        .max(area.end)
                        + 1;
                    let pages: Vec<_> = one
                        .pages
                        .range(area.start..area.end)
                        .map(|(&page, &frame)| (page, frame))
                        .collect();
                    for (page, frame) in pages {
                        one.pages.remove(&page);
                        one.pages.insert(page - area.start + to, frame);
                    }
                    one.areas.push(FakeArea {
                        start: to,
                        end: to + area.end - area.start,
                        ..area
                    });
                }
            }
            Op::Protect(pid, at) => {
                if let Some(one) = self.processes.get_mut(&pid)
                    && let Some(area) = one.areas.iter_mut().find(|area| area.holds(at))
                {
                    area.is_accessible = !area.is_accessible;
                }
            }
            Op::Exec(pid) => {
                if let Some(one) = self.processes.get_mut(&pid) {
                    one.image = image;
                    one.areas.clear();
                    one.pages.clear();
                    one.faults += 1;
                }
            }
        }
        self.settle();
    }

    fn run_script(&mut self) {
        let Some((gap, op)) = self.script.front_mut() else {
            return;
        };
        if *gap > 0 {
            *gap -= 1;
            return;
        }
        let op = *op;
        self.script.pop_front();
        let pids: Vec<u32> = self.processes.keys().copied().collect();
        let pid_of = |index: u32| {
            pids.get(index as usize % pids.len().max(1))
                .copied()
                .unwrap_or(0)
        };
        self.apply(match op {
            Op::Touch(index, at, pages) => Op::Touch(pid_of(index), at, pages),
            Op::Map(index, at, pages) => Op::Map(pid_of(index), at, pages),
            Op::Unmap(index, at, pages) => Op::Unmap(pid_of(index), at, pages),
            Op::Move(index, at) => Op::Move(pid_of(index), at),
            Op::Protect(index, at) => Op::Protect(pid_of(index), at),
            Op::Fork(index) => Op::Fork(pid_of(index)),
            Op::ForkAndReplace(index) => Op::ForkAndReplace(pid_of(index)),
            Op::Exec(index) => Op::Exec(pid_of(index)),
            Op::Exit(index) => Op::Exit(pid_of(index)),
        });
    }

    fn process(&self, handle: &Handle) -> Step<&FakeProcess> {
        let process = self.processes.get(&handle.pid);
        process
            .filter(|one| one.image == handle.image)
            .ok_or(Obstacle::Gone)
    }

    fn entry(&self, one: &FakeProcess, page: u64) -> PageEntry {
        let Some(area) = one.areas.iter().find(|area| area.holds(page)) else {
            return PageEntry::new(Tier::None, 0, Some(Reason::Unmapped));
        };
        match one.pages.get(&page) {
            _ if !area.is_accessible => PageEntry::new(Tier::None, 0, Some(Reason::NoPermission)),
            None => PageEntry::new(Tier::None, 0, Some(Reason::Untouched)),
            Some(frame) => match self.devices.get(frame) {
                Some(&device) => PageEntry::new(Tier::Device, u8::try_from(device).unwrap(), None),
                None if self.nr_maps(*frame) > 1 => {
                    PageEntry::new(Tier::System, 0, Some(Reason::Shared))
                }
                None => PageEntry::new(Tier::System, 0, None),
            },
        }
    }

    /// As the driver: another device's pages in the range move, too.
    fn migrate(
        &mut self,
        handle: &Handle,
        range: AddrRange,
        to: Option<u32>,
        from: u32,
    ) -> Step<Moved> {
        let one = self.process(handle)?.clone();
        let mut moved = Moved::default();
        if !pages(range).any(|page| one.areas.iter().any(|area| area.holds(page))) {
            return Err(Obstacle::Later);
        }
        for page in pages(range) {
            let entry = self.entry(&one, page);
            let frame = one.pages.get(&page).copied().unwrap_or(0);
            let is_shared = self.nr_maps(frame) > 1;
            match (entry.tier(), to) {
                (Tier::None, _) => moved.stayed.add(entry.reason().unwrap(), 1),
                (Tier::Device, Some(to)) if entry.device() == Some(to) => {
                    moved.stayed.add(Reason::AlreadyThere, 1);
                }
                _ if is_shared => moved.stayed.add(Reason::Shared, 1),
                (_, Some(to)) if self.nr_free(to) == 0 => moved.stayed.add(Reason::NoFrame, 1),
                (_, Some(to)) => {
                    self.devices.insert(frame, to);
                    moved.pages += 1;
                }
                (_, None) if entry.device() == Some(from) => {
                    self.devices.remove(&frame);
                    moved.pages += 1;
                }
                (_, None) => moved.stayed.add(Reason::OtherDevice, 1),
            }
        }
        self.settle();
        Ok(moved)
    }
}

impl FakeArea {
    const fn holds(&self, page: u64) -> bool {
        self.start <= page && page < self.end
    }
}

fn pages(range: AddrRange) -> std::ops::Range<u64> {
    range.start().get() / FRAME_BYTES..range.end().get() / FRAME_BYTES
}

impl Fake {
    /// Devices with so many frames.
    pub(crate) fn new(capacity: &[u64]) -> Self {
        Self(RefCell::new(State {
            capacity: capacity.to_vec(),
            next_pid: 10,
            ..State::default()
        }))
    }

    pub(crate) fn set_limit(&self, limit: Option<u64>) {
        self.0.borrow_mut().limit = limit;
    }

    pub(crate) fn spawn(&self, parent: u32) -> u32 {
        let mut state = self.0.borrow_mut();
        let pid = state.next_pid;
        state.next_pid += 1;
        let image = state.make();
        state.processes.insert(
            pid,
            FakeProcess {
                parent,
                image,
                areas: Vec::new(),
                pages: BTreeMap::new(),
                faults: 0,
                is_hidden: false,
            },
        );
        pid
    }

    pub(crate) fn next_pid(&self) -> u32 {
        self.0.borrow().next_pid
    }

    pub(crate) fn fork(&self, parent: u32) -> u32 {
        self.0.borrow_mut().fork(parent).unwrap()
    }

    pub(crate) fn exec(&self, pid: u32) {
        self.0.borrow_mut().apply(Op::Exec(pid));
    }

    pub(crate) fn exit(&self, pid: u32) {
        self.0.borrow_mut().apply(Op::Exit(pid));
    }

    pub(crate) fn map(&self, pid: u32, start: u64, nr_pages: u64, name: &str) {
        let mut state = self.0.borrow_mut();
        state.apply(Op::Map(pid, start, nr_pages));
        let one = state.processes.get_mut(&pid).unwrap();
        let area = one
            .areas
            .iter_mut()
            .find(|area| area.start == start)
            .unwrap();
        name.clone_into(&mut area.name);
    }

    pub(crate) fn unmap(&self, pid: u32, start: u64, nr_pages: u64) {
        self.0.borrow_mut().apply(Op::Unmap(pid, start, nr_pages));
        self.touch_faults(pid);
    }

    pub(crate) fn touch(&self, pid: u32, start: u64, nr_pages: u64) {
        self.0.borrow_mut().apply(Op::Touch(pid, start, nr_pages));
    }

    /// A fault that brought no memory.
    pub(crate) fn touch_faults(&self, pid: u32) {
        self.0.borrow_mut().processes.get_mut(&pid).unwrap().faults += 1;
    }

    pub(crate) fn protect(&self, pid: u32, at: u64) {
        self.0.borrow_mut().apply(Op::Protect(pid, at));
    }

    pub(crate) fn hide(&self, pid: u32) {
        self.0
            .borrow_mut()
            .processes
            .get_mut(&pid)
            .unwrap()
            .is_hidden = true;
    }

    pub(crate) fn before_move(&self, op: Op) {
        self.0.borrow_mut().before_move = Some(op);
    }

    pub(crate) fn before_signature(&self, op: Op) {
        self.0.borrow_mut().before_signature = Some(op);
    }

    pub(crate) fn before_look(&self, ops: &[Op]) {
        self.0.borrow_mut().before_look = ops.to_vec();
    }

    /// Operations that come between calls; a gap is the calls before one.
    pub(crate) fn script(&self, ops: &[Op], gaps: &[usize]) {
        let script = gaps.iter().copied().zip(ops.iter().copied());
        self.0.borrow_mut().script = script.collect();
    }

    pub(crate) fn has_script(&self) -> bool {
        !self.0.borrow().script.is_empty()
    }

    pub(crate) fn drop_script(&self) {
        self.0.borrow_mut().script.clear();
    }

    pub(crate) fn pass(&self, time: Duration) {
        self.0.borrow_mut().now += time;
    }

    pub(crate) fn looks_take(&self, time: Duration) {
        self.0.borrow_mut().look_time = time;
    }

    pub(crate) fn nr_looks(&self) -> usize {
        self.0.borrow().nr_looks
    }

    /// Lists of children that were asked for.
    pub(crate) fn nr_lists(&self) -> usize {
        self.0.borrow().nr_lists
    }

    pub(crate) fn on_device(&self, pid: u32, device: u32) -> u64 {
        let state = self.0.borrow();
        let frames = state.processes[&pid].pages.values();
        frames
            .filter(|frame| state.devices.get(frame) == Some(&device))
            .count() as u64
    }

    pub(crate) fn is_home(&self, pid: u32, page: u64) -> bool {
        let state = self.0.borrow();
        let frame = state.processes[&pid].pages[&page];
        !state.devices.contains_key(&frame)
    }

    pub(crate) fn nr_frames_on_devices(&self) -> usize {
        self.0.borrow().devices.len()
    }

    /// Frames on devices that are in a mapping that allows access, and mapped once.
    pub(crate) fn nr_frames_on_devices_seen(&self) -> usize {
        self.count(|entry, is_shared| entry.tier() == Tier::Device && !is_shared)
    }

    /// Pages at home that nothing keeps there.
    pub(crate) fn nr_movable(&self) -> usize {
        self.count(|entry, _| entry.tier() == Tier::System && entry.reason().is_none())
    }

    fn count(&self, is_counted_fn: impl Fn(PageEntry, bool) -> bool) -> usize {
        let state = self.0.borrow();
        let counts = state.processes.values().map(|one| {
            let pages = one.pages.iter().filter(|&(&page, &frame)| {
                is_counted_fn(state.entry(one, page), state.nr_maps(frame) > 1)
            });
            pages.count()
        });
        counts.sum()
    }
}

impl Machine for &Fake {
    type Process = Handle;

    fn now(&self) -> Duration {
        self.0.borrow().now
    }

    fn newest(&self) -> Option<u32> {
        let mut state = self.0.borrow_mut();
        state.run_script();
        Some(state.next_pid)
    }

    fn children(&self, parent: u32) -> Vec<u32> {
        let mut state = self.0.borrow_mut();
        state.run_script();
        state.nr_lists += 1;
        let children = state.processes.iter();
        children
            .filter(|(_, one)| one.parent == parent)
            .map(|(&pid, _)| pid)
            .collect()
    }

    fn open(&self, pid: u32) -> Step<Handle> {
        let mut state = self.0.borrow_mut();
        state.run_script();
        let one = state.processes.get(&pid).ok_or(Obstacle::Gone)?;
        if one.is_hidden {
            return Err(Obstacle::Hidden);
        }
        let image = one.image;
        Ok(Handle { pid, image })
    }

    fn signature(&self, process: &Handle) -> Option<Signature> {
        let mut state = self.0.borrow_mut();
        state.run_script();
        if let Some(op) = state.before_signature.take() {
            state.apply(op);
        }
        let one = state.processes.get(&process.pid)?;
        Some(Signature {
            faults: one.faults,
            anonymous: one.pages.len() as u64,
            mapped: one.areas.iter().map(|area| area.end - area.start).sum(),
        })
    }

    fn areas(&self, process: &Handle) -> Step<Vec<Area>> {
        let mut state = self.0.borrow_mut();
        state.run_script();
        let areas = state.process(process)?.areas.iter().map(|area| {
            let address = |page: u64| UserAddr::new(page * FRAME_BYTES);
            Area {
                range: AddrRange::new(address(area.start), address(area.end)).unwrap(),
                name: Some(area.name.clone()).filter(|name| !name.is_empty()),
                is_anonymous: true,
                is_accessible: area.is_accessible,
                is_executable: false,
            }
        });
        Ok(areas.collect())
    }

    fn count(&self, process: &Handle, range: AddrRange) -> Step<u64> {
        let entries = self.look(process, range)?;
        let there = entries.iter().filter(|entry| entry.tier() == Tier::Device);
        Ok(there.count() as u64)
    }

    fn present(&self, process: &Handle, range: AddrRange) -> Step<u64> {
        let mut state = self.0.borrow_mut();
        state.run_script();
        let present = state.process(process)?.pages.range(pages(range));
        Ok(present.count() as u64)
    }

    fn occupied(&self, process: &Handle, range: AddrRange) -> Step<Vec<AddrRange>> {
        let mut state = self.0.borrow_mut();
        state.run_script();
        for op in std::mem::take(&mut state.before_look) {
            state.apply(op);
        }
        let one = state.process(process)?;
        let frames = pages(range);
        let (Some((first, _)), Some((last, _))) = (
            one.pages.range(frames.clone()).next(),
            one.pages.range(frames).next_back(),
        ) else {
            return Ok(Vec::new());
        };
        let start = UserAddr::new(first * FRAME_BYTES);
        let length = ByteCount::of_frames(last + 1 - first);
        Ok(vec![AddrRange::with_length(start, length).unwrap()])
    }

    fn look(&self, process: &Handle, range: AddrRange) -> Step<Vec<PageEntry>> {
        let mut state = self.0.borrow_mut();
        state.run_script();
        state.nr_looks += 1;
        let took = state.look_time;
        state.now += took;
        let one = state.process(process)?;
        if !pages(range).any(|page| one.areas.iter().any(|area| area.holds(page))) {
            return Err(Obstacle::Later);
        }
        Ok(pages(range).map(|page| state.entry(one, page)).collect())
    }

    fn free(&self, device: u32) -> Step<u64> {
        Ok(self.0.borrow().nr_free(device))
    }

    fn move_in(&self, device: u32, process: &Handle, range: AddrRange) -> Step<Moved> {
        let mut state = self.0.borrow_mut();
        state.run_script();
        if let Some(op) = state.before_move.take() {
            state.apply(op);
        }
        state.migrate(process, range, Some(device), device)
    }

    fn move_home(&self, device: u32, process: &Handle, range: AddrRange) -> Step<Moved> {
        let mut state = self.0.borrow_mut();
        state.run_script();
        state.migrate(process, range, None, device)
    }
}
