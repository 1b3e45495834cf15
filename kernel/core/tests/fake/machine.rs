// SPDX-License-Identifier: GPL-2.0
//! The machine: what tests do to it.

use std::{
    collections::HashMap,
    fmt,
    ops::Range,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread::{self, ThreadId},
};

use cohmem_kcore::{ProcessId, host::Point};
use cohmem_uapi::args;

use super::{
    Fallible, Home, Kind, Pid, Seen, VmaSpec,
    faults::Faults,
    held::held,
    page::Place,
    process::{Entry, Process},
    world::{RangeKind, World},
};

/// When a test interferes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    At(Point),
    /// Page tables were read, nothing is collected yet.
    Snapshotted,
    /// Every page was decided on, nothing is collected yet.
    Collecting,
    Sleeping,
    /// Other tasks run: between the windows of a migration, among others.
    Relaxing,
    /// A device's node is being made.
    Publishing,
}

/// Who calls when nothing else is said.
pub(crate) const USER: u32 = 1000;

type HookFn = Box<dyn FnOnce(&FakeHost) + Send>;

pub(crate) struct Inner {
    pub(crate) world: Mutex<World>,
    /// A page came to rest.
    pub(crate) settled: Condvar,
    pub(crate) faults: Faults,
    hooks: Mutex<Vec<(Moment, HookFn)>>,
    /// Microseconds.
    pub(crate) clock: AtomicU64,
    pub(crate) may_administrate: AtomicBool,
    pub(crate) may_move_shared: AtomicBool,
    /// Who calls, by thread.
    users: Mutex<HashMap<ThreadId, u32>>,
    /// In which control group, from the root's number on, by thread.
    groups: Mutex<HashMap<ThreadId, Vec<u64>>>,
    pub(crate) nr_drains: AtomicU64,
    /// Looks at the clock.
    pub(crate) nr_looks: AtomicU64,
    /// Records that those who trace were told, with the device's number.
    traced: Mutex<Vec<(u32, args::Move)>>,
    /// The test is over: nothing is checked any more.
    pub(crate) is_off: AtomicBool,
}

impl Inner {
    pub(crate) fn traced(&self) -> MutexGuard<'_, Vec<(u32, args::Move)>> {
        self.traced.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The machine that a driver runs on.
#[derive(Clone)]
pub(crate) struct FakeHost(pub(crate) Arc<Inner>);

impl fmt::Debug for FakeHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FakeHost").finish_non_exhaustive()
    }
}

