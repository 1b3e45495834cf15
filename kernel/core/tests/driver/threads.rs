// SPDX-License-Identifier: GPL-2.0
//! Several tasks at once.

use std::{
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
};

use cohmem_kcore::Errno;
use cohmem_uapi::{Direction, MIGRATE_SHARED, args};

use crate::fake::{BASE, Rig, Seen};

const NR_PAGES: u64 = 40;
const NR_ROUNDS: u64 = 60;

#[test]
fn tasks_that_migrate_evict_and_write_at_once_lose_nothing() {
    let (rig, first, pid) = Rig::with_device(1, NR_PAGES);
    let second = rig.attach(1, 1).unwrap();
    let pages = BASE..BASE + NR_PAGES;
    rig.host.store_all(pid, pages.clone(), 0);
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let migrators = [
            (first, Direction::ToDevice),
            (first, Direction::ToSystem),
            (second, Direction::ToDevice),
        ];
        let workers = migrators.map(|(device, direction)| {
            let (rig, pages) = (&rig, pages.clone());
            scope.spawn(move || {
                for _round in 0..NR_ROUNDS {
                    rig.migrate(device, pid, pages.clone(), direction, MIGRATE_SHARED)
                        .unwrap();
                }
            })
        });
        let (rig, is_over) = (&rig, &is_over);
        let evictor = scope.spawn(move || {
            while !is_over.load(Relaxed) {
                let mut args = args::Detach {
                    timeout_ms: 1,
                    ..args::Detach::default()
                };
                let result = rig.driver.evict(second, &mut args);
                assert!(matches!(result, Ok(()) | Err(Errno::EBUSY)), "{result:?}");
                thread::yield_now();
            }
        });
        let forker = scope.spawn(move || {
            while !is_over.load(Relaxed) {
                let child = rig.host.fork(pid);
                rig.host.store(child, BASE, u64::MAX);
                rig.host.exit(child);
                thread::yield_now();
            }
        });
        // Each page counts up; whoever writes reads first.
        let writer = scope.spawn(move || {
            let mut value = 0;
            while !is_over.load(Relaxed) {
                for page in BASE..BASE + NR_PAGES {
                    let expected = if value == 0 { page - BASE } else { value };
                    assert_eq!(rig.host.load(pid, page), Seen::Stamp(expected));
                    rig.host.store(pid, page, value + 1);
                }
                value += 1;
            }
            value
        });
        for worker in workers {
            worker.join().unwrap();
        }
        is_over.store(true, Relaxed);
        evictor.join().unwrap();
        forker.join().unwrap();
        let value = writer.join().unwrap();
        for page in BASE..BASE + NR_PAGES {
            assert_eq!(rig.host.load(pid, page), Seen::Stamp(value));
        }
    });
    rig.assert_sound();
    rig.detach(first).unwrap();
    rig.detach(second).unwrap();
    rig.assert_sound();
}

#[test]
fn devices_that_come_and_go_under_migrations_lose_nothing() {
    let (rig, keeper, pid) = Rig::with_device(1, NR_PAGES);
    let pages = BASE..BASE + NR_PAGES;
    rig.host.store_all(pid, pages.clone(), 5);
    thread::scope(|scope| {
        let rig = &rig;
        let pages = &pages;
        let mover = scope.spawn(move || {
            for _round in 0..NR_ROUNDS {
                for number in [1, 0] {
                    let Ok(id) = rig.driver.open(number) else {
                        continue;
                    };
                    let moved = rig.migrate(id, pid, pages.clone(), Direction::ToDevice, 0);
                    if let Err(error) = moved {
                        assert!(matches!(error, Errno::EAGAIN | Errno::ENODEV), "{error:?}");
                    }
                }
            }
        });
        for _round in 0..NR_ROUNDS {
            let id = rig.attach(1, 1).unwrap();
            while rig.detach(id).is_err() {
                thread::yield_now();
            }
        }
        mover.join().unwrap();
    });
    rig.host.assert_all(pid, pages, 5);
    rig.assert_sound();
    rig.detach(keeper).unwrap();
    assert!(rig.host.world().claims.is_empty());
}
