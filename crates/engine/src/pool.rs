//! Where device memory comes from.

use std::{
    fs::{self, File},
    io,
    os::{
        fd::OwnedFd,
        unix::fs::{FileTypeExt as _, MetadataExt as _},
    },
    path::{Path, PathBuf},
    sync::Arc,
};

use cohmem_frames::{FrameIndex, FramePool, FrameRun, words_needed};
use rustix::{fs::FlockOperation, io::Errno};

use crate::{
    Granule,
    error::{Cause, Error, Result},
    host::Slot,
    sync::{AtomicU64, Ordering},
    sys::device::{self, Mapping},
};

/// What a pool is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PoolKind {
    /// A memfd: emulated device memory, ordinary pages.
    Memfd,
    /// A memfd of huge pages of 2 MiB, from the machine's reserve (`vm.nr_hugepages`).
    MemfdHuge,
    /// A device-dax node.
    Dax(PathBuf),
}

/// What an emulated pool is to be.
#[derive(Clone, Copy, Debug)]
pub struct PoolOptions {
    bytes: usize,
    frame: Granule,
    is_huge: bool,
}

impl PoolOptions {
    /// A pool of `bytes` bytes of ordinary pages, handed out in frames of 4 KiB.
    #[must_use]
    pub const fn new(bytes: usize) -> Self {
        Self {
            bytes,
            frame: Granule::SMALLEST,
            is_huge: false,
        }
    }

    /// Hands memory out in frames of this size. Granules of regions are multiples of it. It is best to
    /// be equal to them: then no pool is ever too fragmented, and huge pages can be used.
    #[must_use]
    pub const fn frame(mut self, frame: Granule) -> Self {
        self.frame = frame;
        self
    }

    /// Takes huge pages of 2 MiB from the machine's reserve; frames become at least that large.
    #[must_use]
    pub const fn huge_pages(mut self) -> Self {
        self.is_huge = true;
        self
    }
}

/// A device's memory, shared by the regions on it and by its clones.
#[derive(Clone, Debug)]
pub struct Pool(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    kind: PoolKind,
    mapping: Mapping,
    frame: Granule,
    frames: FramePool<Box<[AtomicU64]>>,
    /// A bit a frame: its memory was there once, so it is for good.
    backed: Box<[AtomicU64]>,
}

impl Pool {
    /// Makes emulated device memory. It takes system memory when it is first used, and keeps it until
    /// the pool and all regions on it are dropped. It is sealed, so that nothing can shrink it.
    ///
    /// # Errors
    ///
    /// [`BadSize`](crate::ErrorKind::BadSize): 0, not a multiple of the frame, or more than the address
    /// space holds. [`System`](crate::ErrorKind::System): the system refused memory, a file descriptor,
    /// or (huge pages) has too few in reserve.
    pub fn memfd(options: &PoolOptions) -> Result<Self> {
        let (kind, frame) = if options.is_huge {
            (PoolKind::MemfdHuge, options.frame.max(Granule::HUGE))
        } else {
            (PoolKind::Memfd, options.frame)
        };
        check_size(options.bytes, frame)?;
        let system = |source| Cause::System {
            doing: "make a pool",
            bytes: options.bytes,
            source,
        };
        let file = device::sealed_memfd(options.bytes, options.is_huge).map_err(system)?;
        Self::over(kind, file, options.bytes, frame)
    }

