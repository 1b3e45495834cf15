// SPDX-License-Identifier: GPL-2.0
//! The numbers that the kernel's selftests use (`lib/test_hmm_uapi.h`, `mm/gup_test.h`).

use cohmem_ksys::{abi::command_number, arguments};

arguments! {
    /// The argument of every command of a device node.
    pub(crate) struct Command {
        /// First address of the process's.
        pub(crate) address: u64,
        /// Where the caller's side of the copy is.
        pub(crate) buffer: u64,
        pub(crate) nr_pages: u64,
        /// (out) Pages that were copied, moved or looked at.
        pub(crate) nr_done: u64,
        /// (out) How often the device had to ask for missing entries.
        pub(crate) nr_faults: u64,
    }

    /// The argument of the commands of `gup_test`.
    pub(crate) struct GupTest {
        pub(crate) get_us: u64,
        pub(crate) put_us: u64,
        pub(crate) address: u64,
        pub(crate) bytes: u64,
        pub(crate) nr_pages_per_call: u32,
        pub(crate) flags: u32,
        pub(crate) test_flags: u32,
        pub(crate) which_pages: [u32; 8],
        pub(crate) pad: u32,
    }
}

pub(crate) const READ: u32 = command_number::<Command>(b'H', 0);
pub(crate) const WRITE: u32 = command_number::<Command>(b'H', 1);
pub(crate) const MIGRATE_TO_DEVICE: u32 = command_number::<Command>(b'H', 2);
pub(crate) const MIGRATE_TO_SYSTEM: u32 = command_number::<Command>(b'H', 3);
pub(crate) const SNAPSHOT: u32 = command_number::<Command>(b'H', 4);
pub(crate) const EXCLUSIVE: u32 = command_number::<Command>(b'H', 5);
pub(crate) const CHECK_EXCLUSIVE: u32 = command_number::<Command>(b'H', 6);
pub(crate) const RELEASE: u32 = command_number::<Command>(b'H', 7);

/// What a snapshot says of a page: one of the first four kinds, with flags.
pub(crate) mod seen {
    pub(crate) const ERROR: u8 = 0xff;
    pub(crate) const NOTHING: u8 = 0;
    pub(crate) const ZERO_PAGE: u8 = 0x10;
    /// Private memory of this device; that of another is as if it were not there.
    pub(crate) const PRIVATE_HERE: u8 = 0x20;
    pub(crate) const ON_THIS_DEVICE: u8 = 0x40;
    pub(crate) const ON_OTHER_DEVICE: u8 = 0x50;
    pub(crate) const READABLE: u8 = 1;
    pub(crate) const WRITABLE: u8 = 2;
    pub(crate) const IN_HUGE_ENTRY: u8 = 4;
    pub(crate) const IN_GIGANTIC_ENTRY: u8 = 8;
}

pub(crate) const GET_FAST: u32 = command_number::<GupTest>(b'g', 1);
pub(crate) const PIN_FAST: u32 = command_number::<GupTest>(b'g', 2);
pub(crate) const PIN_LASTING: u32 = command_number::<GupTest>(b'g', 3);
pub(crate) const GET: u32 = command_number::<GupTest>(b'g', 4);
pub(crate) const PIN: u32 = command_number::<GupTest>(b'g', 5);

/// `FOLL_WRITE` and `FOLL_LONGTERM`.
pub(crate) const FLAG_WRITE: u32 = 1;
pub(crate) const FLAG_LASTING: u32 = 0x100;
