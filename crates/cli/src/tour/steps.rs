//! The story: what the tour does, in which order, and what is checked after each step.

use std::time::Instant;

use cohmem::{ByteCount, Device, Direction, Process, ReasonCounts};

use super::{
    Backend,
    attachment::{Attachment, TIME_LIMIT},
    background::{self, Background},
    census::Census,
    machine::Machine,
    moves,
    numeric::Numeric,
    programs::{Program, Workplace},
    redis::{self, Redis},
    report::{self, Report},
    trouble::{Stop, Trouble},
    voice::Voice,
};

/// What the programs need beside the array, on the device and at home.
const REST: u64 = 256 << 20;
/// A device of this size, if the range has it, even where less would do.
const DEVICE: u64 = 1 << 30;

/// Runs the tour.
pub(super) fn run(
    args: &super::Tour,
    voice: &Voice,
    stop: &Stop,
    report: &mut Report,
) -> Result<(), Trouble> {
    let Backend::Driver = args.backend;
    let mut tour = Tour::begin(args, voice, stop, report)?;
    tour.start_programs(args.size)?;
    tour.move_there()?;
    tour.run_there()?;
    tour.move_half()?;
    tour.detach()?;
    tour.end()
}

/// A program that moves, and the right to move it.
#[derive(Debug)]
struct Mover {
    name: &'static str,
    process: Process,
    is_there: bool,
}

impl Mover {
    /// The program must have started in earnest: the right is for the memory that it has now.
    fn new(program: &Program) -> Result<Self, Trouble> {
        Ok(Self {
            name: program.name(),
            process: Process::open(program.pid())?,
            is_there: false,
        })
    }
}

/// The tour, as far as it is. Fields go in this order: the programs first.
struct Tour<'a> {
    background: Background,
    redis: Redis,
    numeric: Numeric,
    movers: Vec<Mover>,
    device: Device,
    attachment: Attachment,
    workplace: Workplace,
    voice: &'a Voice,
    stop: &'a Stop,
    report: &'a mut Report,
    step: &'static str,
    commands: u64,
}

impl<'a> Tour<'a> {
    /// Step 1: attaches the device. The programs are started at once, since that takes long.
    fn begin(
        args: &super::Tour,
        voice: &'a Voice,
        stop: &'a Stop,
        report: &'a mut Report,
    ) -> Result<Self, Trouble> {
        let control = Attachment::open_control()?;
        let step = "1. Where this runs";
        voice.step(step);
        let machine = Machine::read()?;
        voice.say(format!(
            "Linux {}, {} processors ({})",
            machine.kernel, machine.nr_processors, machine.processor
        ));
        voice.say(format!(
            "{} of memory, {} available",
            machine.memory, machine.available
        ));
        voice.say(machine.caveat());
        let needed = ByteCount::new(args.size.get() + REST);
        if machine.available < ByteCount::new(needed.get() * 5 / 4) {
            let available = machine.available;
            return Err(Trouble::NotHere(format!(
                "an array of {} needs about {needed} of memory, {available} are available; try --size",
                args.size
            )));
        }
        for soft in cohmem::dax::soft_reserved()? {
            voice.say(format!(
                "soft-reserved: {} ({})",
                soft.range,
                soft.range.length()
            ));
        }
        let attachment = match args.device {
            Some(number) => Attachment::adopt(control, number)?,
            None => Attachment::attach(control, needed, ByteCount::new(needed.get().max(DEVICE)))?,
        };
        let device = Device::open(attachment.number())?;
        let status = device.query_status()?;
        let how = match attachment.took {
            Some(took) => format!("attached in {:.2} s", took.as_secs_f64()),
            None => "found attached".to_owned(),
        };
        voice.say(format!(
            "/dev/cohmem{}: {} {how}, {} frames of 4 KiB",
            attachment.number(),
            status.range,
            status.nr_frames
        ));
        report.note_machine(&machine, status.range);
        if status.nr_free * cohmem::FRAME_BYTES < needed.get() {
            return Err(Trouble::NotHere(format!(
                "an array of {} needs about {needed} of the device, {} are free; try --size",
                args.size,
                ByteCount::of_frames(status.nr_free)
            )));
        }

        let workplace = Workplace::new()?;
        let numeric = Numeric::start(args.size, &workplace)?;
        let redis = Redis::start(&workplace)?;
        let background = Background::start(&workplace)?;
        Ok(Self {
            background,
            redis,
            numeric,
            movers: Vec::new(),
            device,
            attachment,
            workplace,
            voice,
            stop,
            report,
            step,
            commands: 0,
        })
    }

