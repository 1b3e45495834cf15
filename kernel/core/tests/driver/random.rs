// SPDX-License-Identifier: GPL-2.0
//! Random lives of processes on two devices, with every invariant checked after each step.

use std::collections::BTreeMap;

use cohmem_kcore::{DeviceId, Errno};
use cohmem_uapi::{
    Direction, MIGRATE_FILL, MIGRATE_SHARED, QUOTA_DEFAULT, QUOTA_INHERITED, QUOTA_UNLIMITED, args,
};
use proptest::prelude::*;

use crate::fake::{BASE, Entry, Home, Kind, Pid, Rig, Seen, USER};

const NR_PAGES: u64 = 24;

#[derive(Clone, Debug)]
enum Op {
    Store {
        who: usize,
        page: u64,
        stamp: u64,
    },
    Load {
        who: usize,
        page: u64,
    },
    Fork {
        who: usize,
    },
    Exit {
        who: usize,
    },
    Unmap {
        who: usize,
        page: u64,
        len: u64,
    },
    Migrate {
        who: usize,
        device: usize,
        page: u64,
        len: u64,
        home: bool,
        flags: u32,
        user: u32,
    },
    SetLimit {
        device: usize,
        user: u32,
        /// `None`: the default again.
        limit: Option<u64>,
    },
    SetDefault {
        device: usize,
        /// `None`: no limit.
        limit: Option<u64>,
    },
    Evict {
        device: usize,
    },
    Hold {
        who: usize,
        page: u64,
    },
    WriteHeld {
        index: usize,
        stamp: u64,
    },
    Release {
        index: usize,
    },
    Merge {
        who: usize,
        page: u64,
        other: u64,
    },
    SwapOut {
        who: usize,
        page: u64,
    },
    Fail {
        who: usize,
        page: u64,
    },
    Detach {
        device: usize,
    },
}

fn op() -> impl Strategy<Value = Op> {
    let who = || 0usize..4;
    let page = || BASE..BASE + NR_PAGES;
    let len = || 1..=NR_PAGES;
    // Few stamps, so that KSM finds equal pages.
    let stamp = || 1u64..6;
    let user = || 0u32..3;
    let limit = || prop::option::of(0u64..20);
    prop_oneof![
        6 => (who(), page(), stamp()).prop_map(|(who, page, stamp)| Op::Store { who, page, stamp }),
        2 => (who(), page()).prop_map(|(who, page)| Op::Load { who, page }),
        1 => who().prop_map(|who| Op::Fork { who }),
        1 => who().prop_map(|who| Op::Exit { who }),
        1 => (who(), page(), 1u64..4).prop_map(|(who, page, len)| Op::Unmap { who, page, len }),
        8 => (who(), 0usize..2, page(), len(), any::<bool>(), 0u32..4, user()).prop_map(
            |(who, device, page, len, home, flags, user)| {
                Op::Migrate { who, device, page, len, home, flags, user }
            }
        ),
        1 => (0usize..2, user(), limit()).prop_map(
            |(device, user, limit)| Op::SetLimit { device, user, limit }
        ),
        1 => (0usize..2, limit()).prop_map(|(device, limit)| Op::SetDefault { device, limit }),
        1 => (0usize..2).prop_map(|device| Op::Evict { device }),
        2 => (who(), page()).prop_map(|(who, page)| Op::Hold { who, page }),
        1 => (any::<usize>(), stamp()).prop_map(|(index, stamp)| Op::WriteHeld { index, stamp }),
        2 => any::<usize>().prop_map(|index| Op::Release { index }),
        1 => (who(), page(), page()).prop_map(|(who, page, other)| Op::Merge { who, page, other }),
        1 => (who(), page()).prop_map(|(who, page)| Op::SwapOut { who, page }),
        1 => (who(), page()).prop_map(|(who, page)| Op::Fail { who, page }),
        1 => (0usize..2).prop_map(|device| Op::Detach { device }),
    ]
}

/// What every process must see, kept apart from the machine.
struct Life {
    rig: Rig,
    devices: [DeviceId; 2],
    next_unit: u64,
    /// By process: content by page; a lost page is `None`.
    alive: Vec<(Pid, BTreeMap<u64, Option<u64>>)>,
    held: Vec<u64>,
    /// Who asked for each frame in use.
    payers: BTreeMap<u64, u32>,
    /// By device: the default, and users' own limits.
    limits: [(Option<u64>, BTreeMap<u32, u64>); 2],
}

impl Life {
    fn new() -> Self {
        let rig = Rig::new();
        let devices = [rig.attach(0, 1).unwrap(), rig.attach(1, 1).unwrap()];
        let alive = (0..2).map(|_| (rig.spawn(NR_PAGES), BTreeMap::new()));
        let alive = alive.collect();
        Self {
            rig,
            devices,
            next_unit: 2,
            alive,
            held: Vec::new(),
            payers: BTreeMap::new(),
            limits: Default::default(),
        }
    }

