//! What the suite says of each test, and what is to be made of it.

use std::{collections::BTreeMap, fmt::Write as _};

use anyhow::{Context as _, Result, bail};

/// A test that this kernel cannot run, on any device.
#[derive(Debug)]
pub(super) struct Cannot {
    /// Its name, without fixture and variant.
    pub(super) test: &'static str,
    pub(super) cause: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    Pass,
    Fail(String),
    Skip(String),
}

/// The verdicts on each device.
#[derive(Debug)]
pub(super) struct Verdicts {
    /// Number of tests that the suite announced.
    nr_planned: usize,
    /// Devices, in the order in which they ran.
    devices: Vec<String>,
    /// By memory type and test, in the suite's order; then by device.
    tests: Vec<(String, BTreeMap<String, Verdict>)>,
}

impl Verdicts {
    /// Reads the suite's output (TAP), with a line "device NAME" before each device's. A test that ran
    /// again has its last verdict.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let mut verdicts = Self {
            nr_planned: 0,
            devices: Vec::new(),
            tests: Vec::new(),
        };
        let mut reason = String::new();
        for line in text.lines() {
            if let Some(name) = line.strip_prefix("device ") {
                verdicts.devices.push(name.to_owned());
            } else if let Some(nr) = line.strip_prefix("1..") {
                let nr = nr.parse().with_context(|| format!("no plan: {line:?}"))?;
                // One that runs again is planned alone.
                verdicts.nr_planned = verdicts.nr_planned.max(nr);
            } else if let Some(rest) = line.strip_prefix("not ok ") {
                verdicts.add(rest, Verdict::Fail(std::mem::take(&mut reason)))?;
            } else if let Some(rest) = line.strip_prefix("ok ") {
                let verdict = match rest.split_once(" # SKIP") {
                    Some((_, why)) => Verdict::Skip(why.trim().to_owned()),
                    None => Verdict::Pass,
                };
                verdicts.add(rest, verdict)?;
                reason.clear();
            } else if let Some(said) = line.strip_prefix("# ")
                && reason.is_empty()
                && (said.contains("Expected") || said.contains("terminated"))
            {
                // The first complaint is the cause, the others its consequences.
                said.clone_into(&mut reason);
            }
        }
        if verdicts.tests.is_empty() {
            bail!("the suite says nothing");
        }
        Ok(verdicts)
    }

    /// Notes the verdict of a line "NUMBER FIXTURE.VARIANT.TEST ...".
    fn add(&mut self, rest: &str, verdict: Verdict) -> Result<()> {
        let name = rest.split_whitespace().nth(1);
        let parts: Vec<_> = name.unwrap_or("").split('.').collect();
        let &[fixture, variant, test] = parts.as_slice() else {
            bail!("a verdict on no test: {rest:?}");
        };
        // The suite's variants are named "hmm_device_private" and the like.
        let memory = variant.rsplit('_').next().unwrap_or(variant);
        let device = self.devices.last().context("a verdict before any device")?;
        let name = format!("{memory} {fixture}.{test}");
        let index = match self.tests.iter().position(|(known, _)| *known == name) {
            Some(index) => index,
            None => {
                self.tests.push((name, BTreeMap::new()));
                self.tests.len() - 1
            }
        };
        self.tests[index].1.insert(device.clone(), verdict);
        Ok(())
    }

    /// A line a test, the devices side by side.
    pub(super) fn table(&self, cannot: &[Cannot]) -> String {
        let mut table = String::new();
        let mut row = |name: &str, cells: &[&str], note: &str| {
            let mut line = format!("{name:<40}");
            for cell in cells {
                // Writing to a string does not fail.
                let _written = write!(line, "{cell:<16}");
            }
            line.push_str(note);
            table.push_str(line.trim_end());
            table.push('\n');
        };
        let devices: Vec<&str> = self.devices.iter().map(String::as_str).collect();
        row("test", &devices, "");
        for (name, verdicts) in &self.tests {
            let mut cells = Vec::new();
            let mut notes = Vec::new();
            for device in &devices {
                let (cell, note) = match verdicts.get(*device) {
                    None => ("did not run", String::new()),
                    Some(Verdict::Pass) => ("pass", String::new()),
                    Some(Verdict::Skip(why)) => ("skip", format!("{device}: {why}")),
                    Some(Verdict::Fail(why)) => match cause_of(name, cannot) {
                        Some(cause) => ("cannot", cause.to_owned()),
                        None => ("FAIL", format!("{device}: {why}")),
                    },
                };
                cells.push(cell);
                if !note.is_empty() && !notes.contains(&note) {
                    notes.push(note);
                }
            }
            row(name, &cells, &notes.join("; "));
        }
        for device in devices {
            let by_memory = self.passed(device);
            let nr_passed: usize = by_memory.values().map(|&(nr_passed, _)| nr_passed).sum();
            let parts: Vec<_> = by_memory
                .iter()
                .map(|(memory, (nr_passed, nr_tests))| {
                    format!("{memory} {nr_passed} of {nr_tests}")
                })
                .collect();
            table.push_str(&format!(
                "{device}: {nr_passed} of {} pass ({})\n",
                self.nr_planned,
                parts.join(", ")
            ));
        }
        table
    }

    /// How many tests `device` passed, and of how many, by memory type.
    fn passed(&self, device: &str) -> BTreeMap<&str, (usize, usize)> {
        let mut passed = BTreeMap::new();
        for (name, verdicts) in &self.tests {
            let memory = name.split_once(' ').map_or("", |(memory, _)| memory);
            let (nr_passed, nr_tests) = passed.entry(memory).or_insert((0, 0));
            *nr_passed += usize::from(verdicts.get(device) == Some(&Verdict::Pass));
            *nr_tests += 1;
        }
        passed
    }

    /// There are tests of private memory.
    pub(super) fn has_private(&self) -> bool {
        self.tests
            .iter()
            .any(|(name, _)| name.starts_with("private "))
    }

    /// What `device` did not pass, for no cause that is listed.
    pub(super) fn unexpected(&self, device: &str, cannot: &[Cannot]) -> Vec<String> {
        let mut unexpected = Vec::new();
        if self.tests.len() != self.nr_planned {
            unexpected.push(format!(
                "{} of {} tests ran",
                self.tests.len(),
                self.nr_planned
            ));
        }
        for (name, verdicts) in &self.tests {
            match verdicts.get(device) {
                Some(Verdict::Pass) => {}
                Some(Verdict::Fail(_)) if cause_of(name, cannot).is_some() => {}
                Some(Verdict::Fail(why)) => unexpected.push(format!("{name} failed: {why}")),
                Some(Verdict::Skip(why)) => unexpected.push(format!("{name} was skipped: {why}")),
                None => unexpected.push(format!("{name} did not run")),
            }
        }
        unexpected
    }
}

