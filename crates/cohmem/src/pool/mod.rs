//! A device's memory, of whichever backend: where regions come from.

mod capabilities;
mod choice;
pub(crate) mod memory;
pub(crate) mod refusal;

use std::sync::Arc;

use cohmem_engine::Level;
use cohmem_uapi::{Direction, FRAME_BYTES, ReasonCounts, State};

pub use self::{
    capabilities::{Capabilities, Fork, KernelAccess, MemoryType, PinNeed, Selection},
    choice::{Backend, BackendKind, EngineBackend, EngineSource},
};
use self::{
    memory::{Backing, Memory},
    refusal::Refusal,
};
use crate::{
    backend::{engine::EnginePool, numa::Nodes},
    device::Device,
    error::{Cause, ErrorKind, Result},
    heap::Heap,
    migrate::{MigrateOptions, Migrated, Target},
    region::{Birth, Placement, Region, RegionOptions},
    summary::{discover, is_driver_loaded},
    sys::{map::Mapping, view::View},
    units::{AddrRange, ByteCount},
};

/// The memory of one device, through one backend.
///
/// Clones are handles of the same pool. It lives as long as a handle or a region of it.
#[derive(Clone, Debug)]
pub struct Pool {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    selection: Selection,
    backend: Backend,
    source: Source,
}

#[derive(Debug)]
enum Source {
    Driver(Device),
    Numa(Nodes),
    Engine(EnginePool),
}

/// How much a pool has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PoolStatus {
    /// All device memory.
    pub total: ByteCount,
    /// What a new region can have.
    pub free: ByteCount,
}

impl Pool {
    /// Opens the device memory that `backend` names.
    ///
    /// # Errors
    ///
    /// [`NotFound`](ErrorKind::NotFound) and [`Ambiguous`](ErrorKind::Ambiguous): no device or node,
    /// or several; [`NoDriver`](ErrorKind::NoDriver), [`NoDevice`](ErrorKind::NoDevice),
    /// [`NotPermitted`](ErrorKind::NotPermitted), [`Unsupported`](ErrorKind::Unsupported): also for a
    /// level of the engine that this machine refuses; [`NoMemory`](ErrorKind::NoMemory).
    pub fn open(backend: &Backend) -> Result<Self> {
        match backend {
            Backend::Auto => Self::open_auto(),
            Backend::Driver(number) => Self::open_driver(*number, "asked for"),
            Backend::Numa(node) => Self::open_numa(*node),
            Backend::Engine(engine) => Self::open_engine(engine, "asked for".to_owned()),
        }
    }

    /// The memory of an open device of the driver's.
    #[must_use]
    pub fn of_device(device: Device) -> Self {
        Self::with_device(device, "given")
    }

    fn open_auto() -> Result<Self> {
        let why = if !is_driver_loaded() {
            "the driver is not loaded".to_owned()
        } else {
            match Self::open_driver(None, "a device is attached") {
                Ok(pool) => return Ok(pool),
                Err(error) => error.to_string(),
            }
        };
        Self::open_engine(&EngineBackend::default(), why)
    }

    fn open_driver(number: Option<u32>, why: &str) -> Result<Self> {
        let number = match number {
            Some(number) => number,
            None => only_device()?,
        };
        Ok(Self::with_device(Device::open(number)?, why))
    }

    fn with_device(device: Device, why: &str) -> Self {
        let number = device.number();
        Self::new(
            Backend::Driver(Some(number)),
            BackendKind::Driver,
            format!("/dev/cohmem{number}"),
            why.to_owned(),
            Source::Driver(device),
        )
    }

    fn open_numa(node: Option<u32>) -> Result<Self> {
        let nodes = Nodes::find(node)?;
        // Fails where the kernel has no NUMA.
        nodes.query_memory()?;
        Ok(Self::new(
            Backend::Numa(Some(nodes.device)),
            BackendKind::Numa,
            format!(
                "NUMA node {} as a device, node {} as home",
                nodes.device, nodes.home
            ),
            "asked for".to_owned(),
            Source::Numa(nodes),
        ))
    }

