//! What went wrong in the guest: read from its kernel log and from the report of `lab/session`.

use std::fmt;

/// The kinds of failure that the lab adds to the command's own, with their exit status.
///
/// Ordered by what explains most: a timeout before all, a leak that follows an oops after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Class {
    /// The command did not end in time; the guest may be stuck.
    Timeout,
    /// A warning, oops, panic, lockup, hung task or stall.
    Kernel,
    /// The lock validator found a possible deadlock.
    Lockdep,
    /// Device frames or kernel memory were not given back, or a process can't be killed.
    Leak,
    /// The lab itself failed: no boot, no report, lost output.
    Harness,
}

impl Class {
    /// Exit status of `cargo xtask lab`.
    pub(crate) fn exit_code(self) -> u8 {
        match self {
            Self::Lockdep => 120,
            Self::Kernel => 121,
            Self::Leak => 122,
            Self::Harness => 123,
            Self::Timeout => 124,
        }
    }
}

/// One reason for which a run fails whatever its command's exit status is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Complaint {
    /// Kind of failure.
    pub(crate) class: Class,
    /// What was seen.
    pub(crate) text: String,
}

impl Complaint {
    pub(super) fn new(class: Class, text: impl Into<String>) -> Self {
        Self {
            class,
            text: text.into(),
        }
    }
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.text)
    }
}

/// Begins of kernel messages that the lock validator writes.
const LOCKDEP: [&str; 10] = [
    "WARNING: possible circular locking dependency",
    "WARNING: possible recursive locking",
    "WARNING: possible irq lock inversion",
    "WARNING: bad unlock balance",
    "WARNING: lock held when returning to user space",
    "WARNING: inconsistent lock state",
    "WARNING: suspicious RCU usage",
    "WARNING: held lock freed",
    "WARNING: Nested lock was not taken",
    "BUG: Invalid wait context",
];

/// Words of other complaints; each begins the message or stands behind a space.
const KERNEL: [&str; 6] = [
    "BUG: ",
    "kernel BUG at ",
    "Oops: ",
    "INFO: task ",
    "INFO: rcu",
    "Kernel panic - ",
];

/// Finds the complaints in a kernel log.
pub(super) fn scan_log(log: &str) -> Vec<Complaint> {
    log.lines()
        .filter_map(|line| classify(line.trim_end()))
        .collect()
}

fn classify(line: &str) -> Option<Complaint> {
    let message = message(line);
    if message.starts_with("Command line: ") || message.starts_with("Kernel command line: ") {
        return None;
    }
    let class = if LOCKDEP.iter().any(|begin| message.contains(begin)) {
        Class::Lockdep
    } else if message.starts_with("WARNING: ") || KERNEL.iter().any(|word| has_word(message, word))
    {
        Class::Kernel
    } else {
        return None;
    };
    Some(Complaint::new(class, message))
}

/// A log line without its time stamp and, where the kernel prints it, its caller.
fn message(line: &str) -> &str {
    let mut rest = line;
    while let Some((stamp, after)) = rest
        .strip_prefix('[')
        .and_then(|inside| inside.split_once("] "))
    {
        if !stamp
            .trim_start()
            .starts_with(|c: char| c.is_ascii_digit() || c == 'T' || c == 'C')
        {
            break;
        }
        rest = after.trim_start();
    }
    rest
}

fn has_word(message: &str, word: &str) -> bool {
    message.match_indices(word).any(|(position, _)| {
        message
            .get(..position)
            .is_some_and(|before| before.is_empty() || before.ends_with(' '))
    })
}

/// The kernel's taint flags that mean a complaint: bad page, died, warned, soft lockup.
const TAINTED: u64 = 32 | 128 | 512 | 16384;

/// The guest's own report, lines of KEY=VALUE.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Report {
    /// Exit status of the command, once it has ended.
    pub(super) status: Option<i32>,
    /// Whether the guest came to the end of its checks.
    pub(super) complete: bool,
    /// What it found.
    pub(super) complaints: Vec<Complaint>,
}

