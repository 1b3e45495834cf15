//! Races and failures that a test build of the module forces (`kernel/module/hooks.h`).

use std::{fs::File, ops::Range, sync::atomic::Ordering::Relaxed, time::Duration};

use cohmem_uapi::{Direction, MIGRATE_FILL, Reason, ioctl::MAGIC};

use crate::{
    Test,
    driver::{Device, attach, detach, errno, named, ranges},
    sys::{
        io::{PagePipe, ioctl, ioctl_raw, open},
        memory::{Memory, PAGE},
        process::{Child, Ended},
    },
};

pub(crate) const TESTS: &[Test] = &[
    (
        "a_late_write_is_not_lost_on_the_way_home",
        a_late_write_is_not_lost_on_the_way_home,
    ),
    (
        "a_late_write_is_not_lost_by_an_eviction",
        a_late_write_is_not_lost_by_an_eviction,
    ),
    (
        "a_late_write_is_not_lost_between_devices",
        a_late_write_is_not_lost_between_devices,
    ),
    (
        "a_frame_freed_by_an_interrupt_during_an_allocation",
        a_frame_freed_by_an_interrupt_during_an_allocation,
    ),
    (
        "a_kill_while_pages_are_in_flight",
        a_kill_while_pages_are_in_flight,
    ),
    (
        "an_exit_while_an_eviction_has_the_pages",
        an_exit_while_an_eviction_has_the_pages,
    ),
    (
        "a_page_that_outlived_its_process_is_not_collected",
        a_page_that_outlived_its_process_is_not_collected,
    ),
    ("no_system_page_can_be_had", no_system_page_can_be_had),
    (
        "each_allocation_of_the_driver_fails_in_turn",
        each_allocation_of_the_driver_fails_in_turn,
    ),
    ("a_chunk_cannot_be_registered", a_chunk_cannot_be_registered),
    ("a_copy_finds_poison", a_copy_finds_poison),
];

const READ_WRITE: u32 = 3;

const fn command(direction: u32, bytes: usize, number: u32) -> u32 {
    #[expect(clippy::cast_possible_truncation, reason = "small structures")]
    let bytes = bytes as u32;
    direction << 30 | bytes << 16 | MAGIC << 8 | number
}

const HOLD: u32 = command(READ_WRITE, 8, 0x60);
const LATE_WRITE: u32 = command(READ_WRITE, 16, 0x61);
const RELEASE: u32 = command(0, 0, 0x62);
const DELAY: u32 = command(READ_WRITE, 8, 0x63);
const FAIL: u32 = command(READ_WRITE, 16, 0x64);
const IRQ_FREE: u32 = command(0, 0, 0x65);
const FIRED: u32 = command(READ_WRITE, 48, 0x66);
const RESET: u32 = command(0, 0, 0x67);

/// `enum cohmem_hook_point`: pages are collected and not yet committed.
const COLLECTED: u32 = 1;

/// `enum cohmem_hook_what`.
#[derive(Clone, Copy, Debug)]
enum What {
    Refill = 0,
    Copy = 1,
    Memory = 2,
    Register = 3,
    Publish = 4,
}

/// `struct cohmem_hook_fired`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
struct Fired {
    nr_late_writes: u64,
    nr_irq_frees: u64,
    nr_delays: u64,
    nr_failures: u64,
    is_holding: u64,
    nr_orphans: u64,
}

/// The hooks; their drop ends all that they do.
struct Hooks(File);

impl Hooks {
    fn new() -> Self {
        let hooks = Self(open("/dev/cohmem"));
        hooks.plain(RESET);
        hooks
    }

    fn plain(&self, request: u32) {
        use std::os::fd::AsRawFd as _;
        ioctl_raw(self.0.as_raw_fd(), request, 0).expect("a module with hooks");
    }

    fn hold(&self, memory: &Memory, page: usize) {
        let mut address = memory.address() + (page * PAGE) as u64;
        ioctl(&self.0, HOLD, &mut address).expect("hold");
    }

    fn write_late(&self, offset: u64, value: u64) {
        ioctl(&self.0, LATE_WRITE, &mut [offset, value]).expect("late write");
    }

    fn delay(&self, point: u32, milliseconds: u32) {
        ioctl(&self.0, DELAY, &mut [point, milliseconds]).expect("delay");
    }

