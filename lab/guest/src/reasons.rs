//! C6: every page that stays has a reason, and it is the right one. C8: nothing lands elsewhere.

use cohmem_uapi::{Direction, MIGRATE_EXEC, MIGRATE_FILL, Reason, Tier};

use crate::{
    Test,
    driver::{Device, Migrated, moves_large_folios, named},
    holders,
    lifecycle::wait_until,
    sys::{
        io::PagePipe,
        memory::{HUGE, Memory, PAGE, read_number},
        process::{Child, Ended},
        uring::Ring,
    },
};

pub(crate) const TESTS: &[Test] = &[
    (
        "already_there_untouched_and_filled",
        already_there_untouched_and_filled,
    ),
    ("the_device_is_full", the_device_is_full),
    (
        "file_shared_and_special_memory",
        file_shared_and_special_memory,
    ),
    (
        "executable_memory_is_left_alone",
        executable_memory_is_left_alone,
    ),
    ("pinned_pages_stay", pinned_pages_stay),
    ("pages_in_a_pipe_stay", pages_in_a_pipe_stay),
    ("merged_pages_stay", merged_pages_stay),
    (
        "a_partly_mapped_large_folio_stays",
        a_partly_mapped_large_folio_stays,
    ),
    ("swapped_pages_stay", swapped_pages_stay),
    (
        "a_few_swapped_pages_are_told_from_holes",
        a_few_swapped_pages_are_told_from_holes,
    ),
    ("a_query_changes_nothing", a_query_changes_nothing),
];

fn expect_stayed(migrated: &Migrated, reason: Reason, nr_pages: u64) {
    assert_eq!(
        migrated.stayed.get(reason),
        nr_pages,
        "{reason:?} in {:?}",
        named(&migrated.stayed)
    );
}

fn already_there_untouched_and_filled() {
    let device = Device::attach_part(0, 64 << 20);
    let memory = Memory::anonymous(4 << 20);
    let nr_pages = memory.nr_pages();
    expect_stayed(&device.take(&memory), Reason::Untouched, nr_pages);
    assert_eq!(device.resident(&memory), 0);
    let fill = Device::migrate_args(&memory, Direction::ToDevice, MIGRATE_FILL);
    assert_eq!(device.migrate_with(fill).expect("fill").filled, nr_pages);
    assert_eq!(device.resident(&memory), nr_pages);
    memory.expect(|_index| 0);
    expect_stayed(&device.take(&memory), Reason::AlreadyThere, nr_pages);
    memory.fill(|index| index as u64);
    device.give_all(&memory);
    expect_stayed(&device.give(&memory), Reason::AlreadyThere, nr_pages);
    memory.expect(|index| index as u64);
}

fn the_device_is_full() {
    let device = Device::attach_part(0, 2 << 20);
    let memory = Memory::filled(4 << 20, |index| index as u64);
    let migrated = device.take(&memory);
    assert_eq!(migrated.moved, 512, "all of the device's frames");
    expect_stayed(&migrated, Reason::NoFrame, 512);
    assert_eq!(device.resident(&memory), 512);
    assert_eq!(device.info().nr_free, 0);
    memory.expect(|index| index as u64);
}

