//! What was taken for a device, kept until it is detached.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::TakeOver;
use crate::error::{Cause, Result};

/// Gone after a boot, as the attachment is.
pub(super) const DIRECTORY: &str = "/run/cohmem";

fn path(directory: &Path, device: u32) -> PathBuf {
    directory.join(format!("device{device}.json"))
}

pub(super) fn save(directory: &Path, device: u32, taken: &TakeOver) -> Result<()> {
    let path = path(directory, device);
    let text = match serde_json::to_string_pretty(taken) {
        Ok(text) => text,
        Err(source) => return Err(Cause::BadRecord { path, source }.into()),
    };
    // Written aside and renamed: a record is whole or not there.
    let aside = path.with_extension("json.new");
    fs::create_dir_all(directory)
        .and_then(|()| fs::write(&aside, text))
        .and_then(|()| fs::rename(&aside, &path))
        .map_err(|source| {
            Cause::File {
                doing: "write",
                path,
                source,
            }
            .into()
        })
}

pub(super) fn load(directory: &Path, device: u32) -> Result<Option<TakeOver>> {
    let path = path(directory, device);
    match fs::read_to_string(&path) {
        Ok(text) => match serde_json::from_str(&text) {
            Ok(taken) => Ok(Some(taken)),
            Err(source) => Err(Cause::BadRecord { path, source }.into()),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Cause::File {
            doing: "read",
            path,
            source,
        }
        .into()),
    }
}

pub(super) fn remove(directory: &Path, device: u32) -> Result<()> {
    let path = path(directory, device);
    match fs::remove_file(&path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(Cause::File {
            doing: "remove",
            path,
            source,
        }
        .into()),
        Ok(()) | Err(_) => Ok(()),
    }
}