    fn fail(&self, what: What, nr_skipped: u32, count: u32) {
        ioctl(&self.0, FAIL, &mut [what as u32, nr_skipped, count, 0]).expect("fail");
    }

    fn fired(&self) -> Fired {
        let mut fired = Fired::default();
        ioctl(&self.0, FIRED, &mut fired).expect("fired");
        fired
    }
}

impl Drop for Hooks {
    fn drop(&mut self) {
        self.plain(RESET);
    }
}

const LATE: u64 = 0x1A7E_1A7E_1A7E;
const BYTES: usize = 64 << 10;

/// Holds page 3 of memory on the device, lets `move_fn` try to move it with a writer that comes late, and
/// checks that the write is where the process sees it.
fn write_late_while(move_fn: impl Fn(&Device, &Memory)) {
    let hooks = Hooks::new();
    let device = Device::attach_part(0, 64 << 20);
    let memory = Memory::filled(BYTES, |index| index as u64);
    device.take_all(&memory);
    hooks.hold(&memory, 3);
    hooks.write_late(0, LATE);
    move_fn(&device, &memory);
    let fired = hooks.fired();
    let written = memory.page_word(3).load(Relaxed);
    if fired.nr_late_writes > 0 {
        assert_eq!(written, LATE, "LATE WRITE LOST");
    }
    assert_eq!(
        (fired.nr_late_writes, fired.is_holding),
        (0, 1),
        "a held page is not even copied"
    );
    assert_eq!(device.allocated(), 1, "it is where it was");
    hooks.plain(RELEASE);
    memory.page_word(3).store(LATE, Relaxed);
    assert_eq!(device.give(&memory).moved, 1);
    memory.expect(|index| {
        if index == 3 * PAGE / 8 {
            LATE
        } else {
            index as u64
        }
    });
}

fn a_late_write_is_not_lost_on_the_way_home() {
    write_late_while(|device, memory| {
        let migrated = device.give(memory);
        assert_eq!(
            migrated.moved,
            memory.nr_pages() - 1,
            "{:?}",
            named(&migrated.stayed)
        );
        assert_eq!(migrated.stayed.get(Reason::ExtraRef), 1);
    });
}

fn a_late_write_is_not_lost_by_an_eviction() {
    write_late_while(|device, memory| {
        let emptied = device.evict(100);
        assert_eq!(emptied.errno, libc::EBUSY, "{emptied:?}");
        assert_eq!(emptied.out.nr_evicted, memory.nr_pages() - 1);
        assert_eq!(emptied.stayed(Reason::ExtraRef), 1);
    });
}

fn a_late_write_is_not_lost_between_devices() {
    let other = Device::attach_part(1, 64 << 20);
    write_late_while(|_device, memory| {
        let migrated = other.take(memory);
        assert_eq!(
            migrated.moved,
            memory.nr_pages() - 1,
            "{:?}",
            named(&migrated.stayed)
        );
        assert_eq!(other.evict(10_000).errno, 0);
    });
}

fn a_frame_freed_by_an_interrupt_during_an_allocation() {
    let hooks = Hooks::new();
    let device = Device::attach_part(0, 64 << 20);
    for _round in 0..20 {
        let memory = Memory::filled(PAGE, |index| index as u64);
        device.take_all(&memory);
        hooks.hold(&memory, 0);
        drop(memory);
        assert_eq!(device.allocated(), 1, "the reference keeps it");
        hooks.plain(IRQ_FREE);
        let other = Memory::filled(1 << 20, |index| index as u64);
        device.take_all(&other);
        assert_eq!(device.allocated(), other.nr_pages());
        other.expect(|index| index as u64);
    }
    assert_eq!(hooks.fired().nr_irq_frees, 20);
}

