// SPDX-License-Identifier: GPL-2.0
//! The command that tells where soft-reserved memory is, and who has it.

use core::ops::Range;

use cohmem_uapi::{FRAME_BYTES, Holder, args};

use super::{Driver, Slot, Table};
use crate::{
    Errno,
    host::{Host, Pfn, Privilege, SleepLock},
    request,
};

impl<H: Host> Driver<H> {
    /// `COHMEM_IOC_RANGE`.
    ///
    /// **Context:** sleeps.
    ///
    /// # Errors
    ///
    /// As the header says.
    pub fn range(&self, args: &mut args::Range) -> Result<(), Errno> {
        if !self.host.is_privileged(Privilege::Administrate) {
            return Err(Errno::EPERM);
        }
        request::require_zero(&args.reserved)?;
        let range = self
            .host
            .soft_reserved_from(args.from)
            .ok_or(Errno::ENODATA)?;
        let (end, holder, device) = self.holder_at(range.clone());
        args.start = range.start;
        args.length = end.saturating_sub(range.start);
        args.holder = holder as u32;
        args.device = device.unwrap_or(0);
        Ok(())
    }

    /// Who has the start of `range`, up to where, and the device's number if it is one.
    fn holder_at(&self, range: Range<u64>) -> (u64, Holder, Option<u32>) {
        match self.host.claim_in(range.clone()) {
            None => (range.end, Holder::Nobody, None),
            Some(claim) if claim.start > range.start => (claim.start, Holder::Nobody, None),
            Some(claim) => {
                let device = self.gate.read().number_at(claim.start);
                let holder = if device.is_some() {
                    Holder::Device
                } else if self.host.holds_ram(claim.clone()) {
                    Holder::SystemRam
                } else {
                    Holder::Other
                };
                (claim.end, holder, device)
            }
        }
    }
}

impl<H: Host> Table<H> {
    /// Number of the device, attached or kept, that a physical address belongs to.
    fn number_at(&self, phys: u64) -> Option<u32> {
        self.slots.iter().find_map(|slot| match slot {
            Slot::Attached(device) => device
                .frame_of(Pfn(phys / FRAME_BYTES))
                .map(|_frame| device.id.number),
            Slot::Kept(info) => phys
                .checked_sub(info.start)
                .is_some_and(|offset| offset < info.length)
                .then_some(info.device),
            Slot::Empty | Slot::Changing => None,
        })
    }
}
