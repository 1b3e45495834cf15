//! Where the memory of a process is, run by run.
//!
//! The kernel's scan of the page tables says which pages have content, and skips what has none; the
//! driver is asked about runs of anonymous pages only. So it costs what the process has touched,
//! not what it has mapped.

use cohmem_uapi::{FRAME_BYTES, Tier};

use crate::{
    device::Device,
    error::{Cause, Error, ErrorKind, Result},
    migrate::Target,
    process::Process,
    summary::discover,
    sys::pagemap::{Content, Run},
    units::{AddrRange, PhysRange, UserAddr},
};

/// Above every address that a process maps.
const TOP: u64 = 0x7fff_ffff_f000;
/// A gap between runs that is asked about as well, to save a question.
const GAP_BYTES: u64 = 64 * FRAME_BYTES;
/// Bytes that the driver is asked about at a time.
const SPAN_BYTES: u64 = 256 << 20;

/// Where the content of a page is. Devices are the first in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// Device `cohmemN`.
    Device(u32),
    /// System memory, private to processes: what migrates.
    System,
    /// System memory: a page of a file, or shared memory.
    File,
    /// The shared page of zeros: read, never written.
    Zero,
    /// Swap, or being moved at this moment.
    Swap,
    /// Memory of another driver.
    Foreign,
    /// In memory, but in a mapping without access that only root sees into.
    Unseen,
}

/// Consecutive pages that are in the same place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Their addresses; may span mappings.
    pub range: AddrRange,
    /// Where they are.
    pub place: Place,
}

impl Process {
    /// Calls `found_fn` with each extent of the process, by address.
    ///
    /// Pages that were never touched are in none. Without `device`, which may be any device, no
    /// page is found on one, and every anonymous page counts as in system memory.
    ///
    /// # Concurrency
    ///
    /// The process runs on: a page that moves meanwhile is told where it was or where it went.
    ///
    /// # Errors
    ///
    /// [`NoProcess`](crate::ErrorKind::NoProcess), [`NoDevice`](crate::ErrorKind::NoDevice),
    /// [`NotPermitted`](crate::ErrorKind::NotPermitted), [`Io`](crate::ErrorKind::Io).
    pub fn for_each_extent(
        &self,
        device: Option<&Device>,
        mut found_fn: impl FnMut(Extent),
    ) -> Result<()> {
        let mut merge = Merge {
            last: None,
            found_fn: &mut found_fn,
        };
        let mut look = Look {
            process: self,
            device,
            frames: None,
        };
        let told = self
            .pagemap()
            .for_each_run(0, TOP, |runs| look.tell(runs, &mut merge));
        match told.map_err(|failed: LookFailed| failed.into_error(self)) {
            Err(error) if error.raw_os_error() == Some(libc::ENOTTY) && merge.last.is_none() => {
                for range in self.read_used_ranges()? {
                    let (start, end) = (range.start().get(), range.end().get());
                    if start >= TOP {
                        continue;
                    }
                    self.pagemap()
                        .for_each_run_by_entry(start, end, |runs| look.tell(runs, &mut merge))
                        .map_err(|failed: LookFailed| failed.into_error(self))?;
                }
            }
            Err(error) => return Err(error),
            Ok(()) => {}
        }
        merge.finish();
        Ok(())
    }
}

/// What ends a walk: the scan itself, or a question to the driver.
enum LookFailed {
    Scan(std::io::Error),
    Query(Error),
}

impl From<std::io::Error> for LookFailed {
    fn from(source: std::io::Error) -> Self {
        Self::Scan(source)
    }
}

impl LookFailed {
    fn into_error(self, process: &Process) -> Error {
        match self {
            Self::Query(error) => error,
            Self::Scan(source) => Cause::File {
                doing: "scan",
                path: format!("/proc/{}/pagemap", process.pid()).into(),
                source,
            }
            .into(),
        }
    }
}

/// Joins extents that touch.
struct Merge<'a> {
    last: Option<(u64, u64, Place)>,
    found_fn: &'a mut dyn FnMut(Extent),
}

impl Merge<'_> {
    fn add(&mut self, start: u64, end: u64, place: Place) {
        match &mut self.last {
            Some((_, last_end, last_place)) if *last_end == start && *last_place == place => {
                *last_end = end;
            }
            last => {
                if let Some((start, end, place)) = last.replace((start, end, place)) {
                    emit(self.found_fn, start, end, place);
                }
            }
        }
    }

    fn finish(self) {
        if let Some((start, end, place)) = self.last {
            emit(self.found_fn, start, end, place);
        }
    }
}

fn emit(found_fn: &mut dyn FnMut(Extent), start: u64, end: u64, place: Place) {
    if let Ok(range) = AddrRange::new(UserAddr::new(start), UserAddr::new(end)) {
        found_fn(Extent { range, place });
    }
}

/// Frames of each device, as root sees them.
type DeviceFrames = Vec<(u32, PhysRange)>;

struct Look<'a> {
    process: &'a Process,
    device: Option<&'a Device>,
    /// Read when it is first needed.
    frames: Option<DeviceFrames>,
}