/// Why the kernel cannot run a test.
fn cause_of<'c>(name: &str, cannot: &'c [Cannot]) -> Option<&'c str> {
    let test = name.split_once('.')?.1;
    cannot
        .iter()
        .find(|entry| entry.test == test)
        .map(|entry| entry.cause.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "device theirs\nTAP version 13\n1..3\nok 1 hmm.hmm_device_private.read\n\
        # x.c:1:lock:Expected ret (-16) == 0 (0)\n# lock: Test terminated by assertion\n\
        not ok 2 hmm.hmm_device_coherent.lock\nok 3 hmm2.hmm2_device_coherent.gup # SKIP no driver\n\
        device ours\n1..3\nok 1 hmm.hmm_device_private.read\n# x.c:1:lock:Expected ret (-95) == 0 (0)\n\
        not ok 2 hmm.hmm_device_coherent.lock\nok 3 hmm2.hmm2_device_coherent.gup\n";

    fn cannot() -> Vec<Cannot> {
        vec![Cannot {
            test: "lock",
            cause: "no symbol".to_owned(),
        }]
    }

    #[test]
    fn devices_stand_side_by_side() {
        let table = Verdicts::parse(OUTPUT)
            .expect("good output")
            .table(&cannot());
        let rows: Vec<Vec<_>> = table
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert_eq!(rows[0], ["test", "theirs", "ours"]);
        assert_eq!(rows[1], ["private", "hmm.read", "pass", "pass"]);
        assert_eq!(
            rows[2],
            ["coherent", "hmm.lock", "cannot", "cannot", "no", "symbol"]
        );
        assert_eq!(rows[3][1..4], ["hmm2.gup", "skip", "pass"]);
        assert_eq!(
            rows[4].join(" "),
            "theirs: 1 of 3 pass (coherent 0 of 2, private 1 of 1)"
        );
        assert_eq!(
            rows[5].join(" "),
            "ours: 2 of 3 pass (coherent 1 of 2, private 1 of 1)"
        );
    }

    #[test]
    fn only_listed_failures_are_expected() {
        let verdicts = Verdicts::parse(OUTPUT).expect("good output");
        assert!(verdicts.unexpected("ours", &cannot()).is_empty());
        let unlisted = verdicts.unexpected("ours", &[]);
        assert_eq!(
            unlisted,
            ["coherent hmm.lock failed: x.c:1:lock:Expected ret (-95) == 0 (0)"]
        );
        let skipped = verdicts.unexpected("theirs", &cannot());
        assert_eq!(skipped, ["coherent hmm2.gup was skipped: no driver"]);
    }

    #[test]
    fn a_suite_that_ends_early_is_a_failure() {
        let cut = OUTPUT.replace("ok 3 hmm2.hmm2_device_coherent.gup\n", "");
        let verdicts = Verdicts::parse(&cut).expect("good output");
        assert_eq!(
            verdicts.unexpected("ours", &cannot()),
            ["coherent hmm2.gup did not run"]
        );
        assert!(verdicts.has_private());
        let silent = Verdicts::parse("device ours\n1..3\n").expect_err("no verdict");
        assert!(silent.to_string().contains("says nothing"), "{silent}");
    }

    #[test]
    fn the_last_verdict_counts() {
        let again = format!("{OUTPUT}1..1\nok 1 hmm.hmm_device_coherent.lock\n");
        let verdicts = Verdicts::parse(&again).expect("good output");
        assert!(verdicts.unexpected("ours", &[]).is_empty());
    }
}
