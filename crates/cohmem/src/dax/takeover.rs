//! Taking a range over from the dax drivers, and giving it back.
//!
//! What holds a range (Linux 6.12, `drivers/dax/`):
//!
//! - `device_dax` requests the region of each mapping in its probe (`device.c`, device-managed), so
//!   unbinding it releases the region;
//! - `kmem` requests the region and adds the memory below it (`kmem.c`). Its remove has one shot:
//!   with a memory block online the region stays claimed until the next boot;
//! - the `hmem` platform driver and the dax region keep the range in resource trees of their own
//!   (`hmem_active`, `dax_region->res`), not in the one that request_mem_region works on. They stay
//!   bound, and with them the dax device and its partitioning, so that it can be bound again.

use serde::{Deserialize, Serialize};

use super::{
    blocks::{self, Block},
    device::{DRIVERS, DaxDevice, DaxDriver, bound_to, users_of},
    iomem,
    tree::Tree,
};
use crate::{
    error::{Cause, Error, Result},
    units::PhysRange,
};

/// One dax device that was taken from its driver.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Taken {
    pub(crate) device: String,
    pub(crate) driver: String,
    /// For `kmem`: the memory blocks, and how they were.
    pub(crate) blocks: Vec<Block>,
}

/// Unbinds `devices` from their drivers so that `range` can be claimed; on failure all are as they
/// were.
pub(crate) fn take(
    tree: &impl Tree,
    range: PhysRange,
    devices: &[DaxDevice],
) -> Result<Vec<Taken>> {
    for device in devices {
        refuse_early(tree, device)?;
    }
    let mut taken = Vec::new();
    for device in devices {
        match take_one(tree, device) {
            Ok(Some(one)) => taken.push(one),
            Ok(None) => {}
            Err(error) => return Err(undo(tree, &taken, error)),
        }
    }
    match iomem::dax_claim_in(&iomem::read(tree)?, range) {
        Some(claim) => {
            let by = claim.name.clone();
            Err(undo(tree, &taken, Cause::StillClaimed { range, by }.into()))
        }
        None => Ok(taken),
    }
}

fn undo(tree: &impl Tree, taken: &[Taken], first: Error) -> Error {
    match give_back(tree, taken) {
        Ok(()) => first,
        Err(undo) => Cause::UndoFailed { first, undo }.into(),
    }
}

/// What can be told before anything is changed.
fn refuse_early(tree: &impl Tree, device: &DaxDevice) -> Result<()> {
    match &device.driver {
        Some(DaxDriver::Other(driver)) => Err(Cause::UnknownDaxDriver {
            name: device.name.clone(),
            driver: driver.clone(),
        }
        .into()),
        Some(DaxDriver::DeviceDax) => {
            // Its users would get SIGBUS, and pinned pages would make the unbinding wait for ever.
            let users = users_of(tree, &device.name);
            if users.is_empty() {
                return Ok(());
            }
            let name = device.name.clone();
            Err(Cause::DaxInUse {
                name,
                users: users.join(", "),
            }
            .into())
        }
        Some(DaxDriver::Kmem) | None => Ok(()),
    }
}

fn take_one(tree: &impl Tree, device: &DaxDevice) -> Result<Option<Taken>> {
    let Some(driver) = &device.driver else {
        return Ok(None);
    };
    let mut blocks = Vec::new();
    if *driver == DaxDriver::Kmem {
        for &range in &device.ranges {
            blocks.extend(blocks::read_in(tree, range)?);
        }
        blocks::take_offline(tree, &device.name, &blocks)?;
        // Somebody (udev, an operator) may have brought one back since: unbinding now would lose
        // the range. The kernel offers no lock against that, so the look is as late as possible.
        if let Some(block) = blocks::online_in(tree, &blocks).first() {
            let refused = Cause::BlockRefused {
                block: block.clone(),
                range: device
                    .ranges
                    .first()
                    .copied()
                    .map_or(PhysRange::new(0, 0), Ok)?,
                state: "online".to_owned(),
                name: device.name.clone(),
                source: None,
            };
            return match blocks::put_back(tree, &blocks) {
                Ok(()) => Err(refused.into()),
                Err(undo) => Err(Cause::UndoFailed {
                    first: refused.into(),
                    undo,
                }
                .into()),
            };
        }
    }
    let unbound = tree.write_attribute(&format!("{DRIVERS}/{driver}/unbind"), &device.name);
    if let Err(error) = unbound {
        return match blocks::put_back(tree, &blocks) {
            Ok(()) => Err(error),
            Err(undo) => Err(Cause::UndoFailed { first: error, undo }.into()),
        };
    }
    Ok(Some(Taken {
        device: device.name.clone(),
        driver: driver.name().to_owned(),
        blocks,
    }))
}

/// Binds each device to the driver it was taken from, the last one first, and brings the memory
/// blocks that were online back online. Goes on after a failure and returns the first.
pub(crate) fn give_back(tree: &impl Tree, taken: &[Taken]) -> Result<()> {
    let mut first = Ok(());
    for one in taken.iter().rev() {
        if let Err(source) = bind(tree, one).and_then(|()| blocks::put_back(tree, &one.blocks)) {
            let not_given_back = Cause::NotGivenBack {
                name: one.device.clone(),
                driver: one.driver.clone(),
                source: Box::new(source),
            };
            first = first.and(Err(not_given_back.into()));
        }
    }
    first
}

fn bind(tree: &impl Tree, one: &Taken) -> Result<()> {
    let is_bound = || bound_to(tree, &one.device).is_some_and(|driver| driver.name() == one.driver);
    if is_bound() {
        return Ok(());
    }
    let driver = format!("{DRIVERS}/{}", one.driver);
    let bound = tree.write_attribute(&format!("{driver}/bind"), &one.device);
    if is_bound() {
        return Ok(());
    }
    // A driver takes only devices of its own type, or named to it before.
    tree.write_attribute(&format!("{driver}/new_id"), &one.device)?;
    if is_bound() { Ok(()) } else { bound }
}