    fn pid(&self, who: usize) -> Option<Pid> {
        let nr_alive = self.alive.len();
        (nr_alive > 0).then(|| self.alive[who % nr_alive].0)
    }

    fn contents(&mut self, pid: Pid) -> &mut BTreeMap<u64, Option<u64>> {
        let alive = self.alive.iter_mut().find(|(other, _)| *other == pid);
        &mut alive.unwrap().1
    }

    fn pfn(&self, pid: Pid, page: u64) -> Option<u64> {
        let world = self.rig.host.world();
        match world.entry((pid, page)) {
            Some(Entry::Present(pfn)) if world.page(pfn).kind != Kind::Zero => Some(pfn),
            _ => None,
        }
    }

    /// Everybody who maps `pfn` sees `stamp` from now on; `None`: SIGBUS.
    fn set_all(&mut self, pfn: u64, stamp: Option<u64>) {
        let world = self.rig.host.world();
        let places: Vec<_> = world.page(pfn).rmap.iter().copied().collect();
        drop(world);
        for (pid, page) in places {
            self.contents(pid).insert(page, stamp);
        }
    }

    fn step(&mut self, op: &Op) {
        match *op {
            Op::Store { who, page, stamp } => {
                let Some(pid) = self.pid(who) else { return };
                if let Seen::Stamp(_) = self.rig.host.store(pid, page, stamp) {
                    self.contents(pid).insert(page, Some(stamp));
                }
            }
            Op::Load { who, page } => {
                let Some(pid) = self.pid(who) else { return };
                self.rig.host.load(pid, page);
            }
            Op::Fork { who } => {
                let Some(pid) = self.pid(who).filter(|_| self.alive.len() < 4) else {
                    return;
                };
                let child = self.rig.host.fork(pid);
                let contents = self.contents(pid).clone();
                self.alive.push((child, contents));
            }
            Op::Exit { who } => {
                let Some(pid) = self.pid(who) else { return };
                self.rig.host.exit(pid);
                self.alive.retain(|&(other, _)| other != pid);
            }
            Op::Unmap { who, page, len } => {
                let Some(pid) = self.pid(who) else { return };
                self.rig.host.unmap(pid, page..page + len);
                self.contents(pid)
                    .retain(|other, _| !(page..page + len).contains(other));
            }
            Op::Merge { who, page, other } => {
                let Some(pid) = self.pid(who).filter(|_| page != other) else {
                    return;
                };
                self.rig.host.merge(&[(pid, page), (pid, other)]);
            }
            Op::SwapOut { who, page } => {
                let Some(pid) = self.pid(who) else { return };
                self.rig.host.swap_out(pid, page);
            }
            _ => self.step_device(op),
        }
    }

