// SPDX-License-Identifier: GPL-2.0
//! What tests may do to the driver; `hooks.h` beside this crate's sources documents the commands.

use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};

use cohmem_kcore::{
    Errno,
    host::{Point, Privilege, Unreadable},
};
use cohmem_ksys::{
    hooks::{self as held, Delay, Fail, Fired, Hold, LateWrite, command_of, plain_command},
    page::{PAGE_BYTES, Page},
    process::{self, read_plain, write_plain},
};

const NR_POINTS: usize = 4;
const NR_FAILURES: usize = 5;

/// What can be made to fail: an index of [`FAILURES`].
#[derive(Clone, Copy)]
enum What {
    Refill = 0,
    Copy = 1,
    Memory = 2,
    Register = 3,
    Publish = 4,
}

struct Failure {
    nr_skipped: AtomicU32,
    count: AtomicU32,
}

// Ordering of all of these: tests set them and run the driver on one thread; elsewhere a stale value
// only moves the moment at which a hook acts.
static DELAYS: [AtomicU32; NR_POINTS] = [const { AtomicU32::new(0) }; NR_POINTS];
static FAILURES: [Failure; NR_FAILURES] = [const {
    Failure {
        nr_skipped: AtomicU32::new(0),
        count: AtomicU32::new(0),
    }
}; NR_FAILURES];
static WRITES_LATE: AtomicBool = AtomicBool::new(false);
static WRITE_OFFSET: AtomicU64 = AtomicU64::new(0);
static WRITE_VALUE: AtomicU64 = AtomicU64::new(0);
static FREES_IN_IRQ: AtomicBool = AtomicBool::new(false);
static NR_LATE_WRITES: AtomicU64 = AtomicU64::new(0);
static NR_IRQ_FREES: AtomicU64 = AtomicU64::new(0);
static NR_DELAYS: AtomicU64 = AtomicU64::new(0);
static NR_FAILED: AtomicU64 = AtomicU64::new(0);
static NR_ORPHANS: AtomicU64 = AtomicU64::new(0);

/// Runs a hook's command.
pub(crate) fn command(command: u32, arg: u64) -> Result<(), Errno> {
    if !process::is_privileged(Privilege::Administrate) {
        return Err(Errno::EPERM);
    }
    const HOLD: u32 = command_of::<Hold>(0x60);
    const LATE_WRITE: u32 = command_of::<LateWrite>(0x61);
    const RELEASE: u32 = plain_command(0x62);
    const DELAY: u32 = command_of::<Delay>(0x63);
    const FAIL: u32 = command_of::<Fail>(0x64);
    const IRQ_FREE: u32 = plain_command(0x65);
    const FIRED: u32 = command_of::<Fired>(0x66);
    const RESET: u32 = plain_command(0x67);
    match command {
        HOLD => held::hold(read_plain::<Hold>(arg)?.address),
        LATE_WRITE => arm_late_write(&read_plain(arg)?),
        RELEASE => held::release(),
        DELAY => arm_delay(&read_plain(arg)?),
        FAIL => arm_failure(&read_plain(arg)?),
        IRQ_FREE => {
            held::require()?;
            FREES_IN_IRQ.store(true, Relaxed);
            Ok(())
        }
        FIRED => write_plain(arg, &fired()),
        RESET => {
            reset();
            Ok(())
        }
        _ => Err(Errno::ENOTTY),
    }
}

/// Ends everything that tests asked for.
pub(crate) fn reset() {
    // `ENODEV`: none is held.
    let _released = held::release();
    WRITES_LATE.store(false, Relaxed);
    FREES_IN_IRQ.store(false, Relaxed);
    for delay in &DELAYS {
        delay.store(0, Relaxed);
    }
    for failure in &FAILURES {
        failure.count.store(0, Relaxed);
    }
    for count in [
        &NR_LATE_WRITES,
        &NR_IRQ_FREES,
        &NR_DELAYS,
        &NR_FAILED,
        &NR_ORPHANS,
    ] {
        count.store(0, Relaxed);
    }
}

