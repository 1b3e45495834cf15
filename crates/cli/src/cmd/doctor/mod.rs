//! `cohmem doctor`: what this machine can do, and what is in the way.

mod backends;
mod driver;
mod kernel;
mod machine;
mod memory;
mod signature;

use clap::Args;
use serde::Serialize;

use self::machine::Machine;
use crate::{
    exit::{Exit, Result},
    output::{Output, Style},
};

/// Check what this machine can do, and what is in the way.
///
/// First which backend a program would get, the engine's levels and the numa backend; then what
/// the driver needs, which is the kernel, the module, and memory that the firmware reserves. Exit status 3 when the driver cannot be used here and now. Run it as root to see all.
#[derive(Args, Debug)]
pub(crate) struct Doctor {}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    Ok,
    Warn,
    Fail,
}

/// One thing that was looked at.
#[derive(Debug, Serialize)]
struct Check {
    schema: &'static str,
    check: &'static str,
    verdict: Verdict,
    says: String,
    /// The command or setting that would change it.
    fix: Option<String>,
}

impl Check {
    const fn new(check: &'static str, verdict: Verdict, says: String) -> Self {
        Self {
            schema: "cohmem.doctor/1",
            check,
            verdict,
            says,
            fix: None,
        }
    }

    fn ok(check: &'static str, says: impl Into<String>) -> Self {
        Self::new(check, Verdict::Ok, says.into())
    }

    fn warn(check: &'static str, says: impl Into<String>) -> Self {
        Self::new(check, Verdict::Warn, says.into())
    }

    fn fail(check: &'static str, says: impl Into<String>) -> Self {
        Self::new(check, Verdict::Fail, says.into())
    }

    fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = Some(fix.into());
        self
    }
}

impl Doctor {
    pub(crate) fn run(&self, out: &mut Output) -> Result<Exit> {
        let machine = Machine::new("/");
        let mut checks = backends::checks(&machine);
        checks.extend(kernel::checks(&machine));
        checks.extend(signature::checks(&machine));
        checks.extend(driver::checks(&machine));
        checks.extend(memory::checks(&machine));
        if out.is_json() {
            out.json(&checks)?;
        } else {
            for check in &checks {
                tell(out, check)?;
            }
        }
        let is_usable = checks.iter().all(|check| check.verdict != Verdict::Fail);
        Ok(if is_usable {
            Exit::Done
        } else {
            Exit::Impossible
        })
    }
}

fn tell(out: &mut Output, check: &Check) -> Result<()> {
    let (style, word) = match check.verdict {
        Verdict::Ok => (Style::Good, "ok  "),
        Verdict::Warn => (Style::Doubtful, "warn"),
        Verdict::Fail => (Style::Bad, "fail"),
    };
    let word = out.paint(style, word);
    out.line(&format!("{word}  {:<13}  {}", check.check, check.says))?;
    match &check.fix {
        Some(fix) => out.line(&format!("{:21}change: {fix}", "")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_has_the_published_fields() {
        let check = Check::fail("module", "it is not loaded").fix("modprobe cohmem");
        assert_eq!(
            serde_json::to_string(&check).unwrap(),
            concat!(
                r#"{"schema":"cohmem.doctor/1","check":"module","verdict":"fail","#,
                r#""says":"it is not loaded","fix":"modprobe cohmem"}"#
            )
        );
    }
}
