//! The hand-over of a span from one place to the other, in steps each of which keeps the content whole.
//!
//! Who calls holds the locks of the span's granules. On return the content is whole in one place, and
//! nobody waits any more: in the new place on `Ok`, in the old one on `Err`.

use cohmem_uapi::Reason;
use rustix::io::Errno;

pub(crate) mod hole;
pub(crate) mod stop;

/// Why a span stays, from the system's error.
fn reason_of(error: Errno) -> Reason {
    match error {
        Errno::BUSY => Reason::Pinned,
        // The memory is locked with mlock.
        Errno::INVAL => Reason::Locked,
        Errno::NOMEM | Errno::NOSPC | Errno::FAULT => Reason::NoMemory,
        _ => Reason::Raced,
    }
}

#[cfg(test)]
pub(crate) mod model;
#[cfg(all(test, not(loom)))]
mod tests;
