//! The subcommands.

pub(crate) mod attach;
pub(crate) mod completions;
pub(crate) mod detach;
pub(crate) mod doctor;
pub(crate) mod evict;
pub(crate) mod list;
pub(crate) mod man;
pub(crate) mod migrate;
pub(crate) mod quota;
pub(crate) mod run;

/// Reads a device number for clap.
pub(crate) fn device_number(text: &str) -> Result<u32, cohmem::Error> {
    cohmem::Device::parse_number(text)
}
