//! Threads that attach and detach devices while others use them.

use std::fs::File;

use cohmem_uapi::{
    ATTACH_ALTMAP, MAX_DEVICES, QUOTA_DEFAULT, QUOTA_INHERITED, QUOTA_UNLIMITED, args, ioctl,
};

use super::{
    bad::{ABSENT_USER, Fault, Ground},
    board::{Board, Command},
    call::Caller,
    random::{Deck, Random},
    worker::{NR_WORKER_SEATS, NR_WORKERS},
};
use crate::{
    driver::ranges,
    sys::{io::open, memory::Memory},
};

/// Threads of this kind.
const NR_THREADS: usize = 2;
/// First of their seats.
const FIRST_SEAT: usize = NR_WORKER_SEATS;
/// The first seat after theirs.
pub(crate) const NEXT_SEAT: usize = FIRST_SEAT + NR_THREADS;

const MIB: u64 = 1 << 20;
/// Bytes from where a device may begin to the next such place.
pub(crate) const UNIT: u64 = 32 * MIB;
/// Devices begin at the first of these units of the first range.
const NR_UNITS: usize = 12;

#[derive(Clone, Copy, Debug)]
enum Step {
    Attach,
    Detach,
    Evict,
    Info,
    Version,
    List,
    Ranges,
    Limit,
    Bad,
    Crowd,
}

const STEPS: [(Step, usize); 10] = [
    (Step::Attach, 12),
    (Step::Detach, 12),
    (Step::Evict, 20),
    (Step::Info, 10),
    (Step::Version, 10),
    (Step::List, 10),
    (Step::Ranges, 1),
    (Step::Limit, 10),
    (Step::Bad, 60),
    (Step::Crowd, 1),
];

/// A thread that attaches and detaches.
#[derive(Debug)]
pub(crate) struct Control {
    caller: Caller,
    random: Random,
    control: File,
    faults: Vec<Fault>,
    /// First address of the range for ordinary devices, and of that for small ones.
    starts: [u64; 2],
    /// A page, for arguments that name one.
    page: Memory,
}

/// Runs the control process until the run is over.
pub(crate) fn run(board: Board, seed: u64) {
    std::thread::scope(|scope| {
        for index in 0..NR_THREADS {
            scope.spawn(move || {
                let caller = Caller::sit(board, FIRST_SEAT + index);
                Control::new(caller, Random::new(seed, 1000 + index)).run();
                board.clear(caller.seat);
            });
        }
    });
}

impl Control {
    pub(crate) fn new(caller: Caller, random: Random) -> Self {
        let ranges = ranges();
        let page = Memory::filled(4096, |index| index as u64);
        let ground = Ground {
            start: ranges[0].start,
            memory: page.address(),
            is_privileged: true,
        };
        Self {
            caller,
            random,
            control: open("/dev/cohmem"),
            faults: Fault::all(ground),
            starts: [ranges[0].start, ranges[1].start],
            page,
        }
    }

