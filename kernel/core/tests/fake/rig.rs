// SPDX-License-Identifier: GPL-2.0
//! A driver on a machine, with calls that check what holds for every answer.

use std::{collections::BTreeMap, ops::Range, sync::atomic::Ordering::Relaxed};

use cohmem_kcore::{DeviceId, Driver, Errno, OpenNode};
use cohmem_uapi::{
    Direction, MAX_ACCOUNTS, MAX_OBJECTS, MIGRATE_FILL, PageEntry, RANGE_ALIGN, Reason,
    ReasonCounts, State, args,
};

use super::{FakeHost, Pid, VmaSpec, world::RangeKind};

/// Bytes of a page.
pub(crate) const PAGE: u64 = 4096;
/// First page of every process's memory, the first of a window.
pub(crate) const BASE: u64 = 0x10_0000;
/// The machine's soft-reserved memory.
pub(crate) const SOFT_START: u64 = 1 << 32;
const SOFT_BYTES: u64 = 64 * RANGE_ALIGN;
const RAM_BYTES: u64 = 1 << 31;

/// Address of page `index` of a process's memory.
pub(crate) const fn addr(page: u64) -> u64 {
    page * PAGE
}

/// A driver and its machine.
#[derive(Debug)]
pub(crate) struct Rig {
    pub(crate) host: FakeHost,
    pub(crate) driver: Driver<FakeHost>,
}

impl Drop for Rig {
    fn drop(&mut self) {
        // A module with a device attached cannot be unloaded; the machine is just switched off.
        self.host.0.is_off.store(true, Relaxed);
    }
}

impl Rig {
    pub(crate) fn new() -> Self {
        let host = FakeHost::new();
        host.add_range(0..RAM_BYTES, RangeKind::Ram);
        host.add_range(SOFT_START..SOFT_START + SOFT_BYTES, RangeKind::SoftReserved);
        let driver = Driver::new(host.clone()).unwrap();
        Self { host, driver }
    }

    /// A rig with one device of `nr_chunks` chunks of 512 frames, and a process with an anonymous area
    /// of `nr_pages` pages at `BASE`.
    pub(crate) fn with_device(nr_chunks: u64, nr_pages: u64) -> (Self, DeviceId, Pid) {
        let rig = Self::new();
        let id = rig.attach(0, nr_chunks).unwrap();
        let pid = rig.spawn(nr_pages);
        (rig, id, pid)
    }

    pub(crate) fn spawn(&self, nr_pages: u64) -> Pid {
        self.host.spawn([anonymous(BASE..BASE + nr_pages)])
    }

    /// Attaches the `nr_units` units of 2 MiB from unit `first` of the soft-reserved memory on.
    pub(crate) fn attach(&self, first: u64, nr_units: u64) -> Result<DeviceId, Errno> {
        let mut args = args::Attach {
            start: SOFT_START + first * RANGE_ALIGN,
            length: nr_units * RANGE_ALIGN,
            ..args::Attach::default()
        };
        self.driver.attach(&mut args)?;
        self.driver.open(args.device)
    }

    pub(crate) fn detach(&self, id: DeviceId) -> Result<args::Detach, Errno> {
        let mut args = args::Detach {
            device: id.number,
            timeout_ms: 1000,
            ..args::Detach::default()
        };
        self.driver.detach(&mut args)?;
        assert_eq!(args.nr_stuck, 0);
        Ok(args)
    }

    pub(crate) fn evict(&self, id: DeviceId) -> Result<args::Detach, Errno> {
        let mut args = args::Detach {
            timeout_ms: 1000,
            ..args::Detach::default()
        };
        self.driver.evict(id, &mut args)?;
        assert_eq!(args.nr_stuck, 0);
        Ok(args)
    }

    pub(crate) fn info(&self, id: DeviceId) -> args::Info {
        let mut args = args::Info::default();
        self.driver.info(id, &mut args).unwrap();
        args
    }

    pub(crate) fn state(&self, id: DeviceId) -> State {
        State::from_raw(self.info(id).state).unwrap()
    }

    /// Migrates with a list of reasons, and checks that all numbers of the answer agree.
    pub(crate) fn migrate(
        &self,
        id: DeviceId,
        pid: Pid,
        pages: Range<u64>,
        direction: Direction,
        flags: u32,
    ) -> Result<Moved, Errno> {
        self.migrate_by(&OpenNode::new(id), pid, pages, direction, flags)
    }