    fn open_engine(engine: &EngineBackend, why: String) -> Result<Self> {
        let pool = EnginePool::open(engine)?;
        Ok(Self::new(
            Backend::Engine(engine.clone()),
            BackendKind::Engine,
            pool.describe(),
            why,
            Source::Engine(pool),
        ))
    }

    fn new(backend: Backend, kind: BackendKind, what: String, why: String, source: Source) -> Self {
        let selection = Selection { kind, what, why };
        Self {
            inner: Arc::new(Inner {
                selection,
                backend,
                source,
            }),
        }
    }

    /// Which backend this is, and why: one line when shown.
    #[must_use]
    pub fn selection(&self) -> &Selection {
        &self.inner.selection
    }

    /// What it gives, and what not.
    #[must_use]
    pub fn capabilities(&self) -> Capabilities {
        match &self.inner.source {
            Source::Driver(_) => Capabilities::DRIVER,
            Source::Numa(_) => Capabilities::NUMA,
            Source::Engine(pool) => Capabilities::engine(pool.level(), pool.least_granule()),
        }
    }

    /// The granule that regions have unless they ask for another.
    #[must_use]
    pub fn default_granule(&self) -> ByteCount {
        match &self.inner.source {
            Source::Engine(pool) => ByteCount::new(pool.default_granule()),
            Source::Driver(_) | Source::Numa(_) => self.capabilities().least_granule,
        }
    }

    /// The engine's level; `None` for the other backends.
    #[must_use]
    pub fn level(&self) -> Option<Level> {
        match &self.inner.source {
            Source::Driver(_) | Source::Numa(_) => None,
            Source::Engine(pool) => Some(pool.level()),
        }
    }

    /// How much there is, and how much is free.
    ///
    /// # Errors
    ///
    /// [`NoDevice`](ErrorKind::NoDevice): it was detached. [`Io`](ErrorKind::Io).
    pub fn query_status(&self) -> Result<PoolStatus> {
        match &self.inner.source {
            Source::Driver(device) => {
                let status = device.query_status()?;
                Ok(PoolStatus {
                    total: ByteCount::of_frames(status.nr_frames),
                    free: ByteCount::of_frames(match status.state {
                        Some(State::Online) => status.nr_free,
                        _ => 0,
                    }),
                })
            }
            Source::Numa(nodes) => {
                let (total, free) = nodes.query_memory()?;
                Ok(PoolStatus { total, free })
            }
            Source::Engine(pool) => Ok(pool.status()),
        }
    }

    /// Allocates zeroed memory of the calling process, which is freed when the region is dropped.
    ///
    /// # Errors
    ///
    /// [`Empty`](ErrorKind::Empty); [`Unsupported`](ErrorKind::Unsupported) for a type of memory
    /// that the backend has not; [`Misaligned`](ErrorKind::Misaligned) for a granule that it cannot
    /// have; [`NoFrames`](ErrorKind::NoFrames) under [`Placement::Strict`], with the free and the
    /// needed bytes; [`NoMemory`](ErrorKind::NoMemory). No region is left.
    pub fn allocate(&self, size: ByteCount, options: &RegionOptions) -> Result<Region> {
        if size.get() == 0 {
            return Err(Cause::EmptyRegion.into());
        }
        let granule = self.granule(options)?;
        let bytes = size.get().checked_next_multiple_of(granule);
        let Some(bytes) = bytes.filter(|&bytes| isize::try_from(bytes).is_ok()) else {
            return Err(Cause::Mmap {
                length: size.get(),
                source: std::io::ErrorKind::OutOfMemory.into(),
            }
            .into());
        };
        let birth = match options.memory {
            // It never moves, so that it is where it belongs from the start.
            MemoryType::Generic => Birth::Device(Placement::Strict),
            _ => options.birth,
        };
        if birth == Birth::Device(Placement::Strict) {
            let (free, needed) = (self.query_status()?.free, ByteCount::new(bytes));
            if free < needed {
                let backend = self.inner.backend.clone();
                return Err(Refusal::TooSmall {
                    backend,
                    free,
                    needed,
                }
                .into());
            }
        }
        let (backing, placed) = self.back(bytes, options.memory, birth, granule)?;
        let on_device = placed.moved + placed.filled;
        let nr_pages = bytes / FRAME_BYTES;
        if birth == Birth::Device(Placement::Strict) && on_device < nr_pages {
            return Err(Refusal::NotPlaced {
                backend: self.inner.backend.clone(),
                asked: nr_pages,
                stayed: nr_pages - on_device,
                why: reasons(&placed.stayed),
            }
            .into());
        }
        let length = usize::try_from(size.get()).unwrap_or(usize::MAX);
        let view = View::new(Memory::new(backing, granule), length);
        Ok(Region::new(view, placed, options.memory))
    }

