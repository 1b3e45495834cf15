//! Before the race: every answer that needs a certain state is brought about once, by one process.
//!
//! So a run's table has no gap by chance, however few calls it makes.

use std::{fs::File, os::fd::AsRawFd as _, thread};

use cohmem_uapi::{
    Direction, FRAME_BYTES, MAX_ACCOUNTS, MIGRATE_SHARED, PROC_SELF, QUOTA_INHERITED, Reason, args,
    ioctl,
};

use super::{
    bad::{Fault, Ground},
    board::Command,
    call::Caller,
    control::{Control, UNIT},
    exhibits::Exhibits,
    random::Random,
    worker::dead_pagemap,
};
use crate::{
    driver::ranges,
    module::hibernate,
    sys::{
        io::{PagePipe, open},
        memory::{Memory, PAGE, meminfo},
        task,
    },
};

const MIB: u64 = 1 << 20;
/// How often another thread's work is begun in order to be seen.
const NR_TRIES: usize = 10;

/// The opening's state: two devices, and the memory that stays for all to move.
#[derive(Debug)]
pub(crate) struct Opening {
    caller: Caller,
    control: Control,
    node: File,
    start: u64,
}

/// A migration of all of `memory`.
pub(crate) fn migration(memory: &Memory, direction: Direction, flags: u32) -> args::Migrate {
    args::Migrate {
        start: memory.address(),
        length: memory.len() as u64,
        direction: direction as u32,
        flags,
        proc_fd: PROC_SELF,
        ..args::Migrate::default()
    }
}

/// An eviction that tries once.
fn one_try() -> args::Detach {
    args::Detach::default()
}

/// Opens device `number`.
pub(crate) fn device(number: u32) -> File {
    open(&format!("/dev/cohmem{number}"))
}

impl Opening {
    pub(crate) fn new(caller: Caller, seed: u64) -> Self {
        Self {
            caller,
            control: Control::new(caller, Random::new(seed, 2000)),
            node: open("/dev/cohmem"),
            start: ranges()[0].start,
        }
    }

    /// Runs it all; returns what stays for the race.
    pub(crate) fn run(mut self) -> Exhibits {
        self.too_little_memory();
        let (big, small) = (self.attach(0, 32), self.attach(1, 2));
        self.plain_answers(&device(big));
        self.all_faults(&device(big));
        self.no_process(&device(big));
        self.nodes_that_are_gone();
        self.limits();
        self.kept_by_the_kernel(&device(big));
        self.while_draining(big);
        self.while_hibernating(&device(big));
        self.control.crowd();
        Exhibits::set_up(self.caller, &device(big), &device(small))
    }

    fn attach(&self, unit: u64, mib: u64) -> u32 {
        match self.control.attach(self.start + unit * UNIT, mib * MIB, 0) {
            Ok(number) => number,
            Err(errno) => {
                self.caller.demand("ATTACH", errno, &[0]);
                unreachable!("the demand failed")
            }
        }
    }

    fn migrate(&self, device: &File, memory: &Memory, direction: Direction) {
        let mut argument = migration(memory, direction, 0);
        let errno = self.caller.migrate(device, &mut argument);
        self.caller.demand("MIGRATE", errno, &[0]);
    }

    /// ENOMEM: what the device holds would not fit at home.
    fn too_little_memory(&mut self) {
        let range = ranges()[0].clone();
        let number = match self.control.attach(range.start, range.end - range.start, 0) {
            Ok(number) => number,
            Err(errno) => return self.caller.demand("ATTACH", errno, &[0]),
        };
        let held = Memory::hog(256 << 20);
        let node = device(number);
        self.migrate(&node, &held, Direction::ToDevice);
        let hog_bytes = (meminfo("MemAvailable") - (160 << 20)) & !((2 << 20) - 1);
        let hog = Memory::hog(usize::try_from(hog_bytes).expect("fits"));
        let errno = self.control.detach(number, 0);
        self.caller.demand("DETACH", errno, &[libc::ENOMEM]);
        let errno = self.caller.empty(Command::Evict, &node, &mut one_try());
        self.caller.demand("EVICT", errno, &[libc::ENOMEM]);
        drop(hog);
        drop(held);
        let errno = self.control.detach(number, 30_000);
        self.caller.demand("DETACH", errno, &[0]);
    }

