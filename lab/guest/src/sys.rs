//! System calls that the tests make, as safe functions. Every unsafe block of the crate is here.

pub(crate) mod aio;
pub(crate) mod board;
pub(crate) mod field;
pub(crate) mod io;
pub(crate) mod memfd;
pub(crate) mod memory;
pub(crate) mod numa;
pub(crate) mod process;
pub(crate) mod task;
pub(crate) mod uring;
pub(crate) mod userfault;

use std::io::Error;

/// The result of a call that returns -1 on failure.
fn check(result: i64) -> Result<i64, Error> {
    if result < 0 {
        Err(Error::last_os_error())
    } else {
        Ok(result)
    }
}
