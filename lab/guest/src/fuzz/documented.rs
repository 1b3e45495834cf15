//! What the header says that each command answers, read from the header itself.

use cohmem_uapi::Reason;

use super::board::{Board, Command, NR_ERRNOS};

use crate::driver::moves_large_folios;

const HEADER: &str = include_str!("../../../../include/uapi/linux/cohmem.h");

/// Errnos of every command, by the header's rules.
const RULES: [i32; 3] = [libc::EINVAL, libc::EFAULT, libc::EIO];

const NAMES: [(&str, i32); 23] = [
    ("EPERM", libc::EPERM),
    ("ESRCH", libc::ESRCH),
    ("EINTR", libc::EINTR),
    ("EIO", libc::EIO),
    ("EBADF", libc::EBADF),
    ("EAGAIN", libc::EAGAIN),
    ("ENOMEM", libc::ENOMEM),
    ("EFAULT", libc::EFAULT),
    ("EBUSY", libc::EBUSY),
    ("ENODEV", libc::ENODEV),
    ("EINVAL", libc::EINVAL),
    ("ENOTTY", libc::ENOTTY),
    ("ENOSPC", libc::ENOSPC),
    ("EDOM", libc::EDOM),
    ("ERANGE", libc::ERANGE),
    ("ENODATA", libc::ENODATA),
    ("EOVERFLOW", libc::EOVERFLOW),
    ("EBADFD", libc::EBADFD),
    ("EILSEQ", libc::EILSEQ),
    ("EMSGSIZE", libc::EMSGSIZE),
    ("EOPNOTSUPP", libc::EOPNOTSUPP),
    ("EADDRINUSE", libc::EADDRINUSE),
    ("EADDRNOTAVAIL", libc::EADDRNOTAVAIL),
];

/// An errno's name; success is one as well.
pub(crate) fn errno_name(errno: i32) -> String {
    if errno == 0 {
        return "success".to_owned();
    }
    NAMES
        .iter()
        .find(|(_, value)| *value == errno)
        .map_or_else(|| format!("errno {errno}"), |(name, _)| (*name).to_owned())
}

/// The answers that a run cannot bring about, each with its cause.
const OUT_OF_REACH: [(Option<Command>, i32, &str); 8] = [
    (None, libc::EIO, "stands for what the kernel never refuses"),
    (
        None,
        libc::EINTR,
        "only a fatal signal gives it, and whom that kills sees no answer",
    ),
    (
        Some(Command::Attach),
        libc::ENOMEM,
        "its small allocations never fail here; the test build of the module makes them",
    ),
    (
        Some(Command::Migrate),
        libc::ENOMEM,
        "its small allocations never fail here; the test build of the module makes them",
    ),
    (
        Some(Command::Query),
        libc::ENOMEM,
        "its small allocations never fail here; the test build of the module makes them",
    ),
    (
        Some(Command::Accounts),
        libc::ENOMEM,
        "its small allocations never fail here; the test build of the module makes them",
    ),
    (
        Some(Command::History),
        libc::ENOMEM,
        "its small allocations never fail here; the test build of the module makes them",
    ),
    (
        Some(Command::Query),
        libc::EBUSY,
        "the page tables would have to change at each of several looks within microseconds",
    ),
];

/// Reasons that a run cannot bring about at will, each with its cause.
const REASONS_OUT_OF_REACH: [(Reason, &str); 3] = [
    (Reason::Locked, "by chance: the kernel must hold the lock"),
    (Reason::Raced, "by chance: the page must change meanwhile"),
    (
        Reason::NoMemory,
        "the machine would run out of memory; the test build of the module pretends it does",
    ),
];

/// The documented errnos of each command, as bits.
#[derive(Debug)]
pub(crate) struct Documented([[bool; NR_ERRNOS]; Command::ALL.len()]);

