//! The memory of one region, whatever backend it is of.

use std::{
    fmt,
    ops::Range,
    ptr::NonNull,
    sync::{Arc, Weak},
};

use cohmem_uapi::{Direction, FRAME_BYTES, PageEntry, Reason, ReasonCounts};

use super::{BackendKind, refusal::Refusal};
use crate::{
    backend::{engine::EngineRegion, numa::Nodes},
    device::Device,
    error::Result,
    migrate::{MigrateOptions, Migrated, Target},
    pins::{Moving, Part, Pins},
    query::PageMap,
    region::RegionStats,
    sys::map::Mapping,
    units::{AddrRange, ByteCount, UserAddr},
};

/// Mapped memory whose pages move, and who must not move now.
pub(crate) struct Memory {
    backing: Backing,
    pins: Arc<Pins>,
    granule: u64,
}

pub(crate) enum Backing {
    Driver { device: Device, mapping: Mapping },
    Numa { nodes: Nodes, mapping: Mapping },
    Engine(EngineRegion),
}

/// How a migration tells why pages stayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reasons {
    Counted,
    EachPage,
}

/// What it is, not the state of each granule.
impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory")
            .field("kind", &self.kind())
            .field("range", &self.range())
            .field("granule", &self.granule)
            .finish_non_exhaustive()
    }
}

impl Memory {
    pub(crate) fn new(backing: Backing, granule: u64) -> Self {
        Self {
            backing,
            pins: Arc::default(),
            granule,
        }
    }

    /// First byte and length of the mapping.
    pub(crate) fn span(&self) -> (NonNull<u8>, usize) {
        match &self.backing {
            Backing::Driver { mapping, .. } | Backing::Numa { mapping, .. } => {
                (mapping.start(), mapping.length())
            }
            Backing::Engine(region) => region.span(),
        }
    }

    pub(crate) const fn pins(&self) -> &Arc<Pins> {
        &self.pins
    }

    pub(crate) const fn granule(&self) -> u64 {
        self.granule
    }

    pub(crate) const fn kind(&self) -> BackendKind {
        match self.backing {
            Backing::Driver { .. } => BackendKind::Driver,
            Backing::Numa { .. } => BackendKind::Numa,
            Backing::Engine(_) => BackendKind::Engine,
        }
    }

    /// The addresses of its pages, whole.
    pub(crate) fn range(&self) -> AddrRange {
        let (start, length) = self.span();
        AddrRange::of_span(start, length)
    }

    fn address(&self, offset: u64) -> UserAddr {
        UserAddr::new(self.range().start().get() + offset)
    }

    /// Bytes from the start; refuses what is empty, outside, or no multiple of the granule.
    pub(crate) fn offsets(&self, range: AddrRange) -> Result<Range<u64>> {
        let whole = self.range();
        if range.length().get() == 0 {
            return Err(Refusal::EmptyRange { range }.into());
        }
        if range.start() < whole.start() || range.end() > whole.end() {
            return Err(Refusal::Outside {
                range,
                region: whole,
            }
            .into());
        }
        let start = range.start().get() - whole.start().get();
        let end = range.end().get() - whole.start().get();
        if !start.is_multiple_of(self.granule) || !end.is_multiple_of(self.granule) {
            return Err(Refusal::Misaligned {
                range,
                granule: ByteCount::new(self.granule),
            }
            .into());
        }
        Ok(start..end)
    }

    /// Refuses options that the backend does not know.
    pub(crate) fn check_options(&self, options: &MigrateOptions) -> Result<()> {
        if matches!(self.backing, Backing::Driver { .. }) {
            return Ok(());
        }
        let backend = self.kind();
        for (is_set, option) in [
            (options.fill, "fill"),
            (options.shared, "shared"),
            (options.executable, "executable"),
        ] {
            if is_set {
                return Err(Refusal::Option { option, backend }.into());
            }
        }
        Ok(())
    }

    /// Migrates one step, passing over what is pinned.
    pub(crate) fn migrate_step(
        &self,
        offsets: Range<u64>,
        direction: Direction,
        options: &MigrateOptions,
    ) -> Result<Migrated> {
        let moving = self.pins.begin_move(offsets.clone());
        self.migrate_parts(&moving, offsets, direction, options)
    }

