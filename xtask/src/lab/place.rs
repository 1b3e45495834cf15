//! Where the lab's files are.

use std::{
    fs,
    path::{Path, PathBuf},
    time::SystemTime,
};

use anyhow::{Context as _, Result};

pub(super) use crate::place::{repository, target};

/// The lab's own files below the target directory.
pub(super) fn lab_directory() -> Result<PathBuf> {
    Ok(target()?.join("lab"))
}

/// PATH inside the guest: the project's programs, of the build that is newer, before Debian's. No
/// directory of the user's, so that `python3` is Debian's there.
pub(super) fn guest_path() -> Result<String> {
    let target = target()?;
    let mut builds = ["debug", "release"].map(|profile| target.join(profile));
    builds.sort_by_key(|build| std::cmp::Reverse(modified(&build.join("cohmem"))));
    let [newer, older] = builds.map(|build| build.display().to_string());
    Ok(format!(
        "{newer}:{older}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    ))
}

/// Removes all but the `keep` newest entries of `directory`.
pub(super) fn prune(directory: &Path, keep: usize) -> Result<()> {
    let mut entries: Vec<_> = fs::read_dir(directory)
        .with_context(|| format!("cannot list {}", directory.display()))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect();
    entries.sort_by_key(|path| std::cmp::Reverse(modified(path)));
    for old in entries.iter().skip(keep) {
        match fs::remove_dir_all(old) {
            // Another lab was quicker.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            other => other.with_context(|| format!("cannot remove {}", old.display()))?,
        }
    }
    Ok(())
}

/// `None` sorts before every time: what is not there is oldest.
fn modified(path: &Path) -> Option<SystemTime> {
    path.metadata()
        .and_then(|metadata| metadata.modified())
        .ok()
}