    /// Takes all of a device-dax node, for example `/dev/dax0.0`. Its alignment is the frame, unless
    /// `frame` is larger.
    ///
    /// Where the device is unbound from its driver meanwhile, its memory is gone: who uses a granule that is
    /// on it gets `SIGBUS`, as from a mapping of the device, and so does who migrates it home; who touches a
    /// private one waits for ever. Granules at home stay whole, and stay there
    /// ([`NoFrame`](crate::Reason::NoFrame)).
    ///
    /// # Errors
    ///
    /// [`System`](crate::ErrorKind::System): it cannot be opened or mapped, or is no such node.
    /// [`DeviceBusy`](crate::ErrorKind::DeviceBusy): another process uses it as a pool.
    pub fn dax(path: &Path, frame: Option<Granule>) -> Result<Self> {
        let file = File::options()
            .read(true)
            .write(true)
            .open(path)
            .map_err(|source| file_error("open", path, source))?;
        let (bytes, alignment) = read_attributes(&file, path)?;
        let frame = Granule::new(alignment)?.max(frame.unwrap_or(Granule::SMALLEST));
        let bytes = bytes - bytes % frame.bytes();
        check_size(bytes, frame)?;
        let file = OwnedFd::from(file);
        // Held by the mapping's file for as long as the pool lives.
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::AGAIN) => {
                let path = path.to_owned();
                return Err(Cause::DeviceBusy { path }.into());
            }
            Err(error) => return Err(file_error("lock", path, error.into())),
        }
        Self::over(PoolKind::Dax(path.to_owned()), file, bytes, frame)
    }

    fn over(kind: PoolKind, file: OwnedFd, bytes: usize, frame: Granule) -> Result<Self> {
        let system = |source| Cause::System {
            doing: "map a pool",
            bytes,
            source,
        };
        let mapping = Mapping::of(file, bytes, frame.bytes()).map_err(system)?;
        let nr_frames = (bytes / frame.bytes()) as u64;
        let zeros = |nr_words: usize| (0..nr_words).map(|_| AtomicU64::new(0)).collect();
        let metadata: Box<[AtomicU64]> = zeros(words_needed(nr_frames));
        let nr_words = usize::try_from(nr_frames.div_ceil(64)).unwrap_or(usize::MAX);
        let frames = FramePool::new(metadata, nr_frames)
            .map_err(|error| system(io::Error::new(io::ErrorKind::InvalidInput, error)))?;
        Ok(Self(Arc::new(Shared {
            kind,
            mapping,
            frame,
            frames,
            backed: zeros(nr_words),
        })))
    }

    /// What it is made of.
    #[must_use]
    pub fn kind(&self) -> &PoolKind {
        &self.0.kind
    }

    /// The unit in which it is handed out.
    #[must_use]
    pub fn frame(&self) -> Granule {
        self.0.frame
    }

    /// Bytes in all.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.0.mapping.length() as u64
    }

    /// Bytes that no region holds.
    #[must_use]
    pub fn free_bytes(&self) -> u64 {
        self.0.frames.nr_free() * self.0.frame.bytes() as u64
    }

    pub(crate) fn mapping(&self) -> &Mapping {
        &self.0.mapping
    }

    pub(crate) fn is_dax(&self) -> bool {
        matches!(self.0.kind, PoolKind::Dax(_))
    }

    /// Takes up to `nr_granules` granules of consecutive memory, at least one; memory is behind them.
    pub(crate) fn take(&self, nr_granules: usize, granule: Granule) -> Result<Taken, Shortage> {
        let per_granule = (granule.bytes() / self.0.frame.bytes()) as u64;
        let wanted = per_granule.saturating_mul(nr_granules as u64);
        let run = self
            .0
            .frames
            .allocate_run(wanted)
            .ok_or(Shortage::NoFrame)?;
        // A run that is cut in a fragmented pool: what is no whole granule goes back.
        let used = run.len() - run.len() % per_granule;
        self.free_run(FrameRun::new(
            FrameIndex::new(run.start().get() + used),
            run.len() - used,
        ));
        if used == 0 {
            return Err(Shortage::NoFrame);
        }
        let run = FrameRun::new(run.start(), used);
        if self.back(run).is_err() {
            self.free_run(run);
            return Err(if self.is_dax() {
                Shortage::NoFrame
            } else {
                Shortage::NoMemory
            });
        }
        Ok(Taken {
            slot: self.slot_of(run.start()),
            nr_granules: usize::try_from(used / per_granule).unwrap_or(usize::MAX),
        })
    }

    /// Gives back what [`Self::take`] gave, or a part of it.
    pub(crate) fn give_back(&self, slot: Slot, bytes: usize) {
        let frame = self.0.frame.bytes();
        let start = FrameIndex::new((slot / frame) as u64);
        self.free_run(FrameRun::new(start, (bytes / frame) as u64));
    }

    fn free_run(&self, run: FrameRun) {
        for frame in run.iter() {
            let freed = self.0.frames.free(frame);
            debug_assert!(freed.is_ok(), "the frame was held: {freed:?}");
        }
    }

    fn slot_of(&self, frame: FrameIndex) -> Slot {
        // Lossless: a frame of the pool lies within its mapping.
        usize::try_from(frame.get()).unwrap_or(usize::MAX) * self.0.frame.bytes()
    }

    /// Gets memory behind frames that never had any.
    fn back(&self, run: FrameRun) -> Result<(), Errno> {
        let bit = |frame: FrameIndex| {
            let word = usize::try_from(frame.get() / 64).unwrap_or(usize::MAX);
            (&self.0.backed[word], 1_u64 << (frame.get() % 64))
        };
        // Relaxed: a frame's owner alone looks at its bit.
        let is_backed = run.iter().all(|frame| {
            let (word, mask) = bit(frame);
            word.load(Ordering::Relaxed) & mask != 0
        });
        // A device may have been unbound since: then its memory is gone, and using it raises SIGBUS.
        if is_backed && !self.is_dax() {
            return Ok(());
        }
        let bytes = usize::try_from(run.len()).unwrap_or(usize::MAX) * self.0.frame.bytes();
        self.0.mapping.populate(self.slot_of(run.start()), bytes)?;
        for frame in run.iter() {
            let (word, mask) = bit(frame);
            word.fetch_or(mask, Ordering::Relaxed);
        }
        Ok(())
    }
}