fn file_shared_and_special_memory() {
    let device = Device::attach_part(0, 64 << 20);
    let shared = Memory::shared(64 << 10);
    shared.fill(|index| index as u64);
    expect_stayed(&device.take(&shared), Reason::File, shared.nr_pages());
    std::fs::write("/tmp/file", vec![7u8; 64 << 10]).expect("/tmp/file");
    let file = std::fs::File::open("/tmp/file").expect("/tmp/file");
    let private = Memory::file(&file, 64 << 10);
    assert_eq!(
        private.words()[0].load(std::sync::atomic::Ordering::Relaxed),
        0x0707_0707_0707_0707
    );
    for page in 0..4 {
        private
            .page_word(page)
            .store(page as u64, std::sync::atomic::Ordering::Relaxed);
    }
    private
        .page_word(8)
        .load(std::sync::atomic::Ordering::Relaxed);
    let migrated = device.take(&private);
    assert_eq!(
        migrated.moved, 4,
        "the pages that were written are anonymous"
    );
    assert!(
        migrated.stayed.get(Reason::File) >= 1,
        "{:?}",
        named(&migrated.stayed)
    );
    for page in 0..4 {
        assert_eq!(
            private
                .page_word(page)
                .load(std::sync::atomic::Ordering::Relaxed),
            page as u64
        );
    }
    let special = holders::vdso();
    let mut argument = Device::migrate_args(&shared, Direction::ToDevice, 0);
    argument.start = special.start;
    argument.length = PAGE as u64;
    let migrated = device.migrate_with(argument).expect("a special mapping");
    assert_eq!(migrated.stayed.total(), 1, "{:?}", named(&migrated.stayed));
    assert_eq!(migrated.moved, 0);
}

fn executable_memory_is_left_alone() {
    let device = Device::attach_part(0, 64 << 20);
    let memory = Memory::filled(64 << 10, |index| index as u64);
    memory.protect(
        0,
        64 << 10,
        libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC,
    );
    expect_stayed(&device.take(&memory), Reason::Executable, memory.nr_pages());
    let asked = Device::migrate_args(&memory, Direction::ToDevice, MIGRATE_EXEC);
    assert_eq!(
        device.migrate_with(asked).expect("asked for").moved,
        memory.nr_pages()
    );
    memory.expect(|index| index as u64);
}

fn pinned_pages_stay() {
    let device = Device::attach_part(0, 64 << 20);
    let memory = Memory::filled(64 << 10, |index| index as u64);
    let ring = Ring::new();
    ring.pin(&memory).expect("io_uring_register");
    expect_stayed(&device.take(&memory), Reason::Pinned, memory.nr_pages());
    drop(ring);
    // The ring lets go of its pages in a worker.
    wait_until(|| device.take(&memory).stayed.get(Reason::Pinned) == 0);
    assert_eq!(device.resident(&memory), memory.nr_pages());
}

fn pages_in_a_pipe_stay() {
    let device = Device::attach_part(0, 64 << 20);
    let memory = Memory::filled(64 << 10, |index| index as u64);
    device.take_all(&memory);
    let pipe = PagePipe::new();
    pipe.hold(&memory, 3);
    let migrated = device.give(&memory);
    assert_eq!(migrated.moved, memory.nr_pages() - 1);
    expect_stayed(&migrated, Reason::ExtraRef, 1);
    assert_eq!(device.resident(&memory), 1, "the held page is where it was");
    memory.expect(|index| index as u64);
    assert_eq!(pipe.release(), (3 * PAGE / 8) as u64);
    assert_eq!(device.give(&memory).moved, 1);
    memory.expect(|index| index as u64);
}

fn merged_pages_stay() {
    let device = Device::attach_part(0, 64 << 20);
    let memory = Memory::filled(1 << 20, |_index| 0x1234_5678);
    memory.advise(libc::MADV_MERGEABLE).expect("MADV_MERGEABLE");
    std::fs::write("/sys/kernel/mm/ksm/pages_to_scan", "10000").expect("ksm");
    std::fs::write("/sys/kernel/mm/ksm/sleep_millisecs", "0").expect("ksm");
    std::fs::write("/sys/kernel/mm/ksm/run", "1").expect("ksm");
    wait_until(|| read_number("/sys/kernel/mm/ksm/pages_sharing") >= memory.nr_pages() - 2);
    let migrated = device.take(&memory);
    assert!(
        migrated.stayed.get(Reason::Ksm) >= memory.nr_pages() - 2,
        "{:?}",
        named(&migrated.stayed)
    );
    memory.expect(|_index| 0x1234_5678);
    // A KSM page that had moved would leave this spinning for ever.
    std::fs::write("/sys/kernel/mm/ksm/run", "2").expect("ksm");
    std::fs::write("/sys/kernel/mm/ksm/run", "0").expect("ksm");
    memory
        .advise(libc::MADV_UNMERGEABLE)
        .expect("MADV_UNMERGEABLE");
    device.take_all(&memory);
    memory.expect(|_index| 0x1234_5678);
}

