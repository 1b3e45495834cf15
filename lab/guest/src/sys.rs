//! System calls that the tests make, as safe functions. Every unsafe block of the crate is here.

pub(crate) mod aio;
pub(crate) mod io;
pub(crate) mod memory;
pub(crate) mod numa;
pub(crate) mod process;
pub(crate) mod uring;

use std::io::Error;

/// The result of a call that returns -1 on failure.
fn check(result: i64) -> Result<i64, Error> {
    if result < 0 {
        Err(Error::last_os_error())
    } else {
        Ok(result)
    }
}
