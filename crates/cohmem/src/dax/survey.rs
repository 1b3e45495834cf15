//! Who has which part of the soft-reserved memory, and what a source names.

use super::{
    Source,
    device::{self, DaxDevice, DaxDriver},
    iomem,
    tree::Tree,
};
use crate::{
    RANGE_ALIGN,
    error::{Cause, Result},
    units::PhysRange,
};

/// Who has a part of a soft-reserved range.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Owner {
    /// Nobody.
    Free,
    /// A dax device that is bound to a driver.
    Dax {
        /// `daxX.Y`.
        device: String,
        /// Its driver.
        driver: DaxDriver,
    },
    /// A device of cohmem: the part is attached, or stays claimed after poison.
    Cohmem,
    /// Another driver, by the name of its claim.
    Other(String),
}

/// A part of a soft-reserved range.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Part {
    /// Its addresses.
    pub range: PhysRange,
    /// Who has it.
    pub owner: Owner,
}

/// A soft-reserved range.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SoftReserved {
    /// Its addresses.
    pub range: PhysRange,
    /// Its parts, by address; together they are the range.
    pub parts: Vec<Part>,
}

pub(super) fn survey(tree: &impl Tree) -> Result<Vec<SoftReserved>> {
    let resources = iomem::read(tree)?;
    let devices = device::read_all(tree)?;
    // Newer kernels (from 6.19 on) do not show soft-reserved ranges there: the driver tells them, and
    // what a dax device owns is one.
    let shown = iomem::soft_reserved(&resources);
    let told = if shown.is_empty() {
        tree.soft_reserved()?
    } else {
        Vec::new()
    };
    let mut found: Vec<SoftReserved> = shown
        .into_iter()
        .map(|(range, claims)| {
            let claims: Vec<_> = claims
                .iter()
                .map(|claim| (claim.range, claim.name.as_str()))
                .collect();
            SoftReserved {
                range,
                parts: parts(range, &claims, &devices),
            }
        })
        .collect();
    let of_devices = devices
        .iter()
        .flat_map(|device| device.ranges.iter().copied());
    for range in told.into_iter().chain(of_devices) {
        if !found.iter().any(|soft| soft.range.overlaps(range)) {
            let claims: Vec<_> = resources
                .iter()
                .filter(|claim| range.contains(claim.range))
                .map(|claim| (claim.range, claim.name.as_str()))
                .collect();
            found.push(SoftReserved {
                range,
                parts: parts(range, &claims, &devices),
            });
        }
    }
    found.sort_by_key(|soft| soft.range);
    Ok(found)
}

fn parts(range: PhysRange, claims: &[(PhysRange, &str)], devices: &[DaxDevice]) -> Vec<Part> {
    let mut parts: Vec<Part> = Vec::new();
    for device in devices {
        let Some(driver) = &device.driver else {
            continue;
        };
        for &part in device.ranges.iter().filter(|part| range.contains(**part)) {
            let owner = Owner::Dax {
                device: device.name.clone(),
                driver: driver.clone(),
            };
            parts.push(Part { range: part, owner });
        }
    }
    for &(claimed, name) in claims {
        if !parts.iter().any(|part| part.range.overlaps(claimed)) {
            let is_ours = name.starts_with("cohmem");
            let owner = if is_ours {
                Owner::Cohmem
            } else {
                Owner::Other(name.to_owned())
            };
            parts.push(Part {
                range: claimed,
                owner,
            });
        }
    }
    parts.sort_by_key(|part| part.range);
    let mut free_from = range.start();
    let mut gaps = Vec::new();
    let end = [(range.end(), range.end())];
    for (start, end) in parts
        .iter()
        .map(|part| (part.range.start(), part.range.end()))
        .chain(end)
    {
        if let Ok(gap) = PhysRange::new(free_from, start)
            && gap.length().get() > 0
        {
            gaps.push(Part {
                range: gap,
                owner: Owner::Free,
            });
        }
        free_from = free_from.max(end);
    }
    parts.extend(gaps);
    parts.sort_by_key(|part| part.range);
    parts
}

/// Ranges that can be attached: free parts, and what each dax device has.
pub(super) fn candidates(found: &[SoftReserved]) -> Vec<PhysRange> {
    of_owners(found, |owner| match owner {
        Owner::Free => true,
        Owner::Dax { driver, .. } => !matches!(driver, DaxDriver::Other(_)),
        Owner::Cohmem | Owner::Other(_) => false,
    })
}

/// Ranges that nobody has.
pub(super) fn free(found: &[SoftReserved]) -> Vec<PhysRange> {
    of_owners(found, |owner| *owner == Owner::Free)
}

fn of_owners(found: &[SoftReserved], is_wanted_fn: impl Fn(&Owner) -> bool) -> Vec<PhysRange> {
    let parts = found.iter().flat_map(|soft| &soft.parts);
    parts
        .filter(|part| is_wanted_fn(&part.owner))
        .filter_map(|part| part.range.aligned_inward(RANGE_ALIGN))
        .collect()
}

pub(super) fn only(ranges: Vec<PhysRange>) -> Result<PhysRange> {
    match ranges[..] {
        [range] => Ok(range),
        [] => Err(Cause::NoCandidate.into()),
        _ => Err(Cause::Candidates { ranges }.into()),
    }
}

/// The range that `source` names, and the dax devices that have a part of it.
pub(super) fn choose(
    devices: &[DaxDevice],
    source: &Source,
) -> Result<(PhysRange, Vec<DaxDevice>)> {
    let (name, mut ranges) = match source {
        Source::Range(range) => {
            let has_part =
                |device: &&DaxDevice| device.ranges.iter().any(|owned| owned.overlaps(*range));
            return Ok((*range, devices.iter().filter(has_part).cloned().collect()));
        }
        Source::Device(name) => {
            let of_name = devices.iter().filter(|device| device.name == *name);
            (
                name,
                of_name
                    .flat_map(|device| device.ranges.clone())
                    .collect::<Vec<_>>(),
            )
        }
        Source::Region(name) => {
            let of_region = devices.iter().filter(|device| device.region == *name);
            (
                name,
                of_region.flat_map(|device| device.ranges.clone()).collect(),
            )
        }
    };
    ranges.sort();
    let Some(mut whole) = ranges.first().copied() else {
        return Err(Cause::NoDaxDevice { name: name.clone() }.into());
    };
    for range in ranges.iter().skip(1) {
        if range.start() != whole.end() {
            return Err(Cause::DaxRanges {
                name: name.clone(),
                ranges,
            }
            .into());
        }
        whole = PhysRange::new(whole.start(), range.end())?;
    }
    choose(devices, &Source::Range(whole))
}
