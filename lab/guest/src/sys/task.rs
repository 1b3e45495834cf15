//! Processes and threads that race: forked from threads, killed, signalled, waited for.

use std::io::Error;

use super::check;

/// The number of the calling thread.
pub(crate) fn thread_id() -> i32 {
    // SAFETY: returns a number.
    unsafe { libc::gettid() }
}

/// Forks; 0 in the child, which has the calling thread only.
///
/// A child of a process with threads may allocate memory, since the C library sees to that, and must
/// take no other lock of the parent's: no standard output, for example.
pub(crate) fn fork() -> i32 {
    // SAFETY: by the above; the fuzzer's children make system calls and end by `exit_now`.
    let pid = unsafe { libc::fork() };
    check(i64::from(pid)).expect("fork");
    pid
}

/// Ends this process at once.
pub(crate) fn exit_now(status: i32) -> ! {
    // SAFETY: runs no destructors, which is what a child of a process with threads wants.
    unsafe { libc::_exit(status) }
}

pub(crate) fn kill(pid: i32) {
    // SAFETY: sends a signal to a child that was not waited for, so the number is still its own.
    check(i64::from(unsafe { libc::kill(pid, libc::SIGKILL) })).expect("kill");
}

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Status(i32),
    Signal(i32),
}

/// Waits for a child; `None` when it still runs and `waits` is false.
pub(crate) fn reap(pid: i32, waits: bool) -> Option<End> {
    let mut status = 0;
    loop {
        let flags = if waits { 0 } else { libc::WNOHANG };
        // SAFETY: the status is written to a local variable.
        let result = unsafe { libc::waitpid(pid, &raw mut status, flags) };
        match check(i64::from(result)) {
            Ok(0) => return None,
            Ok(_pid) if libc::WIFSIGNALED(status) => {
                return Some(End::Signal(libc::WTERMSIG(status)));
            }
            Ok(_pid) => return Some(End::Status(libc::WEXITSTATUS(status))),
            Err(error) if error.raw_os_error() == Some(libc::EINTR) => {}
            Err(error) => panic!("waitpid {pid}: {error}"),
        }
    }
}

extern "C" fn ignore(_signal: libc::c_int) {}

/// From now on SIGUSR1 interrupts what a thread of this process waits for, and does nothing else.
pub(crate) fn handle_interruptions() {
    let action = libc::sigaction {
        sa_sigaction: ignore as extern "C" fn(libc::c_int) as usize,
        // SAFETY: all zeros is the empty set.
        sa_mask: unsafe { std::mem::zeroed() },
        sa_flags: libc::SA_RESTART,
        sa_restorer: None,
    };
    // SAFETY: the handler touches nothing.
    let result = unsafe { libc::sigaction(libc::SIGUSR1, &raw const action, std::ptr::null_mut()) };
    check(i64::from(result)).expect("sigaction");
}

/// Interrupts a thread of this process, which may have ended.
pub(crate) fn interrupt(thread: i32) -> Result<(), Error> {
    let process = i32::try_from(std::process::id()).expect("a process number");
    // SAFETY: sends a signal to a thread of this process, which handles it.
    let result = unsafe { libc::syscall(libc::SYS_tgkill, process, thread, libc::SIGUSR1) };
    check(result).map(drop)
}

/// The children of this process end when it does.
pub(crate) fn die_with_parent() {
    // SAFETY: asks for a signal; no memory is involved.
    let result = unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    check(i64::from(result)).expect("prctl");
}

/// Writes to standard error without the lock that the standard library takes.
pub(crate) fn complain(text: &str) {
    // SAFETY: the bytes outlive the call.
    let result = unsafe { libc::write(libc::STDERR_FILENO, text.as_ptr().cast(), text.len()) };
    // Nobody is left to tell when that fails.
    drop(check(i64::try_from(result).unwrap_or(-1)));
}

/// Does nothing until a signal ends this process.
pub(crate) fn wait_for_ever() -> ! {
    loop {
        // SAFETY: waits.
        unsafe { libc::pause() };
    }
}

/// Drops every capability of this thread, and of those that it starts, for good; the user stays root.
pub(crate) fn drop_capabilities() {
    const VERSION_3: u32 = 0x2008_0522;
    let header = [VERSION_3, 0];
    let none = [0u32; 6];
    // SAFETY: a header and two sets of three words each, as that version has them.
    let result = unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), none.as_ptr()) };
    check(result).expect("capset");
}
