//! C9: what processes ordinarily do works with device pages, and every frame comes back.

use std::sync::atomic::Ordering::Relaxed;

use cohmem_uapi::{Direction, MIGRATE_SHARED, Reason};

use crate::{
    Test,
    driver::{Device, named},
    sys::{
        memory::{Memory, PAGE, meminfo},
        process::{Child, Ended},
    },
};

pub(crate) const TESTS: &[Test] = &[
    ("fork_and_copy_on_write", fork_and_copy_on_write),
    (
        "shared_pages_move_only_when_asked",
        shared_pages_move_only_when_asked,
    ),
    ("a_child_outlives_its_parent", a_child_outlives_its_parent),
    ("mremap_and_mprotect", mremap_and_mprotect),
    (
        "dontneed_and_unmap_free_frames",
        dontneed_and_unmap_free_frames,
    ),
    ("exit_and_exec_free_frames", exit_and_exec_free_frames),
    (
        "kill_in_the_middle_of_a_migration",
        kill_in_the_middle_of_a_migration,
    ),
    (
        "locked_memory_stays_accounted",
        locked_memory_stays_accounted,
    ),
    (
        "ptrace_reads_and_writes_device_pages",
        ptrace_reads_and_writes_device_pages,
    ),
    (
        "a_core_dump_holds_device_pages",
        a_core_dump_holds_device_pages,
    ),
];

const BYTES: usize = 4 << 20;

fn fork_and_copy_on_write() {
    let device = Device::attach_part(0, 64 << 20);
    let memory = Memory::filled(BYTES, |index| index as u64);
    device.take_all(&memory);
    let mut child = Child::start(|steps| {
        memory.expect(|index| index as u64);
        steps.done();
        memory.page_word(0).store(1 << 40, Relaxed);
        steps.done();
        assert_eq!(memory.page_word(0).load(Relaxed), 1 << 40);
        assert_eq!(memory.page_word(1).load(Relaxed), (PAGE / 8) as u64);
    });
    child.wait_step();
    assert_eq!(
        device.resident_of(child.pid(), &memory),
        memory.nr_pages(),
        "the child shares"
    );
    assert_eq!(device.allocated(), memory.nr_pages());
    child.go_on();
    child.wait_step();
    assert_eq!(
        memory.page_word(0).load(Relaxed),
        0,
        "the child's write is its own"
    );
    memory.page_word(1).store(1 << 41, Relaxed);
    child.go_on();
    assert_eq!(child.join(), Ended::Status(0));
    assert_eq!(memory.page_word(1).load(Relaxed), 1 << 41);
    drop(memory);
    assert_eq!(device.allocated(), 0);
}

fn shared_pages_move_only_when_asked() {
    let device = Device::attach_part(0, 64 << 20);
    let memory = Memory::filled(BYTES, |index| index as u64);
    let mut child = Child::start(|steps| {
        steps.done();
        memory.expect(|index| index as u64);
    });
    child.wait_step();
    let migrated = device.take(&memory);
    assert_eq!(
        migrated.stayed.get(Reason::Shared),
        memory.nr_pages(),
        "{:?}",
        named(&migrated.stayed)
    );
    let asked = Device::migrate_args(&memory, Direction::ToDevice, MIGRATE_SHARED);
    assert_eq!(
        device.migrate_with(asked).expect("root may").moved,
        memory.nr_pages()
    );
    assert_eq!(device.resident_of(child.pid(), &memory), memory.nr_pages());
    assert_eq!(device.allocated(), memory.nr_pages(), "one frame for both");
    let emptied = device.evict(10_000);
    assert_eq!(
        (emptied.errno, emptied.out.nr_evicted),
        (0, memory.nr_pages())
    );
    child.go_on();
    assert_eq!(child.join(), Ended::Status(0));
    memory.expect(|index| index as u64);
}

fn a_child_outlives_its_parent() {
    let device = Device::attach_part(0, 64 << 20);
    let memory = Memory::anonymous(BYTES);
    let parent = Child::start(|steps| {
        memory.fill(|index| index as u64);
        device.take_all(&memory);
        let orphan = Child::start(|orphan_steps| {
            orphan_steps.tell();
            // The parent is gone when its end of the pipe is.
            std::thread::sleep(std::time::Duration::from_millis(300));
            memory.expect(|index| index as u64);
            std::fs::write("/tmp/orphan", "whole").expect("/tmp/orphan");
            device.give(&memory);
            memory.expect(|index| index as u64);
            std::fs::write("/tmp/orphan", "home").expect("/tmp/orphan");
        });
        let mut orphan = orphan;
        orphan.wait_step();
        std::mem::forget(orphan);
        steps.tell();
    });
    assert_eq!(parent.join(), Ended::Status(0));
    assert_eq!(
        device.allocated(),
        memory.nr_pages(),
        "the orphan holds the frames"
    );
    wait_until(|| std::fs::read_to_string("/tmp/orphan").is_ok_and(|text| text == "home"));
    wait_until(|| device.allocated() == 0);
}

/// Waits for something that another process does.
pub(crate) fn wait_until(is_true_fn: impl Fn() -> bool) {
    let start = std::time::Instant::now();
    while !is_true_fn() {
        assert!(
            start.elapsed().as_secs() < 60,
            "nothing happened for a minute"
        );
        std::thread::yield_now();
    }
}

