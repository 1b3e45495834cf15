// SPDX-License-Identifier: GPL-2.0
//! What sysfs shows of a device: one number or word a file.

use core::ffi::CStr;

use cohmem_kcore::{Attribute, Driver, Errno};
use cohmem_uapi::State;

use crate::host::Kernel;

/// One file.
pub(crate) struct Shown {
    pub(crate) name: &'static CStr,
    pub(crate) mode: u16,
    attribute: Attribute,
}

/// What a file says.
pub(crate) enum Value {
    Number(u64),
    Address(u64),
    Word(&'static CStr),
}

const fn shown(name: &'static CStr, attribute: Attribute) -> Shown {
    Shown {
        name,
        mode: 0o444,
        attribute,
    }
}

/// Number of files.
pub(crate) const NR_SHOWN: usize = SHOWN.len();

/// The files. Physical addresses are root's to know.
pub(crate) static SHOWN: [Shown; 13] = [
    Shown {
        name: c"start",
        mode: 0o400,
        attribute: Attribute::Start,
    },
    shown(c"size", Attribute::Size),
    shown(c"free", Attribute::Free),
    shown(c"allocated", Attribute::Allocated),
    shown(c"poisoned", Attribute::Poisoned),
    shown(c"metadata", Attribute::Metadata),
    shown(c"moved_in", Attribute::MovedIn),
    shown(c"moved_out", Attribute::MovedOut),
    shown(c"filled", Attribute::Filled),
    shown(c"freed", Attribute::Freed),
    shown(c"node", Attribute::Node),
    shown(c"chunks", Attribute::Chunks),
    shown(c"state", Attribute::State),
];

/// Reads one file of a device.
pub(crate) fn read(driver: &Driver<Kernel>, device: u32, index: usize) -> Result<Value, Errno> {
    let shown = SHOWN.get(index).ok_or(Errno::EIO)?;
    let value = driver.attribute(device, shown.attribute)?;
    Ok(match shown.attribute {
        Attribute::Start => Value::Address(value),
        Attribute::State => Value::Word(word_of(value)),
        _ => Value::Number(value),
    })
}

fn word_of(state: u64) -> &'static CStr {
    match u32::try_from(state).ok().and_then(State::from_raw) {
        Some(State::Online) => c"online",
        Some(State::Draining) => c"draining",
        Some(State::Kept) => c"kept",
        None => c"unknown",
    }
}
