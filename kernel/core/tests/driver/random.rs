// SPDX-License-Identifier: GPL-2.0
//! Random lives of processes on two devices, with every invariant checked after each step.

use std::collections::BTreeMap;

use cohmem_kcore::{DeviceId, Errno};
use cohmem_uapi::{Direction, MIGRATE_FILL, MIGRATE_SHARED};
use proptest::prelude::*;

use crate::fake::{BASE, Entry, Kind, Pid, Rig, Seen};

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
    prop_oneof![
        6 => (who(), page(), stamp()).prop_map(|(who, page, stamp)| Op::Store { who, page, stamp }),
        2 => (who(), page()).prop_map(|(who, page)| Op::Load { who, page }),
        1 => who().prop_map(|who| Op::Fork { who }),
        1 => who().prop_map(|who| Op::Exit { who }),
        1 => (who(), page(), 1u64..4).prop_map(|(who, page, len)| Op::Unmap { who, page, len }),
        8 => (who(), 0usize..2, page(), len(), any::<bool>(), 0u32..4).prop_map(
            |(who, device, page, len, home, flags)| Op::Migrate { who, device, page, len, home, flags }
        ),
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
            } => {
                let Some(pid) = self.pid(who) else { return };
                let direction = if home {
                    Direction::ToSystem
                } else {
                    Direction::ToDevice
                };
                let flags = flags & (MIGRATE_FILL | MIGRATE_SHARED);
                let pages = page..page + len;
                let result = self
                    .rig
                    .migrate(self.devices[device], pid, pages, direction, flags);
                if let Err(error) = result {
                    assert_eq!(error, Errno::EADDRNOTAVAIL);
                }
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
