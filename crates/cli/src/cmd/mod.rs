//! The subcommands.

use cohmem::State;

pub(crate) mod attach;
pub(crate) mod completions;
pub(crate) mod detach;
pub(crate) mod doctor;
pub(crate) mod evict;
pub(crate) mod explain;
pub(crate) mod list;
pub(crate) mod man;
pub(crate) mod map;
pub(crate) mod metrics;
pub(crate) mod migrate;
pub(crate) mod quota;
pub(crate) mod run;
pub(crate) mod top;

/// The word for a device's state.
pub(crate) const fn state_name(state: Option<State>) -> &'static str {
    match state {
        Some(State::Online) => "online",
        Some(State::Draining) => "draining",
        Some(State::Kept) => "kept",
        None => "unknown",
    }
}

/// Reads a device number for clap.
pub(crate) fn device_number(text: &str) -> Result<u32, cohmem::Error> {
    cohmem::Device::parse_number(text)
}
