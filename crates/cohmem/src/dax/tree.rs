//! The files of sysfs and procfs that this module reads and writes, below a root.

use std::{
    fs, io,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use crate::{
    backend::driver::ControlNode,
    error::{Cause, Error, ErrorKind},
    units::PhysRange,
};

/// Access to the machine's files; paths are absolute. Tests put a fake machine behind it.
pub(crate) trait Tree {
    fn read(&self, path: &str) -> io::Result<String>;
    fn write(&self, path: &str, text: &str) -> io::Result<()>;
    /// Names in a directory, sorted.
    fn names(&self, path: &str) -> io::Result<Vec<String>>;
    /// Where a symbolic link points.
    fn link(&self, path: &str) -> io::Result<PathBuf>;
    /// A short wait before another try.
    fn pause(&self);
    /// Where soft-reserved memory is, as the driver tells; nothing where there is no driver.
    fn soft_reserved(&self) -> Result<Vec<PhysRange>, Error>;

    fn exists(&self, path: &str) -> bool {
        self.read(path).is_ok() || self.names(path).is_ok()
    }

    /// Last component of a link's target.
    fn link_name(&self, path: &str) -> Option<String> {
        let target = self.link(path).ok()?;
        Some(target.file_name()?.to_str()?.to_owned())
    }

    /// [`Tree::read`] with the library's error.
    fn read_attribute(&self, path: &str) -> Result<String, Error> {
        match self.read(path) {
            Ok(text) => Ok(text.trim().to_owned()),
            Err(source) => Err(Cause::File {
                doing: "read",
                path: path.into(),
                source,
            }
            .into()),
        }
    }

    /// [`Tree::write`] with the library's error.
    fn write_attribute(&self, path: &str, text: &str) -> Result<(), Error> {
        let failed = |source| {
            Cause::File {
                doing: "write to",
                path: path.into(),
                source,
            }
            .into()
        };
        self.write(path, text).map_err(failed)
    }
}

/// The files below a directory: `/` is the machine's own.
#[derive(Debug)]
pub(crate) struct DirTree {
    root: PathBuf,
}

impl DirTree {
    pub(crate) fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }
}

impl Tree for DirTree {
    fn read(&self, path: &str) -> io::Result<String> {
        // Names of files in /proc/PID/maps may be any bytes.
        fs::read(self.path(path)).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    }

    fn write(&self, path: &str, text: &str) -> io::Result<()> {
        // Not fs::write: sysfs attributes exist, they are neither created nor cut.
        let mut file = fs::File::options().write(true).open(self.path(path))?;
        // One write(2): an attribute takes its value whole. EINTR is for the caller to see.
        match io::Write::write(&mut file, text.as_bytes()) {
            Ok(written) if written == text.len() => Ok(()),
            Ok(_) => Err(io::ErrorKind::WriteZero.into()),
            Err(error) => Err(error),
        }
    }

    fn names(&self, path: &str) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(self.path(path))? {
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    fn link(&self, path: &str) -> io::Result<PathBuf> {
        fs::read_link(self.path(path))
    }

    fn pause(&self) {
        thread::sleep(Duration::from_millis(100));
    }

    fn soft_reserved(&self) -> Result<Vec<PhysRange>, Error> {
        if self.root != Path::new("/") {
            return Ok(Vec::new());
        }
        let parts = match ControlNode::open().and_then(|control| control.ranges()) {
            Ok(parts) => parts,
            // The driver is not loaded, or is one that does not know the command yet.
            Err(error) if matches!(error.kind(), ErrorKind::NoDriver | ErrorKind::Unsupported) => {
                return Ok(Vec::new());
            }
            Err(error) => return Err(error),
        };
        let mut ranges: Vec<PhysRange> = Vec::new();
        for part in parts {
            let end = part.start.saturating_add(part.length);
            let start = match ranges.pop_if(|last| last.end() == part.start) {
                Some(last) => last.start(),
                None => part.start,
            };
            ranges.push(PhysRange::new(start, end)?);
        }
        Ok(ranges)
    }

    fn exists(&self, path: &str) -> bool {
        Path::new(&self.path(path)).exists()
    }
}
