// SPDX-License-Identifier: GPL-2.0
//! An example of a driver: a device that adds up numbers in the memory of the process that opened it.
//!
//! `docs/writing-a-driver.md` goes through it.
#![no_std]
#![deny(unsafe_code)]

use cohmem_kcore::{Errno, host::Span};
use cohmem_ksys::{
    abi::command_number,
    arguments,
    hmm::Request,
    memory::Buffer,
    mirror::{Mirror, Miss, WalkRoom},
    module::Module,
    node::{DeviceNode, OpenFile},
    page::PAGE_BYTES,
    process::{Mm, read_plain, write_plain},
};

arguments! {
    /// The argument of the device's one command.
    struct Sum {
        /// First address, a multiple of the page size.
        address: u64,
        nr_pages: u64,
        /// (out) The sum of the pages' 64-bit numbers, modulo 2 to the 64th.
        sum: u64,
    }
}

const SUM: u32 = command_number::<Sum>(b'E', 0);

/// An open node: the device's page tables for the process that opened it.
struct Adder {
    mirror: Mirror,
}

impl OpenFile for Adder {
    type Node = ();

    fn open((): &()) -> Result<Self, Errno> {
        let process = Mm::of_caller()?;
        Ok(Self {
            mirror: Mirror::new(&process)?,
        })
    }

    fn command(&self, command: u32, arg: u64) -> Result<(), Errno> {
        if command != SUM {
            return Err(Errno::ENOTTY);
        }
        let mut args = read_plain::<Sum>(arg)?;
        args.sum = self.sum(span_of(&args)?)?;
        write_plain(arg, &args)
    }
}

/// Checks the addresses of a command.
fn span_of(args: &Sum) -> Result<Span, Errno> {
    let bytes = args
        .nr_pages
        .checked_mul(PAGE_BYTES)
        .ok_or(Errno::EOVERFLOW)?;
    let end = args.address.checked_add(bytes).ok_or(Errno::EOVERFLOW)?;
    if !args.address.is_multiple_of(PAGE_BYTES) {
        return Err(Errno::EDOM);
    }
    Ok(Span {
        start: args.address,
        end,
    })
}

impl Adder {
    /// What a real device would do in hardware: follows its page tables, and asks the driver for the
    /// entries that are missing.
    fn sum(&self, span: Span) -> Result<u64, Errno> {
        let mut room = WalkRoom::new()?;
        let mut bytes = Buffer::new(PAGE_BYTES as usize, 0u8)?;
        let (page, _none) = bytes.as_chunks_mut();
        let mut sum = 0u64;
        let mut at = span.start;
        while at < span.end {
            let read = self.mirror.lock().read(at, page);
            match read.map_err(|stopped| stopped.miss) {
                Ok(()) => {
                    let (numbers, _none) = page.as_flattened().as_chunks();
                    for number in numbers {
                        sum = sum.wrapping_add(u64::from_le_bytes(*number));
                    }
                    at = at.saturating_add(PAGE_BYTES);
                }
                Err(Miss::NoEntry) => {
                    let left = Span {
                        start: at,
                        end: span.end,
                    };
                    self.mirror
                        .map(left, Request::Read, &mut room, |_entry| true)?;
                }
                Err(Miss::Lost) => return Err(Errno::EIO),
            }
        }
        Ok(sum)
    }
}

/// What the module makes when it is loaded; dropped when it is unloaded.
struct Example {
    _node: DeviceNode<Adder>,
}

impl Module for Example {
    fn load() -> Result<Self, Errno> {
        Ok(Self {
            _node: DeviceNode::new(c"cohmem_example", ())?,
        })
    }
}

cohmem_ksys::module!(Example);
