//! Where the pages of a range are.

use cohmem_uapi::{FRAME_BYTES, PageEntry, QUERY_REASONS, Tier};

use crate::{
    backend::driver::DeviceNode,
    error::{Cause, ErrorKind, Result},
    migrate::Target,
    units::{AddrRange, ByteCount, UserAddr},
};

const STEP_BYTES: u64 = 1 << 30;

/// What a query collects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Detail {
    Counts,
    Pages,
    Reasons,
}

/// Where the pages of a range are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageMap {
    range: AddrRange,
    entries: Vec<PageEntry>,
    nr_by_tier: [u64; 4],
    nr_here: u64,
}

impl PageMap {
    /// The map of a region's pages; those on its own device are `nr_here`.
    pub(crate) fn of_entries(range: AddrRange, entries: Vec<PageEntry>) -> Self {
        let mut nr_by_tier = [0; 4];
        for entry in &entries {
            nr_by_tier[entry.tier() as usize] += 1;
        }
        let nr_here = nr_by_tier[Tier::Device as usize];
        Self {
            range,
            entries,
            nr_by_tier,
            nr_here,
        }
    }

    /// The range that was asked for.
    #[must_use]
    pub const fn range(&self) -> AddrRange {
        self.range
    }

    /// One entry a page, from the start of the range; none if only counts were asked for.
    #[must_use]
    pub fn entries(&self) -> &[PageEntry] {
        &self.entries
    }

    /// The entry of the page that holds `address`.
    #[must_use]
    pub fn entry_at(&self, address: UserAddr) -> Option<PageEntry> {
        let offset = address.get().checked_sub(self.range.start().get())?;
        self.entries
            .get(usize::try_from(offset / FRAME_BYTES).ok()?)
            .copied()
    }

    /// Pages on `tier`; a page on any device counts as [`Tier::Device`].
    #[must_use]
    pub const fn count(&self, tier: Tier) -> u64 {
        self.nr_by_tier[tier as usize]
    }

    /// Pages on the device that was asked.
    #[must_use]
    pub const fn nr_here(&self) -> u64 {
        self.nr_here
    }
}

pub(crate) fn query(
    node: &DeviceNode,
    range: AddrRange,
    target: Target<'_>,
    detail: Detail,
) -> Result<PageMap> {
    let mut map = PageMap {
        range,
        entries: Vec::new(),
        nr_by_tier: [0; 4],
        nr_here: 0,
    };
    let flags = if detail == Detail::Reasons {
        QUERY_REASONS
    } else {
        0
    };
    let end = range.end().get();
    let mut start = range.start().get();
    let mut is_any_mapped = false;
    loop {
        let length = STEP_BYTES.min(end - start);
        let part = AddrRange::with_length(UserAddr::new(start), ByteCount::new(length))?;
        let nr_pages = usize::try_from(part.nr_pages()).unwrap_or(usize::MAX);
        let mut raw = vec![
            0_u16;
            if detail == Detail::Counts {
                0
            } else {
                nr_pages
            }
        ];
        let buffer = (detail != Detail::Counts).then_some(&mut raw[..]);
        let next = match node.query(part, target.process(), flags, buffer) {
            Ok(answer) if answer.next <= start && length > 0 => {
                return Err(Cause::NoProgress { at: start }.into());
            }
            Ok(answer) => {
                is_any_mapped = true;
                for (count, more) in map.nr_by_tier.iter_mut().zip(answer.nr_by_tier) {
                    *count += more;
                }
                map.nr_here += answer.nr_here;
                answer.next.min(end)
            }
            Err(error)
                if error.kind() == ErrorKind::NotMapped
                    && (is_any_mapped || start + length < end) =>
            {
                map.nr_by_tier[Tier::None as usize] += part.nr_pages();
                start + length
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => start,
            Err(error) => return Err(error),
        };
        if detail != Detail::Counts {
            let looked_at = usize::try_from((next - start) / FRAME_BYTES).unwrap_or(usize::MAX);
            let entries = raw.into_iter().take(looked_at).map(PageEntry::from_raw);
            map.entries.extend(entries);
        }
        start = next;
        if start >= end {
            return Ok(map);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_finds_its_entry() {
        let range = AddrRange::with_length(UserAddr::new(0x1000), ByteCount::new(0x2000)).unwrap();
        let there = PageEntry::new(Tier::Device, 2, None);
        let map = PageMap {
            range,
            entries: vec![PageEntry::default(), there],
            nr_by_tier: [1, 0, 1, 0],
            nr_here: 1,
        };
        assert_eq!(map.entry_at(UserAddr::new(0x2fff)), Some(there));
        assert_eq!(map.entry_at(UserAddr::new(0x3000)), None);
        assert_eq!(map.entry_at(UserAddr::new(0xfff)), None);
        assert_eq!((map.count(Tier::None), map.count(Tier::Device)), (1, 1));
    }
}
