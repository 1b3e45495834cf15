//! What a program's owner wants of its memory: which mappings go to a device, which devices, how
//! much, and what happens when they are full.
//!
//! ```text
//! POLICY = CLAUSE { ";" CLAUSE }
//! CLAUSE = WHICH { "," WHICH } | "limit=" SIZE | "devices=" DEVICE { "," DEVICE } | "full=" FULL
//! WHICH  = "all" | "heap" | "stack" | "size>=" SIZE | "name=" GLOB
//! FULL   = "strict" | "spill" | "evict"
//! ```
//!
//! Each clause may be given once, in any order; blanks around a word do not count. A mapping goes to
//! a device when one WHICH fits. In a GLOB `*` stands for any letters and `?` for one; it cannot
//! hold `,` or `;`.

mod glob;
mod parse;

use std::fmt;

use cohmem::{AddrRange, ByteCount, Vma, VmaKind};

use self::glob::Glob;

/// The policy as the help tells it.
pub(crate) const HELP: &str = "\
Policy: what of the program goes to a device, in clauses with ; between them, each at most once:
  WHICH,WHICH...    mappings for which one of these is true (default: all)
    all             every private mapping without a file
    heap            the heap that brk grows; large allocations are mappings of their own
    stack           the stack of the first thread
    size>=SIZE      such a mapping of at least SIZE
    name=GLOB       one by its name in /proc/PID/maps, as [anon:NAME] or a private file's path, of
                    which the pages that were written to move; * and ? stand for letters
  limit=SIZE        at most SIZE on all devices together; a page that several processes of the
                    program map counts once for each
  devices=N,N...    devices, the preferred one first
  full=WHAT         when no frame is free, or the limit is reached:
    spill           memory stays in system memory (default)
    strict          the program is ended, and the exit status is 1
    evict           memory of the program that has been there longest goes home, that of its other
                    processes first; it comes back only when there is room
Executable mappings and mappings without access stay.

Example: --policy 'heap,size>=64M,name=*model*;limit=2G;devices=cohmem1,cohmem0;full=spill'

What the program leaves running when it ends goes home to system memory.";

/// A policy. The default one is `all;full=spill` on the device that the command line tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Policy {
    /// Which mappings; all if there is none.
    which: Vec<Which>,
    /// Bytes of all devices together, at least a page.
    limit: Option<ByteCount>,
    /// Devices by preference, each once; none: not said.
    pub(crate) devices: Vec<u32>,
    pub(crate) full: Full,
}

/// One way to choose mappings.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Which {
    All,
    Heap,
    Stack,
    AtLeast(ByteCount),
    Name(Glob),
}

/// What happens to memory that finds no room on a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Full {
    /// The program is ended.
    Strict,
    /// It stays in system memory.
    #[default]
    Spill,
    /// Older memory of the same program goes home for it.
    Evict,
}

/// A private mapping of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Area {
    pub(crate) range: AddrRange,
    pub(crate) name: Option<String>,
    /// No file is behind it.
    pub(crate) is_anonymous: bool,
    /// Its pages can be looked at: not `PROT_NONE`.
    pub(crate) is_accessible: bool,
    pub(crate) is_executable: bool,
}

impl Area {
    /// Nothing of a shared mapping or of the kernel's own moves.
    pub(crate) fn of(vma: &Vma) -> Option<Self> {
        if vma.is_shared || vma.kind == VmaKind::Kernel {
            return None;
        }
        Some(Self {
            range: vma.range,
            name: vma.name.clone(),
            is_anonymous: vma.kind == VmaKind::Anonymous,
            is_accessible: vma.is_readable || vma.is_writable,
            is_executable: vma.is_executable,
        })
    }
}

impl Policy {
    /// Whether the pages of `area` go to a device.
    pub(crate) fn selects(&self, area: &Area) -> bool {
        if !area.is_accessible || area.is_executable {
            return false;
        }
        if self.which.is_empty() {
            return area.is_anonymous;
        }
        self.which.iter().any(|which| which.fits(area))
    }

    /// Whether it chooses mappings of files, too.
    pub(crate) fn names_mappings(&self) -> bool {
        self.which
            .iter()
            .any(|which| matches!(which, Which::Name(_)))
    }

