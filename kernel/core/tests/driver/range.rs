// SPDX-License-Identifier: GPL-2.0
//! Where soft-reserved memory is, and who has it.

use std::sync::atomic::Ordering::Relaxed;

use cohmem_kcore::Errno;
use cohmem_uapi::{Holder, RANGE_ALIGN, args};

use crate::fake::{BASE, RangeKind, Rig, SOFT_START};

const UNIT: u64 = RANGE_ALIGN;
const SOFT_UNITS: u64 = 64;

/// The parts from `from` on, in units: start, length, holder, device.
fn parts_from(rig: &Rig, from: u64) -> Vec<(u64, u64, Holder, u32)> {
    let mut parts = Vec::new();
    let mut args = args::Range {
        from,
        ..args::Range::default()
    };
    loop {
        match rig.driver.range(&mut args) {
            Ok(()) => {}
            Err(errno) => {
                assert_eq!(errno, Errno::ENODATA);
                return parts;
            }
        }
        assert!(args.start >= args.from && args.length > 0, "{args:?}");
        parts.push((
            (args.start - SOFT_START) / UNIT,
            args.length / UNIT,
            Holder::from_raw(args.holder).unwrap(),
            args.device,
        ));
        args.from = args.start + args.length;
    }
}

#[test]
fn each_part_is_told_with_who_has_it() {
    use Holder::{Device, Nobody, Other, SystemRam};
    let rig = Rig::new();
    assert_eq!(parts_from(&rig, 0), [(0, SOFT_UNITS, Nobody, 0)]);
    let first = rig.attach(2, 1).unwrap();
    let second = rig.attach(3, 2).unwrap();
    {
        let mut world = rig.host.world();
        for unit in [10, 12] {
            let start = SOFT_START + unit * UNIT;
            world.claims.push((start..start + UNIT, false));
        }
        let ram = SOFT_START + 12 * UNIT..SOFT_START + 13 * UNIT;
        world.ranges.push((ram, RangeKind::Ram));
    }
    let parts = parts_from(&rig, SOFT_START);
    // A device has a claim for each chunk.
    let wanted = [
        (0, 2, Nobody, 0),
        (2, 1, Device, first.number),
        (3, 1, Device, second.number),
        (4, 1, Device, second.number),
        (5, 5, Nobody, 0),
        (10, 1, Other, 0),
        (11, 1, Nobody, 0),
        (12, 1, SystemRam, 0),
        (13, SOFT_UNITS - 13, Nobody, 0),
    ];
    assert_eq!(parts, wanted);
    // From the middle of a part.
    let middle = parts_from(&rig, SOFT_START + 4 * UNIT);
    assert_eq!(middle, wanted[3..]);
    assert_eq!(parts_from(&rig, SOFT_START + SOFT_UNITS * UNIT), []);
}

#[test]
fn a_kept_part_is_its_device_s() {
    let (rig, id, pid) = Rig::with_device(2, 2);
    rig.host.store_all(pid, BASE..BASE + 2, 7);
    rig.to_device(id, pid, BASE..BASE + 2);
    rig.host.memory_failure(rig.host.pfn(pid, BASE));
    assert_eq!(rig.detach(id).unwrap().nr_kept, 512);
    assert_eq!(
        parts_from(&rig, 0),
        [
            (0, 1, Holder::Device, id.number),
            (1, SOFT_UNITS - 1, Holder::Nobody, 0)
        ]
    );
}

#[test]
fn physical_addresses_are_for_administrators_only() {
    let rig = Rig::new();
    let mut args = args::Range {
        reserved: [0, 1],
        ..args::Range::default()
    };
    assert_eq!(rig.driver.range(&mut args), Err(Errno::EINVAL));
    rig.host.0.may_administrate.store(false, Relaxed);
    assert_eq!(rig.driver.range(&mut args), Err(Errno::EPERM));
    args.reserved = [0; 2];
    assert_eq!(rig.driver.range(&mut args), Err(Errno::EPERM));
    assert_eq!(args, args::Range::default());
}
