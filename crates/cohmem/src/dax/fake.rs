//! A machine with soft-reserved memory, as files in a temporary directory with the kernel's
//! behaviour behind the writes.

use std::{
    cell::{Cell, RefCell},
    fs, io,
    os::unix::fs::symlink,
    path::PathBuf,
};

use super::tree::{DirTree, Tree};
use crate::{error::Result, units::PhysRange};

const BLOCK: u64 = 128 << 20;
const MEMORY: &str = "/sys/devices/system/memory";

/// One region hmem.N with one device daxN.0 of two blocks.
pub(super) struct FakeMachine {
    directory: tempfile::TempDir,
    tree: DirTree,
    /// Every write, as `path=text`, with the last two components of the path.
    pub(super) log: RefCell<Vec<String>>,
    /// A block that does not go offline.
    pub(super) refusing: RefCell<Option<String>>,
    /// A block whose offline write says success but does nothing.
    pub(super) lying: RefCell<Option<String>>,
    /// A block that somebody brings back online as soon as the first block has gone offline.
    pub(super) meddled: RefCell<Option<String>>,
    /// The zone that added memory comes online in.
    pub(super) policy: RefCell<&'static str>,
    pub(super) nr_pauses: Cell<u32>,
    /// What the driver tells of soft-reserved memory.
    pub(super) told: RefCell<Vec<PhysRange>>,
    /// kmem was unbound with a block online: the range is lost until the next boot.
    pub(super) is_lost: Cell<bool>,
    regions: u64,
}

impl FakeMachine {
    pub(super) fn new(drivers: &[Option<&str>]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let machine = Self {
            tree: DirTree::new(directory.path()),
            directory,
            log: RefCell::default(),
            refusing: RefCell::default(),
            lying: RefCell::default(),
            meddled: RefCell::default(),
            policy: RefCell::new("Movable"),
            nr_pauses: Cell::new(0),
            told: RefCell::default(),
            is_lost: Cell::new(false),
            regions: drivers.len() as u64,
        };
        machine.put(
            &format!("{MEMORY}/block_size_bytes"),
            &format!("{BLOCK:x}\n"),
        );
        fs::create_dir_all(machine.path("/sys/bus/dax/devices")).unwrap();
        for (number, driver) in (0_u64..).zip(drivers) {
            let device = format!("/sys/devices/platform/hmem.{number}/dax{number}.0");
            let start = machine.start(number);
            machine.put(
                &format!("{device}/mapping0/start"),
                &format!("{start:#x}\n"),
            );
            machine.put(
                &format!("{device}/mapping0/end"),
                &format!("{:#x}\n", start + 2 * BLOCK - 1),
            );
            machine.put(&format!("{device}/mapping"), "");
            symlink(
                format!("../../../devices/platform/hmem.{number}/dax{number}.0"),
                machine.path(&format!("/sys/bus/dax/devices/dax{number}.0")),
            )
            .unwrap();
            for name in ["kmem", "device_dax"] {
                for file in ["bind", "unbind", "new_id"] {
                    machine.put(&format!("/sys/bus/dax/drivers/{name}/{file}"), "");
                }
            }
            if let Some(driver) = driver {
                machine.bind(&format!("dax{number}.0"), driver);
            }
        }
        machine.update_iomem();
        machine
    }

    pub(super) fn start(&self, number: u64) -> u64 {
        0x1_0000_0000 + number * 4 * BLOCK
    }

    pub(super) fn path(&self, path: &str) -> PathBuf {
        self.directory.path().join(path.trim_start_matches('/'))
    }

