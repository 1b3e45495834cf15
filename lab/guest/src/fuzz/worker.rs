//! Processes that use memory in every way that the kernel offers, while everybody moves it.

use std::{fs::File, os::fd::AsRawFd as _};

use cohmem_uapi::{
    Direction, FRAME_BYTES, HISTORY_ALL, HISTORY_STAYED, MAX_MOVES, MIGRATE_EXEC, MIGRATE_FILL,
    MIGRATE_SHARED, PROC_SELF, QUERY_REASONS, QUOTA_INHERITED, args,
};

use super::{
    area::{Land, somewhere},
    bad::{Fault, Ground},
    board::{Board, Command, NR_EXHIBITS},
    call::Caller,
    nodes::Nodes,
    random::{Deck, Random},
};
use crate::sys::{
    field::Field,
    io::PagePipe,
    memfd,
    memory::{HUGE, PAGE},
    task::{self, End},
    uring::Ring,
};

/// Processes of this kind; the last has no privileges.
pub(crate) const NR_WORKERS: usize = 4;
/// Threads of each.
const NR_THREADS: usize = 2;
/// Children that a thread has at a time.
const NR_CHILDREN: usize = 2;
const SEATS_OF_THREAD: usize = 1 + NR_CHILDREN;
/// Seats that these processes take, from 0.
pub(crate) const NR_WORKER_SEATS: usize = NR_WORKERS * NR_THREADS * SEATS_OF_THREAD;

/// What a thread does next.
#[derive(Clone, Copy, Debug)]
enum Step {
    Map,
    Unmap,
    Discard,
    Advise,
    Protect,
    Move,
    Write,
    Check,
    Fork,
    Reap,
    Pin,
    Splice,
    Interrupt,
    Reopen,
    MigrateOwn,
    MigrateOther,
    Query,
    QueryAll,
    History,
    Info,
    Accounts,
    Limit,
    Evict,
    Bad,
    Dead,
}

const STEPS: [(Step, usize); 25] = [
    (Step::Map, 4),
    (Step::Unmap, 3),
    (Step::Discard, 3),
    (Step::Advise, 6),
    (Step::Protect, 3),
    (Step::Move, 3),
    (Step::Write, 16),
    (Step::Check, 10),
    (Step::Fork, 2),
    (Step::Reap, 2),
    (Step::Pin, 2),
    (Step::Splice, 2),
    (Step::Interrupt, 3),
    (Step::Reopen, 2),
    (Step::MigrateOwn, 40),
    (Step::MigrateOther, 20),
    (Step::Query, 24),
    (Step::QueryAll, 1),
    (Step::History, 8),
    (Step::Info, 8),
    (Step::Accounts, 4),
    (Step::Limit, 1),
    (Step::Evict, 1),
    (Step::Bad, 50),
    (Step::Dead, 2),
];

const CHILD_STEPS: [(Step, usize); 5] = [
    (Step::Write, 4),
    (Step::Check, 4),
    (Step::MigrateOwn, 8),
    (Step::MigrateOther, 2),
    (Step::Query, 2),
];

#[derive(Clone, Copy, Debug)]
struct Child {
    pid: i32,
    seat: usize,
}

/// Files that name processes, rightly or not.
#[derive(Debug)]
struct Files {
    own: File,
    /// Of a process that is gone.
    dead: File,
    wrong: File,
}

/// A thread of a worker.
#[derive(Debug)]
struct Worker {
    caller: Caller,
    random: Random,
    land: Land,
    nodes: Nodes,
    faults: Vec<Fault>,
    files: Files,
    children: Vec<Child>,
    ring: Option<Ring>,
    pipe: Option<PagePipe>,
    is_privileged: bool,
    is_child: bool,
}

/// Runs worker process `number` until the run is over.
pub(crate) fn run(board: Board, seed: u64, number: usize, start: u64) {
    let is_privileged = number + 1 < NR_WORKERS;
    task::handle_interruptions();
    if !is_privileged {
        task::drop_capabilities();
    }
    std::thread::scope(|scope| {
        for index in 0..NR_THREADS {
            scope.spawn(move || {
                let thread = number * NR_THREADS + index;
                let caller = Caller::sit(board, thread * SEATS_OF_THREAD);
                Worker::new(
                    caller,
                    Random::new(seed, thread),
                    thread,
                    start,
                    is_privileged,
                )
                .run();
                board.clear(caller.seat);
            });
        }
    });
}

/// An open pagemap of a process that has ended.
pub(crate) fn dead_pagemap() -> File {
    let pid = task::fork();
    if pid == 0 {
        task::wait_for_ever();
    }
    let pagemap = File::open(format!("/proc/{pid}/pagemap")).expect("a child's pagemap");
    task::kill(pid);
    task::reap(pid, true);
    pagemap
}