/// Consecutive memory of a pool.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Taken {
    pub(crate) slot: Slot,
    pub(crate) nr_granules: usize,
}

/// Why a pool gave nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shortage {
    NoFrame,
    NoMemory,
}

fn check_size(bytes: usize, frame: Granule) -> Result<()> {
    let limit = isize::MAX.unsigned_abs();
    if bytes == 0 || bytes > limit {
        let what = "pool";
        return Err(Cause::BadSize { what, bytes, limit }.into());
    }
    if !bytes.is_multiple_of(frame.bytes()) {
        let frame = frame.bytes();
        return Err(Cause::PoolOfFrames { bytes, frame }.into());
    }
    Ok(())
}

/// Size and alignment of an open device-dax node, from sysfs.
fn read_attributes(file: &File, path: &Path) -> Result<(usize, usize)> {
    let metadata = file
        .metadata()
        .map_err(|source| file_error("look at", path, source))?;
    let not = |why| {
        let path = path.to_owned();
        Error::from(Cause::NotADevice { path, why })
    };
    if !metadata.file_type().is_char_device() {
        return Err(not("it is no character device"));
    }
    let number = metadata.rdev();
    let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
    let device = PathBuf::from(format!("/sys/dev/char/{major}:{minor}"));
    let subsystem = fs::canonicalize(device.join("subsystem"))
        .map_err(|source| file_error("look at", &device, source))?;
    if subsystem.file_name().is_none_or(|name| name != "dax") {
        return Err(not("it belongs to another subsystem"));
    }
    let read = |name: &str| {
        let attribute = device.join(name);
        let text = fs::read_to_string(&attribute)
            .map_err(|source| file_error("read", &attribute, source))?;
        text.trim()
            .parse()
            .map_err(|_error| not("its size and alignment cannot be read"))
    };
    Ok((read("size")?, read("align")?))
}

fn file_error(doing: &'static str, path: &Path, source: io::Error) -> Error {
    let path = path.to_owned();
    Cause::File {
        doing,
        path,
        source,
    }
    .into()
}

#[cfg(all(test, not(loom)))]
mod tests;
