// SPDX-License-Identifier: GPL-2.0
//! `/sys/kernel/debug/gup_test`: holds pages of its caller for a moment, in the ways that devices do.
//!
//! The kernel has this file itself when it is built with `CONFIG_GUP_TEST`, which distributions are not.
//! Of its commands, those that the suite for device memory uses are here.

use cohmem_kcore::{Errno, host::Span};
use cohmem_ksys::{
    gup::{HeldPages, Hold, Lookup},
    node::OpenFile,
    page::PAGE_BYTES,
    process::{read_plain, write_plain},
};

use crate::abi::{self, GupTest};

/// An open file.
pub(crate) struct GupFile;

impl OpenFile for GupFile {
    type Node = ();

    fn open((): &()) -> Result<Self, Errno> {
        Ok(Self)
    }

    fn command(&self, command: u32, arg: u64) -> Result<(), Errno> {
        let (hold, lookup) = match command {
            abi::GET => (Hold::Reference, Lookup::Locked),
            abi::GET_FAST => (Hold::Reference, Lookup::Fast),
            abi::PIN => (Hold::Pin, Lookup::Locked),
            abi::PIN_FAST => (Hold::Pin, Lookup::Fast),
            abi::PIN_LASTING => (Hold::LastingPin, Lookup::Locked),
            _ => return Err(Errno::EINVAL),
        };
        let mut args = read_plain::<GupTest>(arg)?;
        if args.flags & !(abi::FLAG_WRITE | abi::FLAG_LASTING) != 0 || args.nr_pages_per_call == 0 {
            return Err(Errno::EINVAL);
        }
        let hold = match hold {
            Hold::Pin if args.flags & abi::FLAG_LASTING != 0 => Hold::LastingPin,
            other => other,
        };
        let end = args.address.checked_add(args.bytes).ok_or(Errno::EINVAL)?;
        let step = u64::from(args.nr_pages_per_call).saturating_mul(PAGE_BYTES);
        let mut start = args.address;
        while start < end {
            let span = Span {
                start,
                end: end.min(start.saturating_add(step)),
            };
            // Given up at once: what is tested is where the page is after.
            drop(HeldPages::new(span, hold, lookup)?);
            start = span.end;
        }
        (args.get_us, args.put_us) = (0, 0);
        write_plain(arg, &args)
    }
}
