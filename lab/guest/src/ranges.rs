//! Where soft-reserved memory is, on kernels that show it in `/proc/iomem` and on those that do not.

use std::process::Command;

use cohmem_uapi::{Holder, args, ioctl};

use crate::{
    Test,
    driver::{Device, errno, ranges},
    sys::{
        io::{ioctl as command, open},
        process::{Child, Ended, become_user},
    },
};

pub(crate) const TESTS: &[Test] = &[
    (
        "each_soft_reserved_part_is_told_with_who_has_it",
        each_soft_reserved_part_is_told_with_who_has_it,
    ),
    ("the_command_finds_the_ranges", the_command_finds_the_ranges),
];

fn next(from: u64) -> Result<args::Range, i32> {
    let mut part = args::Range {
        from,
        ..args::Range::default()
    };
    match errno(command(&open("/dev/cohmem"), ioctl::RANGE, &mut part)) {
        0 => Ok(part),
        errno => Err(errno),
    }
}

fn parts() -> Vec<(std::ops::Range<u64>, Holder, u32)> {
    let mut parts = Vec::new();
    let mut from = 0;
    while let Ok(part) = next(from) {
        from = part.start + part.length;
        let holder = Holder::from_raw(part.holder).expect("a holder");
        parts.push((part.start..from, holder, part.device));
    }
    assert_eq!(next(from).expect_err("the end"), libc::ENODATA);
    parts
}

fn each_soft_reserved_part_is_told_with_who_has_it() {
    let [first, second] = [0, 1].map(|index| ranges()[index].clone());
    let nobody = |range| (range, Holder::Nobody, 0);
    assert_eq!(parts(), [nobody(first.clone()), nobody(second.clone())]);
    let start = first.start + (64 << 20);
    let device = Device::attach_range(start..start + (128 << 20), 0);
    let told = [
        nobody(first.start..start),
        (device.range.clone(), Holder::Device, device.number),
        nobody(device.range.end..first.end),
        nobody(second),
    ];
    assert_eq!(parts(), told);
    let child = Child::start(|_steps| {
        let control = open("/dev/cohmem");
        become_user(65_534);
        let mut part = args::Range::default();
        let answer = command(&control, ioctl::RANGE, &mut part);
        assert_eq!((errno(answer), part), (libc::EPERM, args::Range::default()));
    });
    assert_eq!(child.join(), Ended::Status(0));
}

fn the_command_finds_the_ranges() {
    // Without a range it attaches the only one: here there are two, and it names both.
    let output = Command::new("cohmem")
        .arg("attach")
        .output()
        .expect("cohmem");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{text}");
    for range in &ranges()[..2] {
        let named = format!("{:#x}-{:#x}", range.start, range.end);
        assert!(text.contains(&named), "{named}: {text}");
    }
    let all = ranges()[0].start..ranges()[0].end;
    let device = Device::attach_range(all, 0);
    let output = Command::new("cohmem")
        .arg("attach")
        .output()
        .expect("cohmem");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{text}");
    let second = Device::open_attached(device.number + 1, ranges()[1].clone());
    drop(second);
}
