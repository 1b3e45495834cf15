//! The files that the checks read, below a root.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Stdio},
};

#[derive(Debug)]
pub(super) struct Machine {
    root: PathBuf,
}

impl Machine {
    pub(super) fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    pub(super) fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// The text of a file without white space at its ends.
    pub(super) fn read(&self, path: &str) -> Option<String> {
        Some(fs::read_to_string(self.path(path)).ok()?.trim().to_owned())
    }

    pub(super) fn read_bytes(&self, path: &str) -> Option<Vec<u8>> {
        fs::read(self.path(path)).ok()
    }

    pub(super) fn exists(&self, path: &str) -> bool {
        self.path(path).exists()
    }

    pub(super) fn release(&self) -> String {
        self.read("/proc/sys/kernel/osrelease").unwrap_or_default()
    }

    /// The configuration of the running kernel.
    pub(super) fn kernel_config(&self) -> Option<String> {
        if let Some(text) = self.read(&format!("/boot/config-{}", self.release())) {
            return Some(text);
        }
        let packed = self.path("/proc/config.gz");
        if !packed.exists() {
            return None;
        }
        let unpacked = Command::new("gzip")
            .arg("-dc")
            .arg(packed)
            .stderr(Stdio::null())
            .output()
            .ok()
            .filter(|output| output.status.success())?;
        String::from_utf8(unpacked.stdout).ok()
    }
}
