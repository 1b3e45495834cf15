//! The mechanisms, and what is in the way of each.

use std::fmt;

use crate::sys::uffd::Uffd;

/// How other threads are kept from a granule while it changes place.
///
/// The levels are ordered: the first is the best.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// Level 1: full userfaultfd. Accesses wait, also the kernel's own; pinned system pages are seen;
    /// [`MemoryType::Private`](crate::MemoryType::Private) can be had. Needs Linux 6.8, and root,
    /// `CAP_SYS_PTRACE`, access to `/dev/userfaultfd`, or `vm.unprivileged_userfaultfd=1`.
    Full = 1,
    /// Level 2: userfaultfd for user mode only. Writes wait, reads go on; the kernel's own writes fail
    /// with `EFAULT`. Needs Linux 5.19 and no privilege.
    UserMode = 2,
    /// Level 3: page protection and a handler for `SIGSEGV`. As level 2, and a thread that blocks
    /// `SIGSEGV` must not write to a region. Needs nothing.
    Signal = 3,
}

impl Level {
    /// All of them, the best first.
    pub const ALL: [Self; 3] = [Self::Full, Self::UserMode, Self::Signal];

    /// 1, 2 or 3.
    #[must_use]
    pub const fn number(self) -> u8 {
        self as u8
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::Full => "level 1 (full userfaultfd)",
            Self::UserMode => "level 2 (user-mode userfaultfd)",
            Self::Signal => "level 3 (page protection)",
        };
        f.write_str(text)
    }
}

/// Which level a region uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LevelChoice {
    /// The best that this process can have and that fits the memory type; [`Region::level`] tells which.
    ///
    /// [`Region::level`]: crate::Region::level
    #[default]
    Auto,
    /// This one, or an error.
    Exactly(Level),
}

/// Why a level cannot be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Obstacle {
    /// The process may not use userfaultfd so.
    NotPermitted,
    /// The kernel has no userfaultfd, or a filter (seccomp, a container, gVisor) refuses it.
    NoUserfaultfd {
        /// The system's error number.
        errno: i32,
    },
    /// The kernel lacks what the level needs.
    KernelTooOld {
        /// What is missing.
        missing: &'static str,
        /// The first release that has it.
        since: &'static str,
    },
    /// The system refused it for want of something, such as file descriptors.
    Exhausted {
        /// The system's error number.
        errno: i32,
    },
}

impl Obstacle {
    /// What would change it, as a command where there is one.
    #[must_use]
    pub const fn advice(&self) -> &'static str {
        match self {
            Self::NotPermitted => {
                "as root: sysctl vm.unprivileged_userfaultfd=1, or: setfacl -m u:USER:rw /dev/userfaultfd"
            }
            Self::NoUserfaultfd { .. } => {
                "allow the system call userfaultfd in the container's seccomp profile"
            }
            Self::KernelTooOld { .. } => "use a newer kernel",
            Self::Exhausted { .. } => "raise the limit of open files: ulimit -n",
        }
    }
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotPermitted => write!(f, "the process may not use full userfaultfd"),
            Self::NoUserfaultfd { errno } => {
                let error = std::io::Error::from_raw_os_error(*errno);
                write!(f, "userfaultfd is refused: {error}")
            }
            Self::KernelTooOld { missing, since } => {
                write!(
                    f,
                    "the kernel has no {missing}, which came with Linux {since}"
                )
            }
            Self::Exhausted { errno } => {
                let error = std::io::Error::from_raw_os_error(*errno);
                write!(f, "userfaultfd could not be opened: {error}")
            }
        }
    }
}

/// What this process can have on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Survey {
    /// Level 1, or what is in the way.
    pub full: Result<(), Obstacle>,
    /// Level 2, or what is in the way. Level 3 can always be had.
    pub user_mode: Result<(), Obstacle>,
}

impl Survey {
    /// The best level that can be had.
    #[must_use]
    pub const fn best(&self) -> Level {
        if self.full.is_ok() {
            Level::Full
        } else if self.user_mode.is_ok() {
            Level::UserMode
        } else {
            Level::Signal
        }
    }

    /// Whether a level can be had, and if not, why.
    ///
    /// # Errors
    ///
    /// What is in the way.
    pub const fn check(&self, level: Level) -> Result<(), Obstacle> {
        match level {
            Level::Full => self.full,
            Level::UserMode => self.user_mode,
            Level::Signal => Ok(()),
        }
    }
}

/// Tries what this process can have. Changes nothing; opens and closes a few file descriptors.
#[must_use]
pub fn survey() -> Survey {
    Survey {
        full: Uffd::open_full().map(drop),
        user_mode: Uffd::open_user_mode().map(drop),
    }
}