    pub(super) fn put(&self, path: &str, text: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Each block as `N:state:zone`.
    pub(super) fn blocks(&self) -> Vec<String> {
        let names = self.tree.names(MEMORY).unwrap();
        let blocks = names.iter().filter_map(|name| name.strip_prefix("memory"));
        blocks
            .map(|number| {
                let state = self
                    .tree
                    .read(&format!("{MEMORY}/memory{number}/state"))
                    .unwrap();
                let zone = self
                    .tree
                    .read(&format!("{MEMORY}/memory{number}/valid_zones"))
                    .unwrap();
                format!("{number}:{}:{}", state.trim(), zone.trim())
            })
            .collect()
    }

    pub(super) fn driver(&self, device: &str) -> Option<String> {
        self.tree
            .link_name(&format!("/sys/bus/dax/devices/{device}/driver"))
    }

    pub(super) fn set_block(&self, number: u64, state: &str, zone: &str) {
        self.put(
            &format!("{MEMORY}/memory{number}/state"),
            &format!("{state}\n"),
        );
        self.put(
            &format!("{MEMORY}/memory{number}/valid_zones"),
            &format!("{zone}\n"),
        );
    }

    fn block_numbers(&self, device: &str) -> [u64; 2] {
        let number: u64 = device[3..device.len() - 2].parse().unwrap();
        let first = self.start(number) / BLOCK;
        [first, first + 1]
    }

    fn bind(&self, device: &str, driver: &str) {
        let link = self.path(&format!("/sys/bus/dax/devices/{device}/driver"));
        symlink(format!("../../../../bus/dax/drivers/{driver}"), link).unwrap();
        if driver == "kmem" {
            for block in self.block_numbers(device) {
                self.set_block(block, "online", *self.policy.borrow());
            }
        }
    }

    fn unbind(&self, device: &str, driver: &str) -> io::Result<()> {
        if self.driver(device).as_deref() != Some(driver) {
            return Err(io::Error::from_raw_os_error(libc::ENODEV));
        }
        fs::remove_file(self.path(&format!("/sys/bus/dax/devices/{device}/driver"))).unwrap();
        if driver == "kmem" {
            let [first, second] = self.block_numbers(device);
            let is_online = |block: &u64| {
                let state = self
                    .tree
                    .read(&format!("{MEMORY}/memory{block}/state"))
                    .unwrap();
                state.trim() != "offline"
            };
            if [first, second].iter().any(is_online) {
                self.is_lost.set(true);
                return Ok(());
            }
            for block in [first, second] {
                fs::remove_dir_all(self.path(&format!("{MEMORY}/memory{block}"))).unwrap();
            }
        }
        Ok(())
    }

    fn update_iomem(&self) {
        let mut text = "00001000-bfffffff : System RAM\n".to_owned();
        for number in 0..self.regions {
            let (start, last) = (self.start(number), self.start(number) + 2 * BLOCK - 1);
            text.push_str(&format!("{start:x}-{last:x} : Soft Reserved\n"));
            let driver = self.driver(&format!("dax{number}.0"));
            if driver.is_some() || self.is_lost.get() {
                text.push_str(&format!("  {start:x}-{last:x} : dax{number}.0\n"));
            }
            if driver.as_deref() == Some("kmem") || self.is_lost.get() {
                text.push_str(&format!("    {start:x}-{last:x} : System RAM (kmem)\n"));
            }
        }
        self.put("/proc/iomem", &text);
    }

    fn set_state(&self, block: &str, text: &str) -> io::Result<()> {
        let number: u64 = block["memory".len()..].parse().unwrap();
        match text {
            "offline" if self.refusing.borrow().as_deref() == Some(block) => {
                Err(io::Error::from_raw_os_error(libc::EBUSY))
            }
            "offline" if self.lying.borrow().as_deref() == Some(block) => Ok(()),
            "offline" => {
                self.set_block(number, "offline", "Normal Movable");
                if let Some(meddled) = self.meddled.borrow().as_deref()
                    && meddled != block
                {
                    self.set_block(
                        meddled["memory".len()..].parse().unwrap(),
                        "online",
                        "Normal",
                    );
                }
                Ok(())
            }
            "online_movable" => {
                self.set_block(number, "online", "Movable");
                Ok(())
            }
            _ => {
                self.set_block(number, "online", "Normal");
                Ok(())
            }
        }
    }
}

impl Tree for FakeMachine {
    fn read(&self, path: &str) -> io::Result<String> {
        self.tree.read(path)
    }

    fn write(&self, path: &str, text: &str) -> io::Result<()> {
        let parts: Vec<&str> = path.rsplit('/').take(2).collect();
        let (file, parent) = (parts[0], parts[1]);
        self.log
            .borrow_mut()
            .push(format!("{parent}/{file}={text}"));
        if !self.tree.exists(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let result = match file {
            "state" => self.set_state(parent, text),
            "unbind" => self.unbind(text, parent),
            // As after daxctl: kmem takes every device of the hmem type, device_dax those named.
            "bind" if parent == "device_dax" => Err(io::Error::from_raw_os_error(libc::ENODEV)),
            "bind" | "new_id" => {
                self.bind(text, parent);
                Ok(())
            }
            other => panic!("no write to {other} is expected"),
        };
        self.update_iomem();
        result
    }

    fn names(&self, path: &str) -> io::Result<Vec<String>> {
        self.tree.names(path)
    }

    fn link(&self, path: &str) -> io::Result<PathBuf> {
        self.tree.link(path)
    }

    fn pause(&self) {
        self.nr_pauses.set(self.nr_pauses.get() + 1);
    }

    fn soft_reserved(&self) -> Result<Vec<PhysRange>> {
        Ok(self.told.borrow().clone())
    }

    fn exists(&self, path: &str) -> bool {
        self.tree.exists(path)
    }
}