    fn migrate_parts(
        &self,
        moving: &Moving<'_>,
        offsets: Range<u64>,
        direction: Direction,
        options: &MigrateOptions,
    ) -> Result<Migrated> {
        let mut all = Migrated {
            next: self.address(offsets.end),
            total: (offsets.end - offsets.start) / FRAME_BYTES,
            ..Migrated::default()
        };
        for part in moving.parts() {
            match part {
                Part::Pinned(part) => {
                    let nr_pages = (part.end - part.start) / FRAME_BYTES;
                    all.stayed.add(Reason::Pinned, nr_pages);
                    if options.reasons {
                        let reasons = (0..nr_pages).map(|_page| Some(Reason::Pinned));
                        all.reasons.extend(reasons);
                    }
                }
                Part::Free(part) => {
                    let done = self.migrate_free(part.clone(), direction, options)?;
                    all.moved += done.moved;
                    all.filled += done.filled;
                    all.stayed.merge(&done.stayed);
                    all.reasons.extend(done.reasons);
                }
            }
        }
        Ok(all)
    }

    fn migrate_free(
        &self,
        part: Range<u64>,
        direction: Direction,
        options: &MigrateOptions,
    ) -> Result<Migrated> {
        match &self.backing {
            Backing::Driver { device, .. } => {
                let range = AddrRange::new(self.address(part.start), self.address(part.end))?;
                device.migrate(range, direction, options, Target::Own)
            }
            Backing::Numa { nodes, mapping } => {
                let pages = part.start / FRAME_BYTES..part.end / FRAME_BYTES;
                let fates = nodes.migrate(mapping, pages, direction)?;
                let mut done = Migrated::default();
                for fate in &fates {
                    match fate {
                        Some(reason) => done.stayed.add(*reason, 1),
                        None => done.moved += 1,
                    }
                }
                if options.reasons {
                    done.reasons = fates;
                }
                Ok(done)
            }
            Backing::Engine(region) => {
                let reasons = match options.reasons {
                    true => Reasons::EachPage,
                    false => Reasons::Counted,
                };
                region.migrate(part, direction, reasons)
            }
        }
    }

    /// Where the pages of a part are.
    pub(crate) fn query(&self, offsets: Range<u64>) -> Result<PageMap> {
        let range = AddrRange::new(self.address(offsets.start), self.address(offsets.end))?;
        let entries: Vec<PageEntry> = match &self.backing {
            Backing::Driver { device, .. } => return device.query(range, Target::Own),
            Backing::Numa { nodes, mapping } => {
                let pages = offsets.start / FRAME_BYTES..offsets.end / FRAME_BYTES;
                nodes.query(mapping, pages)?
            }
            Backing::Engine(region) => region.query(offsets)?,
        };
        Ok(PageMap::of_entries(range, entries))
    }

    /// Prepares a part for I/O; the caller's entry in [`Memory::pins`] keeps migrations away.
    pub(crate) fn settle(&self, offsets: Range<u64>) -> Result<()> {
        match &self.backing {
            // The kernel sees who pins a page, and leaves it where it is.
            Backing::Driver { .. } | Backing::Numa { .. } => Ok(()),
            Backing::Engine(region) => region.settle(offsets),
        }
    }

    /// What the engine measured; the other backends stop nobody themselves.
    pub(crate) fn stats(&self) -> Option<RegionStats> {
        match &self.backing {
            Backing::Driver { .. } | Backing::Numa { .. } => None,
            Backing::Engine(region) => Some(region.stats()),
        }
    }
}

/// Migrates a range of a memory that may be dropped meanwhile, step by step.
pub(crate) fn migrate(
    memory: &Weak<Memory>,
    range: AddrRange,
    direction: Direction,
    options: &MigrateOptions,
    progress_fn: &mut dyn FnMut(&Migrated) -> std::ops::ControlFlow<()>,
) -> Result<Migrated> {
    let alive = || memory.upgrade().ok_or(Refusal::Gone);
    let (offsets, granule) = {
        let memory = alive()?;
        memory.check_options(options)?;
        (memory.offsets(range)?, memory.granule())
    };
    let step = options.step.get().max(1).next_multiple_of(granule);
    let mut migrated = Migrated {
        next: range.start(),
        total: range.nr_pages(),
        stayed: ReasonCounts::default(),
        ..Migrated::default()
    };
    let mut at = offsets.start;
    while at < offsets.end {
        let end = offsets.end.min(at.saturating_add(step));
        // Held for one step only, so that a region that is dropped is freed soon.
        let done = alive()?.migrate_step(at..end, direction, options)?;
        migrated.moved += done.moved;
        migrated.filled += done.filled;
        migrated.stayed.merge(&done.stayed);
        migrated.reasons.extend(done.reasons);
        migrated.next = done.next;
        at = end;
        if progress_fn(&migrated).is_break() {
            break;
        }
    }
    Ok(migrated)
}
