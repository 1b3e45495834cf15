//! What a query tells of one page.

use crate::Reason;

/// Where a page is (`enum cohmem_tier`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Tier {
    /// No page: unmapped, untouched, or swapped.
    None = 0,
    /// System memory.
    System = 1,
    /// A device of this driver.
    Device = 2,
    /// Memory of another driver.
    Foreign = 3,
}

/// One entry of a query's map: bits 0-7 reason, 8-9 tier, 10-15 device number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct PageEntry(u16);

impl PageEntry {
    /// An entry for a page on `tier`; `device` counts for [`Tier::Device`] only and is below 64.
    #[must_use]
    pub const fn new(tier: Tier, device: u8, reason: Option<Reason>) -> Self {
        let reason = match reason {
            Some(reason) => reason as u16,
            None => 0,
        };
        Self(reason | ((tier as u16) << 8) | (((device & 0x3f) as u16) << 10))
    }

    /// The entry with this ABI value.
    #[must_use]
    pub const fn from_raw(raw: u16) -> Self {
        Self(raw)
    }

    /// The ABI value.
    #[must_use]
    pub const fn raw(self) -> u16 {
        self.0
    }

    /// Where the page is.
    #[must_use]
    pub const fn tier(self) -> Tier {
        match (self.0 >> 8) & 0x3 {
            0 => Tier::None,
            1 => Tier::System,
            2 => Tier::Device,
            _ => Tier::Foreign,
        }
    }

    /// Number of the device, for [`Tier::Device`].
    #[must_use]
    pub const fn device(self) -> Option<u32> {
        match self.tier() {
            Tier::Device => Some((self.0 >> 10) as u32),
            Tier::None | Tier::System | Tier::Foreign => None,
        }
    }

    /// Why the page would not move.
    #[must_use]
    pub const fn reason(self) -> Option<Reason> {
        Reason::from_raw((self.0 & 0xff) as u8)
    }
}
