//! `top` once, as JSON.

use serde::Serialize;

use super::state::State;
use crate::{cmd::state_name, survey::Counts};

/// One line: a device, or a process.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum Row<'a> {
    Device {
        schema: &'static str,
        device: String,
        size: u64,
        free: u64,
        allocated: u64,
        poisoned: u64,
        state: &'static str,
    },
    Process {
        schema: &'static str,
        pid: u32,
        name: &'a str,
        bytes: &'a Counts,
    },
}

const SCHEMA: &str = "cohmem.top/1";

pub(super) fn rows(state: &State) -> Vec<Row<'_>> {
    let devices = state.devices.iter().map(|row| Row::Device {
        schema: SCHEMA,
        device: format!("cohmem{}", row.device.number),
        size: row.device.size.get(),
        free: row.device.free.get(),
        allocated: row.device.allocated.get(),
        poisoned: row.device.poisoned.get(),
        state: state_name(row.device.state),
    });
    let processes = state.look.rows.iter().map(|row| Row::Process {
        schema: SCHEMA,
        pid: row.pid,
        name: &row.name,
        bytes: &row.counts,
    });
    devices.chain(processes).collect()
}

#[cfg(test)]
mod tests {
    use super::{super::view::sample, *};

    /// The schema: a change here is a new number in [`SCHEMA`].
    #[test]
    fn rows_have_the_published_fields() {
        let state = sample::state();
        let rows = rows(&state);
        assert_eq!(
            serde_json::to_string(&[&rows[1], &rows[2]]).unwrap(),
            concat!(
                r#"[{"type":"device","schema":"cohmem.top/1","device":"cohmem1","#,
                r#""size":536870912,"free":524288000,"allocated":8388608,"poisoned":4096,"#,
                r#""state":"online"},{"type":"process","schema":"cohmem.top/1","pid":4711,"#,
                r#""name":"redis-server","#,
                r#""bytes":{"cohmem0":50331648,"system":4194304,"file":1835008}}]"#
            )
        );
    }
}