impl Worker {
    fn new(
        caller: Caller,
        mut random: Random,
        thread: usize,
        start: u64,
        is_privileged: bool,
    ) -> Self {
        let nodes = Nodes::open(&caller, &mut random);
        let ground = Ground {
            start,
            memory: Field::new(thread).address(0),
            is_privileged,
        };
        let files = Files {
            own: File::open("/proc/self/pagemap").expect("pagemap"),
            dead: dead_pagemap(),
            wrong: File::open("/dev/null").expect("null"),
        };
        Self {
            caller,
            random,
            land: Land::new(thread, memfd::zeros(HUGE)),
            nodes,
            faults: Fault::all(ground),
            files,
            children: Vec::new(),
            ring: None,
            pipe: None,
            is_privileged,
            is_child: false,
        }
    }

    fn run(&mut self) {
        let mut deck = Deck::new(&STEPS);
        while !self.caller.board.is_over() {
            let step = deck.deal(&mut self.random);
            self.step(step);
            self.caller.board.beat(self.caller.seat);
        }
        while let Some(child) = self.children.pop() {
            self.reap(child, true);
        }
        self.demand_sound(self.land.check_all(self.is_child));
    }

    fn demand_sound(&self, result: Result<(), String>) {
        if let Err(text) = result {
            self.caller.board.fail(&text);
        }
    }

    fn step(&mut self, step: Step) {
        let random = &mut self.random;
        match step {
            Step::Map => self.land.map(random),
            Step::Unmap => {
                if let Some(part) = self.land.some_part(random) {
                    self.land.unmap(part);
                }
            }
            Step::Discard => {
                if let Some(part) = self.land.some_part(random) {
                    self.land.discard(part);
                }
            }
            Step::Advise => {
                if let Some(part) = self.land.some_part(random) {
                    self.land.advise(part, random);
                }
            }
            Step::Protect => self.land.protect(random),
            Step::Move => self.land.move_area(random),
            Step::Write => self.land.write(random, self.is_child),
            Step::Check => {
                let result = self.land.check(random, self.is_child);
                self.demand_sound(result);
            }
            Step::Fork => self.fork(),
            Step::Reap => {
                if !self.children.is_empty() {
                    let index = random.below(self.children.len());
                    let kills = random.once_in(2);
                    let child = self.children.swap_remove(index);
                    self.reap(child, kills);
                }
            }
            Step::Pin => self.pin(),
            Step::Splice => self.splice(),
            Step::Interrupt => {
                // A thread of this process that is not in a child.
                let seats = NR_THREADS * SEATS_OF_THREAD;
                let first = self.caller.seat / seats * seats;
                let seat = first + random.below(NR_THREADS) * SEATS_OF_THREAD;
                self.caller.interrupt(seat);
            }
            Step::Reopen => self.nodes.reopen(&self.caller, random),
            Step::MigrateOwn => self.migrate_own(),
            Step::MigrateOther => self.migrate_other(),
            Step::Query => self.query(),
            Step::History => self.history(),
            Step::QueryAll => self.query_all(),
            Step::Info => {
                let device = self.nodes.device(random);
                if let Err(errno) = self.caller.info(device) {
                    self.caller.demand("INFO", errno, &[libc::ENODEV]);
                    self.nodes.reopen(&self.caller, random);
                }
            }
            Step::Accounts => {
                let nr_max = random.pick(&[0, 1, 2, 256]);
                let device = self.nodes.device(random);
                if let Err(errno) = self.caller.accounts(device, nr_max) {
                    self.caller.demand("ACCOUNTS", errno, &[libc::ENODEV]);
                }
            }
            Step::Limit => self.lift_limit(),
            Step::Evict => self.evict(),
            Step::Bad => {
                let index = random.below(self.faults.len());
                let device = self.nodes.device(random);
                self.faults[index].commit(&self.caller, &self.nodes.control, device);
            }
            Step::Dead => self.name_no_process(),
        }
    }

    fn migration(&mut self, (start, length): (u64, u64), proc_fd: i32) -> args::Migrate {
        let random = &mut self.random;
        let direction = random.pick(&[
            Direction::ToDevice,
            Direction::ToDevice,
            Direction::ToSystem,
        ]);
        let mut flags = 0;
        for flag in [MIGRATE_FILL, MIGRATE_SHARED, MIGRATE_EXEC] {
            if random.once_in(3) {
                flags |= flag;
            }
        }
        args::Migrate {
            start,
            length,
            direction: direction as u32,
            flags,
            proc_fd,
            ..args::Migrate::default()
        }
    }

