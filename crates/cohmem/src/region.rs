//! Memory that is born on a device.

use cohmem_uapi::{Direction, FRAME_BYTES};

use crate::{
    device::Device,
    error::{Cause, Result},
    migrate::{MigrateOptions, Migrated, Target},
    sys::map::Mapping,
    units::{AddrRange, ByteCount, UserAddr},
};

/// What to do when the device has too few free frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// All of the region on the device, or an error and no region.
    Strict,
    /// As much as fits on the device; the rest is in system memory, and [`Region::placed`] says
    /// how much that is.
    Spill,
}

/// Zeroed memory of the calling process, allocated on a device and freed on drop.
///
/// Its pages are ordinary anonymous memory: they can migrate home and back while the slices are in
/// use, and the addresses stay.
#[derive(Debug)]
pub struct Region {
    mapping: Mapping,
    length: usize,
    placed: Migrated,
}

impl Region {
    /// Allocates `size` bytes on `device`.
    ///
    /// # Errors
    ///
    /// [`NoFrames`](crate::ErrorKind::NoFrames) under [`Placement::Strict`], with the free and the
    /// needed frames; [`Empty`](crate::ErrorKind::Empty),
    /// [`NoMemory`](crate::ErrorKind::NoMemory); those of [`Device::migrate`]. No region is left.
    pub fn allocate(device: &Device, size: ByteCount, placement: Placement) -> Result<Self> {
        if size.get() == 0 {
            return Err(Cause::EmptyRegion.into());
        }
        let needed = size.frames();
        if placement == Placement::Strict {
            let free = device.query_status()?.nr_free;
            if free < needed {
                return Err(Cause::NoRoom {
                    device: device.number(),
                    needed,
                    free,
                }
                .into());
            }
        }
        let bytes = ByteCount::of_frames(needed).get();
        let too_large = || std::io::Error::from(std::io::ErrorKind::OutOfMemory);
        let mapping = usize::try_from(bytes)
            .map_err(|_too_large| too_large())
            .and_then(Mapping::anonymous)
            .map_err(|source| Cause::Mmap {
                length: bytes,
                source,
            })?;
        let range = AddrRange::covering(mapping.as_slice());
        let options = MigrateOptions {
            fill: true,
            ..MigrateOptions::default()
        };
        let placed = device.migrate(range, Direction::ToDevice, &options, Target::Own)?;
        let on_device = placed.moved + placed.filled;
        if placement == Placement::Strict && on_device < needed {
            let reasons: Vec<_> = placed
                .stayed
                .iter()
                .map(|(reason, count)| format!("{count} since {}", reason.text()))
                .collect();
            return Err(Cause::NotPlaced {
                device: device.number(),
                asked: needed,
                stayed: needed - on_device,
                text: reasons.join(", "),
            }
            .into());
        }
        let length = usize::try_from(size.get()).unwrap_or(mapping.length());
        Ok(Self {
            mapping,
            length,
            placed,
        })
    }

    /// What became of each page when the region was allocated.
    #[must_use]
    pub const fn placed(&self) -> &Migrated {
        &self.placed
    }

    /// The addresses of its pages, whole: what [`Device::migrate`] and [`Device::query`] take.
    #[must_use]
    pub fn range(&self) -> AddrRange {
        AddrRange::covering(self.mapping.as_slice())
    }

    /// First address.
    #[must_use]
    pub fn start(&self) -> UserAddr {
        self.range().start()
    }

    /// Its bytes.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        &self.mapping.as_slice()[..self.length]
    }

    /// Its bytes, to write.
    #[must_use]
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.mapping.as_mut_slice()[..self.length]
    }
}

const _: () = assert!(FRAME_BYTES == 4096, "a mapping is made of whole frames");
