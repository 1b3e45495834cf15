//! Where device memory comes from.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{Granule, error::Result};

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

    /// Hands memory out in frames of this size. Granules of regions are multiples of it. It is best to be
    /// equal to them: then no pool is ever too fragmented.
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
pub struct Pool(Arc<()>);

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
        let _ = options;
        Ok(Self(Arc::new(())))
    }

    /// Takes all of a device-dax node, for example `/dev/dax0.0`. Its alignment is the frame, unless
    /// `frame` is larger.
    ///
    /// # Errors
    ///
    /// [`System`](crate::ErrorKind::System): it cannot be opened or mapped, or is no such node.
    /// [`DeviceBusy`](crate::ErrorKind::DeviceBusy): another process uses it as a pool.
    pub fn dax(path: &Path, frame: Option<Granule>) -> Result<Self> {
        let _ = (path, frame);
        Ok(Self(Arc::new(())))
    }

    /// What it is made of.
    #[must_use]
    pub fn kind(&self) -> &PoolKind {
        &PoolKind::Memfd
    }

    /// The unit in which it is handed out.
    #[must_use]
    pub fn frame(&self) -> Granule {
        Granule::SMALLEST
    }

    /// Bytes in all.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        0
    }

    /// Bytes that no region holds.
    #[must_use]
    pub fn free_bytes(&self) -> u64 {
        0
    }
}
