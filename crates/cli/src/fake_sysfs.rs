//! Devices for tests, as sysfs would show them.

use std::{fs, path::Path};

use cohmem::{DeviceSummary, discover_at};

/// Files of two devices: 1 GiB with 96 MiB in use, and 512 MiB with 8 MiB in use.
pub(crate) const TWO_DEVICES: &[(&str, &str)] = &[
    ("cohmem0/size", "1073741824"),
    ("cohmem0/free", "237568"),
    ("cohmem0/allocated", "24576"),
    ("cohmem0/poisoned", "0"),
    ("cohmem0/metadata", "0"),
    ("cohmem0/moved_in", "12288"),
    ("cohmem0/moved_out", "0"),
    ("cohmem0/filled", "8192"),
    ("cohmem0/freed", "0"),
    ("cohmem0/node", "0"),
    ("cohmem0/chunks", "1"),
    ("cohmem0/state", "online"),
    ("cohmem1/size", "536870912"),
    ("cohmem1/free", "128000"),
    ("cohmem1/allocated", "2048"),
    ("cohmem1/poisoned", "1"),
    ("cohmem1/metadata", "1023"),
    ("cohmem1/moved_in", "4096"),
    ("cohmem1/moved_out", "2048"),
    ("cohmem1/filled", "0"),
    ("cohmem1/freed", "2048"),
    ("cohmem1/node", "1"),
    ("cohmem1/chunks", "1"),
    ("cohmem1/state", "online"),
];

/// Writes the files below `sysfs`; a later one replaces an earlier one.
pub(crate) fn write(sysfs: &Path, files: &[(&str, &str)]) {
    for (name, text) in files {
        let path = sysfs.join("class/cohmem").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, format!("{text}\n")).unwrap();
    }
}

/// The devices that these files describe.
pub(crate) fn devices(files: &[(&str, &str)]) -> Vec<DeviceSummary> {
    let sysfs = tempfile::tempdir().unwrap();
    write(sysfs.path(), files);
    discover_at(sysfs.path()).unwrap()
}
