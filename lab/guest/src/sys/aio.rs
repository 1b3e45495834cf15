//! Linux AIO: O_DIRECT reads and writes that are in flight while the test goes on.

use std::{fs::File, io::Error, os::fd::AsRawFd as _};

use super::{check, memory::Memory};

const IOCB_CMD_PREAD: u16 = 0;
const IOCB_CMD_PWRITE: u16 = 1;

/// `struct iocb` of `linux/aio_abi.h` (little endian).
#[repr(C)]
#[derive(Default)]
struct Iocb {
    data: u64,
    key: u32,
    rw_flags: u32,
    opcode: u16,
    priority: i16,
    fd: u32,
    buffer: u64,
    nr_bytes: u64,
    offset: i64,
    reserved: u64,
    flags: u32,
    result_fd: u32,
}

/// `struct io_event` of the same header.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct IoEvent {
    data: u64,
    object: u64,
    result: i64,
    result2: i64,
}

/// A queue of I/O in flight.
#[derive(Debug)]
pub(crate) struct Queue {
    context: libc::c_ulong,
}

impl Queue {
    pub(crate) fn new() -> Self {
        let mut context: libc::c_ulong = 0;
        // SAFETY: the context is written to a local variable that is zero, as the call wants.
        check(unsafe { libc::syscall(libc::SYS_io_setup, 64, &raw mut context) })
            .expect("io_setup");
        Self { context }
    }

    /// Starts a read of the first `nr_bytes` of `file` into `memory` at `offset`.
    ///
    /// The kernel holds references to the pages until the I/O ends, so the memory may be unmapped.
    pub(crate) fn start_read(&self, file: &File, memory: &Memory, offset: usize, nr_bytes: usize) {
        self.start(IOCB_CMD_PREAD, file, memory, offset, nr_bytes);
    }

    /// Starts a write of `nr_bytes` of `memory` at `offset` to the start of `file`.
    pub(crate) fn start_write(&self, file: &File, memory: &Memory, offset: usize, nr_bytes: usize) {
        self.start(IOCB_CMD_PWRITE, file, memory, offset, nr_bytes);
    }

    fn start(&self, opcode: u16, file: &File, memory: &Memory, offset: usize, nr_bytes: usize) {
        assert!(offset + nr_bytes <= memory.len());
        let mut iocb = Iocb {
            opcode,
            fd: u32::try_from(file.as_raw_fd()).expect("open"),
            buffer: memory.address() + offset as u64,
            nr_bytes: nr_bytes as u64,
            ..Iocb::default()
        };
        let list = [&raw mut iocb];
        // SAFETY: the list names one control block that outlives the call; its buffer is mapped.
        let started = unsafe { libc::syscall(libc::SYS_io_submit, self.context, 1, list.as_ptr()) };
        assert_eq!(started, 1, "io_submit: {}", Error::last_os_error());
    }

    /// Waits for `nr` I/Os and returns the bytes that each moved, or its negative errno.
    pub(crate) fn wait(&self, nr: usize) -> Vec<i64> {
        let mut events = vec![IoEvent::default(); nr];
        // SAFETY: the vector has room for the `nr` events that the call may write.
        let ended = unsafe {
            libc::syscall(
                libc::SYS_io_getevents,
                self.context,
                nr,
                nr,
                events.as_mut_ptr(),
                std::ptr::null::<libc::timespec>(),
            )
        };
        check(ended).expect("io_getevents");
        events.iter().map(|event| event.result).collect()
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // SAFETY: the context is ours; the call waits for what is in flight.
        let result = unsafe { libc::syscall(libc::SYS_io_destroy, self.context) };
        assert_eq!(result, 0, "io_destroy: {}", Error::last_os_error());
    }
}
