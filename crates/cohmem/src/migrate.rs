//! Migration of a range, part by part.

use std::ops::ControlFlow;

use cohmem_uapi::{
    Direction, FRAME_BYTES, MIGRATE_EXEC, MIGRATE_FILL, MIGRATE_SHARED, Reason, ReasonCounts, args,
};

use crate::{
    backend::driver::{DeviceNode, proc_fd},
    error::{Cause, ErrorKind, Result},
    process::Process,
    sys::map::Mapping,
    units::{AddrRange, ByteCount, UserAddr},
};

/// How to migrate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MigrateOptions {
    /// Fill holes of the range with zeroed device frames (to the device only).
    pub fill: bool,
    /// Move pages that other processes map as well; needs `CAP_SYS_NICE`.
    pub shared: bool,
    /// Move pages of executable mappings, too.
    pub executable: bool,
    /// Tell the reason of each page that stayed, in [`Migrated::reasons`].
    pub reasons: bool,
    /// Bytes a call of the driver; between two calls the migration can be cancelled. Rounded up to
    /// whole pages.
    pub step: ByteCount,
}

impl Default for MigrateOptions {
    fn default() -> Self {
        Self {
            fill: false,
            shared: false,
            executable: false,
            reasons: false,
            step: ByteCount::new(64 << 20),
        }
    }
}

impl MigrateOptions {
    fn flags(self) -> u32 {
        let mut flags = 0;
        for (is_set, flag) in [
            (self.fill, MIGRATE_FILL),
            (self.shared, MIGRATE_SHARED),
            (self.executable, MIGRATE_EXEC),
        ] {
            if is_set {
                flags |= flag;
            }
        }
        flags
    }
}

/// Whose pages.
#[derive(Clone, Copy, Debug)]
pub enum Target<'a> {
    /// Those of the calling process.
    Own,
    /// Those of another process, which the caller may see.
    Process(&'a Process),
}

impl<'a> Target<'a> {
    pub(crate) const fn process(self) -> Option<&'a Process> {
        match self {
            Self::Own => None,
            Self::Process(process) => Some(process),
        }
    }
}

/// What a migration did: each page that was looked at is in one of the counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Migrated {
    /// Pages that moved.
    pub moved: u64,
    /// Holes that were filled.
    pub filled: u64,
    /// Pages that stayed, by reason.
    pub stayed: ReasonCounts,
    /// First address that was not looked at; the end of the range when all was.
    pub next: UserAddr,
    /// Pages of the range.
    pub total: u64,
    /// The reason of each page from the start up to `next`, `None` for a page that moved or was
    /// filled; empty unless it was asked for.
    pub reasons: Vec<Option<Reason>>,
}

impl Migrated {
    /// Pages that were looked at.
    #[must_use]
    pub fn done(&self) -> u64 {
        self.moved
            .saturating_add(self.filled)
            .saturating_add(self.stayed.total())
    }

    /// Adds what another migration did, for a total over several ranges; `next` and `reasons` are
    /// those of `self`.
    pub fn merge(&mut self, other: &Self) {
        self.moved += other.moved;
        self.filled += other.filled;
        self.total += other.total;
        self.stayed.merge(&other.stayed);
    }
}

/// One call of the driver. A trait, so that the loop is tested without a driver.
trait Mover {
    fn move_part(
        &self,
        argument: args::Migrate,
        reasons: Option<&mut [u8]>,
    ) -> Result<args::Migrate>;
}

impl Mover for DeviceNode {
    fn move_part(
        &self,
        argument: args::Migrate,
        reasons: Option<&mut [u8]>,
    ) -> Result<args::Migrate> {
        self.migrate(argument, reasons)
    }
}

pub(crate) fn migrate(
    node: &DeviceNode,
    range: AddrRange,
    direction: Direction,
    options: &MigrateOptions,
    target: Target<'_>,
    progress_fn: impl FnMut(&Migrated) -> ControlFlow<()>,
) -> Result<Migrated> {
    let template = args::Migrate {
        direction: direction as u32,
        flags: options.flags(),
        proc_fd: proc_fd(target.process()),
        ..args::Migrate::default()
    };
    let mut reasons = match options.reasons {
        true => Some(ReasonBuffer::new(range, options, target)?),
        false => None,
    };
    parts(
        node,
        range,
        options,
        template,
        reasons.as_mut(),
        progress_fn,
    )
}