    /// As [`Self::migrate`], by one open file.
    pub(crate) fn migrate_by(
        &self,
        node: &OpenNode,
        pid: Pid,
        pages: Range<u64>,
        direction: Direction,
        flags: u32,
    ) -> Result<Moved, Errno> {
        let nr_pages = pages.end - pages.start;
        let reasons_ptr = self.host.user_buffer(usize::try_from(nr_pages).unwrap());
        let mut args = args::Migrate {
            start: addr(pages.start),
            length: nr_pages * PAGE,
            direction: direction as u32,
            flags,
            proc_fd: i32::try_from(pid.0).unwrap(),
            reasons_ptr,
            ..args::Migrate::default()
        };
        let result = self.driver.migrate(node, &mut args);
        let reasons = self.host.free_user_buffer(reasons_ptr);
        result?;
        Ok(Moved::check(&args, &reasons))
    }

    #[track_caller]
    pub(crate) fn to_device(&self, id: DeviceId, pid: Pid, pages: Range<u64>) -> Moved {
        self.migrate(id, pid, pages, Direction::ToDevice, 0)
            .unwrap()
    }

    #[track_caller]
    pub(crate) fn fill(&self, id: DeviceId, pid: Pid, pages: Range<u64>) -> Moved {
        self.migrate(id, pid, pages, Direction::ToDevice, MIGRATE_FILL)
            .unwrap()
    }

    #[track_caller]
    pub(crate) fn to_system(&self, id: DeviceId, pid: Pid, pages: Range<u64>) -> Moved {
        self.migrate(id, pid, pages, Direction::ToSystem, 0)
            .unwrap()
    }

    /// Asks for the map of `pages`, and checks the counts of the answer against it.
    pub(crate) fn query(
        &self,
        id: DeviceId,
        pid: Pid,
        pages: Range<u64>,
        flags: u32,
    ) -> Result<Vec<PageEntry>, Errno> {
        let nr_pages = pages.end - pages.start;
        let map_ptr = self
            .host
            .user_buffer(usize::try_from(nr_pages).unwrap() * 2);
        let mut args = args::Query {
            start: addr(pages.start),
            length: nr_pages * PAGE,
            proc_fd: i32::try_from(pid.0).unwrap(),
            flags,
            map_ptr,
            ..args::Query::default()
        };
        let result = self.driver.query(id, &mut args);
        let bytes = self.host.free_user_buffer(map_ptr);
        result?;
        let nr_seen = usize::try_from((args.next - args.start) / PAGE).unwrap();
        let map: Vec<PageEntry> = bytes
            .chunks_exact(2)
            .take(nr_seen)
            .map(|pair| PageEntry::from_raw(u16::from_ne_bytes(pair.try_into().unwrap())))
            .collect();
        let mut nr_by_tier = [0; 4];
        let mut nr_here = 0;
        for entry in &map {
            nr_by_tier[usize::from(entry.tier() as u8)] += 1;
            nr_here += u64::from(entry.device() == Some(id.number));
        }
        assert_eq!((nr_by_tier, nr_here), (args.nr_by_tier, args.nr_here));
        Ok(map)
    }

    pub(crate) fn set_limit(&self, id: DeviceId, user: u32, limit: u64) -> Result<(), Errno> {
        let args = args::Quota {
            user,
            limit,
            ..args::Quota::default()
        };
        self.driver.set_quota(id, &args)
    }

    pub(crate) fn set_quota(&self, id: DeviceId, user: u32, flags: u32) -> Result<(), Errno> {
        let args = args::Quota {
            user,
            flags,
            ..args::Quota::default()
        };
        self.driver.set_quota(id, &args)
    }

    pub(crate) fn accounts(&self, id: DeviceId) -> Result<Vec<args::Account>, Errno> {
        self.host.accounts(&self.driver, id)
    }

    pub(crate) fn objects(&self, id: DeviceId) -> Result<Vec<args::Object>, Errno> {
        self.host.objects(&self.driver, id)
    }

    /// Frames charged to each user who has some.
    #[track_caller]
    pub(crate) fn charged(&self, id: DeviceId) -> BTreeMap<u32, u64> {
        let accounts = self.accounts(id).unwrap();
        let charges = accounts.iter().filter(|account| account.charged > 0);
        charges
            .map(|account| (account.user, account.charged))
            .collect()
    }

    /// Fails the test unless the machine is sound; see [`FakeHost::assert_sound`].
    #[track_caller]
    pub(crate) fn assert_sound(&self) {
        self.host.assert_sound(&self.driver);
    }
}

