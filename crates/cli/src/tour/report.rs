//! What the tour found: checks as they are made, and the summary at its end.

use std::time::Duration;

use cohmem::{Direction, ReasonCounts};
use serde_json::{Map, Value, json};

use super::{
    census::Census,
    machine::Machine,
    moves::{Move, mib, rate},
    voice::Voice,
};

/// Version of the JSON objects.
const SCHEMA: &str = "cohmem.tour/1";

/// All that is told at the end.
#[derive(Debug, Default)]
pub(super) struct Report {
    moves: Vec<Row>,
    stayed: ReasonCounts,
    nr_checks: u64,
    failed: Vec<String>,
    json: Vec<Value>,
}

/// Why everything went home.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Drain {
    /// The device was taken away.
    Detach,
    /// The device stays.
    Evict,
}

#[derive(Debug)]
struct Row {
    program: String,
    what: &'static str,
    pages: u64,
    elapsed: Duration,
}

impl Report {
    /// Notes the machine and the device.
    pub(super) fn note_machine(&mut self, machine: &Machine, range: cohmem::PhysRange) {
        self.note(
            "machine",
            json!({
                "kernel": machine.kernel,
                "processor": machine.processor,
                "processors": machine.nr_processors,
                "memory_bytes": machine.memory.get(),
                "software_emulation": machine.kind == super::machine::Kind::Emulated,
                "device_start": range.start(),
                "device_bytes": range.length().get(),
            }),
        );
    }

    /// Notes a migration of one program, and shows it.
    pub(super) fn note_move(
        &mut self,
        step: &str,
        program: &str,
        direction: Direction,
        done: &Move,
        voice: &Voice,
    ) {
        let what = match direction {
            Direction::ToDevice => "to the device",
            Direction::ToSystem => "home",
        };
        if direction == Direction::ToDevice {
            self.stayed.merge(&done.stayed);
        }
        voice.say(format!(
            "{program}: {} pages ({:.1} MiB) went {what} in {:.2} s, {:.0} MiB/s",
            done.moved,
            mib(done.moved),
            done.elapsed.as_secs_f64(),
            rate(done.moved, done.elapsed)
        ));
        if done.retried.total() > 0 {
            voice.say("   pages that had to be tried again, and why:");
            print_reasons(&done.retried, voice);
        }
        self.note(
            "move",
            json!({
                "step": step,
                "program": program,
                "direction": what,
                "pages": done.moved,
                "seconds": done.elapsed.as_secs_f64(),
                "mib_per_second": rate(done.moved, done.elapsed),
                "stayed": by_name(&done.stayed),
                "tried_again": by_name(&done.retried),
            }),
        );
        self.moves.push(Row {
            program: program.to_owned(),
            what,
            pages: done.moved,
            elapsed: done.elapsed,
        });
    }

    /// Notes what went home for a detach or an evict, and shows it.
    pub(super) fn note_drain(
        &mut self,
        step: &str,
        drain: Drain,
        pages: u64,
        elapsed: Duration,
        voice: &Voice,
    ) {
        let (kind, what) = match drain {
            Drain::Detach => ("detach", "home (detach)"),
            Drain::Evict => ("evict", "home (evict)"),
        };
        let rate = rate(pages, elapsed);
        let seconds = elapsed.as_secs_f64();
        voice.say(format!(
            "{pages} pages ({:.1} MiB) of both went home in {seconds:.2} s, {rate:.0} MiB/s",
            mib(pages)
        ));
        self.note(
            kind,
            json!({
                "step": step,
                "pages": pages,
                "seconds": seconds,
                "mib_per_second": rate,
            }),
        );
        self.moves.push(Row {
            program: "both".to_owned(),
            what,
            pages,
            elapsed,
        });
    }

    /// Notes a count of the frames.
    pub(super) fn note_census(&mut self, step: &str, census: &Census) {
        let shares = |shares: &[super::census::Share]| -> Vec<Value> {
            let share = |share: &super::census::Share| json!({ "name": share.name, "pid": share.pid, "frames": share.frames });
            shares.iter().map(share).collect()
        };
        self.note(
            "census",
            json!({
                "step": step,
                "allocated": census.allocated,
                "mapped_by_programs": census.mapped,
                "mapped_nowhere": census.mapped_nowhere(),
                "programs": shares(&census.programs),
                "other_holders": shares(&census.others),
                "other_processes": census.nr_others,
                "programs_stood_still_seconds": census.still_for.as_secs_f64(),
            }),
        );
    }