    /// Allocates a heap, for collections whose memory is to be on the device.
    ///
    /// # Errors
    ///
    /// As [`Pool::allocate`].
    pub fn heap(&self, size: ByteCount, options: &RegionOptions) -> Result<Heap> {
        self.allocate(size, options).map(Heap::new)
    }

    fn granule(&self, options: &RegionOptions) -> Result<u64> {
        let capabilities = self.capabilities();
        let backend = self.inner.selection.kind;
        if !capabilities.has(options.memory) {
            let kind = options.memory;
            return Err(Refusal::Memory { kind, backend }.into());
        }
        let least = capabilities.least_granule;
        match options.granule {
            None => Ok(self.default_granule().get()),
            Some(asked)
                if asked.get().is_power_of_two()
                    && asked >= least
                    && (asked == least || capabilities.has_granules)
                    && asked <= ByteCount::new(1 << 30) =>
            {
                Ok(asked.get())
            }
            Some(asked) => Err(Refusal::Granule {
                asked,
                backend,
                least,
            }
            .into()),
        }
    }

    /// The memory, with what became of its pages at birth.
    fn back(
        &self,
        bytes: u64,
        kind: MemoryType,
        birth: Birth,
        granule: u64,
    ) -> Result<(Backing, Migrated)> {
        let anonymous = || {
            let length = usize::try_from(bytes).unwrap_or(usize::MAX);
            Mapping::anonymous(length).map_err(|source| Cause::Mmap {
                length: bytes,
                source,
            })
        };
        let is_on_device = matches!(birth, Birth::Device(_));
        match &self.inner.source {
            Source::Driver(device) => {
                let device = device.try_clone()?;
                let mapping = anonymous()?;
                let mut placed = Migrated::default();
                if is_on_device {
                    let range = AddrRange::of_span(mapping.start(), mapping.length());
                    let options = MigrateOptions {
                        fill: true,
                        ..MigrateOptions::default()
                    };
                    placed = device.migrate(range, Direction::ToDevice, &options, Target::Own)?;
                }
                Ok((Backing::Driver { device, mapping }, placed))
            }
            Source::Numa(nodes) => {
                let nodes = *nodes;
                let mut mapping = anonymous()?;
                let mut placed = Migrated::default();
                if is_on_device {
                    placed = nodes.fill(&mut mapping)?;
                }
                Ok((Backing::Numa { nodes, mapping }, placed))
            }
            Source::Engine(pool) => {
                let (region, placed) = pool.allocate(bytes, kind, is_on_device, granule)?;
                Ok((Backing::Engine(region), placed))
            }
        }
    }
}

fn only_device() -> Result<u32> {
    let devices = discover()?;
    match devices.as_slice() {
        [device] => Ok(device.number),
        [] if !is_driver_loaded() => Err(Device::open(0)
            .err()
            .filter(|error| error.kind() == ErrorKind::NoDriver)
            .unwrap_or_else(|| Refusal::NoDeviceAttached.into())),
        [] => Err(Refusal::NoDeviceAttached.into()),
        several => Err(Refusal::SeveralDevices {
            numbers: several.iter().map(|device| device.number).collect(),
        }
        .into()),
    }
}

/// Why pages stayed, in words.
fn reasons(stayed: &ReasonCounts) -> String {
    let reasons: Vec<_> = stayed
        .iter()
        .map(|(reason, count)| format!("{count} since {}", reason.text()))
        .collect();
    reasons.join(", ")
}
