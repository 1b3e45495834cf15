//! Every unsafe block of the suite: a child that touches memory.

use std::time::Duration;

/// What became of a child that read a byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Child {
    /// It found this value.
    Read(u8),
    /// A signal ended it.
    Killed(i32),
}

/// Only so that a hang ends.
const LIMIT: Duration = Duration::from_secs(60);

/// Forks, and has the child read `byte`.
pub(crate) fn in_child(byte: &u8) -> Child {
    let byte: *const u8 = byte;
    // SAFETY: The child calls nothing but what is allowed after a fork of many threads: `setrlimit`,
    // `alarm`, a read of memory, `_exit`.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "fork: {}", std::io::Error::last_os_error());
    if pid == 0 {
        child(byte);
    }
    let mut status = 0;
    // SAFETY: `status` is ours and lives until the call has ended.
    let waited = unsafe { libc::waitpid(pid, &raw mut status, 0) };
    assert_eq!(waited, pid, "waitpid: {}", std::io::Error::last_os_error());
    if libc::WIFSIGNALED(status) {
        Child::Killed(libc::WTERMSIG(status))
    } else {
        Child::Read(u8::try_from(libc::WEXITSTATUS(status)).expect("8 bits"))
    }
}

fn child(byte: *const u8) -> ! {
    let no_core = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: The structure is ours; a failure leaves a core file, nothing more.
    unsafe { libc::setrlimit(libc::RLIMIT_CORE, &raw const no_core) };
    let seconds = u32::try_from(LIMIT.as_secs()).unwrap_or(u32::MAX);
    // SAFETY: It takes a number.
    unsafe { libc::alarm(seconds) };
    // SAFETY: In the parent this is a borrowed byte. In the child the mapping may be missing: then
    // the read ends the process by a signal, which is what the caller wants to know.
    let value = unsafe { byte.read_volatile() };
    // SAFETY: It ends the process at once, and runs nothing.
    unsafe { libc::_exit(i32::from(value)) }
}
