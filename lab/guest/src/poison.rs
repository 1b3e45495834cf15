//! C2 for frames that the hardware lost. What these tests poison stays claimed until the guest ends, so
//! each uses memory that no later test needs.

use cohmem_uapi::{Reason, Tier, args, ioctl};

use crate::{
    Test,
    driver::{Device, attach, errno, named, ranges},
    sys::{
        io::{ioctl as command, open},
        memory::{Memory, PAGE},
        process::{Child, Ended, delete_module},
    },
};

pub(crate) const TESTS: &[Test] = &[(
    "a_poisoned_page_is_told_and_contained",
    a_poisoned_page_is_told_and_contained,
)];

const MADV_HWPOISON: i32 = 100;

fn a_poisoned_page_is_told_and_contained() {
    let last = ranges().len() - 1;
    let range = ranges()[last].clone();
    let range = range.end - (64 << 20)..range.end;
    let mut device = Device::attach_range(range.clone(), 0);
    let memory = Memory::filled(1 << 20, |index| index as u64);
    device.take_all(&memory);
    memory
        .advise_part(7 * PAGE, PAGE, MADV_HWPOISON)
        .expect("MADV_HWPOISON");
    let child = Child::start(|_steps| {
        // The neighbours are whole.
        for page in (0..memory.len() / PAGE).filter(|&page| page != 7) {
            let word = memory
                .page_word(page)
                .load(std::sync::atomic::Ordering::Relaxed);
            assert_eq!(word, (page * PAGE / 8) as u64);
        }
        memory
            .page_word(7)
            .load(std::sync::atomic::Ordering::Relaxed);
    });
    assert_eq!(
        child.join(),
        Ended::Signal(libc::SIGBUS),
        "the loss is told to who touches it"
    );
    assert_eq!(device.info().nr_poisoned, 1);
    assert_eq!(device.allocated(), memory.nr_pages() - 1);
    let lost = device.query(&memory)[7];
    assert_eq!(
        (lost.tier(), lost.reason()),
        (Tier::None, Some(Reason::Poisoned))
    );
    let taken = device.take(&memory);
    let nr_whole = memory.nr_pages() - 1;
    assert_eq!(
        named(&taken.stayed),
        [("already-there", nr_whole), ("poisoned", 1)]
    );
    let migrated = device.give(&memory);
    assert_eq!(migrated.moved, memory.nr_pages() - 1);
    assert_eq!(named(&migrated.stayed), [("poisoned", 1)]);
    let emptied = device.try_detach(10_000);
    assert_eq!(emptied.errno, 0, "{emptied:?}");
    assert_eq!(
        emptied.out.nr_kept,
        (64 << 20) / PAGE as u64,
        "its chunk stays claimed"
    );
    assert_eq!(emptied.stayed(Reason::Poisoned), 0);
    // The entry that tells of the loss names a frame: nobody may trip over it.
    let smaps = std::fs::read_to_string("/proc/self/smaps").expect("smaps");
    assert!(smaps.contains("Rss"));
    crate::sys::memory::frames_of(std::process::id(), memory.address(), memory.nr_pages());
    let mut list = args::List::default();
    command(&open("/dev/cohmem"), ioctl::LIST, &mut list).expect("list");
    assert_ne!(list.devices & (1 << device.number), 0, "it is listed");
    assert_eq!(device.attribute_text("state"), "kept");
    assert_eq!(errno(attach(&range, 0).map(drop)), libc::EBUSY);
    let error = delete_module(c"cohmem").expect_err("the chunk's callbacks are needed");
    assert_eq!(error.raw_os_error(), Some(libc::EAGAIN));
    assert_eq!(device.info_errno(), libc::ENODEV);
}