    /// What needs no state.
    fn plain_answers(&self, device: &File) {
        let mut version = args::Version::default();
        let errno = self
            .caller
            .call(Command::Version, &self.node, ioctl::VERSION, &mut version);
        self.caller.demand("VERSION", errno, &[0]);
        self.caller.list(&self.node);
        self.caller.ranges(&self.node);
        let errno = self.caller.info(device).err().unwrap_or(0);
        self.caller.demand("INFO", errno, &[0]);
        let errno = self.control.attach(self.start, 2 * MIB, 0).err();
        self.caller
            .demand("ATTACH twice", errno.unwrap_or(0), &[libc::EBUSY]);
    }

    /// Every fault, with privileges and without.
    fn all_faults(&self, device: &File) {
        let page = Memory::filled(PAGE, |index| index as u64);
        let ground = |is_privileged| Ground {
            start: self.start,
            memory: page.address(),
            is_privileged,
        };
        for fault in Fault::all(ground(true)) {
            fault.commit(&self.caller, &self.node, device);
        }
        let pid = task::fork();
        if pid == 0 {
            task::drop_capabilities();
            for fault in Fault::all(ground(false)) {
                fault.commit(&self.caller, &self.node, device);
            }
            let mut shared = migration(&page, Direction::ToDevice, MIGRATE_SHARED);
            let errno = self.caller.migrate(device, &mut shared);
            self.caller.demand("MIGRATE", errno, &[libc::EPERM]);
            task::exit_now(0);
        }
        if task::reap(pid, true) != Some(task::End::Status(0)) {
            self.caller.board.fail("the process without privileges");
        }
    }

    /// Descriptors that name no process, or none any more.
    fn no_process(&self, device: &File) {
        let page = Memory::filled(PAGE, |index| index as u64);
        let null = File::open("/dev/null").expect("null");
        for (file, wanted) in [(&dead_pagemap(), libc::ESRCH), (&null, libc::EBADFD)] {
            let mut migrate = args::Migrate {
                proc_fd: file.as_raw_fd(),
                ..migration(&page, Direction::ToDevice, 0)
            };
            let errno = self.caller.migrate(device, &mut migrate);
            self.caller.demand("MIGRATE", errno, &[wanted]);
            let mut query = args::Query {
                start: page.address(),
                length: FRAME_BYTES,
                proc_fd: file.as_raw_fd(),
                ..args::Query::default()
            };
            let errno = self.caller.query(device, &mut query, true);
            self.caller.demand("QUERY", errno, &[wanted]);
            let mut history = args::History {
                proc_fd: file.as_raw_fd(),
                ..args::History::default()
            };
            let errno = self.caller.history(device, &mut history);
            self.caller.demand("HISTORY", errno, &[wanted]);
        }
    }

    /// ENODEV: files of a device that was detached.
    fn nodes_that_are_gone(&mut self) {
        let page = Memory::filled(PAGE, |index| index as u64);
        let number = self.attach(2, 2);
        let node = device(number);
        let errno = self.caller.empty(Command::Evict, &node, &mut one_try());
        self.caller.demand("EVICT", errno, &[0]);
        let errno = self.control.detach(number, 0);
        self.caller.demand("DETACH", errno, &[0]);
        let mut query = args::Query {
            start: page.address(),
            length: FRAME_BYTES,
            proc_fd: PROC_SELF,
            ..args::Query::default()
        };
        let answers = [
            self.caller.info(&node).err().unwrap_or(0),
            self.caller
                .migrate(&node, &mut migration(&page, Direction::ToDevice, 0)),
            self.caller.query(&node, &mut query, false),
            self.caller.history(&node, &mut args::History::default()),
            self.caller.empty(Command::Evict, &node, &mut one_try()),
            self.caller.set_quota(&node, 0, QUOTA_INHERITED, 0),
            self.caller.accounts(&node, 1).err().unwrap_or(0),
        ];
        for errno in answers {
            self.caller
                .demand("a device that is gone", errno, &[libc::ENODEV]);
        }
    }