    fn run(&mut self) {
        let mut deck = Deck::new(&STEPS);
        while !self.caller.board.is_over() {
            let step = deck.deal(&mut self.random);
            self.step(step);
            self.caller.board.beat(self.caller.seat);
        }
        self.page.expect(|index| index as u64);
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Attach => {
                if self.devices().len() < NR_WORKERS * 2 {
                    self.attach_some();
                }
            }
            Step::Detach => {
                let devices = self.devices();
                if devices.len() > 3 {
                    let number = self.random.pick(&devices);
                    let timeout_ms = self.random.pick(&[0, 1, 5, 50]);
                    let errno = self.detach(number, timeout_ms);
                    let wanted = [0, libc::EBUSY, libc::ENODEV];
                    self.caller.demand("DETACH", errno, &wanted);
                }
            }
            Step::Evict => {
                if let Some(device) = self.some_device() {
                    let mut argument = args::Detach {
                        timeout_ms: self.random.pick(&[0, 0, 1, 10]),
                        ..args::Detach::default()
                    };
                    let errno = self.caller.empty(Command::Evict, &device, &mut argument);
                    let wanted = [0, libc::EBUSY, libc::ENODEV];
                    self.caller.demand("EVICT", errno, &wanted);
                }
            }
            Step::Info => {
                if let Some(device) = self.some_device()
                    && let Err(errno) = self.caller.info(&device)
                {
                    self.caller.demand("INFO", errno, &[libc::ENODEV]);
                }
            }
            Step::Version => {
                let mut version = args::Version::default();
                let errno = self.caller.call(
                    Command::Version,
                    &self.control,
                    ioctl::VERSION,
                    &mut version,
                );
                self.caller.demand("VERSION", errno, &[0]);
            }
            Step::List => drop(self.devices()),
            Step::Ranges => self.caller.ranges(&self.control),
            Step::Limit => {
                if let Some(device) = self.some_device() {
                    self.set_some_limit(&device);
                }
            }
            Step::Bad => {
                if let Some(device) = self.some_device() {
                    let index = self.random.below(self.faults.len());
                    self.faults[index].commit(&self.caller, &self.control, &device);
                }
            }
            Step::Crowd => self.crowd(),
        }
    }

    pub(crate) fn devices(&self) -> Vec<u32> {
        let devices = self.caller.list(&self.control);
        (0..MAX_DEVICES)
            .filter(|number| devices >> number & 1 == 1)
            .collect()
    }

    fn some_device(&mut self) -> Option<File> {
        let devices = self.devices();
        if devices.is_empty() {
            return None;
        }
        let number = self.random.pick(&devices);
        // It may have gone meanwhile.
        File::options()
            .read(true)
            .write(true)
            .open(format!("/dev/cohmem{number}"))
            .ok()
    }

    /// A limit of the user who runs all this, of another, or of all; more often none again.
    fn set_some_limit(&mut self, device: &File) {
        let random = &mut self.random;
        let user = random.pick(&[0, ABSENT_USER]);
        let limit = random.pick(&[0, 1, 16, 2048]);
        let (user, flags, limit) = random.pick(&[
            (user, 0, limit),
            (user, QUOTA_INHERITED, 0),
            (user, QUOTA_UNLIMITED, 0),
            (0, QUOTA_DEFAULT, limit),
            (0, QUOTA_DEFAULT | QUOTA_UNLIMITED, 0),
            (0, QUOTA_DEFAULT | QUOTA_UNLIMITED, 0),
        ]);
        let errno = self.caller.set_quota(device, user, flags, limit);
        self.caller.demand("SET_QUOTA", errno, &[0, libc::ENODEV]);
    }

    fn attach_some(&mut self) {
        let unit = self.random.below(NR_UNITS) as u64;
        let length = self.random.pick(&[2, 8, 16, 32]) * MIB;
        let flags = self.random.pick(&[0, 0, ATTACH_ALTMAP]);
        let errno = self
            .attach(self.starts[0] + unit * UNIT, length, flags)
            .err();
        let wanted = [0, libc::EBUSY, libc::ENOSPC];
        self.caller.demand("ATTACH", errno.unwrap_or(0), &wanted);
    }

    pub(crate) fn attach(&self, start: u64, length: u64, flags: u32) -> Result<u32, i32> {
        let mut argument = args::Attach {
            start,
            length,
            flags,
            ..args::Attach::default()
        };
        match self.caller.attach(&self.control, &mut argument) {
            0 => Ok(argument.device),
            errno => Err(errno),
        }
    }

    pub(crate) fn detach(&mut self, device: u32, timeout_ms: u32) -> i32 {
        let mut stuck = [args::Stuck::default(); 16];
        let mut argument = args::Detach {
            device,
            timeout_ms,
            ..args::Detach::default()
        };
        if self.random.once_in(2) {
            argument.nr_stuck_max = 16;
            argument.stuck_ptr = stuck.as_mut_ptr().addr() as u64;
        }
        self.caller
            .empty(Command::Detach, &self.control, &mut argument)
    }

    /// Attaches until no number is left, and detaches again what it attached.
    pub(crate) fn crowd(&mut self) {
        let mut mine = Vec::new();
        for unit in 0..u64::from(2 * MAX_DEVICES) {
            match self.attach(self.starts[1] + unit * 2 * MIB, 2 * MIB, 0) {
                Ok(number) => mine.push(number),
                Err(libc::ENOSPC) => break,
                // Two crowds at a time.
                Err(errno) => self.caller.demand("ATTACH", errno, &[libc::EBUSY]),
            }
        }
        for number in mine {
            let errno = self.detach(number, 5);
            let wanted = [0, libc::EBUSY, libc::ENODEV];
            self.caller.demand("DETACH", errno, &wanted);
        }
    }

    /// Everything that is attached goes, within the time limit of each; none may hold a page.
    pub(crate) fn detach_all(&mut self) {
        for number in self.devices() {
            let errno = self.detach(number, 30_000);
            self.caller.demand("DETACH at the end", errno, &[0]);
        }
    }
}
