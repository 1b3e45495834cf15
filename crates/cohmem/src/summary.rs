//! The attached devices as sysfs shows them, to everybody.

use std::{fs, io, path::Path};

use cohmem_uapi::State;

use crate::{
    error::{Cause, Result},
    units::{ByteCount, PhysRange, parse_u64},
};

const SYSFS: &str = "/sys";
const CLASS: &str = "class/cohmem";

/// One attached device. The numbers are a snapshot, taken one after the other.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeviceSummary {
    /// N of `cohmemN`.
    pub number: u32,
    /// First physical address; root only.
    pub start: Option<u64>,
    /// Bytes of the range.
    pub size: ByteCount,
    /// Bytes of frames that can be handed out now.
    pub free: ByteCount,
    /// Bytes of frames that are handed out.
    pub allocated: ByteCount,
    /// Bytes of frames that were withdrawn after a hardware error.
    pub poisoned: ByteCount,
    /// Bytes of frames that hold the memory map.
    pub metadata: ByteCount,
    /// Pages moved to the device since it was attached.
    pub moved_in: u64,
    /// Pages moved home.
    pub moved_out: u64,
    /// Holes filled with zeroed frames.
    pub filled: u64,
    /// Frames that came back to the allocator.
    pub freed: u64,
    /// NUMA node whose statistics the pages count in.
    pub node: u32,
    /// Page maps that the range is registered as.
    pub chunks: u64,
    /// What the device is doing; `None` for a state that this library does not know.
    pub state: Option<State>,
}

impl DeviceSummary {
    /// The physical range; root only.
    #[must_use]
    pub fn range(&self) -> Option<PhysRange> {
        let start = self.start?;
        PhysRange::new(start, start.checked_add(self.size.get())?).ok()
    }
}

/// Whether the cohmem module is loaded.
#[must_use]
pub fn is_driver_loaded() -> bool {
    Path::new(SYSFS).join(CLASS).exists()
}

/// The attached devices, by number. Without the driver there are none.
///
/// # Errors
///
/// [`ErrorKind::Io`](crate::ErrorKind::Io): sysfs is not as the driver makes it. A device that is
/// detached meanwhile is left out.
pub fn discover() -> Result<Vec<DeviceSummary>> {
    discover_at(Path::new(SYSFS))
}

/// As [`discover`], with sysfs mounted at `sysfs`: in a container, or a copy of it.
///
/// # Errors
///
/// As [`discover`].
pub fn discover_at(sysfs: &Path) -> Result<Vec<DeviceSummary>> {
    discover_in(&sysfs.join(CLASS))
}

fn discover_in(class: &Path) -> Result<Vec<DeviceSummary>> {
    let entries = match fs::read_dir(class) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => {
            return Err(Cause::File {
                doing: "list",
                path: class.into(),
                source,
            }
            .into());
        }
    };
    let mut devices = Vec::new();
    for entry in entries.flatten() {
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix("cohmem"));
        let Some(number) = number.and_then(|digits| digits.parse().ok()) else {
            continue;
        };
        match summary(&entry.path(), number) {
            Ok(device) => devices.push(device),
            Err(_) if !entry.path().exists() => {}
            Err(error) => return Err(error),
        }
    }
    devices.sort_by_key(|device: &DeviceSummary| device.number);
    Ok(devices)
}

fn summary(directory: &Path, number: u32) -> Result<DeviceSummary> {
    let read = |name: &str| -> Result<u64> {
        let path = directory.join(name);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(source) => {
                return Err(Cause::File {
                    doing: "read",
                    path,
                    source,
                }
                .into());
            }
        };
        let text = text.trim();
        parse_u64(text).ok_or_else(|| {
            Cause::Unreadable {
                path,
                text: text.to_owned(),
            }
            .into()
        })
    };
    let frames = |name: &str| read(name).map(ByteCount::of_frames);
    Ok(DeviceSummary {
        number,
        // Readable by root only.
        start: read("start").ok(),
        size: ByteCount::new(read("size")?),
        free: frames("free")?,
        allocated: frames("allocated")?,
        poisoned: frames("poisoned")?,
        metadata: frames("metadata")?,
        moved_in: read("moved_in")?,
        moved_out: read("moved_out")?,
        filled: read("filled")?,
        freed: read("freed")?,
        node: u32::try_from(read("node")?).unwrap_or(u32::MAX),
        chunks: read("chunks")?,
        state: state(directory)?,
    })
}

/// The state as its number or its name.
fn state(directory: &Path) -> Result<Option<State>> {
    let path = directory.join("state");
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(source) => {
            return Err(Cause::File {
                doing: "read",
                path,
                source,
            }
            .into());
        }
    };
    Ok(match text.trim() {
        "online" => Some(State::Online),
        "draining" => Some(State::Draining),
        "kept" => Some(State::Kept),
        number => parse_u64(number)
            .and_then(|number| u32::try_from(number).ok())
            .and_then(State::from_raw),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fake(files: &[(&str, &str)]) -> tempfile::TempDir {
        let class = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = class.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        class
    }

    const ONE: &[(&str, &str)] = &[
        ("cohmem3/start", "0x100000000\n"),
        ("cohmem3/size", "268435456\n"),
        ("cohmem3/free", "65000\n"),
        ("cohmem3/allocated", "536\n"),
        ("cohmem3/poisoned", "0\n"),
        ("cohmem3/metadata", "0\n"),
        ("cohmem3/moved_in", "536\n"),
        ("cohmem3/moved_out", "0\n"),
        ("cohmem3/filled", "1\n"),
        ("cohmem3/freed", "2\n"),
        ("cohmem3/node", "0\n"),
        ("cohmem3/chunks", "1\n"),
        ("cohmem3/state", "online\n"),
    ];

    #[test]
    fn no_driver_means_no_devices() {
        let class = fake(&[]);
        assert_eq!(discover_in(&class.path().join("cohmem")).unwrap(), []);
    }

    #[test]
    fn frames_become_bytes() {
        let class = fake(ONE);
        let devices = discover_in(class.path()).unwrap();
        let [device] = &devices[..] else {
            panic!("{devices:?}")
        };
        assert_eq!(device.number, 3);
        assert_eq!(
            device.range().unwrap().to_string(),
            "0x100000000-0x110000000"
        );
        assert_eq!(device.free, ByteCount::of_frames(65000));
        assert_eq!(device.state, Some(State::Online));
        assert_eq!((device.moved_in, device.filled, device.freed), (536, 1, 2));
    }

    #[test]
    fn what_is_not_understood_is_named() {
        let mut files = ONE.to_vec();
        files[2].1 = "many\n";
        let class = fake(&files);
        let error = discover_in(class.path()).unwrap_err();
        assert!(
            error
                .to_string()
                .ends_with("cohmem3/free holds \"many\", which is not understood")
        );
    }
}
