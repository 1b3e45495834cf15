//! What a backend gives, and what it cannot give.

use std::fmt;

use cohmem_engine::Level;

use super::BackendKind;
use crate::units::ByteCount;

/// A type of device memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum MemoryType {
    /// The CPU uses it in place; pages migrate on request.
    #[default]
    Coherent,
    /// The CPU does not reach it: its touch brings the page home.
    Private,
    /// The CPU uses it in place, and its pages never leave it.
    Generic,
}

impl MemoryType {
    /// Every type.
    pub const ALL: [Self; 3] = [Self::Coherent, Self::Private, Self::Generic];
}

impl fmt::Display for MemoryType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Coherent => "coherent",
            Self::Private => "private",
            Self::Generic => "generic",
        })
    }
}

/// What becomes of a system call that touches a page at the moment in which it moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum KernelAccess {
    /// It waits, and works.
    Waits,
    /// The kernel's reads work; where it writes the call fails with `EFAULT` or is cut short.
    WritesMayFail,
}

/// When I/O that pins pages (`O_DIRECT`, registered `io_uring` buffers, `process_vm_writev`, RDMA)
/// needs [`Region::pin`](crate::Region::pin).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PinNeed {
    /// Never: the kernel knows the pins, and such pages stay with a reason.
    Never,
    /// While a page of the range may be on the device or on its way home.
    OnDevice,
    /// Whenever a page of the range may migrate.
    Always,
}

/// What a child has of a region after `fork`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fork {
    /// Its own copy, as of any private memory.
    Copy,
    /// Nothing: the addresses are unmapped there.
    Nothing,
}

/// What a pool's backend gives. What is not given is refused, or safe as documented.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capabilities {
    /// Nobody else's memory lands on the device.
    pub is_isolated: bool,
    /// Memory of other processes migrates, too (see [`Device::migrate`](crate::Device::migrate)).
    pub other_processes: bool,
    /// Coherent memory is always there.
    pub has_private: bool,
    /// Memory that never leaves the device.
    pub has_generic: bool,
    /// The smallest granule: what a migration's range must be a multiple of.
    pub least_granule: ByteCount,
    /// A larger granule can be chosen for a region.
    pub has_granules: bool,
    /// Pages that were never touched can be told from those that were.
    pub tells_untouched: bool,
    /// System calls on pages in migration.
    pub kernel_access: KernelAccess,
    /// When pins are needed.
    pub pin_need: PinNeed,
    /// Children.
    pub fork: Fork,
}

impl Capabilities {
    pub(super) const DRIVER: Self = Self {
        is_isolated: true,
        other_processes: true,
        has_private: false,
        has_generic: false,
        least_granule: ByteCount::new(4096),
        has_granules: false,
        tells_untouched: true,
        kernel_access: KernelAccess::Waits,
        pin_need: PinNeed::Never,
        fork: Fork::Copy,
    };

    pub(super) const NUMA: Self = Self {
        is_isolated: false,
        other_processes: false,
        ..Self::DRIVER
    };

    pub(super) const fn engine(level: Level, least_granule: ByteCount) -> Self {
        let is_full = matches!(level, Level::Full);
        Self {
            is_isolated: true,
            other_processes: false,
            has_private: is_full,
            has_generic: true,
            least_granule,
            has_granules: true,
            tells_untouched: false,
            kernel_access: if is_full {
                KernelAccess::Waits
            } else {
                KernelAccess::WritesMayFail
            },
            pin_need: if is_full {
                PinNeed::OnDevice
            } else {
                PinNeed::Always
            },
            fork: Fork::Nothing,
        }
    }

    /// Whether regions of this type can be had.
    #[must_use]
    pub const fn has(&self, kind: MemoryType) -> bool {
        match kind {
            MemoryType::Coherent => true,
            MemoryType::Private => self.has_private,
            MemoryType::Generic => self.has_generic,
        }
    }
}

/// Which backend a pool has, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    pub(super) kind: BackendKind,
    pub(super) what: String,
    pub(super) why: String,
}

impl Selection {
    /// The backend.
    #[must_use]
    pub const fn kind(&self) -> BackendKind {
        self.kind
    }

    /// The device and the mechanism.
    #[must_use]
    pub fn what(&self) -> &str {
        &self.what
    }

    /// Why this one.
    #[must_use]
    pub fn why(&self) -> &str {
        &self.why
    }
}

/// One line.
impl fmt::Display for Selection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} ({})", self.kind, self.what, self.why)
    }
}
