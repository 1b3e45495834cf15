// SPDX-License-Identifier: GPL-2.0
//! Each call of each operation fails once, and then from then on: nothing is lost, nothing leaks, and
//! all works again when the failures end.

use std::ops::Range;

use cohmem_kcore::{DeviceId, Errno};
use cohmem_uapi::{Direction, MIGRATE_FILL, QUOTA_INHERITED};

use crate::fake::{BASE, Fallible, Pid, Rig, Seen, USER, anonymous};

/// Two areas, the second across the end of a window.
const FIRST: Range<u64> = BASE + 500..BASE + 506;
const SECOND: Range<u64> = BASE + 508..BASE + 516;
const ALL: Range<u64> = FIRST.start..BASE + 518;

struct Scenario {
    rig: Rig,
    pid: Pid,
    child: Pid,
    unit: u64,
}

impl Scenario {
    fn new() -> Self {
        let rig = Rig::new();
        let pid = rig
            .host
            .spawn([anonymous(FIRST), anonymous(SECOND.start..ALL.end)]);
        rig.host.store_all(pid, FIRST, 100);
        rig.host.store_all(pid, SECOND, 200);
        assert!(rig.host.swap_out(pid, FIRST.start + 4));
        let child = rig.host.fork(pid);
        rig.host.unmap(child, FIRST.start + 3..ALL.end);
        Self {
            rig,
            pid,
            child,
            unit: 0,
        }
    }

    /// Does a bit of everything on two devices; gives up at the first error, as a program would.
    fn run(&self) -> Result<(), Errno> {
        let Self { rig, pid, .. } = self;
        let first = rig.attach(self.unit, 2)?;
        let second = rig.attach(self.unit + 2, 1)?;
        rig.set_limit(first, USER, 9)?;
        rig.migrate(first, *pid, ALL, Direction::ToDevice, MIGRATE_FILL)?;
        rig.set_quota(first, USER, QUOTA_INHERITED)?;
        rig.migrate(first, *pid, ALL, Direction::ToDevice, MIGRATE_FILL)?;
        rig.accounts(first)?;
        rig.query(first, *pid, ALL, cohmem_uapi::QUERY_REASONS)?;
        rig.migrate(first, *pid, SECOND, Direction::ToSystem, 0)?;
        rig.migrate(second, *pid, ALL, Direction::ToDevice, 0)?;
        rig.migrate(first, *pid, FIRST, Direction::ToDevice, 0)?;
        rig.evict(second)?;
        rig.migrate(second, *pid, SECOND, Direction::ToDevice, 0)?;
        rig.detach(first)?;
        rig.driver.prepare_hibernation()?;
        rig.driver.finish_hibernation();
        rig.detach(second)?;
        Ok(())
    }

    #[track_caller]
    fn check(&self, what: &str) {
        let Self {
            rig, pid, child, ..
        } = self;
        rig.assert_sound();
        let expected = FIRST.zip(100..).chain(SECOND.zip(200..));
        let hole = (SECOND.end..ALL.end).map(|page| (page, 0));
        for (page, stamp) in expected.chain(hole) {
            let lost = self.is_lost(*pid, page);
            let seen = rig.host.load(*pid, page);
            let wanted = if lost { Seen::Lost } else { Seen::Stamp(stamp) };
            assert_eq!(seen, wanted, "{what}: page {page:#x}");
        }
        for page in FIRST.start..FIRST.start + 3 {
            if !self.is_lost(*child, page) {
                rig.host
                    .assert_all(*child, page..page + 1, 100 + page - FIRST.start);
            }
        }
    }

    /// The hardware lost the page.
    fn is_lost(&self, pid: Pid, page: u64) -> bool {
        use crate::fake::Entry;
        let world = self.rig.host.world();
        match world.entry((pid, page)) {
            Some(Entry::Present(pfn)) => world.page(pfn).is_broken,
            Some(Entry::Poisoned(_)) => true,
            _ => false,
        }
    }

    fn devices(&self) -> Vec<DeviceId> {
        (0..cohmem_uapi::MAX_DEVICES)
            .filter_map(|number| self.rig.driver.open(number).ok())
            .collect()
    }
}

fn sweep(what: Fallible, is_lasting: bool) -> u64 {
    for nth in 1.. {
        let mut scenario = Scenario::new();
        let rig = &scenario.rig;
        if is_lasting {
            rig.host.fail_from(what, nth);
        } else {
            rig.host.fail(what, nth);
        }
        // Whether it fails does not matter, only what is left.
        let result = scenario.run();
        let nr_fired = rig.host.heal();
        let name = format!("{what:?} {nth} {result:?}");
        rig.driver.finish_hibernation();
        scenario.check(&name);
        // Other devices, since what was lost may keep a range.
        for device in scenario.devices() {
            rig.detach(device).expect(&name);
        }
        let nr_kept = rig
            .host
            .world()
            .claims
            .iter()
            .filter(|claim| claim.1)
            .count();
        assert_eq!(
            rig.host.world().claims.len(),
            nr_kept,
            "{name}: a claim leaked"
        );
        assert!(what == Fallible::Copy || nr_kept == 0, "{name}");
        scenario.unit = 8;
        assert_eq!(scenario.run(), Ok(()), "{name}");
        scenario.check(&name);
        if nr_fired == 0 {
            assert_eq!(result, Ok(()));
            return nth - 1;
        }
    }
    0
}

#[test]
fn any_one_failure_is_survived() {
    for what in Fallible::ALL {
        let nr_calls = sweep(what, false);
        // The lock is the driver's own, taken before the scenario.
        assert_eq!(nr_calls == 0, what == Fallible::NewLock, "{what:?}");
    }
}

#[test]
fn failures_that_last_are_survived() {
    for what in Fallible::ALL {
        // Calls of these are many, and alike.
        let is_numerous = matches!(
            what,
            Fallible::Copy | Fallible::Commit | Fallible::CollectPage
        );
        if !is_numerous {
            sweep(what, true);
        }
    }
}