impl Documented {
    /// Reads the header.
    ///
    /// # Panics
    ///
    /// When a structure has no paragraph of errors where it should, or one names an unknown errno.
    pub(crate) fn read() -> Self {
        let attach = errors_of("struct cohmem_attach ");
        let detach = errors_of("struct cohmem_detach ");
        let info = errors_of("struct cohmem_info ");
        let history = errors_of("struct cohmem_history ");
        let migrate = errors_of("struct cohmem_migrate ");
        let quota = errors_of("struct cohmem_quota ");
        let accounts = errors_of("struct cohmem_accounts ");
        // "The errors are those of MIGRATE that concern the same fields, and EBUSY".
        let query = migrate
            .iter()
            .copied()
            .filter(|errno| {
                ![libc::EILSEQ, libc::EPERM, libc::EAGAIN, libc::ENOSPC].contains(errno)
            })
            .chain([libc::EBUSY])
            .collect();
        let range = errors_of("struct cohmem_range ");
        // An unknown flag, where there are flags.
        let with_flags = |mut errnos: Vec<i32>| {
            errnos.push(libc::EOPNOTSUPP);
            errnos
        };
        let [attach, detach, migrate, query, quota, accounts, history] =
            [attach, detach, migrate, query, quota, accounts, history].map(with_flags);
        let mut table = [[false; NR_ERRNOS]; Command::ALL.len()];
        for (command, row) in Command::ALL.into_iter().zip(&mut table) {
            let own: &[i32] = match command {
                Command::Version | Command::List => &[],
                Command::Attach => &attach,
                Command::Detach | Command::Evict => &detach,
                Command::Range => &range,
                Command::Info => &info,
                Command::Migrate => &migrate,
                Command::Query => &query,
                Command::SetQuota => &quota,
                Command::Accounts => &accounts,
                Command::History => &history,
                Command::Unknown => &[libc::ENOTTY],
            };
            let rules: &[i32] = if command == Command::Unknown {
                &[]
            } else {
                // Success, too.
                row[0] = true;
                &RULES
            };
            for &errno in own.iter().chain(rules) {
                row[usize::try_from(errno).expect("positive")] = true;
            }
        }
        Self(table)
    }

    pub(crate) fn allows(&self, command: Command, errno: i32) -> bool {
        usize::try_from(errno)
            .ok()
            .and_then(|errno| self.0[command as usize].get(errno).copied())
            .unwrap_or(false)
    }

    fn errnos_of(&self, command: Command) -> impl Iterator<Item = i32> + '_ {
        (0i32..)
            .zip(&self.0[command as usize])
            .filter_map(|(errno, &is_documented)| is_documented.then_some(errno))
    }

    /// Prints calls by result and pages by reason; returns what was documented and never seen.
    pub(crate) fn report(&self, board: &Board) -> Vec<String> {
        let mut missing = Vec::new();
        println!("calls by result:");
        for command in Command::ALL {
            for errno in self.errnos_of(command) {
                let nr_calls = board.result(command, errno);
                let name = errno_name(errno);
                let cause = OUT_OF_REACH
                    .iter()
                    .find(|(of, value, _)| of.is_none_or(|of| of == command) && *value == errno)
                    .map(|(_, _, cause)| *cause);
                let note = match cause {
                    Some(cause) if nr_calls == 0 => format!("  (out of reach: {cause})"),
                    None if nr_calls == 0 => {
                        missing.push(format!("{} {name}", command.name()));
                        "  MISSING".to_owned()
                    }
                    _ => String::new(),
                };
                println!("  {:<10} {name:<14} {nr_calls:>9}{note}", command.name());
            }
        }
        println!("  (ended early by a signal: {})", board.nr_short());
        let (nr_moved, nr_filled) = board.moved();
        println!("pages: {nr_moved} moved, {nr_filled} filled; of those that stayed, by reason:");
        for &reason in Reason::ALL {
            let index = usize::from(reason as u8);
            let count = |command| board.reason(command, index);
            let evictions = count(Command::Detach) + count(Command::Evict);
            let (migrations, queries) = (count(Command::Migrate), count(Command::Query));
            let cause = REASONS_OUT_OF_REACH
                .iter()
                .find(|(of, _)| *of == reason)
                .map(|(_, cause)| *cause)
                .or_else(|| {
                    let is_moved = reason == Reason::LargeFolio && moves_large_folios();
                    is_moved.then_some("this kernel moves them")
                });
            let note = match cause {
                _ if migrations + evictions > 0 => String::new(),
                Some(cause) => format!("  (not demanded; {cause})"),
                None => {
                    missing.push(format!("the reason {}", reason.name()));
                    "  MISSING".to_owned()
                }
            };
            println!(
                "  {:<16} migrate {migrations:>9}  query {queries:>9}  detach, evict {evictions:>7}{note}",
                reason.name()
            );
        }
        missing
    }
}

/// The errnos that the comment of a structure lists after "Errors:".
fn errors_of(title: &str) -> Vec<i32> {
    let (_, comment) = HEADER
        .split_once(&format!(" * {title}- "))
        .unwrap_or_else(|| panic!("the header does not describe {title}"));
    let (comment, _) = comment.split_once("*/").expect("the comment ends");
    let (_, errors) = comment
        .split_once("Errors:")
        .unwrap_or_else(|| panic!("{title} has no paragraph of errors"));
    errors
        .split(|letter: char| !letter.is_ascii_uppercase())
        .filter(|word| word.len() > 3 && word.starts_with('E'))
        .filter(|word| !["EVICT"].contains(word))
        .map(|word| {
            NAMES
                .iter()
                .find(|(name, _)| *name == word)
                .unwrap_or_else(|| panic!("{title} lists the unknown errno {word}"))
                .1
        })
        .collect()
}