    /// A limit that is reached, and ENOSPC: as many users have one as can.
    fn limits(&mut self) {
        let memory = Memory::filled(4 * PAGE, |index| index as u64);
        let number = self.attach(2, 2);
        let node = device(number);
        let set = |user, flags, limit, wanted| {
            let errno = self.caller.set_quota(&node, user, flags, limit);
            self.caller.demand("SET_QUOTA", errno, &[wanted]);
        };
        set(0, 0, 1, 0);
        let mut take = migration(&memory, Direction::ToDevice, 0);
        let errno = self.caller.migrate(&node, &mut take);
        self.caller.demand("MIGRATE", errno, &[0]);
        let accounts = self.caller.accounts(&node, 2);
        let mine = args::Account {
            limit: 1,
            charged: 1,
            ..args::Account::default()
        };
        if take.stayed[usize::from(Reason::Quota as u8)] != 3 || accounts != Ok(vec![mine]) {
            self.caller
                .board
                .fail(&format!("a limit of one frame: {take:?} {accounts:?}"));
        }
        self.migrate(&node, &memory, Direction::ToSystem);
        set(0, QUOTA_INHERITED, 0, 0);
        for user in 1..=MAX_ACCOUNTS {
            set(user, 0, 1, 0);
        }
        set(0, 0, 1, libc::ENOSPC);
        let mut take = migration(&memory, Direction::ToDevice, 0);
        let errno = self.caller.migrate(&node, &mut take);
        self.caller.demand("MIGRATE", errno, &[libc::ENOSPC]);
        let errno = self.control.detach(number, 0);
        self.caller.demand("DETACH", errno, &[0]);
    }

    /// A frame that only the kernel holds.
    fn kept_by_the_kernel(&self, device: &File) {
        let memory = Memory::filled(2 * PAGE, |index| index as u64);
        self.migrate(device, &memory, Direction::ToDevice);
        let pipe = PagePipe::new();
        pipe.hold(&memory, 1);
        drop(memory);
        let mut argument = one_try();
        let errno = self.caller.empty(Command::Evict, device, &mut argument);
        self.caller.demand("EVICT", errno, &[libc::EBUSY]);
        if argument.stayed[usize::from(Reason::KernelHeld as u8)] != 1 {
            self.caller
                .board
                .fail(&format!("a frame in a pipe: {argument:?}"));
        }
    }

    /// EAGAIN: another thread is in the middle of a detach that cannot end.
    fn while_draining(&mut self, number: u32) {
        let node = device(number);
        let memory = Memory::filled(PAGE, |index| index as u64);
        self.migrate(&node, &memory, Direction::ToDevice);
        let pipe = PagePipe::new();
        pipe.hold(&memory, 0);
        let other = Memory::filled(PAGE, |index| index as u64);
        let caller = self.caller;
        let mut try_to_see = || {
            thread::scope(|scope| {
                let detach = scope.spawn(|| self.control.detach(number, 2000));
                let mut is_seen = false;
                while !is_seen && !detach.is_finished() {
                    let errno =
                        caller.migrate(&node, &mut migration(&other, Direction::ToDevice, 0));
                    is_seen = errno == libc::EAGAIN;
                }
                // One eviction at a time.
                let errno = caller.empty(Command::Evict, &node, &mut one_try());
                caller.demand("EVICT", errno, &[libc::EBUSY]);
                let errno = detach.join().expect("the detaching thread");
                caller.demand("DETACH", errno, &[libc::EBUSY]);
                is_seen
            })
        };
        // A machine with much else to do may let this thread sleep all the while.
        if !(0..NR_TRIES).any(|_try| try_to_see()) {
            caller.board.fail("a detach of two seconds was never seen");
        }
    }

    /// EAGAIN: the machine is about to hibernate, and takes pages home first.
    fn while_hibernating(&self, device: &File) {
        let memory = Memory::filled(PAGE, |index| index as u64);
        self.migrate(device, &memory, Direction::ToDevice);
        let pipe = PagePipe::new();
        pipe.hold(&memory, 0);
        let range = (self.start + 2 * UNIT, 2 * MIB);
        let try_to_see = || {
            thread::scope(|scope| {
                // Refused, since the page in the pipe cannot go home.
                let hibernate = scope.spawn(|| hibernate().expect_err("a page stays"));
                let mut is_seen = false;
                while !is_seen && !hibernate.is_finished() {
                    match self.control.attach(range.0, range.1, 0) {
                        Err(errno) => is_seen = errno == libc::EAGAIN,
                        Ok(_number) => thread::yield_now(),
                    }
                }
                drop(hibernate.join().expect("the hibernating thread"));
                is_seen
            })
        };
        if !(0..NR_TRIES).any(|_try| try_to_see()) {
            self.caller.board.fail("hibernation was never seen");
        }
    }
}