    /// Notes a check, and shows it. `text` says what was found, held or not.
    pub(super) fn check(&mut self, step: &str, name: &str, held: bool, text: &str, voice: &Voice) {
        self.nr_checks += 1;
        let mark = if held { "ok    " } else { "FAILED" };
        voice.say(format!("{mark} {name}: {text}"));
        if !held {
            self.failed
                .push(format!("{name}, in step \"{step}\": {text}"));
        }
        self.note(
            "check",
            json!({ "step": step, "name": name, "held": held, "text": text }),
        );
    }

    /// The checks that failed, each with what was found.
    pub(super) fn failed(&self) -> &[String] {
        &self.failed
    }

    /// Notes fields of an object of this kind.
    pub(super) fn note(&mut self, kind: &str, fields: Value) {
        let mut object = Map::new();
        object.insert("schema".to_owned(), SCHEMA.into());
        object.insert("kind".to_owned(), kind.into());
        if let Value::Object(fields) = fields {
            object.extend(fields);
        }
        self.json.push(Value::Object(object));
    }

    /// Shows the summary.
    pub(super) fn print_table(&self, elapsed: Duration, voice: &Voice) {
        voice.say(format!(
            "{:<17} {:<14} {:>8} {:>8} {:>8} {:>7}",
            "program", "went", "pages", "MiB", "seconds", "MiB/s"
        ));
        for row in &self.moves {
            voice.say(format!(
                "{:<17} {:<14} {:>8} {:>8.1} {:>8.2} {:>7.0}",
                row.program,
                row.what,
                row.pages,
                mib(row.pages),
                row.elapsed.as_secs_f64(),
                rate(row.pages, row.elapsed)
            ));
        }
        voice.say("");
        voice.say("Pages that stayed, in all moves to the device:");
        print_reasons(&self.stayed, voice);
        self.print_verdict(elapsed, voice);
    }

    /// Shows how the checks came out.
    pub(super) fn print_verdict(&self, elapsed: Duration, voice: &Voice) {
        voice.say("");
        let failed = self.failed.len();
        voice.say(match failed {
            0 => format!(
                "All {} checks held, in {} s.",
                self.nr_checks,
                elapsed.as_secs()
            ),
            _ => format!("{failed} of {} checks FAILED.", self.nr_checks),
        });
    }

    /// Everything, for JSON.
    pub(super) fn objects(&self) -> &[Value] {
        &self.json
    }
}

/// Shows why pages stayed, the most frequent reason first.
pub(super) fn print_reasons(stayed: &ReasonCounts, voice: &Voice) {
    let mut reasons: Vec<_> = stayed.iter().collect();
    reasons.sort_by_key(|&(_, count)| std::cmp::Reverse(count));
    for (reason, count) in &reasons {
        voice.say(format!(
            "{count:>10}  {:<15}  {}",
            reason.name(),
            reason.text()
        ));
    }
    if reasons.is_empty() {
        voice.say("         0  none");
    }
}

fn by_name(counts: &ReasonCounts) -> Value {
    counts
        .iter()
        .map(|(reason, count)| (reason.name().to_owned(), Value::from(count)))
        .collect()
}

#[cfg(test)]
mod tests {
    use cohmem::Reason;

    use super::{super::trouble::Stop, *};

    #[test]
    fn a_failed_check_is_kept_with_its_step_and_finding() {
        let voice = Voice::new(true, Stop::default());
        let mut report = Report::default();
        report.check("a step", "answers", true, "right", &voice);
        report.check("a step", "isolation", false, "cat holds 1", &voice);
        assert_eq!(
            report.failed(),
            ["isolation, in step \"a step\": cat holds 1"]
        );
        assert_eq!(report.objects().len(), 2);
        assert_eq!(report.objects()[1]["held"], false);
        assert_eq!(report.objects()[1]["schema"], SCHEMA);
    }

    #[test]
    fn reasons_have_their_names_in_json() {
        let mut counts = ReasonCounts::default();
        counts.add(Reason::File, 3);
        assert_eq!(by_name(&counts), json!({ "file": 3 }));
    }
}
