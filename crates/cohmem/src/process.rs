//! Another process: the right to see it, and its mappings.

use std::{
    fs::{self, File},
    io::{self, Read},
    os::fd::AsFd,
    path::PathBuf,
};

use rustix::fs::{Mode, OFlags, open, openat};

use crate::{
    error::{Cause, Result},
    sys::pagemap::Pagemap,
    units::{AddrRange, UserAddr},
};

/// What backs a mapping, as far as migration cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VmaKind {
    /// Private memory that belongs to no file: what migrates.
    Anonymous,
    /// A file, or shared memory.
    File,
    /// The kernel's own: vdso, vvar, vsyscall.
    Kernel,
}

/// One mapping of a process (a line of `/proc/PID/maps`).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Vma {
    /// Its addresses.
    pub range: AddrRange,
    /// What backs it.
    pub kind: VmaKind,
    /// It can be read.
    pub is_readable: bool,
    /// It can be written.
    pub is_writable: bool,
    /// It can be executed.
    pub is_executable: bool,
    /// A write is seen by others that map it.
    pub is_shared: bool,
    /// The file, or a name such as `[heap]`.
    pub name: Option<String>,
}

impl Vma {
    /// Reads one line of `/proc/PID/maps`; `None` if it is not one.
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        let mut fields = line.splitn(6, ' ');
        let (start, end) = fields.next()?.split_once('-')?;
        let address = |digits| u64::from_str_radix(digits, 16).ok().map(UserAddr::new);
        let range = AddrRange::new(address(start)?, address(end)?).ok()?;
        let mode = fields.next()?.as_bytes();
        let inode = fields.nth(2)?;
        let name = fields.next().map(str::trim).filter(|name| !name.is_empty());
        let kind = match name {
            Some("[vdso]" | "[vvar]" | "[vvar_vclock]" | "[vsyscall]" | "[uprobes]") => {
                VmaKind::Kernel
            }
            _ if inode == "0" && mode.get(3) == Some(&b'p') => VmaKind::Anonymous,
            _ => VmaKind::File,
        };
        Some(Self {
            range,
            kind,
            is_readable: mode.first() == Some(&b'r'),
            is_writable: mode.get(1) == Some(&b'w'),
            is_executable: mode.get(2) == Some(&b'x'),
            is_shared: mode.get(3) == Some(&b's'),
            name: name.map(str::to_owned),
        })
    }
}

/// The numbers of all processes that `/proc` lists, kernel threads too, in no order.
///
/// # Errors
///
/// [`Io`](crate::ErrorKind::Io).
pub fn pids() -> Result<Vec<u32>> {
    let listed = fs::read_dir("/proc").map_err(|source| Cause::File {
        doing: "list",
        path: "/proc".into(),
        source,
    })?;
    let numbers = listed.flatten().filter_map(|entry| {
        entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
    });
    Ok(numbers.collect())
}

/// A process whose memory the caller may see.
///
/// It names one process for good: when that ends and its number is taken by another, calls fail
/// with [`NoProcess`](crate::ErrorKind::NoProcess).
#[derive(Debug)]
pub struct Process {
    pid: u32,
    directory: File,
    pagemap: Pagemap,
}

impl Process {
    /// Opens `/proc/PID/pagemap`; the kernel checks there whether the caller may see the process.
    ///
    /// # Errors
    ///
    /// [`NoProcess`](crate::ErrorKind::NoProcess),
    /// [`NotPermitted`](crate::ErrorKind::NotPermitted).
    pub fn open(pid: u32) -> Result<Self> {
        let path = PathBuf::from(format!("/proc/{pid}"));
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = match open(&path, flags, Mode::empty()) {
            Ok(directory) => File::from(directory),
            Err(rustix::io::Errno::NOENT) => {
                let source = io::Error::from_raw_os_error(libc::ESRCH);
                return Err(Cause::File {
                    doing: "find the process",
                    path,
                    source,
                }
                .into());
            }
            Err(errno) => {
                return Err(Cause::File {
                    doing: "open",
                    path,
                    source: errno.into(),
                }
                .into());
            }
        };
        let pagemap = Pagemap::open_in(&directory).map_err(|source| Cause::File {
            doing: "open",
            path: path.join("pagemap"),
            source,
        })?;
        Ok(Self {
            pid,
            directory,
            pagemap,
        })
    }

    /// A second handle of the same process.
    ///
    /// # Errors
    ///
    /// [`Io`](crate::ErrorKind::Io): the process has too many open files.
    pub fn try_clone(&self) -> Result<Self> {
        let failed = |source| Cause::File {
            doing: "duplicate the handle of",
            path: PathBuf::from(format!("/proc/{}", self.pid)),
            source,
        };
        Ok(Self {
            pid: self.pid,
            directory: self.directory.try_clone().map_err(failed)?,
            pagemap: self.pagemap.try_clone().map_err(failed)?,
        })
    }

    /// Its number.
    #[must_use]
    pub const fn pid(&self) -> u32 {
        self.pid
    }

    /// The descriptor that carries the right to see it.
    pub(crate) fn authority_fd(&self) -> i32 {
        self.pagemap.raw_fd()
    }

    pub(crate) const fn pagemap(&self) -> &Pagemap {
        &self.pagemap
    }

    /// The short name that it goes by (`comm`).
    ///
    /// # Errors
    ///
    /// [`NoProcess`](crate::ErrorKind::NoProcess).
    pub fn read_name(&self) -> Result<String> {
        Ok(self.read("comm")?.trim_end().to_owned())
    }