fn fired() -> Fired {
    Fired {
        nr_late_writes: NR_LATE_WRITES.load(Relaxed),
        nr_irq_frees: NR_IRQ_FREES.load(Relaxed),
        nr_delays: NR_DELAYS.load(Relaxed),
        nr_failures: NR_FAILED.load(Relaxed),
        is_holding: u64::from(held::require().is_ok()),
        nr_orphans: NR_ORPHANS.load(Relaxed),
    }
}

fn arm_late_write(args: &LateWrite) -> Result<(), Errno> {
    if args.offset % 8 != 0 || args.offset >= PAGE_BYTES {
        return Err(Errno::EINVAL);
    }
    held::require()?;
    WRITE_OFFSET.store(args.offset, Relaxed);
    WRITE_VALUE.store(args.value, Relaxed);
    WRITES_LATE.store(true, Relaxed);
    Ok(())
}

fn arm_delay(args: &Delay) -> Result<(), Errno> {
    let index = usize::try_from(args.point).unwrap_or(NR_POINTS);
    DELAYS
        .get(index)
        .ok_or(Errno::EINVAL)?
        .store(args.milliseconds, Relaxed);
    Ok(())
}

fn arm_failure(args: &Fail) -> Result<(), Errno> {
    let index = usize::try_from(args.what).unwrap_or(NR_FAILURES);
    let failure = FAILURES.get(index).ok_or(Errno::EINVAL)?;
    failure.nr_skipped.store(args.nr_skipped, Relaxed);
    failure.count.store(args.count, Relaxed);
    Ok(())
}

fn must_fail(what: What) -> bool {
    let Some(failure) = FAILURES.get(what as usize) else {
        return false;
    };
    let takes_one = |count: u32| count.checked_sub(1);
    if failure.count.load(Relaxed) == 0
        || failure
            .nr_skipped
            .fetch_update(Relaxed, Relaxed, takes_one)
            .is_ok()
        || failure
            .count
            .fetch_update(Relaxed, Relaxed, takes_one)
            .is_err()
    {
        return false;
    }
    NR_FAILED.fetch_add(1, Relaxed);
    true
}

fn fail_with_no_memory(what: What) -> Result<(), Errno> {
    if must_fail(what) {
        Err(Errno::ENOMEM)
    } else {
        Ok(())
    }
}

/// The driver asks for memory of its own.
pub(crate) fn allocating() -> Result<(), Errno> {
    fail_with_no_memory(What::Memory)
}

/// The driver registers a chunk.
pub(crate) fn registering() -> Result<(), Errno> {
    fail_with_no_memory(What::Register)
}

/// The driver publishes a device.
pub(crate) fn publishing() -> Result<(), Errno> {
    fail_with_no_memory(What::Publish)
}

/// The driver refills a stock.
pub(crate) fn refilling() -> Result<(), Errno> {
    fail_with_no_memory(What::Refill)
}

/// A page is about to be copied.
pub(crate) fn copying() -> Result<(), Unreadable> {
    if must_fail(What::Copy) {
        Err(Unreadable)
    } else {
        Ok(())
    }
}

/// A page was copied.
pub(crate) fn copied(source: Page) {
    if held::is_orphan(source) {
        NR_ORPHANS.fetch_add(1, Relaxed);
    }
    if held::is_held(source) && WRITES_LATE.swap(false, Relaxed) {
        held::write(WRITE_OFFSET.load(Relaxed), WRITE_VALUE.load(Relaxed));
        if held::release().is_ok() {
            NR_LATE_WRITES.fetch_add(1, Relaxed);
        }
    }
}

/// The driver's work reached a point.
pub(crate) fn reached(point: Point) {
    let index = match point {
        Point::Allocating => 0,
        Point::Collected => 1,
        Point::Filled => 2,
        Point::Committed => 3,
    };
    let delay = DELAYS.get(index).map_or(0, |delay| delay.load(Relaxed));
    if delay != 0 {
        NR_DELAYS.fetch_add(1, Relaxed);
        held::sleep_ms(delay);
    }
    if point == Point::Allocating && FREES_IN_IRQ.swap(false, Relaxed) {
        held::release_in_irq();
        NR_IRQ_FREES.fetch_add(1, Relaxed);
    }
}
