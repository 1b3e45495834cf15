// SPDX-License-Identifier: GPL-2.0
//! Error numbers that the driver returns.

use core::num::NonZeroI32;

/// A Linux error number, as the positive value of `errno(3)`.
///
/// # Invariants
///
/// The value is in `1..=4095`, the range that the kernel can return from a system call.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Errno(NonZeroI32);

macro_rules! errnos {
    ($($name:ident = $value:literal, $doc:literal;)+) => {
        impl Errno {
            $(
                #[doc = $doc]
                // INVARIANT: the literal is in range.
                pub const $name: Self = Self(NonZeroI32::new($value).unwrap());
            )+
        }

        impl core::fmt::Debug for Errno {
            fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                match self.0.get() {
                    $($value => formatter.write_str(stringify!($name)),)+
                    other => write!(formatter, "errno {other}"),
                }
            }
        }
    };
}

errnos! {
    EPERM = 1, "Operation not permitted.";
    ENOENT = 2, "Nothing is there.";
    ESRCH = 3, "No such process.";
    EINTR = 4, "Interrupted by a signal.";
    EIO = 5, "The kernel reported an inconsistent result.";
    EBADF = 9, "The file descriptor is closed.";
    EAGAIN = 11, "Not now; the device is draining.";
    ENOMEM = 12, "Out of memory.";
    EFAULT = 14, "The argument cannot be read or written.";
    EBUSY = 16, "Busy.";
    ENODEV = 19, "No such device.";
    EINVAL = 22, "A reserved field is not zero.";
    ENOTTY = 25, "Unknown command.";
    ENOSPC = 28, "All device numbers, or all accounts, are taken.";
    EDOM = 33, "Misaligned.";
    ERANGE = 34, "Above the user address space, or above what a device or a user number can be.";
    ENODATA = 61, "Empty range.";
    EOVERFLOW = 75, "The range wraps or is above the processor's addresses.";
    EBADFD = 77, "The file descriptor is of the wrong kind.";
    EILSEQ = 84, "Unknown direction.";
    EMSGSIZE = 90, "The list is too long.";
    EOPNOTSUPP = 95, "Unknown flag.";
    EADDRINUSE = 98, "The range holds System RAM.";
    EADDRNOTAVAIL = 99, "The range is not there.";
    EDQUOT = 122, "The user has too many run instances.";
}

impl Errno {
    /// The error of a kernel function's negative result; `None` when `result` is not an error.
    #[must_use]
    pub const fn from_result(result: i32) -> Option<Self> {
        if result >= 0 || result < -4095 {
            return None;
        }
        match NonZeroI32::new(result.wrapping_neg()) {
            // INVARIANT: `-result` is in `1..=4095`.
            Some(value) => Some(Self(value)),
            None => None,
        }
    }

    /// The value that a system call returns: negative.
    #[must_use]
    pub const fn to_result(self) -> i32 {
        self.0.get().wrapping_neg()
    }
}
