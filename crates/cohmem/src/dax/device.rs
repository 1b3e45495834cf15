//! Dax devices: what they own, and which driver has them.

use std::fmt;

use super::tree::Tree;
use crate::{
    error::{Cause, Result},
    units::{PhysRange, parse_u64},
};

pub(super) const DEVICES: &str = "/sys/bus/dax/devices";
pub(super) const DRIVERS: &str = "/sys/bus/dax/drivers";

/// The driver that a dax device is bound to.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DaxDriver {
    /// `device_dax`: the device is `/dev/daxX.Y`.
    DeviceDax,
    /// `kmem`: the memory is System RAM, or is about to be.
    Kmem,
    /// Another one, by name.
    Other(String),
}

impl DaxDriver {
    /// The driver's name in sysfs.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::DeviceDax => "device_dax",
            Self::Kmem => "kmem",
            Self::Other(name) => name,
        }
    }

    pub(crate) fn from_name(name: &str) -> Self {
        match name {
            "device_dax" => Self::DeviceDax,
            "kmem" => Self::Kmem,
            other => Self::Other(other.to_owned()),
        }
    }
}

impl fmt::Display for DaxDriver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One dax device.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DaxDevice {
    /// Its name: `daxX.Y`.
    pub name: String,
    /// The device that it is a part of: `hmem.N`, or a CXL region's.
    pub region: String,
    /// Who has it; `None` when nobody has.
    pub driver: Option<DaxDriver>,
    /// The physical ranges that it owns; none for an empty device.
    pub ranges: Vec<PhysRange>,
}

/// The dax devices of the machine. Without the dax bus there are none.
pub(crate) fn read_all(tree: &impl Tree) -> Result<Vec<DaxDevice>> {
    let names = tree.names(DEVICES).unwrap_or_default();
    names
        .into_iter()
        .filter(|name| name.starts_with("dax"))
        .map(|name| read(tree, name))
        .collect()
}

fn read(tree: &impl Tree, name: String) -> Result<DaxDevice> {
    let path = format!("{DEVICES}/{name}");
    let target = tree.link(&path).ok();
    let region = target
        .as_deref()
        .and_then(|target| target.parent()?.file_name()?.to_str())
        .unwrap_or_default();
    let mut ranges = Vec::new();
    let attributes = tree.names(&path).unwrap_or_default();
    // Beside them stands the attribute `mapping`, which makes new ones.
    let is_mapping = |name: &&String| {
        let number = name.strip_prefix("mapping").unwrap_or_default();
        !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
    };
    for mapping in attributes.iter().filter(is_mapping) {
        let start = read_number(tree, &format!("{path}/{mapping}/start"))?;
        let last = read_number(tree, &format!("{path}/{mapping}/end"))?;
        ranges.push(PhysRange::new(start, last.saturating_add(1))?);
    }
    ranges.sort();
    Ok(DaxDevice {
        region: region.to_owned(),
        driver: bound_to(tree, &name),
        ranges,
        name,
    })
}

pub(super) fn bound_to(tree: &impl Tree, name: &str) -> Option<DaxDriver> {
    tree.link_name(&format!("{DEVICES}/{name}/driver"))
        .map(|driver| DaxDriver::from_name(&driver))
}

fn read_number(tree: &impl Tree, path: &str) -> Result<u64> {
    let text = tree.read_attribute(path)?;
    parse_u64(&text).ok_or_else(|| {
        Cause::Unreadable {
            path: path.into(),
            text,
        }
        .into()
    })
}

/// Processes that have `/dev/NAME` open or mapped, as `pid (comm)`.
pub(super) fn users_of(tree: &impl Tree, name: &str) -> Vec<String> {
    let node = format!("/dev/{name}");
    let processes = tree.names("/proc").unwrap_or_default();
    processes
        .iter()
        .filter(|pid| pid.bytes().all(|byte| byte.is_ascii_digit()))
        .filter(|pid| is_used_by(tree, &node, pid))
        .map(|pid| {
            let comm = tree.read(&format!("/proc/{pid}/comm")).unwrap_or_default();
            format!("process {pid} ({})", comm.trim())
        })
        .collect()
}

fn is_used_by(tree: &impl Tree, node: &str, pid: &str) -> bool {
    let directory = format!("/proc/{pid}/fd");
    let is_open = tree.names(&directory).unwrap_or_default().iter().any(|fd| {
        tree.link(&format!("{directory}/{fd}"))
            .is_ok_and(|target| target.as_os_str() == node)
    });
    is_open
        || tree
            .read(&format!("/proc/{pid}/maps"))
            .is_ok_and(|maps| maps.lines().any(|line| line.ends_with(node)))
}
