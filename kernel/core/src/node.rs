// SPDX-License-Identifier: GPL-2.0
//! Open device nodes.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::device::DeviceId;

/// What one open file of a device node stands for: the device as it was when the file was opened, and a
/// run instance, if the file was made one.
#[derive(Debug)]
pub struct OpenNode {
    id: DeviceId,
    /// Number of the run instance; 0: it is none.
    run: AtomicU64,
}

impl OpenNode {
    /// A file that was opened just now.
    #[must_use]
    pub const fn new(id: DeviceId) -> Self {
        Self {
            id,
            run: AtomicU64::new(0),
        }
    }

    /// The device.
    #[must_use]
    pub const fn id(&self) -> DeviceId {
        self.id
    }

    // Ordering: the number guards nothing, and the account that it names is looked up under the gate, whose
    // write side is held when it is set.

    pub(crate) fn run(&self) -> Option<u64> {
        Some(self.run.load(Relaxed)).filter(|&run| run != 0)
    }

    /// Once a file is a run instance, it stays that one.
    pub(crate) fn set_run(&self, run: u64) {
        self.run.store(run, Relaxed);
    }
}
