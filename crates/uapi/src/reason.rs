//! Why a page stayed where it is.

use crate::NR_REASONS;

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $name:ident = $value:literal, $slug:literal, $text:literal;)+) => {
        /// Why a page stayed where it is (`enum cohmem_reason`).
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum Reason { $($(#[doc = $doc])+ $name = $value,)+ }

        impl Reason {
            /// Every reason, in the order of the values.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// The reason with this ABI value; `None` for 0 and for values of a newer driver.
            #[must_use]
            pub const fn from_raw(raw: u8) -> Option<Self> {
                match raw { $($value => Some(Self::$name),)+ _ => None }
            }

            /// Short name for tables and machine output.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $slug,)+ }
            }

            /// One clause that a person understands.
            #[must_use]
            pub const fn text(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }
        }
    };
}

reasons! {
    /// The page is where it was asked to go.
    AlreadyThere = 1, "already-there", "it is where it was asked to go";
    /// No mapping covers the address.
    Unmapped = 2, "unmapped", "no mapping covers the address";
    /// The process never touched the page.
    Untouched = 3, "untouched", "the process never touched it";
    /// The page is in swap.
    Swapped = 4, "swapped", "it is in swap";
    /// File-backed or shared memory.
    File = 5, "file", "it is file-backed or shared memory; only anonymous memory moves";
    /// A mapping of a device or of the kernel.
    Special = 6, "special", "it is a mapping of a device or of the kernel";
    /// A hugetlbfs page.
    Hugetlb = 7, "hugetlb", "it is a hugetlbfs page";
    /// Part of a large folio that is mapped page by page.
    LargeFolio = 8, "large-folio", "it is part of a large folio mapped page by page, which this kernel cannot move; madvise(MADV_COLLAPSE) helps";
    /// Mapped more than once.
    Shared = 9, "shared", "another process maps it as well (fork)";
    /// Merged by KSM.
    Ksm = 10, "ksm", "KSM has merged it with equal pages";
    /// Pinned for I/O.
    Pinned = 11, "pinned", "it is pinned for I/O (io_uring buffer, RDMA, VFIO, O_DIRECT)";
    /// The kernel holds another reference.
    ExtraRef = 12, "extra-reference", "the kernel holds another reference to it (pipe, network, FUSE)";
    /// The page lock is held.
    Locked = 13, "locked", "the kernel has locked it for other work";
    /// The page changed while it was being moved.
    Raced = 14, "raced", "it changed while it was being moved; trying again helps";
    /// An executable mapping.
    Executable = 15, "executable", "its mapping is executable, which is left alone unless asked for";
    /// The mapping allows no access.
    NoPermission = 16, "no-permission", "its mapping allows no access (PROT_NONE)";
    /// The page is on another device.
    OtherDevice = 17, "other-device", "it is on another device";
    /// The hardware lost the page's content.
    Poisoned = 18, "poisoned", "the hardware lost its content";
    /// The quota of the user who asked is used up.
    Quota = 19, "quota", "the quota of the user who asked is used up (cohmem quota list)";
    /// The device has no free frame.
    NoFrame = 20, "no-frame", "the device has no free frame";
    /// Too little free system memory.
    NoMemory = 21, "no-memory", "there is too little free system memory";
    /// A hole that a userfaultfd handler must fill.
    Userfault = 22, "userfault", "it is a hole that a userfaultfd handler must fill";
    /// The frame is mapped nowhere, and the kernel holds it.
    KernelHeld = 23, "kernel-held", "it is held by the kernel, mapped nowhere";
}

/// Pages by [`Reason`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReasonCounts([u64; NR_REASONS]);

impl ReasonCounts {
    /// Takes over the array of an argument structure.
    #[must_use]
    pub const fn from_raw(counts: [u64; NR_REASONS]) -> Self {
        Self(counts)
    }

    /// The array of an argument structure: entry i counts the reason of value i.
    #[must_use]
    pub const fn raw(&self) -> &[u64; NR_REASONS] {
        &self.0
    }

    /// Counts `nr_pages` more pages that stayed for `reason`.
    pub fn add(&mut self, reason: Reason, nr_pages: u64) {
        if let Some(count) = self.0.get_mut(usize::from(reason as u8)) {
            *count = count.saturating_add(nr_pages);
        }
    }

    /// Adds all of `other`.
    pub fn merge(&mut self, other: &Self) {
        for (count, more) in self.0.iter_mut().zip(other.0) {
            *count = count.saturating_add(more);
        }
    }

    /// Pages that stayed for `reason`.
    #[must_use]
    pub fn get(&self, reason: Reason) -> u64 {
        self.0.get(usize::from(reason as u8)).copied().unwrap_or(0)
    }

    /// Pages that stayed for any reason.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0
            .iter()
            .fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// The reasons that occurred, each with its count.
    pub fn iter(&self) -> impl Iterator<Item = (Reason, u64)> + '_ {
        Reason::ALL
            .iter()
            .map(|&reason| (reason, self.get(reason)))
            .filter(|&(_, count)| count > 0)
    }
}
