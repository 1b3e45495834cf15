//! The numa backend: a NUMA node in place of a device, through `move_pages(2)`.
//!
//! What users of machines have whose device memory is a node of the kernel. The node belongs to
//! everybody: nothing keeps other memory away from it.

use std::{fs, ops::Range, path::Path};

use cohmem_uapi::{Direction, FRAME_BYTES, PageEntry, Reason, Tier};

use crate::{
    error::{Cause, Result},
    migrate::Migrated,
    pool::refusal::Refusal,
    sys::{
        map::Mapping,
        numa::{self, PageStatus},
    },
    units::{ByteCount, parse_u64},
};

const NODES: &str = "/sys/devices/system/node";

/// Pages a call of the kernel.
const BATCH: u64 = 4096;

/// A node that stands for a device, and the one that pages go home to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Nodes {
    pub(crate) device: u32,
    pub(crate) home: u32,
}

impl Nodes {
    /// Finds both; without `asked`, the device is the only node that has memory and no processors.
    pub(crate) fn find(asked: Option<u32>) -> Result<Self> {
        Self::find_in(Path::new(NODES), asked)
    }

    fn find_in(directory: &Path, asked: Option<u32>) -> Result<Self> {
        let with_memory = read_list(&directory.join("has_memory"))?;
        let with_cpu = read_list(&directory.join("has_cpu"))?;
        let device = match asked {
            Some(node) if with_memory.contains(&node) => node,
            Some(node) => {
                return Err(Refusal::NodeWithoutMemory {
                    node,
                    nodes: with_memory,
                }
                .into());
            }
            None => {
                let mut bare = with_memory.iter().filter(|node| !with_cpu.contains(node));
                match (bare.next(), bare.next()) {
                    (Some(&node), None) => node,
                    (None, _) => return Err(Refusal::NoNodeToUse { nodes: with_memory }.into()),
                    (Some(_), Some(_)) => {
                        let bare = with_memory
                            .into_iter()
                            .filter(|node| !with_cpu.contains(node));
                        return Err(Refusal::SeveralNodes {
                            nodes: bare.collect(),
                        }
                        .into());
                    }
                }
            }
        };
        let is_home = |node: &&u32| **node != device;
        let home = with_memory
            .iter()
            .filter(is_home)
            .find(|node| with_cpu.contains(node))
            .or_else(|| with_memory.iter().find(is_home));
        match home {
            Some(&home) => Ok(Self { device, home }),
            None => Err(Refusal::OnlyNode { node: device }.into()),
        }
    }

    /// Total and free bytes of the device's node.
    pub(crate) fn query_memory(self) -> Result<(ByteCount, ByteCount)> {
        let path = format!("{NODES}/node{}/meminfo", self.device);
        let text = read(Path::new(&path))?;
        let field = |name: &str| {
            let line = text.lines().find(|line| line.contains(name))?;
            parse_u64(line.split_whitespace().rev().nth(1)?)?.checked_mul(1024)
        };
        match (field("MemTotal:"), field("MemFree:")) {
            (Some(total), Some(free)) => Ok((ByteCount::new(total), ByteCount::new(free))),
            _ => Err(Cause::Unreadable {
                path: path.into(),
                text,
            }
            .into()),
        }
    }

    /// Has the whole of a new mapping on the device's node, as far as it has room.
    pub(crate) fn fill(self, mapping: &mut Mapping) -> Result<Migrated> {
        let node = self.device;
        let failed = |doing| {
            move |source| Refusal::Node {
                doing,
                node,
                source,
            }
        };
        numa::prefer(mapping, Some(node)).map_err(failed("allocate memory of"))?;
        numa::populate(mapping).map_err(failed("fill memory of"))?;
        numa::prefer(mapping, None).map_err(failed("end the policy for"))?;
        let nr_pages = mapping.length() as u64 / FRAME_BYTES;
        let mut filled = Migrated {
            total: nr_pages,
            ..Migrated::default()
        };
        for (_, status) in batches(mapping, 0..nr_pages, node, None)? {
            match status {
                PageStatus::On(on) if on == node => filled.filled += 1,
                PageStatus::On(_) => filled.stayed.add(Reason::NoFrame, 1),
                PageStatus::Not(errno) => filled.stayed.add(reason(errno), 1),
            }
        }
        Ok(filled)
    }