    fn step_device(&mut self, op: &Op) {
        match *op {
            Op::Migrate {
                who,
                device,
                page,
                len,
                home,
                flags,
                user,
            } => {
                let Some(pid) = self.pid(who) else { return };
                let direction = if home {
                    Direction::ToSystem
                } else {
                    Direction::ToDevice
                };
                let flags = flags & (MIGRATE_FILL | MIGRATE_SHARED);
                let pages = page..page + len;
                let id = self.devices[device];
                let nr_before = self.charged(id, user);
                self.rig.host.act_as(user);
                let result = self.rig.migrate(id, pid, pages, direction, flags);
                self.rig.host.act_as(USER);
                self.note_payers(user);
                if let Err(error) = result {
                    assert_eq!(error, Errno::EADDRNOTAVAIL);
                }
                let (default, own) = &self.limits[device];
                if let Some(limit) = own.get(&user).copied().or(*default) {
                    assert!(self.charged(id, user) <= nr_before.max(limit));
                }
            }
            Op::SetLimit {
                device,
                user,
                limit,
            } => {
                let (id, own) = (self.devices[device], &mut self.limits[device].1);
                match limit {
                    Some(limit) => {
                        own.insert(user, limit);
                        self.rig.set_limit(id, user, limit).unwrap();
                    }
                    None => {
                        own.remove(&user);
                        self.rig.set_quota(id, user, QUOTA_INHERITED).unwrap();
                    }
                }
            }
            Op::SetDefault { device, limit } => {
                self.limits[device].0 = limit;
                let args = args::Quota {
                    flags: QUOTA_DEFAULT | limit.map_or(QUOTA_UNLIMITED, |_limit| 0),
                    limit: limit.unwrap_or(0),
                    ..args::Quota::default()
                };
                self.rig
                    .driver
                    .set_quota(self.devices[device], &args)
                    .unwrap();
            }
            Op::Evict { device } => match self.rig.evict(self.devices[device]) {
                Ok(_) => assert_eq!(self.rig.info(self.devices[device]).nr_allocated, 0),
                Err(error) => {
                    assert_eq!(error, Errno::EBUSY);
                    assert!(!self.held.is_empty(), "only a holder keeps a frame");
                }
            },
            Op::Detach { device } => match self.rig.detach(self.devices[device]) {
                Ok(_) => {
                    self.devices[device] = self
                        .rig
                        .attach(self.next_unit, 1)
                        .unwrap_or_else(|_| panic!("unit {} is free", self.next_unit));
                    self.next_unit += 1;
                    self.limits[device] = Default::default();
                }
                Err(error) => {
                    assert_eq!(error, Errno::EBUSY);
                    assert!(!self.held.is_empty(), "only a holder keeps a frame");
                }
            },
            Op::Hold { who, page } => {
                let Some(pid) = self.pid(who) else { return };
                if let Some(pfn) = self.pfn(pid, page) {
                    self.rig.host.hold(pfn);
                    self.held.push(pfn);
                }
            }
            Op::WriteHeld { index, stamp } => {
                let Some(&pfn) = self.held.get(index % self.held.len().max(1)) else {
                    return;
                };
                let world = self.rig.host.world();
                let is_writable =
                    world.page(pfn).kind == Kind::Anonymous && !world.page(pfn).is_broken;
                drop(world);
                if is_writable {
                    self.rig.host.change_page(pfn, |page| page.stamp = stamp);
                    self.set_all(pfn, Some(stamp));
                }
            }
            Op::Release { index } if !self.held.is_empty() => {
                let pfn = self.held.swap_remove(index % self.held.len());
                self.rig.host.release(pfn);
            }
            Op::Fail { who, page } => {
                let Some(pid) = self.pid(who) else { return };
                let Some(pfn) = self.pfn(pid, page) else {
                    return;
                };
                if self.rig.host.world().page(pfn).is_frame() {
                    self.set_all(pfn, None);
                    self.rig.host.memory_failure(pfn);
                }
            }
            _ => {}
        }
    }

    fn charged(&self, id: DeviceId, user: u32) -> u64 {
        self.rig.charged(id).get(&user).copied().unwrap_or(0)
    }

    /// Frames that are in use now and were not before are `user`'s.
    fn note_payers(&mut self, user: u32) {
        let world = self.rig.host.world();
        for (&pfn, page) in &world.pages {
            if !page.is_frame() || page.refs() == 0 {
                self.payers.remove(&pfn);
            } else {
                self.payers.entry(pfn).or_insert(user);
            }
        }
    }

    /// Each frame in use is charged to who asked for it.
    fn check_charges(&mut self) {
        self.note_payers(u32::MAX);
        let mut wanted = [BTreeMap::new(), BTreeMap::new()];
        let world = self.rig.host.world();
        for (pfn, &payer) in &self.payers {
            let Some(page) = world.pages.get(pfn) else {
                continue;
            };
            let Home::Frame { pgmap, .. } = page.home else {
                panic!("{pfn:#x} is no frame");
            };
            let number = world.pgmaps[pgmap].spec.device;
            let device = self.devices.iter().position(|id| id.number == number);
            *wanted[device.unwrap()].entry(payer).or_default() += 1;
        }
        drop(world);
        for (id, wanted) in self.devices.iter().zip(wanted) {
            assert_eq!(self.rig.charged(*id), wanted, "{id:?}");
        }
    }

    /// Every process sees what it wrote, and nothing else.
    fn check(&self) {
        self.rig.assert_sound();
        for (pid, contents) in &self.alive {
            let mut world = self.rig.host.world();
            for page in BASE..BASE + NR_PAGES {
                let is_mapped = world.processes[pid.0].vma_at(page).is_some();
                if !is_mapped {
                    assert_eq!(contents.get(&page), None);
                    continue;
                }
                let expected = match contents.get(&page) {
                    Some(Some(stamp)) => Seen::Stamp(*stamp),
                    Some(None) => Seen::Lost,
                    None => Seen::Stamp(0),
                };
                let seen = match world.entry((*pid, page)) {
                    None => Seen::Stamp(0),
                    Some(Entry::Swapped(stamp)) => Seen::Stamp(stamp),
                    Some(_) => world.load((*pid, page)),
                };
                assert_eq!(seen, expected, "{pid:?} page {page:#x}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 64,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn processes_see_what_they_wrote_whatever_happens(ops in prop::collection::vec(op(), 1..60)) {
        let mut life = Life::new();
        for op in &ops {
            life.step(op);
            life.check();
            life.check_charges();
        }
        for pfn in std::mem::take(&mut life.held) {
            life.rig.host.release(pfn);
        }
        for device in life.devices {
            life.rig.detach(device).unwrap();
        }
        life.check();
    }
}
