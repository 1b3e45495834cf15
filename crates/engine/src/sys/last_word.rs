//! The end of the process, without any lock.

use std::process;

/// Writes a message to standard error by a plain system call and aborts. It takes no lock and allocates
/// nothing: another thread may hold either while it waits for the engine.
pub(crate) fn abort(message: &'static str) -> ! {
    // SAFETY: The bytes are those of a string that lives forever.
    unsafe { libc::write(libc::STDERR_FILENO, message.as_ptr().cast(), message.len()) };
    process::abort()
}
