//! What is checked: answers, residency, and that nobody else has a frame.

use std::time::{Duration, Instant};

use cohmem::{Direction, StuckFrame};

use super::{
    super::{
        census::{self, Census},
        redis,
        report::Drain,
        trouble::Trouble,
    },
    Tour,
};

/// Time for the drain that names frames which no process maps.
const NAMING_LIMIT: Duration = Duration::from_secs(2);

impl Tour<'_> {
    /// Fails if a program has ended.
    pub(super) fn check_running(&mut self) -> Result<(), Trouble> {
        self.background.check_running()?;
        self.redis.check_running()?;
        self.numeric.check_running()
    }

    /// Checks that all programs run, that redis holds what was written, and that `nr_rounds` more
    /// rounds of the numerical program give the known checksums.
    pub(super) fn check_answers(&mut self, nr_rounds: u64) -> Result<(), Trouble> {
        self.check_running()?;
        let rounds = self
            .numeric
            .wait_rounds(nr_rounds, self.voice, self.stop)?
            .clone();
        let text = rounds.wrong.clone().unwrap_or_else(|| match rounds.right {
            1 => "its checksum is right".to_owned(),
            right => format!("all {right} checksums so far are right"),
        });
        self.check("python3", rounds.wrong.is_none(), &text);
        let wrong = self.redis.find_wrong_value()?;
        let text = wrong
            .clone()
            .unwrap_or_else(|| format!("all {} known values are right", redis::NR_KEYS));
        self.check("redis-server", wrong.is_none(), &text);
        Ok(())
    }

    /// Checks that most of what each program has is on the device. Memory that it has got since
    /// is not.
    pub(super) fn check_residency(&mut self) -> Result<(), Trouble> {
        for (name, now) in self.residency()? {
            let held = now.device >= 4 * now.system;
            let all = now.device + now.system;
            let text = format!(
                "{} of {all} anonymous pages of {name} are there",
                now.device
            );
            self.check("on the device", held, &text);
        }
        Ok(())
    }

    /// Checks that the programs hold every frame that is handed out, and nobody else one.
    pub(super) fn check_isolation(&mut self) -> Result<(), Trouble> {
        let mut census = Census::take(&self.device, &self.roots(), self.stop)?;
        let mut named = 0;
        if census.mapped_nowhere() > 0 {
            named = self.name_frames()?;
            if named == 0 {
                // They have come back meanwhile.
                census = Census::take(&self.device, &self.roots(), self.stop)?;
            }
        }
        self.tell(&census);
        self.check("isolation", census.holds(named), &census.text(named));
        Ok(())
    }

    /// Checks that nobody has a frame of the range once its device is gone.
    pub(super) fn check_isolation_without_device(&mut self) -> Result<(), Trouble> {
        let range = self.attachment.range();
        let census = Census::take_without_device(range, &self.roots(), self.stop)?;
        self.tell(&census);
        let text = format!("the device is gone; {}", census.text_without_device());
        self.check("isolation", census.holds(0), &text);
        Ok(())
    }

    fn tell(&mut self, census: &Census) {
        self.report.note_census(self.step, census);
        self.voice.say(format!(
            "(for the count both programs stood still for {:.1} s, by SIGSTOP)",
            census.still_for.as_secs_f64()
        ));
    }

    fn roots(&self) -> [census::Root; 2] {
        [self.redis.server(), self.numeric.program()].map(|program| census::Root {
            name: program.name(),
            pid: program.pid(),
        })
    }

    /// Lists frames that no process maps, each with its reason; how many they are.
    ///
    /// Only a drain tells them: everything goes home for it, and then again to the device.
    fn name_frames(&mut self) -> Result<u64, Trouble> {
        self.voice
            .say("some frames are mapped nowhere; the driver names them when it takes all home");
        let started = Instant::now();
        let outcome = self.device.evict(NAMING_LIMIT)?;
        let elapsed = started.elapsed();
        self.report.note_drain(
            self.step,
            Drain::Evict,
            outcome.evicted,
            elapsed,
            self.voice,
        );
        for frame in outcome.stuck.iter().filter(|frame| frame.maps == 0) {
            self.say_frame(frame);
        }
        let there = self.movers.iter().filter(|mover| mover.is_there);
        for which in there.map(|mover| mover.which).collect::<Vec<_>>() {
            self.migrate(which, Direction::ToDevice)?;
        }
        let named = outcome.stuck.iter();
        Ok(named
            .filter(|frame| frame.maps == 0 && frame.reason.is_some())
            .count() as u64)
    }

    pub(super) fn say_frame(&self, frame: &StuckFrame) {
        let why = frame
            .reason
            .map_or("for a reason that is unknown here", |reason| reason.text());
        self.voice.say(format!(
            "frame {:#x} stays, {} references, {} mappings: {why}",
            frame.phys, frame.refs, frame.maps
        ));
    }

    pub(super) fn check(&mut self, name: &str, held: bool, text: &str) {
        self.report.check(self.step, name, held, text, self.voice);
    }
}