    fn migrate(&mut self, mut argument: args::Migrate) {
        let mut reasons = Vec::new();
        if self.random.once_in(3) {
            let nr_pages = usize::try_from(argument.length / FRAME_BYTES).expect("fits");
            reasons = vec![0xFFu8; nr_pages];
            argument.reasons_ptr = reasons.as_mut_ptr().addr() as u64;
        }
        let device = self.nodes.device(&mut self.random);
        let errno = self.caller.migrate(device, &mut argument);
        let wanted: &[i32] = if argument.flags & MIGRATE_SHARED != 0 && !self.is_privileged {
            &[libc::EPERM]
        } else {
            &[
                0,
                libc::EADDRNOTAVAIL,
                libc::ENODEV,
                libc::EAGAIN,
                libc::ESRCH,
            ]
        };
        self.caller.demand("MIGRATE", errno, wanted);
        if errno == libc::ENODEV {
            self.nodes.reopen(&self.caller, &mut self.random);
        }
        if errno == 0 && !reasons.is_empty() {
            let nr_seen = usize::try_from((argument.next - argument.start) / FRAME_BYTES);
            let nr_stayed = reasons[..nr_seen.expect("fits")]
                .iter()
                .filter(|&&reason| reason != 0)
                .count() as u64;
            if nr_stayed != argument.stayed.iter().sum::<u64>() {
                self.caller
                    .board
                    .fail(&format!("reasons and counts do not agree: {argument:?}"));
            }
        }
    }

    fn migrate_own(&mut self) {
        let range = match self.land.some_part(&mut self.random) {
            Some(part) => (self.land.field.address(part.offset), part.len as u64),
            None => somewhere(&self.land.field, &mut self.random),
        };
        let proc_fd = if self.random.once_in(2) {
            PROC_SELF
        } else {
            self.files.own.as_raw_fd()
        };
        // A child's file is its parent's.
        let proc_fd = if self.is_child { PROC_SELF } else { proc_fd };
        let argument = self.migration(range, proc_fd);
        self.migrate(argument);
    }

    /// A range of any process, and an open file that names the process if it is another.
    fn range_of_other(&mut self) -> ((u64, u64), Option<File>) {
        let (pid, range) = if self.random.once_in(4) {
            match self.caller.board.exhibited(self.random.below(NR_EXHIBITS)) {
                Some((pid, start, length)) => (pid, (start, length)),
                None => return (somewhere(&self.land.field, &mut self.random), None),
            }
        } else {
            let seat = self.random.below(NR_WORKER_SEATS);
            let field = Field::new(seat / SEATS_OF_THREAD);
            let range = somewhere(&field, &mut self.random);
            match self.caller.board.sitter(seat) {
                Some(sitter) => (sitter.pid, range),
                None => return (range, None),
            }
        };
        let name = self.random.pick(&["pagemap", "mem"]);
        // It may have ended, or be none of an ordinary user's business.
        (range, File::open(format!("/proc/{pid}/{name}")).ok())
    }

    fn migrate_other(&mut self) {
        let (range, file) = self.range_of_other();
        let proc_fd = file.as_ref().map_or(PROC_SELF, File::as_raw_fd);
        let argument = self.migration(range, proc_fd);
        self.migrate(argument);
    }

    fn query(&mut self) {
        let (range, file) = if self.random.once_in(2) {
            self.range_of_other()
        } else {
            (somewhere(&self.land.field, &mut self.random), None)
        };
        let mut argument = args::Query {
            start: range.0,
            length: range.1,
            proc_fd: file.as_ref().map_or(PROC_SELF, File::as_raw_fd),
            flags: self.random.pick(&[0, QUERY_REASONS]),
            ..args::Query::default()
        };
        self.send_query(&mut argument, true);
    }

    /// Everything that a process has.
    fn query_all(&mut self) {
        let mut argument = args::Query {
            length: 1 << 46,
            proc_fd: PROC_SELF,
            ..args::Query::default()
        };
        self.send_query(&mut argument, false);
    }

    /// The past of a range, of all of one process, or of all processes.
    fn history(&mut self) {
        let (range, file) = if self.random.once_in(2) {
            self.range_of_other()
        } else {
            (somewhere(&self.land.field, &mut self.random), None)
        };
        let is_of_all = self.is_privileged && file.is_none() && self.random.once_in(4);
        let (start, length) = if self.random.once_in(2) {
            range
        } else {
            (0, 0)
        };
        let stayed = self.random.pick(&[0, HISTORY_STAYED]);
        let mut argument = args::History {
            start,
            length,
            proc_fd: file.as_ref().map_or(PROC_SELF, File::as_raw_fd),
            flags: stayed | if is_of_all { HISTORY_ALL } else { 0 },
            since: self.random.pick(&[0, 0, 100, u64::MAX]),
            nr_max: self.random.pick(&[0, 1, 100, MAX_MOVES]),
            ..args::History::default()
        };
        let device = self.nodes.device(&mut self.random);
        let errno = self.caller.history(device, &mut argument);
        self.caller
            .demand("HISTORY", errno, &[0, libc::ENODEV, libc::ESRCH]);
    }

