//! What a run of the guest came to.

use std::{path::PathBuf, process::ExitStatus, time::Duration};

use super::report::{self, Class, Complaint, Report};

/// How a run ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// Exit status of the command (128 + n when signal n ended it), if it ended.
    pub(crate) status: Option<i32>,
    /// All that went wrong besides, worst class first.
    pub(crate) complaints: Vec<Complaint>,
    /// The kernel's log.
    pub(crate) kernel_log: PathBuf,
    /// The command's standard output, if captured.
    pub(crate) stdout: Vec<u8>,
    /// The command's standard error, if captured.
    pub(crate) stderr: Vec<u8>,
}

impl Outcome {
    /// The command succeeded, and nothing complained.
    pub(crate) fn is_success(&self) -> bool {
        self.exit_code() == 0
    }

    /// Exit status for the whole run: 0 only if the command succeeded and nothing complained.
    pub(crate) fn exit_code(&self) -> u8 {
        match (self.complaints.first(), self.status) {
            (Some(worst), _) => worst.class.exit_code(),
            (None, Some(status)) => u8::try_from(status).unwrap_or(1),
            (None, None) => Class::Harness.exit_code(),
        }
    }
}

/// All that is known after QEMU's end.
pub(super) struct Ended {
    /// `None`: killed for the timeout.
    pub(super) exit: Option<ExitStatus>,
    pub(super) timeout: Duration,
    /// Whether both outputs came whole.
    pub(super) marked: bool,
    pub(super) kernel_log: String,
    pub(super) report: String,
    pub(super) qemu_log: String,
}

impl Ended {
    /// Whether the run says nothing about what was to be run: the kernel died of a breakpoint
    /// that it had itself put into its code and taken out again, before it started `lab/init`.
    ///
    /// The kernel patches its code while other processors run it, with a breakpoint as a stopgap.
    /// Under QEMU's threads a processor may still raise that breakpoint when the kernel no longer
    /// expects it: seen once in about a hundred boots, on a machine with five times more to run
    /// than processors. Later than that it is a complaint like others.
    pub(super) fn is_emulator_fault(&self) -> bool {
        self.kernel_log.contains("Oops: int3: ")
            && !self.kernel_log.contains("Run /init as init process")
    }

    pub(super) fn judge(&self) -> (Option<i32>, Vec<Complaint>) {
        let report = Report::parse(&self.report);
        let mut complaints = report.complaints;
        complaints.extend(report::scan_log(&self.kernel_log));
        let harness = |text: String| Complaint::new(Class::Harness, text);
        match self.exit {
            None => complaints.push(Complaint::new(
                Class::Timeout,
                format!(
                    "no end within {} s; the guest was killed",
                    self.timeout.as_secs()
                ),
            )),
            // A panic ends QEMU with an error, and is in the log. So is one that no device reports.
            _ if self.kernel_log.contains("Kernel panic - ") => {}
            Some(exit) if !exit.success() => {
                let said = self.qemu_log.trim();
                complaints.push(harness(format!("QEMU failed ({exit}): {said}")));
            }
            // It has said why.
            _ if complaints
                .iter()
                .any(|complaint| complaint.class == Class::Harness) => {}
            Some(_) if !report.complete => {
                complaints.push(harness("the guest ended without its report".to_owned()));
            }
            Some(_) if !self.marked => {
                complaints.push(harness("a part of the command's output is lost".to_owned()));
            }
            Some(_) => {}
        }
        complaints.sort_by_key(|complaint| complaint.class);
        (report.status, complaints)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;

    use super::*;

    fn ended(exit: Option<i32>, kernel_log: &str, report: &str) -> Ended {
        Ended {
            exit: exit.map(|code| ExitStatus::from_raw(code << 8)),
            timeout: Duration::from_secs(60),
            marked: true,
            kernel_log: kernel_log.to_owned(),
            report: report.to_owned(),
            qemu_log: "cannot open the kernel".to_owned(),
        }
    }

    fn worst(ended: &Ended) -> Option<Class> {
        ended.judge().1.first().map(|complaint| complaint.class)
    }

    #[test]
    fn only_a_complete_run_without_complaint_is_clean() {
        let report = "exit=7\ntainted=0\ncomplete=1\n";
        assert_eq!(ended(Some(0), "", report).judge(), (Some(7), vec![]));
        assert_eq!(worst(&ended(Some(0), "", "exit=0\n")), Some(Class::Harness));
        assert_eq!(worst(&ended(None, "", report)), Some(Class::Timeout));
        assert_eq!(
            worst(&Ended {
                marked: false,
                ..ended(Some(0), "", report)
            }),
            Some(Class::Harness)
        );
    }

    #[test]
    fn a_panic_is_told_from_a_qemu_that_does_not_start() {
        let panic = ended(Some(1), "[ 1.0] Kernel panic - not syncing: x", "");
        assert_eq!(worst(&panic), Some(Class::Kernel));
        let (_, complaints) = ended(Some(1), "", "").judge();
        assert_eq!(complaints.len(), 1);
        assert!(
            complaints[0].text.contains("cannot open the kernel"),
            "{}",
            complaints[0]
        );
    }

    #[test]
    fn only_a_stray_breakpoint_before_init_is_the_emulators_fault() {
        let early = "[ 2.4] Oops: int3: 0000 [#1] PREEMPT SMP NOPTI";
        assert!(ended(Some(1), early, "").is_emulator_fault());
        let late = format!("[ 2.0] Run /init as init process\n{early}");
        assert!(!ended(Some(1), &late, "").is_emulator_fault());
        assert!(!ended(Some(1), "[ 2.4] Oops: Oops: 0002 [#1]", "").is_emulator_fault());
    }

    #[test]
    fn an_oops_outranks_the_leak_that_follows_it() {
        let log = "[ 1.0] Oops: Oops: 0002 [#1]";
        assert_eq!(
            worst(&ended(Some(0), log, "leaked=a=1\ncomplete=1\n")),
            Some(Class::Kernel)
        );
    }
}