    /// The limit in whole pages.
    pub(crate) fn limit_pages(&self) -> Option<u64> {
        self.limit.map(|limit| limit.get() / cohmem::FRAME_BYTES)
    }
}

impl Which {
    fn fits(&self, area: &Area) -> bool {
        let name = area.name.as_deref();
        match self {
            Self::All => area.is_anonymous,
            Self::Heap => name == Some("[heap]"),
            Self::Stack => name == Some("[stack]"),
            Self::AtLeast(size) => area.is_anonymous && area.range.length() >= *size,
            // Pages of a private file that were written to are anonymous.
            Self::Name(glob) => name.is_some_and(|name| glob.matches(name)),
        }
    }
}

/// Written so that it is read as the same policy.
impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, which) in self.which.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            match which {
                Which::All => write!(f, "{comma}all")?,
                Which::Heap => write!(f, "{comma}heap")?,
                Which::Stack => write!(f, "{comma}stack")?,
                Which::AtLeast(size) => write!(f, "{comma}size>={}", Exact(*size))?,
                Which::Name(glob) => write!(f, "{comma}name={glob}")?,
            }
        }
        if self.which.is_empty() {
            f.write_str("all")?;
        }
        if let Some(limit) = self.limit {
            write!(f, ";limit={}", Exact(limit))?;
        }
        for (index, number) in self.devices.iter().enumerate() {
            let before = if index == 0 { ";devices=" } else { "," };
            write!(f, "{before}cohmem{number}")?;
        }
        let full = match self.full {
            Full::Strict => "strict",
            Full::Spill => "spill",
            Full::Evict => "evict",
        };
        write!(f, ";full={full}")
    }
}

/// A size with the largest unit that divides it.
struct Exact(ByteCount);

impl fmt::Display for Exact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.0.get();
        let units = [(40, "T"), (30, "G"), (20, "M"), (10, "K")];
        let unit = units
            .iter()
            .find(|(shift, _)| bytes > 0 && bytes.is_multiple_of(1 << shift));
        match unit {
            Some((shift, letter)) => write!(f, "{}{letter}", bytes >> shift),
            None => write!(f, "{bytes}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use cohmem::UserAddr;

    use super::*;

    fn area(pages: u64, name: Option<&str>) -> Area {
        let start = UserAddr::new(0x10_0000);
        Area {
            range: AddrRange::with_length(start, ByteCount::of_frames(pages)).unwrap(),
            name: name.map(str::to_owned),
            is_anonymous: true,
            is_accessible: true,
            is_executable: false,
        }
    }

    fn policy(text: &str) -> Policy {
        text.parse().unwrap()
    }

    #[test]
    fn one_word_that_fits_is_enough() {
        let wanted = policy("heap,size>=64K,name=*model*");
        assert!(wanted.selects(&area(1, Some("[heap]"))));
        assert!(wanted.selects(&area(16, None)));
        assert!(!wanted.selects(&area(15, None)));
        assert!(wanted.selects(&area(1, Some("[anon:the model]"))));
        assert!(!wanted.selects(&area(1, Some("[stack]"))));
        assert!(policy("stack").selects(&area(1, Some("[stack]"))));
    }

    #[test]
    fn everything_is_what_has_no_file() {
        for wanted in [Policy::default(), policy("all"), policy("limit=1G")] {
            assert!(wanted.selects(&area(1, None)), "{wanted}");
            let file = Area {
                is_anonymous: false,
                ..area(64, Some("/usr/lib/libc.so.6"))
            };
            assert!(!wanted.selects(&file), "{wanted}");
        }
        let file = Area {
            is_anonymous: false,
            ..area(64, Some("/data/model.bin"))
        };
        assert!(policy("name=*.bin").selects(&file));
        assert!(!policy("size>=4K").selects(&file));
    }

    #[test]
    fn code_and_guard_pages_stay() {
        let code = Area {
            is_executable: true,
            ..area(9, None)
        };
        let guard = Area {
            is_accessible: false,
            ..area(9, None)
        };
        for wanted in [Policy::default(), policy("all,name=*")] {
            assert!(!wanted.selects(&code) && !wanted.selects(&guard));
        }
    }

    #[test]
    fn a_limit_is_in_whole_pages() {
        assert_eq!(policy("limit=8191").limit_pages(), Some(1));
        assert_eq!(policy("heap").limit_pages(), None);
    }
}
