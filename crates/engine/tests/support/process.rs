//! Changes of the whole process, and children.

use std::io;

use cohmem_engine::Region;

pub(crate) const EMFILE: i32 = libc::EMFILE;
pub(crate) const ENOSYS: i32 = libc::ENOSYS;
pub(crate) const SIGBUS: i32 = libc::SIGBUS;

/// From here on a signal that ends this process leaves no file.
pub(crate) fn no_core_file() {
    let none = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: The structure is valid for reads.
    let set = unsafe { libc::setrlimit(libc::RLIMIT_CORE, &raw const none) };
    assert_eq!(set, 0);
}

/// No file can be opened while it lives.
pub(crate) struct FileLimit(libc::rlimit);

pub(crate) fn limit_files() -> FileLimit {
    let mut before = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: The structure is valid for writes.
    let got = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut before) };
    assert_eq!(got, 0);
    let none = libc::rlimit {
        rlim_cur: 0,
        ..before
    };
    // SAFETY: The structure is valid for reads.
    let set = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const none) };
    assert_eq!(set, 0);
    FileLimit(before)
}

impl Drop for FileLimit {
    fn drop(&mut self) {
        // SAFETY: As above.
        let set = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const self.0) };
        assert_eq!(set, 0);
    }
}

/// All memory that is mapped while it lives is locked.
pub(crate) struct Locking(());

/// `None` if the process may not.
pub(crate) fn lock_future_memory() -> Option<Locking> {
    // SAFETY: It changes no content.
    (unsafe { libc::mlockall(libc::MCL_FUTURE) } == 0).then_some(Locking(()))
}

impl Drop for Locking {
    fn drop(&mut self) {
        // SAFETY: As above.
        assert_eq!(unsafe { libc::munlockall() }, 0);
    }
}

/// From here on userfaultfd is unknown to this thread and those that it starts.
pub(crate) fn refuse_userfaultfd() -> bool {
    let refusal = libc::SECCOMP_RET_ERRNO | libc::ENOSYS.cast_unsigned();
    let number = u32::try_from(libc::SYS_userfaultfd).unwrap();
    // Load the number of the call; if it is another, skip one; refuse; allow.
    let mut program = [
        libc::sock_filter {
            code: 0x20,
            jt: 0,
            jf: 0,
            k: 0,
        },
        libc::sock_filter {
            code: 0x15,
            jt: 0,
            jf: 1,
            k: number,
        },
        libc::sock_filter {
            code: 0x06,
            jt: 0,
            jf: 0,
            k: refusal,
        },
        libc::sock_filter {
            code: 0x06,
            jt: 0,
            jf: 0,
            k: libc::SECCOMP_RET_ALLOW,
        },
    ];
    let filter = libc::sock_fprog {
        len: 4,
        filter: program.as_mut_ptr(),
    };
    // SAFETY: It takes numbers only.
    if unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } != 0 {
        return false;
    }
    // SAFETY: The program lives for the call, which copies it.
    let set = unsafe {
        libc::prctl(
            libc::PR_SET_SECCOMP,
            libc::SECCOMP_MODE_FILTER,
            &raw const filter,
        )
    };
    set == 0
}

/// Forks, and says how many of the region's pages are mapped in the child.
pub(crate) fn nr_pages_in_child(region: &Region) -> i32 {
    let start = region.as_ptr().as_ptr();
    // SAFETY: The child does only what is safe after a fork of a process with threads: system calls.
    let child = unsafe { libc::fork() };
    assert!(child >= 0, "{}", io::Error::last_os_error());
    if child == 0 {
        let mut nr_pages = 0;
        for offset in (0..region.len()).step_by(4096) {
            let mut resident = 0;
            // SAFETY: The kernel writes one byte, and tells by an error that nothing is mapped.
            let found = unsafe {
                libc::mincore(start.wrapping_add(offset).cast(), 4096, &raw mut resident)
            };
            nr_pages += i32::from(found == 0);
        }
        // SAFETY: It ends the process.
        unsafe { libc::_exit(nr_pages) };
    }
    let mut status = 0;
    // SAFETY: The child is this process's, and the status is valid for writes.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    assert!(
        libc::WIFEXITED(status),
        "the child ended by a signal: {status}"
    );
    libc::WEXITSTATUS(status)
}