impl FakeHost {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Inner {
            world: Mutex::new(World::new()),
            settled: Condvar::new(),
            faults: Faults::default(),
            hooks: Mutex::default(),
            clock: AtomicU64::new(0),
            may_administrate: AtomicBool::new(true),
            may_move_shared: AtomicBool::new(true),
            users: Mutex::default(),
            groups: Mutex::default(),
            nr_drains: AtomicU64::new(0),
            nr_looks: AtomicU64::new(0),
            traced: Mutex::default(),
            is_off: AtomicBool::new(false),
        }))
    }

    pub(crate) fn world(&self) -> MutexGuard<'_, World> {
        self.0.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a physical range.
    pub(crate) fn add_range(&self, range: Range<u64>, kind: RangeKind) {
        self.world().ranges.push((range, kind));
    }

    /// Milliseconds since the machine was switched on.
    pub(crate) fn now_ms_of_clock(&self) -> u64 {
        self.0.clock.load(Relaxed) / 1000
    }

    /// Makes `nth` call of `what` fail once.
    pub(crate) fn fail(&self, what: Fallible, nth: u64) {
        self.0.faults.plan(what, nth, false);
    }

    /// Makes the `nth` call of `what` and all after it fail.
    pub(crate) fn fail_from(&self, what: Fallible, nth: u64) {
        self.0.faults.plan(what, nth, true);
    }

    /// Ends the failures; tells how many there were.
    pub(crate) fn heal(&self) -> u64 {
        self.0.faults.clear()
    }

    pub(crate) fn hit(&self, what: Fallible) -> bool {
        self.0.faults.hit(what)
    }

    /// Runs `hook_fn` when the driver next comes to `moment`, once.
    pub(crate) fn on(&self, moment: Moment, hook_fn: impl FnOnce(&Self) + Send + 'static) {
        self.hooks().push((moment, Box::new(hook_fn)));
    }

    fn hooks(&self) -> MutexGuard<'_, Vec<(Moment, HookFn)>> {
        self.0.hooks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn run_hooks(&self, now: Moment) {
        loop {
            let hook_fn = {
                let mut hooks = self.hooks();
                let Some(index) = hooks.iter().position(|&(moment, _)| moment == now) else {
                    return;
                };
                hooks.remove(index).1
            };
            hook_fn(self);
        }
    }

    /// Fails the test if a hook did not run.
    #[track_caller]
    pub(crate) fn assert_hooks_ran(&self) {
        assert!(self.hooks().is_empty(), "a hook did not run");
    }

    pub(crate) fn set_privileges(&self, may_administrate: bool, may_move_shared: bool) {
        self.0.may_administrate.store(may_administrate, Relaxed);
        self.0.may_move_shared.store(may_move_shared, Relaxed);
    }

    /// The calls of this thread are `user`'s from now on.
    pub(crate) fn act_as(&self, user: u32) {
        let mut users = self.0.users.lock().unwrap_or_else(PoisonError::into_inner);
        users.insert(thread::current().id(), user);
    }

    pub(crate) fn caller(&self) -> u32 {
        let users = self.0.users.lock().unwrap_or_else(PoisonError::into_inner);
        users.get(&thread::current().id()).copied().unwrap_or(USER)
    }

    /// The calls of this thread come from the control group with these numbers, the root's first.
    pub(crate) fn join_group(&self, numbers: &[u64]) {
        let mut groups = self.0.groups.lock().unwrap_or_else(PoisonError::into_inner);
        groups.insert(thread::current().id(), numbers.to_vec());
    }

    pub(crate) fn groups(&self) -> Vec<u64> {
        let groups = self.0.groups.lock().unwrap_or_else(PoisonError::into_inner);
        let own = groups.get(&thread::current().id());
        own.cloned().unwrap_or_else(|| vec![1])
    }

    // Processes.

    pub(crate) fn spawn(&self, vmas: impl IntoIterator<Item = VmaSpec>) -> Pid {
        let mut world = self.world();
        let vmas = vmas.into_iter().map(|vma| (vma.pages.start, vma));
        let process = Process::new(vmas.collect());
        world.processes.push(process);
        Pid(world.processes.len() - 1)
    }

    /// What a process is known by.
    pub(crate) fn identity(&self, pid: Pid) -> ProcessId {
        let own = ProcessId {
            number: u32::try_from(pid.0).unwrap() + 100,
            began_ns: 5,
        };
        self.world().processes[pid.0].known_as.unwrap_or(own)
    }

    /// The process is known by this from now on.
    pub(crate) fn know_as(&self, pid: Pid, identity: ProcessId) {
        self.world().processes[pid.0].known_as = Some(identity);
    }

    /// Runs `change_fn` with the mmap lock of `pid` held for writing.
    fn with_mappings<R>(&self, pid: Pid, change_fn: impl FnOnce(&mut World) -> R) -> R {
        let lock = Arc::<RwLock<()>>::clone(&self.world().processes[pid.0].lock);
        let _guard = lock.write().unwrap_or_else(PoisonError::into_inner);
        change_fn(&mut self.world())
    }

    pub(crate) fn fork(&self, parent: Pid) -> Pid {
        self.with_mappings(parent, |world| world.fork(parent))
    }

    pub(crate) fn unmap(&self, pid: Pid, pages: Range<u64>) {
        self.with_mappings(pid, |world| world.unmap(pid, pages));
    }

    pub(crate) fn mremap(&self, pid: Pid, pages: Range<u64>, to: u64) {
        self.with_mappings(pid, |world| world.mremap(pid, pages, to));
    }

    pub(crate) fn exit(&self, pid: Pid) {
        let mut world = self.world();
        if !world.processes[pid.0].has_exited {
            world.processes[pid.0].has_exited = true;
            world.put_space(pid);
        }
    }

    /// A load; waits while the page is in flight.
    pub(crate) fn load(&self, pid: Pid, page: u64) -> Seen {
        self.access(|world| world.load((pid, page)))
    }

    /// A store; waits while the page is in flight.
    pub(crate) fn store(&self, pid: Pid, page: u64, stamp: u64) -> Seen {
        self.access(|world| world.store((pid, page), stamp))
    }

    fn access(&self, access_fn: impl Fn(&mut World) -> Seen) -> Seen {
        let mut world = self.world();
        loop {
            let seen = access_fn(&mut world);
            if seen != Seen::Waits {
                return seen;
            }
            assert_eq!(held().batches, 0, "waiting for a page of one's own batch");
            world = self
                .0
                .settled
                .wait(world)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Stores `stamp + i` to page i of `pages`.
    pub(crate) fn store_all(&self, pid: Pid, pages: Range<u64>, stamp: u64) {
        for (page, stamp) in pages.zip(stamp..) {
            assert_eq!(self.store(pid, page, stamp), Seen::Stamp(stamp));
        }
    }

    /// Fails the test unless page i of `pages` holds `stamp + i`.
    #[track_caller]
    pub(crate) fn assert_all(&self, pid: Pid, pages: Range<u64>, stamp: u64) {
        for (page, stamp) in pages.zip(stamp..) {
            assert_eq!(self.load(pid, page), Seen::Stamp(stamp), "page {page:#x}");
        }
    }

    /// The physical page that is mapped.
    #[track_caller]
    pub(crate) fn pfn(&self, pid: Pid, page: u64) -> u64 {
        match self.world().entry((pid, page)) {
            Some(Entry::Present(pfn)) => pfn,
            other => panic!("no page at {pid:?}:{page:#x} but {other:?}"),
        }
    }

    /// A page of memory is mapped.
    pub(crate) fn has_page(&self, pid: Pid, page: u64) -> bool {
        matches!(self.world().entry((pid, page)), Some(Entry::Present(_)))
    }

    pub(crate) fn home(&self, pid: Pid, page: u64) -> Home {
        let pfn = self.pfn(pid, page);
        self.world().page(pfn).home
    }

    pub(crate) fn is_on_device(&self, pid: Pid, page: u64) -> bool {
        matches!(self.home(pid, page), Home::Frame { .. })
    }

    pub(crate) fn nr_on_device(&self, pid: Pid, pages: Range<u64>) -> usize {
        let world = self.world();
        pages
            .filter(|&page| match world.entry((pid, page)) {
                Some(Entry::Present(pfn)) => world.page(pfn).is_frame(),
                _ => false,
            })
            .count()
    }

    pub(crate) fn swap_out(&self, pid: Pid, page: u64) -> bool {
        self.world().swap_out((pid, page))
    }

    pub(crate) fn merge(&self, places: &[Place]) -> bool {
        self.world().merge(places)
    }

    /// Maps `pages` as one large folio with stamps from `stamp` on.
    pub(crate) fn map_folio(&self, pid: Pid, pages: Range<u64>, stamp: u64, is_huge_mapped: bool) {
        let stamps = stamp..stamp + (pages.end - pages.start);
        self.world()
            .map_folio((pid, pages.start), stamps, is_huge_mapped);
    }

    /// Maps memory of another driver.
    pub(crate) fn map_foreign(&self, pid: Pid, page: u64) {
        let mut world = self.world();
        let pfn = world.new_page(Home::Foreign, Kind::Anonymous);
        world.map((pid, page), pfn);
    }

    /// Makes a walk report an error at the page.
    pub(crate) fn forbid(&self, pid: Pid, page: u64) {
        self.world().set_entry((pid, page), Entry::Forbidden);
    }

    // User memory of the caller, apart from the pages of the model.

    pub(crate) fn user_buffer(&self, len: usize) -> u64 {
        let mut world = self.world();
        let end = world
            .user_memory
            .last_key_value()
            .map_or(0x7000_0000, |(start, bytes)| {
                start + u64::try_from(bytes.len()).unwrap()
            });
        let start = end + 0x1000;
        world.user_memory.insert(start, vec![0xaa; len]);
        start
    }

    pub(crate) fn free_user_buffer(&self, start: u64) -> Vec<u8> {
        self.world()
            .user_memory
            .remove(&start)
            .expect("a user buffer")
    }
}