fn a_kill_while_pages_are_in_flight() {
    let hooks = Hooks::new();
    let device = Device::attach_part(0, 64 << 20);
    let memory = Memory::filled(8 << 20, |index| index as u64);
    let shared = Memory::filled(1 << 20, |index| index as u64);
    for direction in [Direction::ToDevice, Direction::ToSystem] {
        if direction == Direction::ToSystem {
            device.take_all(&memory);
        }
        hooks.delay(COLLECTED, 100);
        let mut child = Child::start(|steps| {
            let own = Memory::filled(4 << 20, |index| index as u64);
            steps.tell();
            device
                .migrate_with(Device::migrate_args(&own, direction, 0))
                .expect("migrate");
            device
                .migrate_with(Device::migrate_args(&shared, direction, 0))
                .expect("migrate");
            loop {
                device.take(&own);
                device.give(&own);
            }
        });
        child.wait_step();
        std::thread::sleep(Duration::from_millis(250));
        child.kill();
        assert_eq!(child.join(), Ended::Signal(libc::SIGKILL));
        hooks.delay(COLLECTED, 0);
        memory.expect(|index| index as u64);
        shared.expect(|index| index as u64);
    }
    drop((memory, shared));
    assert_eq!(device.allocated(), 0);
}

fn an_exit_while_an_eviction_has_the_pages() {
    let hooks = Hooks::new();
    let device = Device::attach_part(0, 64 << 20);
    let mut child = Child::start(|steps| {
        let memory = Memory::filled(BYTES, |index| index as u64);
        device.take_all(&memory);
        steps.done();
    });
    child.wait_step();
    assert_eq!(device.allocated(), (BYTES / PAGE) as u64);
    hooks.delay(COLLECTED, 3000);
    let emptied = std::thread::scope(|scope| {
        let eviction = scope.spawn(|| device.evict(60_000));
        while hooks.fired().nr_delays == 0 {
            std::thread::sleep(Duration::from_millis(10));
        }
        child.kill();
        assert_eq!(child.join(), Ended::Signal(libc::SIGKILL));
        hooks.delay(COLLECTED, 0);
        eviction.join().expect("an eviction")
    });
    assert_eq!(emptied.errno, 0, "{emptied:?}");
    assert_eq!(
        hooks.fired().nr_orphans,
        0,
        "REVERSE MAPPING FREED IN FLIGHT"
    );
    assert_eq!(device.allocated(), 0);
}

fn a_page_that_outlived_its_process_is_not_collected() {
    let hooks = Hooks::new();
    let device = Device::attach_part(0, 64 << 20);
    let pipe = PagePipe::new();
    let child = Child::start(|_steps| {
        let memory = Memory::filled(BYTES, |index| index as u64);
        device.take_all(&memory);
        pipe.hold(&memory, 5);
    });
    assert_eq!(child.join(), Ended::Status(0));
    let emptied = device.evict(300);
    assert_eq!(emptied.errno, libc::EBUSY, "{emptied:?}");
    assert_eq!(emptied.stayed(Reason::KernelHeld), 1, "{emptied:?}");
    assert_eq!((emptied.out.nr_evicted, device.allocated()), (0, 1));
    assert_eq!(hooks.fired().nr_orphans, 0);
    assert_eq!(pipe.release(), (5 * PAGE / 8) as u64);
    assert_eq!(device.evict(30_000).errno, 0);
    assert_eq!(device.allocated(), 0);
}

fn no_system_page_can_be_had() {
    let hooks = Hooks::new();
    let mut device = Device::attach_part(0, 64 << 20);
    let memory = Memory::filled(4 << 20, |index| index as u64);
    device.take_all(&memory);
    hooks.fail(What::Refill, 0, u32::MAX);
    let migrated = device.give(&memory);
    assert_eq!(
        migrated.stayed.get(Reason::NoMemory),
        memory.nr_pages(),
        "{:?}",
        named(&migrated.stayed)
    );
    let emptied = device.try_detach(300);
    assert_eq!(emptied.errno, libc::EBUSY, "{emptied:?}");
    assert_eq!(emptied.out.nr_stuck, memory.nr_pages());
    assert_eq!(
        u64::from(emptied.stayed(Reason::NoMemory)),
        memory.nr_pages()
    );
    memory.expect(|index| index as u64);
    hooks.plain(RESET);
    device.give_all(&memory);
    memory.expect(|index| index as u64);
}