impl FakeHost {
    /// The accounts of a device, as the driver lists them.
    pub(crate) fn accounts(
        &self,
        driver: &Driver<Self>,
        id: DeviceId,
    ) -> Result<Vec<args::Account>, Errno> {
        let list_fn = |accounts_ptr| {
            let mut args = args::Accounts {
                nr_max: MAX_ACCOUNTS,
                accounts_ptr,
                ..args::Accounts::default()
            };
            driver.accounts(id, &mut args).map(|()| args.nr_accounts)
        };
        let entries = self.list(MAX_ACCOUNTS, size_of::<args::Account>(), list_fn)?;
        let read_fn = |entry: &Vec<u8>| args::Account {
            user: half(entry, 0),
            flags: half(entry, 4),
            limit: word(entry, 8),
            charged: word(entry, 16),
        };
        Ok(entries.iter().map(read_fn).collect())
    }

    /// The quota objects of a device, as the driver lists them.
    pub(crate) fn objects(
        &self,
        driver: &Driver<Self>,
        id: DeviceId,
    ) -> Result<Vec<args::Object>, Errno> {
        let list_fn = |objects_ptr| {
            let mut args = args::Objects {
                nr_max: MAX_OBJECTS,
                objects_ptr,
                ..args::Objects::default()
            };
            driver.objects(id, &mut args).map(|()| args.nr_objects)
        };
        let entries = self.list(MAX_OBJECTS, size_of::<args::Object>(), list_fn)?;
        let read_fn = |entry: &Vec<u8>| args::Object {
            kind: half(entry, 0),
            flags: half(entry, 4),
            number: word(entry, 8),
            limit: word(entry, 16),
            charged: word(entry, 24),
            user: half(entry, 32),
            process: half(entry, 36),
        };
        Ok(entries.iter().map(read_fn).collect())
    }

    /// The entries, of `bytes` each, that a command writes to an array for `nr_max` of them.
    fn list(
        &self,
        nr_max: u32,
        bytes: usize,
        list_fn: impl FnOnce(u64) -> Result<u32, Errno>,
    ) -> Result<Vec<Vec<u8>>, Errno> {
        let start = self.user_buffer(usize::try_from(nr_max).unwrap() * bytes);
        let result = list_fn(start);
        let buffer = self.free_user_buffer(start);
        let nr_entries = usize::try_from(result?).unwrap();
        let (listed, rest) = buffer.split_at(nr_entries * bytes);
        assert!(
            rest.iter().all(|&byte| byte == 0xaa),
            "written past the list"
        );
        Ok(listed.chunks_exact(bytes).map(<[u8]>::to_vec).collect())
    }
}

fn word(entry: &[u8], at: usize) -> u64 {
    u64::from_ne_bytes(entry[at..at + 8].try_into().unwrap())
}

fn half(entry: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(entry[at..at + 4].try_into().unwrap())
}

/// A private anonymous area.
pub(crate) fn anonymous(pages: Range<u64>) -> VmaSpec {
    VmaSpec {
        pages,
        ..VmaSpec::default()
    }
}

/// The answer of a migration that succeeded, wholly or in part.
#[derive(Debug)]
pub(crate) struct Moved {
    pub(crate) next: u64,
    pub(crate) nr_moved: u64,
    pub(crate) nr_filled: u64,
    pub(crate) stayed: ReasonCounts,
    /// By page.
    pub(crate) reasons: Vec<Option<Reason>>,
}

impl Moved {
    #[track_caller]
    fn check(args: &args::Migrate, reasons: &[u8]) -> Self {
        let nr_seen = (args.next - args.start) / PAGE;
        let stayed = ReasonCounts::from_raw(args.stayed);
        assert_eq!(
            nr_seen,
            args.nr_moved + args.nr_filled + stayed.total(),
            "each page of the range is counted once"
        );
        let (seen, unseen) = reasons.split_at(usize::try_from(nr_seen).unwrap());
        assert!(unseen.iter().all(|&reason| reason == 0));
        let mut listed = ReasonCounts::default();
        let mut nr_without = 0;
        for &raw in seen {
            match Reason::from_raw(raw) {
                Some(reason) => listed.add(reason, 1),
                None => {
                    assert_eq!(raw, 0, "an unknown reason");
                    nr_without += 1;
                }
            }
        }
        assert_eq!(listed, stayed, "the list of reasons, and their counts");
        assert_eq!(nr_without, args.nr_moved + args.nr_filled);
        Self {
            next: args.next / PAGE,
            nr_moved: args.nr_moved,
            nr_filled: args.nr_filled,
            stayed,
            reasons: seen.iter().map(|&raw| Reason::from_raw(raw)).collect(),
        }
    }

    /// Fails the test unless `nr_pages` stayed, all for `reason`.
    #[track_caller]
    pub(crate) fn assert_all_stayed(&self, nr_pages: u64, reason: Reason) {
        assert_eq!((self.nr_moved, self.nr_filled), (0, 0));
        assert_eq!(self.stayed.iter().collect::<Vec<_>>(), [(reason, nr_pages)]);
    }
}