    /// Moves the pages of a part of the mapping; one reason a page, `None` for one that moved.
    pub(crate) fn migrate(
        self,
        mapping: &Mapping,
        pages: Range<u64>,
        direction: Direction,
    ) -> Result<Vec<Option<Reason>>> {
        let node = match direction {
            Direction::ToDevice => self.device,
            Direction::ToSystem => self.home,
        };
        let goes = |on: u32| match direction {
            Direction::ToDevice => on != self.device,
            Direction::ToSystem => on == self.device,
        };
        let before = batches(mapping, pages.clone(), node, None)?;
        let mut fates: Vec<_> = before
            .iter()
            .map(|&(_, status)| match status {
                PageStatus::On(on) if goes(on) => None,
                PageStatus::On(_) => Some(Reason::AlreadyThere),
                PageStatus::Not(errno) => Some(reason(errno)),
            })
            .collect();
        // Runs of pages that go, so that the others are not asked for at all.
        let mut at = 0;
        while at < fates.len() {
            let run = fates[at..].iter().take_while(|fate| fate.is_none()).count();
            if run > 0 {
                let first = pages.start + at as u64;
                let moved = batches(mapping, first..first + run as u64, node, Some(node))?;
                for (fate, (_, status)) in fates[at..].iter_mut().zip(moved) {
                    *fate = match status {
                        PageStatus::On(on) if !goes(on) => None,
                        PageStatus::On(_) => Some(Reason::Raced),
                        PageStatus::Not(errno) => Some(reason(errno)),
                    };
                }
            }
            at += run.max(1);
        }
        Ok(fates)
    }

    /// Where the pages of a part of the mapping are.
    pub(crate) fn query(self, mapping: &Mapping, pages: Range<u64>) -> Result<Vec<PageEntry>> {
        let entry = |status| match status {
            PageStatus::On(on) if on == self.device => PageEntry::new(Tier::Device, 0, None),
            PageStatus::On(_) => PageEntry::new(Tier::System, 0, None),
            PageStatus::Not(_) => PageEntry::new(Tier::None, 0, None),
        };
        let found = batches(mapping, pages, self.device, None)?;
        Ok(found.into_iter().map(|(_, status)| entry(status)).collect())
    }
}

/// What `move_pages` says of `pages`, batch by batch; `node` is for messages.
fn batches(
    mapping: &Mapping,
    pages: Range<u64>,
    node: u32,
    to: Option<u32>,
) -> Result<Vec<(u64, PageStatus)>> {
    let mut all = Vec::new();
    let mut first = pages.start;
    while first < pages.end {
        let count = BATCH.min(pages.end - first);
        let (Ok(at), Ok(nr_pages)) = (usize::try_from(first), usize::try_from(count)) else {
            break;
        };
        let status = numa::move_pages(mapping, at, nr_pages, to).map_err(|source| {
            let doing = match to {
                Some(_) => "move pages to",
                None => "ask for pages of",
            };
            Refusal::Node {
                doing,
                node,
                source,
            }
        })?;
        all.extend((first..).zip(status));
        first += count;
    }
    Ok(all)
}

const fn reason(errno: i32) -> Reason {
    match errno {
        libc::ENOENT | libc::EFAULT => Reason::Untouched,
        libc::EACCES => Reason::Shared,
        libc::ENOMEM => Reason::NoFrame,
        libc::EBUSY => Reason::ExtraRef,
        _ => Reason::Raced,
    }
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).map_err(|source| {
        Cause::File {
            doing: "read",
            path: path.to_owned(),
            source,
        }
        .into()
    })
}

/// Reads `0-1,3`.
fn read_list(path: &Path) -> Result<Vec<u32>> {
    let text = read(path)?;
    let parse = |part: &str| -> Option<Range<u32>> {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.parse().ok()?..last.parse::<u32>().ok()?.checked_add(1)?)
    };
    let mut nodes = Vec::new();
    for part in text.trim().split(',').filter(|part| !part.is_empty()) {
        match parse(part) {
            Some(range) => nodes.extend(range),
            None => {
                return Err(Cause::Unreadable {
                    path: path.to_owned(),
                    text,
                }
                .into());
            }
        }
    }
    Ok(nodes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    fn machine(memory: &str, cpu: &str) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("has_memory"), memory).unwrap();
        fs::write(directory.path().join("has_cpu"), cpu).unwrap();
        directory
    }

    fn find(memory: &str, cpu: &str, asked: Option<u32>) -> Result<Nodes> {
        Nodes::find_in(machine(memory, cpu).path(), asked)
    }

    #[test]
    fn the_node_without_processors_is_the_device() {
        let nodes = find("0-1\n", "0\n", None).unwrap();
        assert_eq!((nodes.device, nodes.home), (1, 0));
        let nodes = find("0-1,4\n", "0-1\n", None).unwrap();
        assert_eq!((nodes.device, nodes.home), (4, 0));
        let nodes = find("0-1\n", "0-1\n", Some(0)).unwrap();
        assert_eq!((nodes.device, nodes.home), (0, 1));
    }

    #[test]
    fn nodes_that_cannot_be_a_device_are_refused_with_those_that_can() {
        for (memory, cpu, asked, kind, says) in [
            ("0\n", "0\n", None, ErrorKind::NotFound, "memory: 0"),
            ("0\n", "0\n", Some(0), ErrorKind::InvalidInput, "only one"),
            ("0\n", "0-1\n", Some(1), ErrorKind::NotFound, "no memory"),
            ("0-2\n", "0\n", None, ErrorKind::Ambiguous, "numa:1, numa:2"),
            ("0-x\n", "0\n", None, ErrorKind::Io, "0-x"),
        ] {
            let error = find(memory, cpu, asked).unwrap_err();
            assert_eq!(error.kind(), kind, "{error}");
            assert!(error.to_string().contains(says), "{error}");
        }
    }
}