impl Report {
    pub(super) fn parse(text: &str) -> Self {
        let mut report = Self::default();
        for (key, value) in text.lines().filter_map(|line| line.split_once('=')) {
            match key {
                "exit" => report.status = value.parse().ok(),
                "complete" => report.complete = true,
                _ => report.complaints.extend(complaint_of(key, value)),
            }
        }
        report
    }
}

fn complaint_of(key: &str, value: &str) -> Option<Complaint> {
    let (class, text) = match key {
        "broken" => (Class::Harness, value.to_owned()),
        "survivor" => (Class::Leak, format!("process {value} survives kill -9")),
        "leaked" => (Class::Leak, format!("leaked frames: {value}")),
        "unreferenced" => {
            let (count, module) = value.split_once(' ').unwrap_or(("?", value));
            (
                Class::Leak,
                format!("kmemleak found {count} objects of module {module} that nothing refers to"),
            )
        }
        "debug_locks" if value != "1" => (
            Class::Lockdep,
            "the lock validator has complained (debug_locks is 0)".to_owned(),
        ),
        "tainted" => {
            let bad = value
                .parse::<u64>()
                .map_or(u64::MAX, |flags| flags & TAINTED);
            if bad == 0 {
                return None;
            }
            (
                Class::Kernel,
                format!("the kernel is tainted: {value} (of these {bad} count)"),
            )
        }
        _ => return None,
    };
    Some(Complaint::new(class, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn classes(log: &str) -> Vec<Class> {
        scan_log(log)
            .iter()
            .map(|complaint| complaint.class)
            .collect()
    }

    #[test]
    fn each_complaint_is_found_behind_time_stamp_and_prefix() {
        let log = "\
[    3.100000] WARNING: CPU: 1 PID: 80 at /x/planted.c:20 f+0x1/0x2 [planted]\r
[    3.200000] watchdog: BUG: soft lockup - CPU#0 stuck for 26s! [sh:80]
[    3.300000][   T80] kernel BUG at planted.c:12!
[    3.400000] Oops: Oops: 0002 [#1] PREEMPT SMP NOPTI
[    3.500000] INFO: task sh:80 blocked for more than 30 seconds.
[    3.600000] rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:
[    3.700000] Kernel panic - not syncing: Fatal exception";
        assert_eq!(classes(log), [Class::Kernel; 7]);
    }

    #[test]
    fn the_lock_validator_has_its_own_class() {
        let log = "[ 3.1] WARNING: possible circular locking dependency detected";
        assert_eq!(classes(log), [Class::Lockdep]);
    }

    #[test]
    fn ordinary_messages_are_no_complaint() {
        let log = "\
[    0.000000] Command line: console=ttyS0 panic=-1 oops=panic x=BUG: y
[    0.000000] Kernel command line: console=ttyS0 panic_on_warn=1 x=BUG: y
[    0.100000] Spectre V2 : WARNING: Unprivileged eBPF is enabled, data leaks possible
[    0.200000] ACPI BIOS Warning (bug): Optional FADT field
[    0.300000] foo: DEBUG: all is well, rcu INFO:nothing
[    0.400000] planted: loading out-of-tree module taints kernel.";
        assert_eq!(classes(log), []);
    }

    #[test]
    fn a_clean_report_has_the_status_only() {
        let report = Report::parse("exit=3\ndebug_locks=1\ntainted=12288\ncomplete=1\n");
        assert_eq!(
            report,
            Report {
                status: Some(3),
                complete: true,
                complaints: vec![]
            }
        );
    }

    #[test]
    fn what_the_guest_found_is_classed() {
        let report = Report::parse(
            "exit=0\nsurvivor=80 sh\nleaked=/sys/class/cohmem/cohmem0/allocated=5\n\
             unreferenced=2 cohmem\ndebug_locks=0\ntainted=4608\n",
        );
        let classes: Vec<_> = report
            .complaints
            .iter()
            .map(|complaint| complaint.class)
            .collect();
        assert_eq!(
            classes,
            [
                Class::Leak,
                Class::Leak,
                Class::Leak,
                Class::Lockdep,
                Class::Kernel
            ]
        );
        assert!(!report.complete);
    }

    #[test]
    fn a_garbled_taint_counts_as_tainted() {
        assert_eq!(Report::parse("tainted=\n").complaints.len(), 1);
    }
}
