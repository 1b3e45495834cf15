//! Counts the system calls of a thread of a child.

use std::{io, ptr};

/// Of `struct ptrace_syscall_info`: what it tells, and behind the processor's state the call's number.
const OPERATION: usize = 0;
const NUMBER: usize = 24;
const ENTRY: u8 = 1;
/// A call that the child makes as a mark, and that nothing else makes.
const MARK: i64 = libc::SYS_getppid;

/// A thread that stops at each of its system calls.
pub(crate) struct Traced(i32);

impl Traced {
    /// `None` if the system does not let this process trace.
    pub(crate) fn seize(thread: i32) -> Option<Self> {
        let options = libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_EXITKILL;
        let nothing: *const libc::c_void = ptr::null();
        // SAFETY: It takes numbers only.
        let seized = unsafe { libc::ptrace(libc::PTRACE_SEIZE, thread, nothing, options) };
        if seized != 0 {
            return None;
        }
        // SAFETY: As above.
        let stopped = unsafe { libc::ptrace(libc::PTRACE_INTERRUPT, thread, nothing, nothing) };
        assert_eq!(stopped, 0, "{}", io::Error::last_os_error());
        Some(Self(thread))
    }

    /// The calls between each two marks, without those that read a clock, which most machines do without
    /// a call. Lets the thread go at the last mark.
    pub(crate) fn count(self, nr_marks: usize) -> Vec<usize> {
        let nothing: *const libc::c_void = ptr::null();
        let mut counts = Vec::new();
        let (mut nr_seen, mut nr_calls) = (0, 0);
        loop {
            let mut status = 0;
            // SAFETY: The status is valid for writes.
            let waited = unsafe { libc::waitpid(self.0, &raw mut status, libc::__WALL) };
            assert_eq!(waited, self.0, "{}", io::Error::last_os_error());
            assert!(libc::WIFSTOPPED(status), "the child ended: {status}");
            let is_call = libc::WSTOPSIG(status) == libc::SIGTRAP | 0x80;
            match is_call.then(|| self.entered()).flatten() {
                Some(MARK) => {
                    if nr_seen > 0 {
                        counts.push(nr_calls);
                    }
                    nr_seen += 1;
                    nr_calls = 0;
                }
                Some(libc::SYS_clock_gettime | libc::SYS_getcpu) | None => {}
                Some(_) => nr_calls += 1,
            }
            let is_last = nr_seen == nr_marks;
            let request = if is_last {
                libc::PTRACE_DETACH
            } else {
                libc::PTRACE_SYSCALL
            };
            // SAFETY: It takes numbers only.
            let resumed = unsafe { libc::ptrace(request, self.0, nothing, nothing) };
            assert_eq!(resumed, 0, "{}", io::Error::last_os_error());
            if is_last {
                return counts;
            }
        }
    }

    /// The number of the call that the thread stopped before, if it did not stop behind one.
    fn entered(&self) -> Option<i64> {
        let mut told = [0_u8; 88];
        // SAFETY: The kernel writes up to as many bytes as it is told there are.
        let length = unsafe {
            libc::ptrace(
                libc::PTRACE_GET_SYSCALL_INFO,
                self.0,
                told.len(),
                told.as_mut_ptr(),
            )
        };
        assert!(length > 0, "{}", io::Error::last_os_error());
        let number = told[NUMBER..NUMBER + 8].try_into().unwrap();
        (told[OPERATION] == ENTRY).then_some(i64::from_ne_bytes(number))
    }
}
