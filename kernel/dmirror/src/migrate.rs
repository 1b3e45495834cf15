// SPDX-License-Identifier: GPL-2.0
//! Pages of a process on their way to a device and home.

use cohmem_frames::FrameRun;
use cohmem_kcore::{
    Errno,
    host::{Source, Span, WINDOW_PAGES},
};
use cohmem_ksys::{
    arrays::Arrays,
    batch::{Batch, Select},
    mirror::Mirror,
    page::PAGE_BYTES,
    pagemap::Chunk,
    process,
    stock::Stock,
    sync,
    vma::LockedMm,
};

use crate::device::{Device, Keeper};

const WINDOW_BYTES: u64 = WINDOW_PAGES as u64 * PAGE_BYTES;

/// Moves what can be moved of `span` to the device; holes are filled with zeros. Sleeps.
///
/// # Errors
///
/// `EINVAL`: a part of the span is not mapped, not readable, or of a kind that cannot move; what lies
/// before has moved. `ENOMEM`: there is no room for the content of private memory. Those of
/// [`Device::memory`].
pub(crate) fn to_device(device: &Device, mirror: &Mirror, span: Span) -> Result<(), Errno> {
    let mut arrays = Arrays::new()?;
    let mut content = Stock::of_content()?;
    let mut start = span.start;
    while start < span.end {
        let memory = device.memory()?;
        let chunk = memory.chunk().ok_or(Errno::EIO)?;
        if device.is_private() && content.refill(window_pages(start, span.end)) == 0 {
            return Err(Errno::ENOMEM);
        }
        let space = mirror.space().ok_or(Errno::EINVAL)?;
        let mut locked = space.lock()?;
        let window = window_of(&locked, start, span.end)?;
        let mut batch = locked.collect(window, Select::System, &mut arrays)?;
        carry_out(&mut batch, nr_pages(window), device, chunk, &mut content);
        drop(batch);
        drop(locked);
        drop(memory);
        start = window.end;
        be_polite()?;
    }
    Ok(())
}

/// Moves what the device holds of `span` home; returns how many pages moved. Sleeps.
///
/// # Errors
///
/// As for [`to_device`]; `ENOMEM`: there is no room at home.
pub(crate) fn to_system(device: &Device, mirror: &Mirror, span: Span) -> Result<u64, Errno> {
    let mut arrays = Arrays::new()?;
    let mut stock = Stock::new()?;
    let mut nr_moved = 0u64;
    let mut start = span.start;
    while start < span.end {
        if stock.refill(window_pages(start, span.end)) == 0 {
            return Err(Errno::ENOMEM);
        }
        let space = mirror.space().ok_or(Errno::EINVAL)?;
        let mut locked = space.lock()?;
        let window = window_of(&locked, start, span.end)?;
        let mut batch = locked.collect(window, Select::Device(device.owner()), &mut arrays)?;
        let nr_pages = nr_pages(window);
        nr_moved = nr_moved.saturating_add(carry_home(&mut batch, nr_pages, device, &mut stock));
        drop(batch);
        drop(locked);
        start = window.end;
        be_polite()?;
    }
    Ok(nr_moved)
}

fn be_polite() -> Result<(), Errno> {
    sync::relax();
    if process::is_killed() {
        Err(Errno::EINTR)
    } else {
        Ok(())
    }
}

/// The part of `start..end` that is worked on at once: in one area, one leaf of the page tables.
fn window_of(locked: &LockedMm<'_>, start: u64, end: u64) -> Result<Span, Errno> {
    let area = locked
        .vma_from(start)
        .filter(|area| area.span.start <= start && !area.is_unreadable)
        .ok_or(Errno::EINVAL)?;
    let leaf_end = (start / WINDOW_BYTES)
        .saturating_add(1)
        .saturating_mul(WINDOW_BYTES);
    Ok(Span {
        start,
        end: end.min(area.span.end).min(leaf_end),
    })
}

fn nr_pages(span: Span) -> usize {
    usize::try_from(span.end.saturating_sub(span.start) / PAGE_BYTES).unwrap_or(0)
}

/// Pages of the first window of `start..end`, at most.
fn window_pages(start: u64, end: u64) -> usize {
    usize::try_from((end - start) / PAGE_BYTES).map_or(WINDOW_PAGES, |nr| nr.min(WINDOW_PAGES))
}

/// Gives each page of the batch that can move a frame, and one of private memory a page of `content`.
fn carry_out(
    batch: &mut Batch<'_>,
    nr_pages: usize,
    device: &Device,
    chunk: &Chunk<Keeper>,
    content: &mut Stock,
) {
    let mut frames = Frames {
        device,
        run: None,
        nr_wanted: nr_pages as u64,
    };
    for index in 0..nr_pages {
        let source = batch.source(index);
        let may_move = match source {
            Source::Skipped => false,
            Source::Hole => true,
            // KSM loses track of the pages that it merged once they are on a device.
            Source::Page(facts) => !facts.is_ksm && !facts.is_poisoned,
        };
        if !may_move {
            continue;
        }
        let Some(frame) = frames.next() else {
            break;
        };
        if !device.is_private() {
            batch.assign_frame(index, chunk, frame);
        } else if !batch.assign_private_frame(index, chunk, frame, content) {
            device.give_back(frame);
            break;
        }
        if source == Source::Hole {
            batch.zero(index);
        } else if batch.copy(index).is_err() {
            batch.unassign(index);
        }
    }
    batch.commit();
}

/// Gives each page of the batch that can move a system page; returns how many moved.
pub(crate) fn carry_home(
    batch: &mut Batch<'_>,
    nr_pages: usize,
    device: &Device,
    stock: &mut Stock,
) -> u64 {
    for index in 0..nr_pages {
        let Source::Page(facts) = batch.source(index) else {
            continue;
        };
        // One more reference is one more writer, after our copy maybe (mm/migrate_device.c lets it pass). Not
        // to private memory, which is reached by the device alone.
        if facts.refs != 1 && !device.is_private() || facts.is_poisoned {
            continue;
        }
        if !batch.assign_system(index, stock) {
            break;
        }
        if batch.copy(index).is_err() {
            batch.unassign(index);
        }
    }
    batch.commit();
    (0..nr_pages).filter(|&index| batch.is_moved(index)).count() as u64
}

/// Frames of the device, taken in runs; those that are left go back.
struct Frames<'a> {
    device: &'a Device,
    run: Option<FrameRun>,
    nr_wanted: u64,
}

impl Iterator for Frames<'_> {
    type Item = cohmem_frames::FrameIndex;

    fn next(&mut self) -> Option<Self::Item> {
        let run = match self.run.filter(|run| run.len() != 0) {
            Some(run) => run,
            None => self.device.pool().allocate_run(self.nr_wanted)?,
        };
        self.nr_wanted = self.nr_wanted.saturating_sub(1);
        let frame = run.start();
        let rest = run.iter().nth(1);
        self.run = rest.map(|next| FrameRun::new(next, run.len().saturating_sub(1)));
        Some(frame)
    }
}

impl Drop for Frames<'_> {
    fn drop(&mut self) {
        for frame in self.run.into_iter().flat_map(FrameRun::iter) {
            self.device.give_back(frame);
        }
    }
}