impl Look<'_> {
    fn tell(&mut self, runs: &[Run], merge: &mut Merge<'_>) -> std::result::Result<(), LookFailed> {
        let mut rest = runs;
        while let Some((first, others)) = rest.split_first() {
            let device = match (first.content, self.device) {
                (Content::Anonymous, Some(device)) => device,
                (content, _) => {
                    merge.add(first.start, first.end, place_of(content));
                    rest = others;
                    continue;
                }
            };
            let near = others
                .iter()
                .scan(first.end, |end, run| {
                    let is_near =
                        run.start - *end <= GAP_BYTES && run.end - first.start <= SPAN_BYTES;
                    *end = run.end;
                    is_near.then_some(())
                })
                .count();
            let (together, others) = rest.split_at(1 + near);
            self.ask(device, together, merge)?;
            rest = others;
        }
        Ok(())
    }

    /// Asks the driver about the span of some runs, of which the first is anonymous.
    fn ask(
        &mut self,
        device: &Device,
        runs: &[Run],
        merge: &mut Merge<'_>,
    ) -> std::result::Result<(), LookFailed> {
        let (Some(first), Some(last)) = (runs.first(), runs.last()) else {
            return Ok(());
        };
        let mut start = first.start;
        while start < last.end {
            let end = last.end.min(start + SPAN_BYTES);
            let range = AddrRange::new(UserAddr::new(start), UserAddr::new(end))
                .map_err(LookFailed::Query)?;
            let map = match device.query(range, Target::Process(self.process)) {
                Ok(map) => Some(map),
                // It was unmapped since the scan.
                Err(error) if error.kind() == ErrorKind::NotMapped => None,
                Err(error) => return Err(LookFailed::Query(error)),
            };
            for run in runs {
                let (from, to) = (run.start.max(start), run.end.min(end));
                if from >= to {
                    continue;
                }
                if run.content != Content::Anonymous {
                    merge.add(from, to, place_of(run.content));
                    continue;
                }
                let Some(map) = &map else { continue };
                let mut at = from;
                while at < to {
                    let entry = map.entry_at(UserAddr::new(at)).unwrap_or_default();
                    let place = match (entry.tier(), entry.device()) {
                        (Tier::Device, Some(number)) => Place::Device(number),
                        (Tier::Foreign, _) => Place::Foreign,
                        (Tier::System, _) => Place::System,
                        _ => self.place_by_frame(at)?,
                    };
                    merge.add(at, at + FRAME_BYTES, place);
                    at += FRAME_BYTES;
                }
            }
            start = end;
        }
        Ok(())
    }

    /// For a page that the driver does not look at, since its mapping allows no access.
    fn place_by_frame(&mut self, address: u64) -> std::result::Result<Place, LookFailed> {
        let Some(frame) = self.process.pagemap().frame_at(address)? else {
            return Ok(Place::Unseen);
        };
        if self.frames.is_none() {
            let devices = discover().map_err(LookFailed::Query)?;
            let ranges = devices
                .iter()
                .filter_map(|device| Some((device.number, device.range()?)));
            self.frames = Some(ranges.collect());
        }
        let phys = frame * FRAME_BYTES;
        let holding = self
            .frames
            .iter()
            .flatten()
            .find(|(_, range)| range.start() <= phys && phys < range.end());
        Ok(holding.map_or(Place::System, |&(number, _)| Place::Device(number)))
    }
}

const fn place_of(content: Content) -> Place {
    match content {
        Content::Anonymous => Place::System,
        Content::File => Place::File,
        Content::Zero => Place::Zero,
        Content::Swapped => Place::Swap,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ByteCount, sys::map::Mapping};

    #[test]
    fn touched_pages_of_this_process_are_in_system_memory() {
        let mut mapping = Mapping::anonymous(32 * 4096).unwrap().without_huge_pages();
        let range = AddrRange::covering(mapping.as_slice());
        for page in [1, 2, 30] {
            mapping.as_mut_slice()[page * 4096] = 1;
        }
        let process = Process::open(std::process::id()).unwrap();
        let mut found = Vec::new();
        let mut is_sorted = true;
        let mut last = UserAddr::new(0);
        process
            .for_each_extent(None, |extent| {
                is_sorted &= extent.range.start() >= last;
                last = extent.range.end();
                if let Some(part) = extent.range.intersection(range) {
                    found.push((part, extent.place));
                }
            })
            .unwrap();
        assert!(is_sorted);
        let at = |page: u64, pages: u64| {
            let start = UserAddr::new(range.start().get() + page * 4096);
            AddrRange::with_length(start, ByteCount::of_frames(pages)).unwrap()
        };
        assert_eq!(
            found,
            [(at(1, 2), Place::System), (at(30, 1), Place::System)]
        );
    }

    #[test]
    fn extents_that_touch_are_one() {
        let mut found = Vec::new();
        let mut found_fn = |extent: Extent| found.push((extent.range.to_string(), extent.place));
        let mut merge = Merge {
            last: None,
            found_fn: &mut found_fn,
        };
        for (start, end, place) in [
            (0x1000, 0x2000, Place::System),
            (0x2000, 0x3000, Place::System),
            (0x3000, 0x4000, Place::Device(1)),
            (0x8000, 0x9000, Place::Device(1)),
        ] {
            merge.add(start, end, place);
        }
        merge.finish();
        let expected = [
            ("0x1000-0x3000", Place::System),
            ("0x3000-0x4000", Place::Device(1)),
            ("0x8000-0x9000", Place::Device(1)),
        ];
        assert_eq!(
            found,
            expected.map(|(range, place)| (range.to_owned(), place))
        );
    }
}
