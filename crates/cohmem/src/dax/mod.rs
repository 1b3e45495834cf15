//! Soft-reserved memory: where it is, who has it, and how to have it.
//!
//! On an ordinary system the kernel's dax drivers own such memory: as `/dev/daxX.Y` (device_dax),
//! or as System RAM (kmem). [`take_over`] takes a range from them so that it can be attached,
//! [`TakeOver::give_back`] undoes that. All of it needs root.

mod blocks;
mod device;
#[cfg(test)]
mod fake;
mod iomem;
mod record;
mod survey;
mod takeover;
#[cfg(test)]
mod tests;
mod tree;

use std::{path::Path, str::FromStr};

use serde::{Deserialize, Serialize};

pub use self::{
    device::{DaxDevice, DaxDriver},
    survey::{Owner, Part, SoftReserved},
};
use self::{
    takeover::Taken,
    tree::{DirTree, Tree},
};
use crate::{
    control::check_range,
    error::{Cause, Error, Result},
    units::PhysRange,
};

/// What keeps soft-reserved memory from becoming System RAM for good.
pub const ADVICE: &str = "put `blacklist kmem` into /etc/modprobe.d/cohmem.conf (the package cohmem \
    brings that file), run update-initramfs -u, and reboot";

/// What to attach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A physical range.
    Range(PhysRange),
    /// A dax device, `daxX.Y`.
    Device(String),
    /// All of a dax region, `hmem.N`.
    Region(String),
}

impl FromStr for Source {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let is_numbers = |rest: &str| {
            rest.split('.')
                .all(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()))
        };
        let name = text.strip_prefix("/dev/").unwrap_or(text);
        if let Some(rest) = name.strip_prefix("dax")
            && rest.contains('.')
            && is_numbers(rest)
        {
            return Ok(Self::Device(name.to_owned()));
        }
        if let Some(rest) = name.strip_prefix("hmem.")
            && is_numbers(rest)
        {
            return Ok(Self::Region(name.to_owned()));
        }
        if text.starts_with(|first: char| first.is_ascii_digit()) {
            return text.parse().map(Self::Range);
        }
        Err(Cause::BadSource {
            text: text.to_owned(),
        }
        .into())
    }
}

/// The dax devices of the machine.
///
/// # Errors
///
/// [`NotPermitted`](crate::ErrorKind::NotPermitted): the kernel shows addresses to root only.
pub fn devices() -> Result<Vec<DaxDevice>> {
    device::read_all(&DirTree::new("/"))
}

/// The soft-reserved ranges of the machine, each with who has which part.
///
/// # Errors
///
/// [`NotPermitted`](crate::ErrorKind::NotPermitted): the kernel shows addresses to root only.
pub fn soft_reserved() -> Result<Vec<SoftReserved>> {
    survey::survey(&DirTree::new("/"))
}

/// Every range that could be attached: free, or held by a dax driver.
///
/// # Errors
///
/// As [`soft_reserved`].
pub fn candidates() -> Result<Vec<PhysRange>> {
    Ok(survey::candidates(&survey::survey(&DirTree::new("/"))?))
}

/// The ranges that nobody has.
///
/// # Errors
///
/// As [`soft_reserved`].
pub fn free() -> Result<Vec<PhysRange>> {
    Ok(survey::free(&survey::survey(&DirTree::new("/"))?))
}

/// The one range that could be attached.
///
/// # Errors
///
/// [`Ambiguous`](crate::ErrorKind::Ambiguous) with the ranges when there are several,
/// [`NotFound`](crate::ErrorKind::NotFound) when there is none; as [`soft_reserved`].
pub fn only_candidate() -> Result<PhysRange> {
    survey::only(candidates()?)
}

/// Takes a range from the dax drivers that have it.
///
/// A dax device goes as a whole, also when only a part of it was asked for. Memory that kmem has
/// brought online goes offline first, every block of it, and only then is kmem unbound.
///
/// # Errors
///
/// Each leaves everything as it was, unless its text says more:
/// [`Empty`](crate::ErrorKind::Empty) and [`Misaligned`](crate::ErrorKind::Misaligned);
/// [`Refused`](crate::ErrorKind::Refused) when a memory block does not go offline, or a signal
/// ended the wait for it; [`Busy`](crate::ErrorKind::Busy) when a process has the dax device open
/// or another driver has it; [`NotFound`](crate::ErrorKind::NotFound),
/// [`Ambiguous`](crate::ErrorKind::Ambiguous), [`NotPermitted`](crate::ErrorKind::NotPermitted).
pub fn take_over(source: &Source) -> Result<TakeOver> {
    take_over_in(&DirTree::new("/"), source)
}

fn take_over_in(tree: &impl Tree, source: &Source) -> Result<TakeOver> {
    let devices = device::read_all(tree)?;
    let (range, chosen) = survey::choose(&devices, source)?;
    check_range(range)?;
    let taken = takeover::take(tree, range, &chosen)?;
    Ok(TakeOver { range, taken })
}

/// A range that was taken from the dax drivers.
///
/// Dropping it gives nothing back: it is meant to be kept for as long as the device is attached,
/// see [`TakeOver::save`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TakeOver {
    range: PhysRange,
    taken: Vec<Taken>,
}

impl TakeOver {
    /// The range that can be attached now.
    #[must_use]
    pub const fn range(&self) -> PhysRange {
        self.range
    }

    /// The dax devices that were taken, each with the driver it was taken from, and how many
    /// memory blocks went offline for it.
    pub fn taken(&self) -> impl Iterator<Item = (&str, DaxDriver, usize)> {
        self.taken.iter().map(|one| {
            let offline = one
                .blocks
                .iter()
                .filter(|block| block.online_as.is_some())
                .count();
            (
                one.device.as_str(),
                DaxDriver::from_name(&one.driver),
                offline,
            )
        })
    }

    /// Gives everything back to the drivers it was taken from, in reverse order, and brings memory
    /// blocks back online as they were.
    ///
    /// # Errors
    ///
    /// The first failure; what could be given back is.
    pub fn give_back(&self) -> Result<()> {
        takeover::give_back(&DirTree::new("/"), &self.taken)
    }

    /// Keeps it for the detach of device `number`, until the next boot.
    ///
    /// # Errors
    ///
    /// [`Io`](crate::ErrorKind::Io).
    pub fn save(&self, number: u32) -> Result<()> {
        record::save(Path::new(record::DIRECTORY), number, self)
    }

    /// What was taken for device `number`, if anything.
    ///
    /// # Errors
    ///
    /// [`Io`](crate::ErrorKind::Io).
    pub fn load(number: u32) -> Result<Option<Self>> {
        record::load(Path::new(record::DIRECTORY), number)
    }

    /// Forgets what was taken for device `number`.
    ///
    /// # Errors
    ///
    /// [`Io`](crate::ErrorKind::Io).
    pub fn forget(number: u32) -> Result<()> {
        record::remove(Path::new(record::DIRECTORY), number)
    }
}