fn mremap_and_mprotect() {
    let device = Device::attach_part(0, 64 << 20);
    let memory = Memory::filled(BYTES, |index| index as u64);
    device.take_all(&memory);
    let memory = memory.moved();
    assert_eq!(
        device.resident(&memory),
        memory.nr_pages(),
        "the pages moved along"
    );
    memory.expect(|index| index as u64);
    memory.protect(0, BYTES / 2, libc::PROT_READ);
    memory.expect(|index| index as u64);
    assert_eq!(
        device.give(&memory).moved,
        memory.nr_pages(),
        "read-only pages move as well"
    );
    memory.protect(0, BYTES / 2, libc::PROT_READ | libc::PROT_WRITE);
    memory.fill(|index| index as u64 + 1);
    device.take_all(&memory);
    memory.protect(0, BYTES / 2, libc::PROT_NONE);
    let migrated = device.give(&memory);
    assert_eq!(
        migrated.stayed.get(Reason::NoPermission),
        memory.nr_pages() / 2
    );
    assert_eq!(
        device.evict(10_000).errno,
        0,
        "eviction does not ask the mapping"
    );
    memory.protect(0, BYTES / 2, libc::PROT_READ | libc::PROT_WRITE);
    memory.expect(|index| index as u64 + 1);
}

fn dontneed_and_unmap_free_frames() {
    let device = Device::attach_part(0, 64 << 20);
    let memory = Memory::filled(BYTES, |index| index as u64 + 1);
    device.take_all(&memory);
    memory
        .advise_part(0, BYTES / 2, libc::MADV_DONTNEED)
        .expect("MADV_DONTNEED");
    assert_eq!(device.allocated(), memory.nr_pages() / 2);
    assert_eq!(
        memory.page_word(0).load(Relaxed),
        0,
        "dropped pages read as zero"
    );
    memory.unmap(BYTES / 2, BYTES / 2);
    assert_eq!(device.allocated(), 0);
    assert_eq!(device.attribute("freed"), memory.nr_pages());
}

fn exit_and_exec_free_frames() {
    let device = Device::attach_part(0, 64 << 20);
    let memory = Memory::anonymous(BYTES);
    let take = || {
        memory.fill(|index| index as u64);
        device.take_all(&memory);
    };
    let mut child = Child::start(|steps| {
        take();
        steps.done();
    });
    child.wait_step();
    assert_eq!(device.allocated(), memory.nr_pages());
    child.go_on();
    assert_eq!(child.join(), Ended::Status(0));
    assert_eq!(device.allocated(), 0, "exit");
    let child = Child::start(|_steps| {
        use std::os::unix::process::CommandExt as _;
        take();
        let error = std::process::Command::new("/bin/true").exec();
        panic!("exec: {error}");
    });
    assert_eq!(child.join(), Ended::Status(0));
    assert_eq!(device.allocated(), 0, "exec");
}

fn kill_in_the_middle_of_a_migration() {
    let device = Device::attach_part(0, 128 << 20);
    let memory = Memory::anonymous(32 << 20);
    for round in 0..8u64 {
        let mut child = Child::start(|steps| {
            memory.fill(|index| index as u64);
            steps.tell();
            loop {
                device.take(&memory);
                device.give(&memory);
            }
        });
        child.wait_step();
        std::thread::sleep(std::time::Duration::from_millis(20 + 37 * round));
        child.kill();
        assert_eq!(child.join(), Ended::Signal(libc::SIGKILL));
        assert_eq!(device.allocated(), 0, "round {round}");
    }
}

fn locked_memory_stays_accounted() {
    let device = Device::attach_part(0, 64 << 20);
    let before = meminfo("Mlocked");
    let memory = Memory::filled(BYTES, |index| index as u64);
    memory.lock().expect("mlock");
    device.take_all(&memory);
    memory.expect(|index| index as u64);
    // The kernel skips device pages here, and leaves them counted as locked.
    memory.unlock();
    drop(memory);
    assert_eq!(device.allocated(), 0);
    let after = meminfo("Mlocked");
    assert!(
        after <= before + (1 << 20),
        "Mlocked was {before}, is {after} bytes"
    );
}

fn ptrace_reads_and_writes_device_pages() {
    use std::os::unix::fs::FileExt as _;
    let device = Device::attach_part(0, 64 << 20);
    let memory = Memory::filled(BYTES, |index| index as u64);
    let mut child = Child::start(|steps| {
        memory.fill(|index| index as u64 + 7);
        device.take_all(&memory);
        steps.done();
        assert_eq!(memory.page_word(3).load(Relaxed), 99);
    });
    child.wait_step();
    let mem = crate::sys::io::open(&format!("/proc/{}/mem", child.pid()));
    let mut word = [0u8; 8];
    mem.read_exact_at(&mut word, memory.address())
        .expect("read");
    assert_eq!(u64::from_ne_bytes(word), 7);
    mem.write_all_at(&99u64.to_ne_bytes(), memory.address() + 3 * PAGE as u64)
        .expect("write");
    assert_eq!(
        device.allocated(),
        memory.nr_pages(),
        "the pages stayed on the device"
    );
    child.go_on();
    assert_eq!(child.join(), Ended::Status(0));
}

fn a_core_dump_holds_device_pages() {
    const MAGIC: u64 = 0xC0FF_EE00_DEAD_10CC;
    let device = Device::attach_part(0, 64 << 20);
    std::fs::write("/proc/sys/kernel/core_pattern", "/tmp/core.guest").expect("core_pattern");
    let memory = Memory::anonymous(64 << 10);
    let child = Child::start(|_steps| {
        memory.fill(|_index| MAGIC);
        device.take_all(&memory);
        crate::sys::process::dump_core();
    });
    assert!(matches!(child.join(), Ended::Signal(libc::SIGABRT)));
    assert_eq!(device.allocated(), 0);
    let core = std::fs::read("/tmp/core.guest").expect("a core dump");
    let nr_found = core
        .chunks_exact(8)
        .filter(|word| **word == MAGIC.to_ne_bytes())
        .count();
    assert!(
        nr_found >= memory.len() / 8,
        "{nr_found} words of the device's pages are in the dump"
    );
}
