//! Child processes that take part in a test step by step.

use std::{
    fs::File,
    io::{Error, Read as _, Write as _},
    os::fd::FromRawFd as _,
};

use super::check;

/// A forked child that waits for a byte between its steps.
#[derive(Debug)]
pub(crate) struct Child {
    pid: i32,
    to: Option<File>,
    from: File,
}

/// The child's end of the steps.
#[derive(Debug)]
pub(crate) struct Steps {
    from: File,
    to: File,
}

impl Steps {
    /// Tells the parent that a step is done, and waits until it asks for the next.
    pub(crate) fn done(&mut self) {
        self.to.write_all(&[1]).expect("the parent reads");
        let mut byte = [0];
        self.from.read_exact(&mut byte).expect("the parent goes on");
    }

    /// Tells the parent that a step is done and goes on.
    pub(crate) fn tell(&mut self) {
        self.to.write_all(&[1]).expect("the parent reads");
    }
}

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    Status(i32),
    Signal(i32),
}

fn pipe() -> (File, File) {
    let mut fds = [0; 2];
    // SAFETY: the array holds the two descriptors that the call writes.
    check(i64::from(unsafe {
        libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC)
    }))
    .expect("pipe");
    // SAFETY: a descriptor that the kernel just made, and nobody else's.
    let read = unsafe { File::from_raw_fd(fds[0]) };
    // SAFETY: as above.
    let write = unsafe { File::from_raw_fd(fds[1]) };
    (read, write)
}

impl Child {
    /// Forks a child that runs `body` and exits with 0, or 1 when it panics.
    ///
    /// The harness runs one test at a time; a test that forks has no other thread at that moment.
    pub(crate) fn start(body: impl FnOnce(&mut Steps)) -> Self {
        let (child_in, to) = pipe();
        let (from, child_out) = pipe();
        // SAFETY: no other thread runs, so the child may do all that the parent may.
        let pid = unsafe { libc::fork() };
        check(i64::from(pid)).expect("fork");
        if pid == 0 {
            drop((to, from));
            let mut steps = Steps {
                from: child_in,
                to: child_out,
            };
            let body = std::panic::AssertUnwindSafe(|| body(&mut steps));
            let status = i32::from(std::panic::catch_unwind(body).is_err());
            // SAFETY: ends this process at once, without running the parent's destructors.
            unsafe { libc::_exit(status) };
        }
        Self {
            pid,
            to: Some(to),
            from,
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        u32::try_from(self.pid).expect("positive")
    }

    /// Waits until the child has done a step.
    pub(crate) fn wait_step(&mut self) {
        let mut byte = [0];
        self.from.read_exact(&mut byte).expect("the child lives");
    }

    /// Lets the child do its next step.
    pub(crate) fn go_on(&mut self) {
        self.to
            .as_mut()
            .expect("open")
            .write_all(&[1])
            .expect("the child lives");
    }

    pub(crate) fn kill(&self) {
        // SAFETY: sends a signal to a child that was not yet waited for.
        check(i64::from(unsafe { libc::kill(self.pid, libc::SIGKILL) })).expect("kill");
    }

    /// Waits for the child's end.
    pub(crate) fn join(mut self) -> Ended {
        self.to = None;
        let mut status = 0;
        // SAFETY: the status is written to a local variable.
        check(i64::from(unsafe {
            libc::waitpid(self.pid, &raw mut status, 0)
        }))
        .expect("waitpid");
        if libc::WIFSIGNALED(status) {
            Ended::Signal(libc::WTERMSIG(status))
        } else {
            Ended::Status(libc::WEXITSTATUS(status))
        }
    }
}

/// Drops root's user and group for good.
pub(crate) fn become_user(uid: u32) {
    // SAFETY: changes this process's credentials only.
    check(i64::from(unsafe { libc::setgid(uid) })).expect("setgid");
    // SAFETY: as above.
    check(i64::from(unsafe { libc::setuid(uid) })).expect("setuid");
}

/// Becomes another real user, and stays root in effect, as a set-user-ID program is.
pub(crate) fn become_real_user(uid: u32) {
    let same = libc::uid_t::MAX;
    // SAFETY: changes this process's credentials only.
    check(i64::from(unsafe { libc::setresuid(uid, same, same) })).expect("setresuid");
}

/// Unloads a module: the errno that the kernel answers with.
pub(crate) fn delete_module(name: &std::ffi::CStr) -> Result<(), Error> {
    // SAFETY: the name is a C string that outlives the call.
    let result = unsafe { libc::syscall(libc::SYS_delete_module, name.as_ptr(), libc::O_NONBLOCK) };
    check(result).map(drop)
}

/// Loads a module.
pub(crate) fn load_module(file: &File, parameters: &std::ffi::CStr) -> Result<(), Error> {
    use std::os::fd::AsRawFd as _;
    // SAFETY: the descriptor is open and the parameters are a C string that outlives the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_finit_module,
            file.as_raw_fd(),
            parameters.as_ptr(),
            0,
        )
    };
    check(result).map(drop)
}

/// Ends this process by SIGABRT with a core dump.
pub(crate) fn dump_core() -> ! {
    let limit = libc::rlimit {
        rlim_cur: libc::RLIM_INFINITY,
        rlim_max: libc::RLIM_INFINITY,
    };
    // SAFETY: the limit is read from a local variable.
    let result = unsafe { libc::setrlimit(libc::RLIMIT_CORE, &raw const limit) };
    check(i64::from(result)).expect("setrlimit");
    std::process::abort()
}
