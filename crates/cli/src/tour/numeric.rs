//! python3 with numpy: rounds of exact arithmetic on a large array, each with a known checksum.

use std::{
    io::{BufRead, BufReader},
    process::Stdio,
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use cohmem::ByteCount;

use super::{
    programs::{Program, Workplace, python},
    trouble::{Stop, Trouble},
    voice::Voice,
};

const SCRIPT: &str = include_str!("numeric.py");
const ROW: u64 = 512;
const FACTOR: u64 = 6_364_136_223_846_793_005;
const SUMMAND: u64 = 1_442_695_040_888_963_407;

/// The checksums that the rounds must give, one after the other.
///
/// After any number of rounds the array holds `a * i + b` at place i, so that a checksum follows
/// from a, b and two sums over the places.
#[derive(Debug)]
struct Expected {
    a: u64,
    b: u64,
    weighted_places: u64,
    weighted_rows: u64,
}

impl Expected {
    fn new(nr_numbers: u64) -> Self {
        let mut expected = Self {
            a: 1,
            b: 0,
            weighted_places: 0,
            weighted_rows: 0,
        };
        for row in 0..nr_numbers / ROW {
            // The places of the row are ROW * row .. ROW * (row + 1).
            let places = (ROW * ROW)
                .wrapping_mul(row)
                .wrapping_add(ROW * (ROW - 1) / 2);
            let weight = row + 1;
            let weighted = places.wrapping_mul(weight);
            expected.weighted_places = expected.weighted_places.wrapping_add(weighted);
            expected.weighted_rows = expected
                .weighted_rows
                .wrapping_add(ROW.wrapping_mul(weight));
        }
        expected
    }

    fn next(&mut self) -> u64 {
        self.a = self.a.wrapping_mul(FACTOR);
        self.b = self.b.wrapping_mul(FACTOR).wrapping_add(SUMMAND);
        let of_places = self.a.wrapping_mul(self.weighted_places);
        of_places.wrapping_add(self.b.wrapping_mul(self.weighted_rows))
    }
}

/// How the rounds went so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Rounds {
    /// Rounds that gave the known checksum.
    pub(super) right: u64,
    /// The first line that was not as it should be, with what it should have been.
    pub(super) wrong: Option<String>,
}

/// The running program.
#[derive(Debug)]
pub(super) struct Numeric {
    program: Program,
    lines: Receiver<String>,
    expected: Expected,
    rounds: Rounds,
}

impl Numeric {
    /// Starts it; it is not ready before [`Self::wait_ready`] has returned.
    pub(super) fn start(size: ByteCount, workplace: &Workplace) -> Result<Self, Trouble> {
        let nr_numbers = (size.get() / 8).next_multiple_of(ROW);
        let python = python()?;
        let numbers = [nr_numbers, FACTOR, SUMMAND].map(|number| number.to_string());
        let mut words = vec![python.as_str(), "-I", "-c", SCRIPT];
        words.extend(numbers.iter().map(String::as_str));
        let mut program = Program::start("python3", &words, workplace, Stdio::piped())?;
        let stdout = program.take_stdout();
        let stdout = stdout.ok_or_else(|| Trouble::said("python3 has no standard output"))?;
        let (to, lines) = mpsc::channel();
        thread::Builder::new()
            .name("rounds".to_owned())
            .spawn(move || {
                // An error is the end of its output, which the other side notices.
                for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                    if to.send(line).is_err() {
                        break;
                    }
                }
            })
            .map_err(|source| Trouble::failed("cannot start a thread", source))?;
        let expected = Expected::new(nr_numbers);
        Ok(Self {
            program,
            lines,
            expected,
            rounds: Rounds::default(),
        })
    }

    pub(super) const fn program(&self) -> &Program {
        &self.program
    }

    /// Fails if it has ended.
    pub(super) fn check_running(&mut self) -> Result<(), Trouble> {
        self.program.check_running()
    }

    /// Waits until the array is filled.
    pub(super) fn wait_ready(&mut self, stop: &Stop) -> Result<(), Trouble> {
        let line = self.line(stop, Instant::now() + Duration::from_secs(180))?;
        match line.as_str() {
            "ready" => Ok(()),
            _ => Err(Trouble::said(format!(
                "python3 said {line:?} instead of \"ready\""
            ))),
        }
    }

    /// Waits until `nr_rounds` more rounds have ended; the rounds so far, all of them checked.
    pub(super) fn wait_rounds(
        &mut self,
        nr_rounds: u64,
        voice: &Voice,
        stop: &Stop,
    ) -> Result<&Rounds, Trouble> {
        self.take_ended();
        let mut progress = voice.progress("rounds of the numerical program", nr_rounds);
        for round in 0..nr_rounds {
            let line = self.line(stop, Instant::now() + Duration::from_secs(120))?;
            self.judge(&line);
            progress.set(round + 1);
        }
        Ok(&self.rounds)
    }

    /// The rounds that have ended so far, all of them checked.
    pub(super) fn rounds(&mut self) -> &Rounds {
        self.take_ended();
        &self.rounds
    }

    fn take_ended(&mut self) {
        while let Ok(line) = self.lines.try_recv() {
            self.judge(&line);
        }
    }

    fn judge(&mut self, line: &str) {
        let expected = format!("{:016x}", self.expected.next());
        if line == expected {
            self.rounds.right += 1;
        } else if self.rounds.wrong.is_none() {
            let round = self.rounds.right + 1;
            self.rounds.wrong = Some(format!("round {round} gave {line}, {expected} is right"));
        }
    }

    fn line(&mut self, stop: &Stop, deadline: Instant) -> Result<String, Trouble> {
        loop {
            match self.lines.recv_timeout(Duration::from_millis(50)) {
                Ok(line) => return Ok(line),
                Err(RecvTimeoutError::Disconnected) => {
                    self.program.check_running()?;
                    return Err(Trouble::said("python3 has closed its output"));
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
            stop.check()?;
            if Instant::now() >= deadline {
                return Err(Trouble::said("python3 makes no progress"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_formula_gives_what_the_loop_gives() {
        let mut numbers: Vec<u64> = (0..ROW * 5).collect();
        let mut expected = Expected::new(ROW * 5);
        for _ in 0..4 {
            let mut checksum = 0_u64;
            for (place, number) in numbers.iter_mut().enumerate() {
                *number = number.wrapping_mul(FACTOR).wrapping_add(SUMMAND);
                let weight = place as u64 / ROW + 1;
                checksum = checksum.wrapping_add(number.wrapping_mul(weight));
            }
            assert_eq!(expected.next(), checksum);
        }
    }

    #[test]
    fn a_lost_page_changes_the_checksum() {
        let mut expected = Expected::new(ROW * 5);
        let right = expected.next();
        let mut numbers: Vec<u64> = (0..ROW * 5).collect();
        for number in &mut numbers {
            *number = number.wrapping_mul(FACTOR).wrapping_add(SUMMAND);
        }
        // Two pages in each other's place.
        let (first, second) = numbers.split_at_mut(512);
        first.swap_with_slice(&mut second[..512]);
        let weighted = numbers
            .iter()
            .enumerate()
            .map(|(place, number)| number.wrapping_mul(place as u64 / ROW + 1));
        assert_ne!(weighted.fold(0, u64::wrapping_add), right);
    }
}