    /// Its mappings, by address.
    ///
    /// # Errors
    ///
    /// [`NoProcess`](crate::ErrorKind::NoProcess), [`Io`](crate::ErrorKind::Io).
    pub fn read_vmas(&self) -> Result<Vec<Vma>> {
        let text = self.read("maps")?;
        let parsed = text.lines().map(|line| {
            Vma::parse(line).ok_or_else(|| {
                let path = PathBuf::from(format!("/proc/{}/maps", self.pid));
                Cause::Unreadable {
                    path,
                    text: line.to_owned(),
                }
                .into()
            })
        });
        parsed.collect()
    }

    /// Mappings of which a page is in memory or in swap, by address.
    ///
    /// Slower than [`Process::read_vmas`], since the kernel walks the page tables.
    pub(crate) fn read_used_ranges(&self) -> Result<Vec<AddrRange>> {
        Ok(used_ranges(&self.read("smaps")?))
    }

    pub(crate) fn read(&self, name: &str) -> Result<String> {
        let failed = |source: io::Error| {
            // A process that has ended leaves an open directory without entries.
            let is_gone = source.kind() == io::ErrorKind::NotFound;
            let source = if is_gone {
                io::Error::from_raw_os_error(libc::ESRCH)
            } else {
                source
            };
            let path = PathBuf::from(format!("/proc/{}/{name}", self.pid));
            Cause::File {
                doing: "read",
                path,
                source,
            }
        };
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let opened = openat(self.directory.as_fd(), name, flags, Mode::empty());
        let mut bytes = Vec::new();
        let file = opened.map_err(|errno| failed(errno.into()))?;
        File::from(file).read_to_end(&mut bytes).map_err(failed)?;
        // Names of files may be any bytes.
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

/// Mappings in the text of an `smaps` of which a page is in memory or in swap.
fn used_ranges(smaps: &str) -> Vec<AddrRange> {
    let mut used = Vec::new();
    let mut current = None;
    for line in smaps.lines() {
        if let Some(vma) = Vma::parse(line) {
            current = Some(vma.range);
        } else if (line.starts_with("Rss:") || line.starts_with("Swap:"))
            && !line.ends_with(" 0 kB")
        {
            used.extend(current.take());
        }
    }
    used
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ErrorKind, sys::map::Mapping};

    #[test]
    fn lines_of_maps_are_understood() {
        let heap = Vma::parse(
            "55d0c8a00000-55d0c8a21000 rw-p 00000000 00:00 0                          [heap]",
        )
        .unwrap();
        assert_eq!(
            (heap.kind, heap.name.as_deref()),
            (VmaKind::Anonymous, Some("[heap]"))
        );
        assert!(heap.is_readable && heap.is_writable && !heap.is_executable && !heap.is_shared);
        assert_eq!(heap.range.to_string(), "0x55d0c8a00000-0x55d0c8a21000");

        let plain = Vma::parse("7f00-8f00 rw-p 00000000 00:00 0 ").unwrap();
        assert_eq!((plain.kind, plain.name), (VmaKind::Anonymous, None));

        let file = Vma::parse(
            "7f0000000000-7f0000001000 r-xp 00002000 fe:01 1234   /usr/lib/a name with spaces.so",
        )
        .unwrap();
        assert_eq!(file.kind, VmaKind::File);
        assert_eq!(file.name.as_deref(), Some("/usr/lib/a name with spaces.so"));
        assert!(file.is_executable);

        let shared = Vma::parse("7f00-8f00 rw-s 00000000 00:01 2057 /dev/zero (deleted)").unwrap();
        assert_eq!((shared.kind, shared.is_shared), (VmaKind::File, true));

        let kernel =
            Vma::parse("ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0 [vsyscall]");
        assert_eq!(kernel.unwrap().kind, VmaKind::Kernel);

        for line in ["", "x", "1000-800 rw-p 0 0:0 0", "1000-2000 rw-p"] {
            assert_eq!(Vma::parse(line), None, "{line:?}");
        }
    }

    #[test]
    fn mappings_in_use_are_told_from_others() {
        let smaps = "\
            1000-2000 rw-p 00000000 00:00 0 \nSize: 4 kB\nRss:                   4 kB\nSwap: 0 kB\n\
            3000-5000 rw-p 00000000 00:00 0 \nSize: 8 kB\nRss:                   0 kB\nSwap: 0 kB\n\
            6000-7000 rw-p 00000000 00:00 0 [heap]\nRss: 0 kB\nSwap:                  4 kB\n\
            8000-9000 rw-p 00000000 00:00 0 \nRss: 4 kB\nSwap: 4 kB\n";
        let used: Vec<String> = used_ranges(smaps)
            .iter()
            .map(AddrRange::to_string)
            .collect();
        assert_eq!(used, ["0x1000-0x2000", "0x6000-0x7000", "0x8000-0x9000"]);
    }

    #[test]
    fn the_own_mappings_hold_a_new_one() {
        let mapping = Mapping::anonymous(4096 * 4).unwrap();
        let range = AddrRange::covering(mapping.as_slice());
        let process = Process::open(std::process::id()).unwrap();
        let vmas = process.read_vmas().unwrap();
        let holding: Vec<_> = vmas
            .iter()
            .filter(|vma| vma.range.intersection(range) == Some(range))
            .collect();
        assert_eq!(holding.len(), 1);
        assert_eq!(holding[0].kind, VmaKind::Anonymous);
        assert!(!process.read_name().unwrap().is_empty());
    }

    #[test]
    fn a_process_that_is_not_there_is_named() {
        // Above the largest value that pid_max can have.
        let error = Process::open(1 << 23).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoProcess);
        assert_eq!(error.to_string(), "cannot find the process /proc/8388608");
    }

    #[test]
    fn a_process_that_has_ended_is_no_longer_read() {
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let process = Process::open(child.id()).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(
            process.read_vmas().unwrap_err().kind(),
            ErrorKind::NoProcess
        );
    }
}
