//! Command numbers, computed from the argument structures as `_IOWR` computes them.

use crate::args;

/// The type byte of every command.
pub const MAGIC: u32 = 0xBD;

const DIRECTION_READ_WRITE: u32 = 3;
const SIZE_BITS: u32 = 14;

const fn read_write<T>(number: u32) -> u32 {
    let bytes = size_of::<T>();
    assert!(
        bytes < 1 << SIZE_BITS,
        "the argument is too large for a command number"
    );
    #[expect(clippy::cast_possible_truncation, reason = "checked to fit 14 bits")]
    let bytes = bytes as u32;
    (DIRECTION_READ_WRITE << 30) | (bytes << 16) | (MAGIC << 8) | number
}

/// Both nodes: [`args::Version`].
pub const VERSION: u32 = read_write::<args::Version>(0x00);
/// Control node: [`args::Attach`].
pub const ATTACH: u32 = read_write::<args::Attach>(0x01);
/// Control node: [`args::Detach`].
pub const DETACH: u32 = read_write::<args::Detach>(0x02);
/// Control node: [`args::List`].
pub const LIST: u32 = read_write::<args::List>(0x03);
/// Control node: [`args::Range`].
pub const RANGE: u32 = read_write::<args::Range>(0x04);
/// Device node: [`args::Info`].
pub const INFO: u32 = read_write::<args::Info>(0x10);
/// Device node: [`args::Migrate`].
pub const MIGRATE: u32 = read_write::<args::Migrate>(0x11);
/// Device node: [`args::Query`].
pub const QUERY: u32 = read_write::<args::Query>(0x12);
/// Device node: [`args::Detach`].
pub const EVICT: u32 = read_write::<args::Detach>(0x13);
/// Device node: [`args::History`].
pub const HISTORY: u32 = read_write::<args::History>(0x14);
/// Device node: [`args::Quota`].
pub const SET_QUOTA: u32 = read_write::<args::Quota>(0x20);
/// Device node: [`args::Accounts`].
pub const ACCOUNTS: u32 = read_write::<args::Accounts>(0x21);
/// Device node: [`args::Job`].
pub const SET_JOB: u32 = read_write::<args::Job>(0x22);
/// Device node: [`args::Run`].
pub const SET_RUN: u32 = read_write::<args::Run>(0x23);
/// Device node: [`args::Objects`].
pub const OBJECTS: u32 = read_write::<args::Objects>(0x24);