fn step_bytes(options: &MigrateOptions) -> u64 {
    options.step.frames().max(1).saturating_mul(FRAME_BYTES)
}

fn parts(
    mover: &impl Mover,
    range: AddrRange,
    options: &MigrateOptions,
    template: args::Migrate,
    mut reasons: Option<&mut ReasonBuffer>,
    mut progress_fn: impl FnMut(&Migrated) -> ControlFlow<()>,
) -> Result<Migrated> {
    let end = range.end().get();
    let mut migrated = Migrated {
        next: range.start(),
        total: range.nr_pages(),
        ..Migrated::default()
    };
    let mut is_any_mapped = false;
    loop {
        let start = migrated.next.get();
        let length = step_bytes(options).min(end - start);
        let argument = args::Migrate {
            start,
            length,
            ..template
        };
        let buffer = reasons.as_mut().map(|reasons| reasons.part(length));
        match mover.move_part(argument, buffer) {
            Ok(part) if part.next <= start && length > 0 => {
                return Err(Cause::NoProgress { at: start }.into());
            }
            Ok(part) => {
                is_any_mapped = true;
                migrated.moved += part.nr_moved;
                migrated.filled += part.nr_filled;
                migrated.stayed.merge(&ReasonCounts::from_raw(part.stayed));
                migrated.next = UserAddr::new(part.next.min(end));
            }
            // A part of a long range may lie in a gap, as single pages may.
            Err(error)
                if error.kind() == ErrorKind::NotMapped
                    && (is_any_mapped || start + length < end) =>
            {
                migrated.stayed.add(Reason::Unmapped, length / FRAME_BYTES);
                migrated.next = UserAddr::new(start + length);
                if let Some(reasons) = reasons.as_mut() {
                    reasons.part(length).fill(Reason::Unmapped as u8);
                }
            }
            // Nothing was done; whether to go on is the caller's to say, below.
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        if let Some(reasons) = reasons.as_mut() {
            reasons.take(
                (migrated.next.get() - start) / FRAME_BYTES,
                &mut migrated.reasons,
            );
        }
        if progress_fn(&migrated).is_break() || migrated.next.get() >= end {
            return Ok(migrated);
        }
    }
}

/// One byte a page of a part, in a mapping of its own: it must not lie in the range itself.
struct ReasonBuffer(Mapping);

impl ReasonBuffer {
    fn new(range: AddrRange, options: &MigrateOptions, target: Target<'_>) -> Result<Self> {
        let nr_pages = step_bytes(options).min(range.length().get()) / FRAME_BYTES;
        let length = nr_pages.max(1).next_multiple_of(FRAME_BYTES);
        let failed = |source| Cause::Mmap { length, source };
        let mapping = Mapping::anonymous(usize::try_from(length).unwrap_or(0)).map_err(failed)?;
        let own = AddrRange::covering(mapping.as_slice());
        if target.process().is_none() && range.intersection(own).is_some() {
            return Err(Cause::ReasonsInRange {
                range: range.to_string(),
            }
            .into());
        }
        Ok(Self(mapping))
    }

    fn part(&mut self, length: u64) -> &mut [u8] {
        let nr_pages = usize::try_from(length / FRAME_BYTES).unwrap_or(usize::MAX);
        let nr_pages = nr_pages.min(self.0.length());
        &mut self.0.as_mut_slice()[..nr_pages]
    }

    fn take(&mut self, nr_pages: u64, reasons: &mut Vec<Option<Reason>>) {
        let part = self.part(nr_pages * FRAME_BYTES);
        reasons.extend(part.iter().map(|&raw| Reason::from_raw(raw)));
        part.fill(0);
    }
}

#[cfg(test)]
mod tests;
