//! C4, C5: a frame goes only to those who asked for it, and clean.

use std::fs::File;

use cohmem_uapi::{Direction, FRAME_BYTES, MIGRATE_FILL};

use crate::{
    Test,
    driver::Device,
    holders::{SlowDisk, run},
    lifecycle::wait_until,
    sys::{aio::Queue, io::PagePipe, memory::Memory, process::Child, uring::Ring},
};

pub(crate) const TESTS: &[Test] = &[
    (
        "nothing_else_lands_on_the_device",
        nothing_else_lands_on_the_device,
    ),
    ("a_new_owner_sees_zeros", a_new_owner_sees_zeros),
    (
        "a_frame_costs_less_than_80_bytes",
        a_frame_costs_less_than_80_bytes,
    ),
    (
        "pages_leave_before_a_long_pin",
        pages_leave_before_a_long_pin,
    ),
    ("direct_io_works_in_place", direct_io_works_in_place),
    (
        "a_frame_freed_in_a_hard_interrupt_comes_back",
        a_frame_freed_in_a_hard_interrupt_comes_back,
    ),
];

fn nothing_else_lands_on_the_device() {
    let device = Device::attach_part(0, 64 << 20);
    let memory = Memory::filled(4 << 20, |index| index as u64);
    device.take_all(&memory);
    let load = Memory::filled(128 << 20, |index| index as u64);
    std::fs::write("/tmp/cache", vec![1u8; 64 << 20]).expect("page cache");
    run(
        "sh",
        &[
            "-c",
            "sort /tmp/cache >/dev/null; cp /tmp/cache /tmp/cache2; rm /tmp/cache /tmp/cache2",
        ],
    );
    std::fs::write("/proc/sys/vm/compact_memory", "1").expect("compaction");
    assert_eq!(device.resident(&load), 0);
    assert_eq!(device.allocated(), memory.nr_pages());
    assert_eq!(device.resident(&memory), memory.nr_pages());
    memory.expect(|index| index as u64);
}

fn a_new_owner_sees_zeros() {
    let device = Device::attach_part(0, 16 << 20);
    let all = usize::try_from(device.info().nr_free).expect("fits") * 4096;
    let secret = Memory::filled(all, |_index| 0x5EC2_E75E_C2E7);
    device.take_all(&secret);
    assert_eq!(device.info().nr_free, 0);
    drop(secret);
    let child = Child::start(|_steps| {
        let memory = Memory::anonymous(all);
        let fill = Device::migrate_args(&memory, Direction::ToDevice, MIGRATE_FILL);
        assert_eq!(
            device.migrate_with(fill).expect("fill").filled,
            memory.nr_pages()
        );
        memory.expect(|_index| 0);
    });
    assert_eq!(child.join(), crate::sys::process::Ended::Status(0));
    assert_eq!(device.allocated(), 0);
}

fn a_frame_costs_less_than_80_bytes() {
    const LIMIT: u64 = 80;
    let costs = (0..4).map(|_try| {
        let before = free_memory();
        let device = Device::attach(0);
        before.saturating_sub(free_memory()) / device.info().nr_frames
    });
    // Other work of the guest takes and gives memory meanwhile.
    let cost = costs.min().expect("four tries");
    assert!(
        (56..=LIMIT).contains(&cost),
        "a frame costs {cost} bytes of system memory, a struct page alone 64"
    );
}

/// Bytes of free memory, those on the processors' lists included: that is where the kernel puts the huge
/// pages that a device's struct pages were in.
fn free_memory() -> u64 {
    let zones = std::fs::read_to_string("/proc/zoneinfo").expect("zoneinfo");
    let pages = zones.lines().filter_map(|line| {
        let line = line.trim_start();
        let count = line
            .strip_prefix("count:")
            .or_else(|| line.strip_prefix("pages free"))?;
        count.trim().parse::<u64>().ok()
    });
    pages.sum::<u64>() * FRAME_BYTES
}

fn pages_leave_before_a_long_pin() {
    let device = Device::attach_part(0, 64 << 20);
    let memory = Memory::filled(1 << 20, |index| index as u64);
    device.take_all(&memory);
    let ring = Ring::new();
    ring.pin(&memory).expect("io_uring_register");
    assert_eq!(device.resident(&memory), 0, "the pages came home first");
    assert_eq!(device.allocated(), 0);
    memory.expect(|index| index as u64);
    drop(ring);
}

fn direct_io_works_in_place() {
    let device = Device::attach_part(0, 64 << 20);
    let memory = Memory::filled(64 << 10, |index| index as u64);
    device.take_all(&memory);
    let pipe = PagePipe::new();
    pipe.hold(&memory, 0);
    let pinned = Ring::new().pin(&memory);
    assert_eq!(
        pinned.expect_err("a held page").raw_os_error(),
        Some(libc::EBUSY)
    );
    pipe.release();
    let disk = SlowDisk::load(1);
    let queue = Queue::new();
    queue.start_write(&disk.open(), &memory, 0, 64 << 10);
    assert_eq!(queue.wait(1), [64 << 10]);
    memory.expect(|index| index as u64);
    drop(queue);
    drop(disk);
    device.evict(10_000);
}

fn a_frame_freed_in_a_hard_interrupt_comes_back() {
    let device = Device::attach_part(0, 64 << 20);
    let disk = SlowDisk::load(300);
    let file: File = disk.open();
    let queue = Queue::new();
    let memory = Memory::filled(1 << 20, |index| index as u64);
    device.take_all(&memory);
    queue.start_read(&file, &memory, 0, 128 << 10);
    drop(memory);
    let held = device.allocated();
    assert!(held > 0, "the I/O holds its pages");
    let other = Memory::filled(8 << 20, |index| index as u64);
    // Allocations on this processor while the interrupt gives frames back.
    wait_until(|| {
        device.take(&other);
        device.give(&other);
        device.allocated() == 0
    });
    // The charge ends just after the frame is free.
    wait_until(|| device.charged(0) == 0);
    assert_eq!(queue.wait(1), [128 << 10]);
    other.expect(|index| index as u64);
    drop((queue, file));
    drop(disk);
}