fn a_partly_mapped_large_folio_stays() {
    let device = Device::attach_part(0, 64 << 20);
    let memory = Memory::huge(2 * HUGE);
    memory.protect(PAGE, PAGE, libc::PROT_READ);
    memory.protect(PAGE, PAGE, libc::PROT_READ | libc::PROT_WRITE);
    let migrated = device.take(&memory);
    if moves_large_folios() {
        assert_eq!(migrated.moved, 1024, "{:?}", named(&migrated.stayed));
        return memory.expect(|index| index as u64);
    }
    assert_eq!(migrated.moved, 512, "the whole one");
    expect_stayed(&migrated, Reason::LargeFolio, 512);
    // What the reason's text advises.
    memory
        .advise_part(0, HUGE, libc::MADV_COLLAPSE)
        .expect("MADV_COLLAPSE");
    assert_eq!(device.take(&memory).moved, 512, "after a collapse");
    memory.expect(|index| index as u64);
}

fn swapped_pages_stay() {
    let device = Device::attach_part(0, 64 << 20);
    let _swap = holders::Swap::enable();
    let memory = Memory::filled(1 << 20, |index| index as u64);
    memory.advise(libc::MADV_PAGEOUT).expect("MADV_PAGEOUT");
    let nr_present =
        crate::sys::memory::frames_of(std::process::id(), memory.address(), memory.nr_pages())
            .iter()
            .filter(|&&pfn| pfn != 0)
            .count() as u64;
    assert!(nr_present < memory.nr_pages(), "nothing was swapped out");
    let migrated = device.take(&memory);
    expect_stayed(&migrated, Reason::Swapped, memory.nr_pages() - nr_present);
    memory.expect(|index| index as u64);
    device.take(&memory);
    memory.expect(|index| index as u64);
    drop(memory);
}

fn a_few_swapped_pages_are_told_from_holes() {
    let device = Device::attach_part(0, 64 << 20);
    let _swap = holders::Swap::enable();
    // So few that the kernel has them only in the processors' own counts. Of a process of its own, in
    // which nothing else was swapped.
    let child = Child::start(|_steps| {
        let memory = Memory::filled(4 * PAGE, |index| index as u64);
        memory.advise(libc::MADV_PAGEOUT).expect("MADV_PAGEOUT");
        let migrated = device.take(&memory);
        expect_stayed(&migrated, Reason::Swapped, memory.nr_pages());
        memory.expect(|index| index as u64);
    });
    assert_eq!(child.join(), Ended::Status(0));
}

fn a_query_changes_nothing() {
    let device = Device::attach_part(0, 64 << 20);
    let memory = Memory::anonymous(64 << 10);
    for page in 4..16 {
        memory
            .page_word(page)
            .store(1, std::sync::atomic::Ordering::Relaxed);
    }
    device.take(&memory);
    let map = device.query(&memory);
    for (page, entry) in map.iter().enumerate() {
        let (tier, reason) = match page {
            0..4 => (Tier::None, Reason::Untouched),
            _ => (Tier::Device, Reason::AlreadyThere),
        };
        assert_eq!(
            (entry.tier(), entry.reason()),
            (tier, Some(reason)),
            "page {page}"
        );
        assert_eq!(
            entry.device(),
            (page >= 4).then_some(device.number),
            "page {page}"
        );
    }
    assert_eq!(device.allocated(), 12);
    assert_eq!(device.resident(&memory), 12);
}