    fn begin_step(&mut self, step: &'static str) {
        self.step = step;
        self.voice.step(step);
    }

    fn start_programs(&mut self, size: ByteCount) -> Result<(), Trouble> {
        self.begin_step("2. Real programs start, unmodified");
        self.redis.wait_ready(self.stop)?;
        self.redis.write_keys()?;
        self.redis.start_load(&self.workplace)?;
        self.voice.say(format!(
            "redis-server (process {}): {} keys with {} known bytes each; redis-benchmark sets and \
             gets other keys all the time",
            self.redis.server().pid(),
            redis::NR_KEYS,
            redis::VALUE_BYTES
        ));
        self.voice.say(format!(
            "python3 (process {}): numpy multiplies and adds every number of an array of {size}, \
             over and over; the checksum of each round is known beforehand",
            self.numeric.program().pid()
        ));
        self.voice.say(format!(
            "beside them: a shell that writes and reads a file of {mib} MiB (page cache), and an \
             ordinary program that allocates and frees {mib} MiB",
            mib = background::EACH_MIB
        ));
        self.numeric.wait_ready(self.stop)?;
        self.movers = vec![
            Mover::new(self.redis.server())?,
            Mover::new(self.numeric.program())?,
        ];
        self.commands = self.redis.count_commands()?;
        self.check_answers(1)?;
        self.check_isolation()
    }

    fn move_there(&mut self) -> Result<(), Trouble> {
        self.begin_step("3. Their memory moves to the device, while they run");
        let mut stayed = ReasonCounts::default();
        for mover in 0..self.movers.len() {
            stayed.merge(&self.migrate(mover, Direction::ToDevice)?);
        }
        self.voice
            .say("pages of their mappings that did not move, and why:");
        report::print_reasons(&stayed, self.voice);
        self.say_residency()?;
        self.check_isolation()?;
        self.check_answers(1)
    }

    fn run_there(&mut self) -> Result<(), Trouble> {
        self.begin_step("4. They run on, from the device's memory");
        self.check_answers(3)?;
        self.say_residency()?;
        self.check_isolation()
    }

    fn move_half(&mut self) -> Result<(), Trouble> {
        self.begin_step("5. One of them comes home, and goes again");
        let numeric = self.movers.len() - 1;
        self.migrate(numeric, Direction::ToSystem)?;
        self.check_isolation()?;
        self.check_answers(1)?;
        self.migrate(numeric, Direction::ToDevice)?;
        self.check_isolation()?;
        self.check_answers(1)
    }

    fn detach(&mut self) -> Result<(), Trouble> {
        self.begin_step("6. The device is taken away, while they run");
        let (outcome, elapsed) = self.attachment.detach(&self.device, self.voice)?;
        self.report
            .note_detach(self.step, outcome.evicted, elapsed, self.voice);
        for frame in &outcome.stuck {
            let why = frame
                .reason
                .map_or("for a reason that is unknown here", |reason| reason.text());
            self.voice.say(format!(
                "frame {:#x} stayed: {} references, {} mappings: {why}",
                frame.phys, frame.refs, frame.maps
            ));
        }
        let text = match outcome.is_done() {
            true => "every page is home, the range is free".to_owned(),
            false => format!(
                "{} frames are left after {} s",
                outcome.nr_stuck,
                TIME_LIMIT.as_secs()
            ),
        };
        self.check("detach", outcome.is_done(), &text);
        if !outcome.is_done() {
            return Ok(());
        }
        let census =
            Census::take_without_device(self.attachment.range(), &self.roots(), self.stop)?;
        self.report.note_census(self.step, &census);
        self.check("isolation", census.holds(0), &census.text(0));
        self.check_answers(3)
    }

    fn end(mut self) -> Result<(), Trouble> {
        self.begin_step("7. Summary");
        if let Some(text) = self.attachment.restore_detached()? {
            self.voice.say(text);
        }
        self.report.print_table(self.voice);
        Ok(())
    }

