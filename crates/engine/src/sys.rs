//! Every unsafe block of the crate: mappings, userfaultfd, futexes, signal handlers, copies.
//!
//! Each function here is safe to call. The ranges that system calls change belong to the value whose
//! method makes the call ([`areas::Areas`], [`device::Mapping`]), and offsets into them are checked
//! there.

pub(crate) mod areas;
pub(crate) mod ballast;
#[cfg(all(test, not(loom)))]
pub(crate) mod calls;
mod copy;
pub(crate) mod device;
pub(crate) mod faults;
pub(crate) mod fork;
pub(crate) mod futex;
pub(crate) mod last_word;
pub(crate) mod signals;
pub(crate) mod uffd;