    fn send_query(&mut self, argument: &mut args::Query, has_map: bool) {
        let device = self.nodes.device(&mut self.random);
        let errno = self.caller.query(device, argument, has_map);
        let wanted = [
            0,
            libc::EADDRNOTAVAIL,
            libc::ENODEV,
            libc::ESRCH,
            libc::EBUSY,
        ];
        self.caller.demand("QUERY", errno, &wanted);
    }

    fn evict(&mut self) {
        let mut argument = args::Detach {
            timeout_ms: self.random.pick(&[0, 1, 20]),
            ..args::Detach::default()
        };
        let device = self.nodes.device(&mut self.random);
        let errno = self.caller.empty(Command::Evict, device, &mut argument);
        let wanted: &[i32] = if self.is_privileged {
            &[0, libc::EBUSY, libc::ENODEV]
        } else {
            &[libc::EPERM]
        };
        self.caller.demand("EVICT", errno, wanted);
    }

    /// The user of all processes here may hold any number of frames again, if it may say so.
    fn lift_limit(&mut self) {
        let device = self.nodes.device(&mut self.random);
        let errno = self.caller.set_quota(device, 0, QUOTA_INHERITED, 0);
        let wanted: &[i32] = if self.is_privileged {
            &[0, libc::ENODEV]
        } else {
            &[libc::EPERM]
        };
        self.caller.demand("SET_QUOTA", errno, wanted);
    }

    fn name_no_process(&mut self) {
        let (start, length) = somewhere(&self.land.field, &mut self.random);
        for (file, errno) in [
            (&self.files.dead, libc::ESRCH),
            (&self.files.wrong, libc::EBADFD),
        ] {
            let proc_fd = file.as_raw_fd();
            let device = self.nodes.device(&mut self.random);
            let mut migrate = args::Migrate {
                start,
                length,
                direction: Direction::ToDevice as u32,
                proc_fd,
                ..args::Migrate::default()
            };
            let answer = self.caller.migrate(device, &mut migrate);
            self.caller
                .demand("MIGRATE of no process", answer, &[errno, libc::ENODEV]);
            let mut query = args::Query {
                start,
                length,
                proc_fd,
                ..args::Query::default()
            };
            let answer = self.caller.query(device, &mut query, false);
            self.caller
                .demand("QUERY of no process", answer, &[errno, libc::ENODEV]);
        }
    }

    /// Pins some memory until the next time.
    fn pin(&mut self) {
        if self.ring.take().is_some() {
            return;
        }
        if let Some(part) = self.land.some_part(&mut self.random) {
            let ring = Ring::new();
            // Refused at holes, and for memory that may not be written.
            drop(ring.pin_vector(self.land.field.vector(part.offset, part.len)));
            self.ring = Some(ring);
        }
    }

    /// Puts a page into a pipe until the next time.
    fn splice(&mut self) {
        if self.pipe.take().is_some() {
            return;
        }
        if let Some(part) = self.land.some_part(&mut self.random) {
            let pipe = PagePipe::new();
            drop(pipe.hold_vector(self.land.field.vector(part.offset, PAGE)));
            self.pipe = Some(pipe);
        }
    }

    fn fork(&mut self) {
        if self.children.len() == NR_CHILDREN {
            return;
        }
        let first = self.caller.seat + 1;
        let seat = (first..first + NR_CHILDREN)
            .find(|seat| self.children.iter().all(|child| child.seat != *seat))
            .expect("a child's seat is free");
        let seed = self.random.next();
        let nr_steps = 2 + self.random.below(30);
        let pid = task::fork();
        if pid == 0 {
            self.caller = Caller::sit(self.caller.board, seat);
            self.random = Random::new(seed, seat);
            self.is_child = true;
            self.live(nr_steps);
        }
        self.children.push(Child { pid, seat });
    }

    /// A child's life.
    fn live(&mut self, nr_steps: usize) -> ! {
        task::die_with_parent();
        self.demand_sound(self.land.check_all(true));
        let mut deck = Deck::new(&CHILD_STEPS);
        for _step in 0..nr_steps {
            let step = deck.deal(&mut self.random);
            self.step(step);
        }
        self.demand_sound(self.land.check_all(true));
        task::exit_now(0);
    }

    fn reap(&mut self, child: Child, kills: bool) {
        if kills {
            task::kill(child.pid);
        }
        let end = task::reap(child.pid, true);
        self.caller.board.clear(child.seat);
        let is_well =
            end == Some(End::Status(0)) || (kills && end == Some(End::Signal(libc::SIGKILL)));
        if !is_well {
            self.caller.board.fail(&format!("a child ended by {end:?}"));
        }
    }
}
