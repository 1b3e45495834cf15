//! `cohmem list`: the devices, and soft-reserved memory that is not attached.

use clap::Args;
use cohmem::{
    ByteCount, DeviceSummary, ErrorKind,
    dax::{self, Owner},
    discover,
};
use serde::Serialize;

use crate::{
    cmd::{quota, state_name},
    exit::{Exit, Result},
    output::{Output, Table},
};

/// List the attached devices with who holds how much of each, and (root only) soft-reserved memory that
/// is not attached.
#[derive(Args, Debug)]
pub(crate) struct List {}

/// One line of the list.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Row {
    Device {
        schema: &'static str,
        device: String,
        start: Option<u64>,
        size: u64,
        free: u64,
        allocated: u64,
        poisoned: u64,
        metadata: u64,
        moved_in: u64,
        moved_out: u64,
        filled: u64,
        freed: u64,
        node: u32,
        chunks: u64,
        state: &'static str,
    },
    Range {
        schema: &'static str,
        start: u64,
        size: u64,
        owner: String,
        driver: Option<String>,
    },
}

/// A line of this command's own, or one that `quota list` has as well.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Line {
    Own(Row),
    Quota(quota::Row),
}

const SCHEMA: &str = "cohmem.list/1";

impl List {
    pub(crate) fn run(&self, out: &mut Output) -> Result<Exit> {
        let devices = discover()?;
        let ranges = unattached()?;
        let mut holders = Vec::new();
        for device in &devices {
            holders.extend(quota::holders(device.number)?);
        }
        if out.is_json() {
            let rows = devices.iter().map(device_row).chain(ranges);
            let holders = holders.into_iter().map(Line::Quota);
            out.json(&rows.map(Line::Own).chain(holders).collect::<Vec<_>>())?;
            return Ok(Exit::Done);
        }
        if devices.is_empty() && ranges.is_empty() {
            out.line("no device is attached, and no soft-reserved memory was found")?;
            return Ok(Exit::Done);
        }
        if !devices.is_empty() {
            out.table(&device_table(&devices))?;
        }
        if !holders.is_empty() {
            out.line("")?;
            out.table(&quota::table(&holders))?;
        }
        if !ranges.is_empty() {
            if !devices.is_empty() {
                out.line("")?;
            }
            out.table(&range_table(&ranges))?;
        }
        Ok(Exit::Done)
    }
}

/// Soft-reserved memory that no device of ours has. Those who may not see addresses see none.
fn unattached() -> Result<Vec<Row>> {
    let found = match dax::soft_reserved() {
        Ok(found) => found,
        Err(error) if error.kind() == ErrorKind::NotPermitted => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    let row = |part: &dax::Part| {
        let (owner, driver) = match &part.owner {
            Owner::Free => ("free".to_owned(), None),
            Owner::Dax { device, driver } => (device.clone(), Some(driver.to_string())),
            Owner::Other(name) => (name.clone(), None),
            _ => return None,
        };
        let (start, size) = (part.range.start(), part.range.length().get());
        Some(Row::Range {
            schema: SCHEMA,
            start,
            size,
            owner,
            driver,
        })
    };
    Ok(found
        .iter()
        .flat_map(|soft| &soft.parts)
        .filter_map(row)
        .collect())
}

fn device_row(device: &DeviceSummary) -> Row {
    Row::Device {
        schema: SCHEMA,
        device: format!("cohmem{}", device.number),
        start: device.start,
        size: device.size.get(),
        free: device.free.get(),
        allocated: device.allocated.get(),
        poisoned: device.poisoned.get(),
        metadata: device.metadata.get(),
        moved_in: device.moved_in,
        moved_out: device.moved_out,
        filled: device.filled,
        freed: device.freed,
        node: device.node,
        chunks: device.chunks,
        state: state_name(device.state),
    }
}

fn device_table(devices: &[DeviceSummary]) -> Table {
    let mut table = Table::new(&[
        "device",
        "range",
        ">size",
        ">free",
        ">allocated",
        ">poisoned",
        ">pages in",
        ">pages out",
        "state",
        ">node",
    ]);
    for device in devices {
        table.row(vec![
            format!("cohmem{}", device.number),
            device
                .range()
                .map_or("(root only)".to_owned(), |range| range.to_string()),
            device.size.to_string(),
            device.free.to_string(),
            device.allocated.to_string(),
            device.poisoned.to_string(),
            (device.moved_in + device.filled).to_string(),
            device.moved_out.to_string(),
            state_name(device.state).to_owned(),
            device.node.to_string(),
        ]);
    }
    table
}

fn range_table(ranges: &[Row]) -> Table {
    let mut table = Table::new(&["soft-reserved, not attached", ">size", "owner"]);
    for row in ranges {
        if let Row::Range {
            start,
            size,
            owner,
            driver,
            ..
        } = row
        {
            let owner = match driver.as_deref() {
                Some("kmem") => format!("{owner} (kmem: System RAM)"),
                Some(driver) => format!("{owner} ({driver})"),
                None => owner.clone(),
            };
            let range = format!("{start:#x}-{:#x}", start + size);
            table.row(vec![range, ByteCount::new(*size).to_string(), owner]);
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The schema: a change here is a new number in [`SCHEMA`].
    #[test]
    fn rows_have_the_published_fields() {
        let device = Row::Device {
            schema: SCHEMA,
            device: "cohmem0".to_owned(),
            start: None,
            size: 4096,
            free: 1,
            allocated: 2,
            poisoned: 3,
            metadata: 4,
            moved_in: 5,
            moved_out: 6,
            filled: 7,
            freed: 8,
            node: 0,
            chunks: 1,
            state: "online",
        };
        let range = Row::Range {
            schema: SCHEMA,
            start: 4_294_967_296,
            size: 268_435_456,
            owner: "dax0.0".to_owned(),
            driver: Some("kmem".to_owned()),
        };
        assert_eq!(
            serde_json::to_string(&[device, range]).unwrap(),
            concat!(
                r#"[{"type":"device","schema":"cohmem.list/1","device":"cohmem0","start":null,"#,
                r#""size":4096,"free":1,"allocated":2,"poisoned":3,"metadata":4,"moved_in":5,"#,
                r#""moved_out":6,"filled":7,"freed":8,"node":0,"chunks":1,"state":"online"},"#,
                r#"{"type":"range","schema":"cohmem.list/1","start":4294967296,"#,
                r#""size":268435456,"owner":"dax0.0","driver":"kmem"}]"#
            )
        );
    }
}