    fn roots(&self) -> [(&'static str, u32); 2] {
        [self.redis.server(), self.numeric.program()].map(|program| (program.name(), program.pid()))
    }

    /// Moves all of one program; why pages stayed.
    fn migrate(&mut self, mover: usize, direction: Direction) -> Result<ReasonCounts, Trouble> {
        let Some(mover) = self.movers.get_mut(mover) else {
            return Ok(ReasonCounts::default());
        };
        let done = moves::migrate(
            &self.device,
            &mover.process,
            direction,
            self.voice,
            self.stop,
        )?;
        mover.is_there = direction == Direction::ToDevice;
        let name = mover.name;
        self.report
            .note_move(self.step, name, direction, &done, self.voice);
        if done.unaccounted > 0 {
            let text = format!(
                "{} of {} pages of {name} not counted once",
                done.unaccounted, done.total
            );
            self.check("every page accounted for", false, &text);
        }
        let least = 1;
        if done.moved < least {
            self.check("pages moved", false, &format!("none of {name} did"));
        }
        Ok(done.stayed)
    }

    fn say_residency(&self) -> Result<(), Trouble> {
        for mover in &self.movers {
            let now = moves::residency(&self.device, &mover.process)?;
            self.voice.say(format!(
                "{} now has {} pages on the device, {} of anonymous memory and {} of files in \
                 system memory",
                mover.name, now.device, now.system, now.file
            ));
        }
        Ok(())
    }

    /// Checks that all programs run, that redis holds what was written, and that `nr_rounds` more
    /// rounds of the numerical program give the known checksums.
    fn check_answers(&mut self, nr_rounds: u64) -> Result<(), Trouble> {
        self.background.check_running()?;
        self.redis.check_running()?;
        let rounds = self
            .numeric
            .wait_rounds(nr_rounds, self.voice, self.stop)?
            .clone();
        let text = match &rounds.wrong {
            None => format!("all {} checksums so far are right", rounds.right),
            Some(wrong) => wrong.clone(),
        };
        self.check("python3", rounds.wrong.is_none(), &text);
        let wrong = self.redis.find_wrong_value()?;
        let commands = self.redis.count_commands()?;
        let text = wrong.clone().unwrap_or_else(|| {
            format!(
                "all {} known values are right; {} commands carried out since the last look",
                redis::NR_KEYS,
                commands.saturating_sub(self.commands)
            )
        });
        self.check("redis-server", wrong.is_none(), &text);
        self.commands = commands;
        Ok(())
    }

    /// Checks that the programs hold every frame that is handed out, and nobody else one.
    fn check_isolation(&mut self) -> Result<(), Trouble> {
        let mut census = Census::take(&self.device, &self.roots(), self.stop)?;
        let mut named = 0;
        if census.mapped_nowhere() > 0 {
            named = self.name_frames()?;
            if named == 0 {
                census = Census::take(&self.device, &self.roots(), self.stop)?;
            }
        }
        self.report.note_census(self.step, &census);
        self.voice.say(format!(
            "(for the count both programs stood still for {:.1} s, by SIGSTOP)",
            census.still_for.as_secs_f64()
        ));
        self.check("isolation", census.holds(named), &census.text(named));
        Ok(())
    }

    /// Lists frames that no process maps, each with its reason; how many they are. Only a drain
    /// tells them: everything goes home for it, and again to the device.
    fn name_frames(&mut self) -> Result<u64, Trouble> {
        self.voice
            .say("some frames are mapped nowhere; the driver names them when it takes all home");
        let started = Instant::now();
        let outcome = self.device.evict(std::time::Duration::from_secs(2))?;
        self.report
            .note_detach(self.step, outcome.evicted, started.elapsed(), self.voice);
        let mut named = 0;
        for frame in outcome.stuck.iter().filter(|frame| frame.maps == 0) {
            named += u64::from(frame.reason.is_some());
            let why = frame
                .reason
                .map_or("for a reason that is unknown here", |reason| reason.text());
            self.voice.say(format!(
                "frame {:#x}, {} references: {why}",
                frame.phys, frame.refs
            ));
        }
        for mover in 0..self.movers.len() {
            if self.movers.get(mover).is_some_and(|mover| mover.is_there) {
                self.migrate(mover, Direction::ToDevice)?;
            }
        }
        Ok(named)
    }

    fn check(&mut self, name: &str, held: bool, text: &str) {
        self.report.check(self.step, name, held, text, self.voice);
    }
}
