//! C7: a device is taken back with nothing lost, or refuses in time and names what is left.

use std::{
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::{Duration, Instant},
};

use cohmem_uapi::{Direction, Reason, State};

use crate::{
    Test,
    driver::{Device, attach, detach, errno, knob, ranges},
    holders::SlowDisk,
    sys::{
        aio::Queue,
        io::PagePipe,
        memory::{Memory, PAGE, meminfo},
        process::{Child, Ended},
        uring::Ring,
    },
};

pub(crate) const TESTS: &[Test] = &[
    ("idle", idle),
    ("with_four_writing_processes", with_four_writing_processes),
    (
        "with_slow_direct_io_in_flight",
        with_slow_direct_io_in_flight,
    ),
    (
        "with_a_process_that_changes_its_mappings",
        with_a_process_that_changes_its_mappings,
    ),
    ("with_a_page_in_a_pipe", with_a_page_in_a_pipe),
    (
        "after_a_buffer_was_registered",
        after_a_buffer_was_registered,
    ),
    (
        "with_too_little_system_memory",
        with_too_little_system_memory,
    ),
    ("a_hundred_times", a_hundred_times),
    (
        "files_of_a_detached_device_are_refused",
        files_of_a_detached_device_are_refused,
    ),
];

fn idle() {
    let device = Device::attach(0);
    let range = device.range.clone();
    let memory = Memory::filled(64 << 20, |index| index as u64);
    device.take_all(&memory);
    let out = device.detach();
    assert_eq!((out.nr_evicted, out.nr_stuck), (memory.nr_pages(), 0));
    memory.expect(|index| index as u64);
    let again = attach(&range, 0).expect("the range is free");
    assert_eq!(detach(again.device, 1000).errno, 0);
}

fn with_four_writing_processes() {
    let mut device = Device::attach(0);
    let memory = Memory::anonymous(8 << 20);
    let mut children: Vec<Child> = (0..4u64)
        .map(|seed| {
            let memory = &memory;
            Child::start(move |steps| {
                memory.fill(|index| index as u64 ^ seed);
                let stop = AtomicBool::new(false);
                let nr_rounds = std::thread::scope(|scope| {
                    let writer = scope.spawn(|| {
                        let mut nr_rounds = 0u64;
                        while !stop.load(Relaxed) {
                            nr_rounds += 1;
                            for word in memory.words() {
                                word.fetch_add(1, Relaxed);
                            }
                        }
                        nr_rounds
                    });
                    steps.done();
                    steps.done();
                    stop.store(true, Relaxed);
                    writer.join().expect("the writer")
                });
                memory.expect(|index| (index as u64 ^ seed).wrapping_add(nr_rounds));
            })
        })
        .collect();
    children.iter_mut().for_each(Child::wait_step);
    let mut nr_moved = 0;
    for child in &children {
        nr_moved += device
            .migrate_process(child.pid(), &memory, Direction::ToDevice, 0)
            .expect("a child's pages")
            .moved;
    }
    assert!(nr_moved > memory.nr_pages() * 3, "{nr_moved} pages moved");
    children.iter_mut().for_each(|child| {
        child.go_on();
        child.wait_step();
    });
    let emptied = device.try_detach(30_000);
    assert_eq!(emptied.errno, 0, "{emptied:?}");
    for mut child in children {
        child.go_on();
        assert_eq!(child.join(), Ended::Status(0));
    }
}

fn with_slow_direct_io_in_flight() {
    let mut device = Device::attach_part(0, 64 << 20);
    let disk = SlowDisk::load(2000);
    let (file, queue) = (disk.open(), Queue::new());
    let memory = Memory::filled(1 << 20, |index| index as u64);
    device.take_all(&memory);
    queue.start_write(&file, &memory, 0, 64 << 10);
    let start = Instant::now();
    let emptied = device.try_detach(200);
    assert_eq!(emptied.errno, libc::EBUSY, "{emptied:?}");
    assert!(
        start.elapsed() < Duration::from_millis(1900),
        "refused after {:?}",
        start.elapsed()
    );
    assert_eq!(emptied.out.nr_stuck, 16, "{emptied:?}");
    assert_eq!(device.info().state, State::Online as u32);
    memory.expect(|index| index as u64);
    let emptied = device.try_detach(30_000);
    assert_eq!(emptied.errno, 0, "{emptied:?}");
    assert_eq!(queue.wait(1), [64 << 10]);
    memory.expect(|index| index as u64);
    drop((queue, file));
    drop(disk);
}

/// The lock of its address space is taken for writing again and again.
fn with_a_process_that_changes_its_mappings() {
    let device = Device::attach_part(0, 64 << 20);
    let memory = Memory::filled(4 << 20, |index| index as u64);
    let stop = AtomicBool::new(false);
    let moves = std::thread::scope(|scope| {
        for _thread in 0..2 {
            scope.spawn(|| {
                let own = Memory::anonymous(PAGE);
                while !stop.load(Relaxed) {
                    for advice in [libc::MADV_DONTFORK, libc::MADV_DOFORK] {
                        own.advise(advice).expect("madvise");
                    }
                }
            });
        }
        let moves = [(); 20].map(|()| (device.take(&memory).moved, device.evict(60_000).errno));
        stop.store(true, Relaxed);
        moves
    });
    assert_eq!(moves, [(memory.nr_pages(), 0); 20]);
    memory.expect(|index| index as u64);
    device.detach();
}

