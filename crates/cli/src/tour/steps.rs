//! The story: what the tour does, in which order, and what is checked after each step.

mod begin;
mod checks;

use std::time::Instant;

use cohmem::{ByteCount, Device, Direction, Process, ReasonCounts};

use super::{
    attachment::{Attachment, TIME_LIMIT},
    background::{self, Background},
    moves::{self, Residency},
    numeric::Numeric,
    programs::{Program, Workplace},
    redis::{self, Redis},
    report::{self, Drain, Report},
    trouble::{Stop, Trouble},
    voice::Voice,
};

/// Runs the tour.
pub(super) fn run(
    size: ByteCount,
    device: Option<u32>,
    voice: &Voice,
    stop: &Stop,
    report: &mut Report,
) -> Result<(), Trouble> {
    let mut tour = Tour::begin(size, device, voice, stop, report)?;
    let ended = tour.story(size);
    if ended.is_err() {
        // Whatever failed because a program has ended: that is what to tell.
        tour.check_running()?;
    }
    ended
}

/// A program that moves, and the right to move it.
#[derive(Debug)]
struct Mover {
    which: Which,
    process: Process,
    is_there: bool,
}

/// The programs that move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Which {
    Redis,
    Numeric,
}

impl Mover {
    /// The program must have started in earnest: the right is for the memory that it has now.
    fn new(which: Which, program: &Program) -> Result<Self, Trouble> {
        Ok(Self {
            which,
            process: Process::open(program.pid())?,
            is_there: false,
        })
    }
}

/// What the programs have done so far.
#[derive(Clone, Copy, Debug, Default)]
struct Work {
    commands: u64,
    rounds: u64,
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
    started: Instant,
}

impl Tour<'_> {
    fn story(&mut self, size: ByteCount) -> Result<(), Trouble> {
        self.start_programs(size)?;
        self.move_there()?;
        self.run_there()?;
        self.move_half()?;
        self.detach()?;
        self.end()
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
        self.voice
            .say("... waiting until numpy is loaded and the array is filled");
        self.numeric.wait_ready(self.stop)?;
        self.movers = vec![
            Mover::new(Which::Redis, self.redis.server())?,
            Mover::new(Which::Numeric, self.numeric.program())?,
        ];
        self.check_answers(1)?;
        self.check_isolation()
    }

    fn move_there(&mut self) -> Result<(), Trouble> {
        self.begin_step("3. Their memory moves to the device, while they run");
        let mut stayed = self.migrate(Which::Redis, Direction::ToDevice)?;
        stayed.merge(&self.migrate(Which::Numeric, Direction::ToDevice)?);
        self.voice
            .say("pages of their mappings that did not move, and why:");
        report::print_reasons(&stayed, self.voice);
        self.check_residency()?;
        self.check_isolation()?;
        self.check_answers(1)
    }

    fn run_there(&mut self) -> Result<(), Trouble> {
        self.begin_step("4. They run on, from the device's memory");
        self.check_answers(3)?;
        self.check_residency()?;
        self.check_isolation()
    }

    fn move_half(&mut self) -> Result<(), Trouble> {
        self.begin_step("5. One of them comes home, and goes again");
        self.migrate(Which::Numeric, Direction::ToSystem)?;
        self.check_isolation()?;
        self.check_answers(1)?;
        self.migrate(Which::Numeric, Direction::ToDevice)?;
        self.check_isolation()?;
        self.check_answers(1)
    }

    fn detach(&mut self) -> Result<(), Trouble> {
        self.begin_step("6. The device is taken away, while they run");
        let before = self.count_work()?;
        let (outcome, elapsed) = self.attachment.detach(&self.device, self.voice)?;
        self.report.note_drain(
            self.step,
            Drain::Detach,
            outcome.evicted,
            elapsed,
            self.voice,
        );
        self.say_work(before)?;
        for frame in &outcome.stuck {
            self.say_frame(frame);
        }
        let text = match outcome.is_done() {
            true => "every page is home, and the device is gone".to_owned(),
            false => format!(
                "{} frames are left after {} s",
                outcome.nr_stuck,
                TIME_LIMIT.as_secs()
            ),
        };
        self.check("detach", outcome.is_done(), &text);
        if outcome.is_done() {
            self.check_isolation_without_device()?;
        }
        self.check_answers(3)
    }

    fn end(&mut self) -> Result<(), Trouble> {
        self.begin_step("7. Summary");
        if let Some(text) = self.attachment.restore_detached()? {
            self.voice.say(text);
            self.voice.say("");
        }
        self.report.print_table(self.started.elapsed(), self.voice);
        Ok(())
    }

    /// Moves all of one program while it runs; why pages stayed.
    fn migrate(&mut self, which: Which, direction: Direction) -> Result<ReasonCounts, Trouble> {
        let before = self.count_work()?;
        let name = self.program(which).name();
        let Some(mover) = self.movers.iter_mut().find(|mover| mover.which == which) else {
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
        self.report
            .note_move(self.step, name, direction, &done, self.voice);
        self.say_work(before)?;
        if done.unaccounted > 0 {
            let text = format!(
                "{} of {} pages of {name} are not counted once",
                done.unaccounted, done.total
            );
            self.check("every page is accounted for", false, &text);
        }
        Ok(done.stayed)
    }

    const fn program(&self, which: Which) -> &Program {
        match which {
            Which::Redis => self.redis.server(),
            Which::Numeric => self.numeric.program(),
        }
    }

    fn count_work(&mut self) -> Result<Work, Trouble> {
        Ok(Work {
            commands: self.redis.count_commands()?,
            rounds: self.numeric.rounds().right,
        })
    }

    fn say_work(&mut self, before: Work) -> Result<(), Trouble> {
        let now = self.count_work()?;
        let rounds = now.rounds.saturating_sub(before.rounds);
        self.voice.say(format!(
            "   meanwhile redis-server carried out {} commands, and python3 ended {rounds} {}",
            now.commands.saturating_sub(before.commands),
            if rounds == 1 { "round" } else { "rounds" }
        ));
        Ok(())
    }

    /// Shows where the pages of each program are.
    fn residency(&self) -> Result<Vec<(&'static str, Residency)>, Trouble> {
        let mut all = Vec::new();
        for mover in &self.movers {
            let name = self.program(mover.which).name();
            let now = moves::residency(&self.device, &mover.process)?;
            self.voice.say(format!(
                "{name} now has {} pages on the device, {} of anonymous memory and {} of files in \
                 system memory",
                now.device, now.system, now.file
            ));
            all.push((name, now));
        }
        Ok(all)
    }
}
