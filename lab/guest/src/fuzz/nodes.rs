//! The driver's nodes, as a fuzzing thread holds them open.

use std::fs::{File, OpenOptions};

use cohmem_uapi::MAX_DEVICES;

use super::{call::Caller, random::Random};
use crate::sys::io::open;

/// Devices that a thread has open.
const NR_OPEN: usize = 4;

/// The control node, and some devices, of which some may be gone.
#[derive(Debug)]
pub(crate) struct Nodes {
    pub(crate) control: File,
    devices: Vec<File>,
}

impl Nodes {
    /// Opens the control node and what is attached.
    pub(crate) fn open(caller: &Caller, random: &mut Random) -> Self {
        let mut nodes = Self {
            control: open("/dev/cohmem"),
            devices: Vec::new(),
        };
        while nodes.devices.len() < NR_OPEN && !caller.board.is_over() {
            nodes.reopen(caller, random);
        }
        nodes
    }

    /// Opens a device that is attached now, in place of one of the others.
    pub(crate) fn reopen(&mut self, caller: &Caller, random: &mut Random) {
        let devices = caller.list(&self.control);
        let attached: Vec<_> = (0..MAX_DEVICES)
            .filter(|number| devices >> number & 1 == 1)
            .collect();
        if attached.is_empty() {
            std::thread::yield_now();
            return;
        }
        let path = format!("/dev/cohmem{}", random.pick(&attached));
        // It may have gone meanwhile.
        let Ok(file) = OpenOptions::new().read(true).write(true).open(path) else {
            return;
        };
        if self.devices.len() < NR_OPEN {
            self.devices.push(file);
        } else {
            let index = random.below(NR_OPEN);
            self.devices[index] = file;
        }
    }

    /// One of the devices.
    pub(crate) fn device(&self, random: &mut Random) -> &File {
        &self.devices[random.below(self.devices.len())]
    }
}
