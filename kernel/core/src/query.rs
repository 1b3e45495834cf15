// SPDX-License-Identifier: GPL-2.0
//! Telling where the pages of a range are. Nothing is faulted in, moved or changed.

use cohmem_uapi::{Direction, FRAME_BYTES, PageEntry, Reason, Tier, args};

use crate::{
    Errno,
    classify::{self, Place, Verdict},
    device::DeviceId,
    driver::Table,
    host::{AddressSpace, Host, LockedSpace, Mapping, SleepLock, Span, WINDOW_PAGES},
    request::{MigrateRequest, QueryRequest},
};

const NR_SNAPSHOT_TRIES: usize = 8;

/// One query under way.
pub(crate) struct Query<'a, H: Host> {
    pub(crate) host: &'a H,
    pub(crate) gate: &'a H::Lock<Table<H>>,
    pub(crate) id: DeviceId,
    pub(crate) space: H::Space,
    pub(crate) request: QueryRequest,
    pub(crate) mappings: H::Buffer<Mapping>,
    pub(crate) entries: H::Buffer<u16>,
}

impl<H: Host> Query<'_, H> {
    /// Goes through the range until its end or a signal; fills the (out) fields of `args`.
    pub(crate) fn run(mut self, args: &mut args::Query) -> Result<(), Errno> {
        let span = self.request.span;
        let mut at = span.start;
        let mut is_mapped = false;
        let mut nr_by_tier = [0u64; 4];
        let mut nr_here = 0u64;
        while at < span.end {
            let (end, gap) = self.step(at)?;
            let nr_pages = end.saturating_sub(at) / FRAME_BYTES;
            match gap {
                Some(reason) => {
                    is_mapped |= reason != Reason::Unmapped;
                    count(&mut nr_by_tier, Tier::None, nr_pages);
                    self.write_gap(at, end, reason)?;
                }
                None => {
                    is_mapped = true;
                    let nr_pages = usize::try_from(nr_pages).unwrap_or(0);
                    for &raw in self.entries.iter().take(nr_pages) {
                        let entry = PageEntry::from_raw(raw);
                        count(&mut nr_by_tier, entry.tier(), 1);
                        if entry.device() == Some(self.id.number) {
                            nr_here = nr_here.saturating_add(1);
                        }
                    }
                    self.write_entries(at, self.entries.get(..nr_pages).unwrap_or_default())?;
                }
            }
            at = end;
            if self.host.is_signalled() {
                break;
            }
            self.host.relax();
        }
        if !is_mapped && at == span.end {
            return Err(Errno::EADDRNOTAVAIL);
        }
        args.next = at;
        args.nr_by_tier = nr_by_tier;
        args.nr_here = nr_here;
        Ok(())
    }

    /// Looks at one window, or finds a gap: no mapping, or one whose pages are not looked at.
    fn step(&mut self, at: u64) -> Result<(u64, Option<Reason>), Errno> {
        // Before the gate, as a migration does.
        let mut space = self.space.lock()?;
        let table = self.gate.read();
        let device = table.device(self.id)?;
        let end = self.request.span.end;
        let Some(vma) = space.vma_from(at) else {
            return Ok((end, Some(Reason::Unmapped)));
        };
        if vma.span.start > at {
            return Ok((vma.span.start.min(end), Some(Reason::Unmapped)));
        }
        let end = vma.span.end.min(end);
        let vma_reason = classify::vma_reason(&vma, Direction::ToDevice, false);
        if vma.is_special || vma.is_unreadable || vma.is_hugetlb {
            return Ok((end, vma_reason));
        }
        let window = Span::window(at, end);
        let nr_pages = usize::try_from(window.end.saturating_sub(at) / FRAME_BYTES).unwrap_or(0);
        let mappings = self.mappings.get_mut(..nr_pages).unwrap_or_default();
        let mut nr_tries = NR_SNAPSHOT_TRIES;
        while let Err(error) = space.snapshot(window, mappings) {
            nr_tries = nr_tries.saturating_sub(1);
            if error != Errno::EBUSY || nr_tries == 0 {
                return Err(error);
            }
            self.host.relax();
        }
        let asked = MigrateRequest {
            span: window,
            direction: Direction::ToDevice,
            fills_holes: false,
            moves_shared: false,
            moves_executable: false,
            reasons_ptr: 0,
        };
        for (&mapping, entry) in mappings.iter().zip(self.entries.iter_mut()) {
            let place =
                classify::place(self.host, mapping, |pfn| table.resident(pfn, device, false));
            let reason = if self.request.wants_reasons {
                vma_reason.or(
                    match classify::verdict(self.host, place, &asked, device.id.number) {
                        Verdict::Stay(reason) => Some(reason),
                        Verdict::Move { hint, .. } => hint,
                        Verdict::Absent => Some(Reason::Untouched),
                    },
                )
            } else {
                None
            };
            *entry = entry_of(place, reason).raw();
        }
        Ok((window.end, None))
    }

    fn write_gap(&self, start: u64, end: u64, reason: Reason) -> Result<(), Errno> {
        let reason = self.request.wants_reasons.then_some(reason);
        let entries = [PageEntry::new(Tier::None, 0, reason).raw(); WINDOW_PAGES];
        let mut at = start;
        while self.request.map_ptr != 0 && at < end {
            let nr_pages = usize::try_from(end.saturating_sub(at) / FRAME_BYTES)
                .unwrap_or(WINDOW_PAGES)
                .min(WINDOW_PAGES);
            self.write_entries(at, entries.get(..nr_pages).unwrap_or_default())?;
            at = at.saturating_add((nr_pages as u64).saturating_mul(FRAME_BYTES));
            self.host.relax();
        }
        Ok(())
    }

    fn write_entries(&self, at: u64, entries: &[u16]) -> Result<(), Errno> {
        if self.request.map_ptr == 0 {
            return Ok(());
        }
        let index = at.saturating_sub(self.request.span.start) / FRAME_BYTES;
        let address = index
            .checked_mul(2)
            .and_then(|offset| self.request.map_ptr.checked_add(offset))
            .ok_or(Errno::EFAULT)?;
        let mut bytes = [0u8; WINDOW_PAGES * 2];
        for (pair, entry) in bytes.chunks_exact_mut(2).zip(entries) {
            pair.copy_from_slice(&entry.to_ne_bytes());
        }
        self.host.write_user(
            address,
            bytes
                .get(..entries.len().saturating_mul(2))
                .unwrap_or_default(),
        )
    }
}

fn count(nr_by_tier: &mut [u64; 4], tier: Tier, nr_pages: u64) {
    if let Some(count) = nr_by_tier.get_mut(usize::from(tier as u8)) {
        *count = count.saturating_add(nr_pages);
    }
}

fn entry_of(place: Place, reason: Option<Reason>) -> PageEntry {
    match place {
        Place::Absent | Place::Poisoned | Place::Zero | Place::Forbidden => {
            PageEntry::new(Tier::None, 0, reason)
        }
        Place::System { .. } => PageEntry::new(Tier::System, 0, reason),
        Place::Device { number, .. } => {
            PageEntry::new(Tier::Device, u8::try_from(number).unwrap_or(0), reason)
        }
        Place::Foreign => PageEntry::new(Tier::Foreign, 0, reason),
    }
}