fn with_a_page_in_a_pipe() {
    let mut device = Device::attach_part(0, 64 << 20);
    let memory = Memory::filled(1 << 20, |index| index as u64);
    device.take_all(&memory);
    let pipe = PagePipe::new();
    pipe.hold(&memory, 5);
    pipe.hold(&memory, 6);
    let held_frame = crate::sys::memory::frames_of(std::process::id(), memory.address(), 8)[5];
    let start = Instant::now();
    let emptied = device.try_detach(1000);
    assert_eq!(emptied.errno, libc::EBUSY, "{emptied:?}");
    assert!(
        start.elapsed() < Duration::from_secs(10),
        "{:?}",
        start.elapsed()
    );
    assert_eq!(
        (emptied.out.nr_stuck, emptied.stuck.len()),
        (2, 2),
        "{emptied:?}"
    );
    let named = emptied
        .stuck
        .iter()
        .find(|stuck| stuck.phys == held_frame * PAGE as u64);
    let named =
        named.unwrap_or_else(|| panic!("frame {held_frame:x} is not named in {emptied:x?}"));
    assert_eq!((named.refs, named.maps), (2, 1));
    assert_eq!(named.reason, Reason::ExtraRef as u32);
    assert_eq!(emptied.stayed(Reason::ExtraRef), 2);
    memory.expect(|index| index as u64);
    let other = Memory::filled(1 << 20, |index| index as u64);
    device.take_all(&other);
    drop(other);
    // The process lets go of its mapping: the frame is held by the kernel alone.
    memory
        .advise_part(6 * PAGE, PAGE, libc::MADV_DONTNEED)
        .expect("MADV_DONTNEED");
    let emptied = device.try_detach(300);
    assert_eq!(emptied.errno, libc::EBUSY, "{emptied:?}");
    assert_eq!(emptied.stayed(Reason::KernelHeld), 1, "{emptied:?}");
    assert_eq!(pipe.release(), (5 * PAGE / 8) as u64);
    assert_eq!(pipe.release(), (6 * PAGE / 8) as u64);
    let emptied = device.try_detach(30_000);
    assert_eq!(emptied.errno, 0, "{emptied:?}");
    assert_eq!(memory.page_word(5).load(Relaxed), (5 * PAGE / 8) as u64);
}

fn after_a_buffer_was_registered() {
    let device = Device::attach_part(0, 64 << 20);
    let memory = Memory::filled(256 << 10, |index| index as u64);
    device.take_all(&memory);
    let ring = Ring::new();
    ring.pin(&memory).expect("io_uring_register");
    assert_eq!(device.allocated(), 0, "they came home first");
    assert_eq!(
        device.take(&memory).stayed.get(Reason::Pinned),
        memory.nr_pages()
    );
    device.detach();
    memory.expect(|index| index as u64);
    drop(ring);
}

fn with_too_little_system_memory() {
    let mut device = Device::attach(0);
    let memory = Memory::filled(256 << 20, |index| index as u64);
    device.take_all(&memory);
    let hog_bytes = (meminfo("MemAvailable") - (160 << 20)) & !((2 << 20) - 1);
    let hog = Memory::hog(usize::try_from(hog_bytes).expect("fits"));
    let start = Instant::now();
    let emptied = device.try_detach(5000);
    assert_eq!(emptied.errno, libc::ENOMEM, "{emptied:?}");
    assert!(
        start.elapsed() < Duration::from_secs(4),
        "refused before anything moved"
    );
    assert_eq!(device.allocated(), memory.nr_pages());
    assert_eq!(device.info().state, State::Online as u32);
    assert_eq!(hog.page_word(0).load(Relaxed), 0);
    let part = Memory::filled(1 << 20, |index| index as u64);
    device.take_all(&part);
    device.give_all(&part);
    drop(hog);
    let emptied = device.try_detach(30_000);
    assert_eq!(emptied.errno, 0, "{emptied:?}");
    memory.expect(|index| index as u64);
}

fn a_hundred_times() {
    let range = ranges()[0].clone();
    let range = range.start..range.start + (64 << 20);
    let memory = Memory::filled(1 << 20, |index| index as u64);
    let used = || meminfo("MemTotal") - meminfo("MemFree");
    let mut first_used = 0;
    let nr_loops = knob("LOOPS", 100);
    for round in 0..nr_loops {
        let device = Device::attach_range(range.clone(), 0);
        device.take_all(&memory);
        device.detach();
        if round == nr_loops / 10 {
            first_used = used();
        }
    }
    memory.expect(|index| index as u64);
    let last_used = used();
    // The last nine tenths: 90 rounds that lost their memory map each would show.
    assert!(
        last_used < first_used + (64 << 20),
        "used grew from {first_used} to {last_used} bytes"
    );
}

fn files_of_a_detached_device_are_refused() {
    let mut device = Device::attach_part(0, 64 << 20);
    let memory = Memory::filled(1 << 20, |index| index as u64);
    assert_eq!(device.try_detach(1000).errno, 0);
    let argument = Device::migrate_args(&memory, Direction::ToDevice, 0);
    let refused = |device: &Device| errno(device.migrate_with(argument).map(drop));
    assert_eq!(refused(&device), libc::ENODEV);
    // The number comes back, the file does not.
    let again = Device::attach_part(0, 64 << 20);
    assert_eq!(again.number, device.number);
    assert_eq!(refused(&device), libc::ENODEV);
    again.take_all(&memory);
}