/// Does a bit of everything on two devices, as a program would that gives up at no error; what each came to.
fn bit_of_everything(ranges: &[Range<u64>; 2], memory: &Memory, hole: &Memory) -> Vec<i32> {
    let mut errnos = Vec::new();
    let mut devices = Vec::new();
    for range in ranges {
        match attach(range, 0) {
            Ok(attached) => devices.push(Device::open_attached(attached.device, range.clone())),
            Err(error) => errnos.push(error.raw_os_error().expect("an errno")),
        }
    }
    for device in &devices {
        let migrate = |memory: &Memory, direction, flags| {
            let argument = Device::migrate_args(memory, direction, flags);
            errno(device.migrate_with(argument).map(drop))
        };
        errnos.push(migrate(memory, Direction::ToDevice, 0));
        errnos.push(migrate(hole, Direction::ToDevice, MIGRATE_FILL));
        errnos.push(device.query_errno(memory));
        errnos.push(migrate(hole, Direction::ToSystem, 0));
        errnos.push(device.evict(1000).errno);
        errnos.push(migrate(memory, Direction::ToDevice, 0));
    }
    for mut device in devices {
        let first = device.try_detach(1000).errno;
        errnos.push(first);
        // What failed once works now.
        if first != 0 {
            assert_eq!(device.try_detach(1000).errno, 0);
        }
    }
    errnos
}

fn each_allocation_of_the_driver_fails_in_turn() {
    let hooks = Hooks::new();
    let range = ranges()[0].clone();
    let at = |mib: u64| range.start + (mib << 20)..range.start + ((mib + 64) << 20);
    let ranges = [at(0), at(64)];
    let memory = Memory::filled(2 << 20, |index| index as u64);
    for what in [What::Memory, What::Refill, What::Register, What::Publish] {
        let mut nr_failed = 0;
        for nr_skipped in 0.. {
            assert!(nr_skipped < 1000, "{what:?}: the failures never end");
            let hole = Memory::anonymous(1 << 20);
            hooks.plain(RESET);
            hooks.fail(what, nr_skipped, 1);
            let errnos = bit_of_everything(&ranges, &memory, &hole);
            let has_fired = hooks.fired().nr_failures != 0;
            let is_allowed = |errno: &i32| *errno == 0 || (has_fired && *errno == libc::ENOMEM);
            assert!(errnos.iter().all(is_allowed), "{what:?}: {errnos:?}");
            memory.expect(|index| index as u64);
            hole.expect(|_index| 0);
            if !has_fired {
                break;
            }
            nr_failed += 1;
        }
        let least = if matches!(what, What::Memory) { 20 } else { 2 };
        assert!(nr_failed >= least, "{what:?}: {nr_failed} failures");
    }
}

fn a_chunk_cannot_be_registered() {
    let hooks = Hooks::new();
    let range = ranges()[0].clone();
    for what in [What::Register, What::Publish] {
        hooks.fail(what, 0, 1);
        assert_eq!(errno(attach(&range, 0).map(drop)), libc::ENOMEM, "{what:?}");
        assert_eq!(hooks.fired().nr_failures, 1);
        hooks.plain(RESET);
        let attached = attach(&range, 0).expect("nothing is left of the attempt");
        assert_eq!(detach(attached.device, 1000).errno, 0);
    }
}

fn a_copy_finds_poison() {
    let hooks = Hooks::new();
    let range = ranges()[1].clone();
    // What is poisoned stays claimed: memory that no other test uses.
    let device = Device::attach_range(range.end - (64 << 20)..range.end, 0);
    let memory = Memory::filled(BYTES, |index| index as u64);
    device.take_all(&memory);
    hooks.fail(What::Copy, 5, 1);
    let migrated = device.give(&memory);
    assert_eq!(migrated.moved, memory.nr_pages() - 1);
    assert_eq!(
        migrated.stayed.get(Reason::Poisoned),
        1,
        "{:?}",
        named(&migrated.stayed)
    );
    assert_eq!(device.info().nr_poisoned, 1);
    let child = Child::start(|_steps| {
        for page in (0..BYTES / PAGE).filter(|&page| page != 5) {
            assert_eq!(
                memory.page_word(page).load(Relaxed),
                (page * PAGE / 8) as u64
            );
        }
        memory.page_word(5).load(Relaxed);
    });
    assert_eq!(child.join(), Ended::Signal(libc::SIGBUS));
    assert_eq!(device.detach().nr_kept, (64 << 20) / PAGE as u64);
}
