//! Why a pool or a region cannot be had, or does not do what was asked.

use std::{fmt, io, ops::Range};

use cohmem_engine::{Level, Obstacle};

use super::{Backend, BackendKind, MemoryType};
use crate::{
    error::ErrorKind,
    units::{AddrRange, ByteCount},
};

/// The values behind such an error.
#[derive(Debug)]
pub(crate) enum Refusal {
    BadBackend {
        text: String,
    },
    NoDeviceAttached,
    SeveralDevices {
        numbers: Vec<u32>,
    },
    NoNodeToUse {
        nodes: Vec<u32>,
    },
    SeveralNodes {
        nodes: Vec<u32>,
    },
    NodeWithoutMemory {
        node: u32,
        nodes: Vec<u32>,
    },
    OnlyNode {
        node: u32,
    },
    Node {
        doing: &'static str,
        node: u32,
        source: io::Error,
    },
    Memory {
        kind: MemoryType,
        backend: BackendKind,
    },
    Granule {
        asked: ByteCount,
        backend: BackendKind,
        least: ByteCount,
    },
    TooSmall {
        backend: Backend,
        free: ByteCount,
        needed: ByteCount,
    },
    NotPlaced {
        backend: Backend,
        asked: u64,
        stayed: u64,
        why: String,
    },
    Outside {
        range: AddrRange,
        region: AddrRange,
    },
    OffsetOutside {
        part: Range<u64>,
        length: u64,
    },
    Misaligned {
        range: AddrRange,
        granule: ByteCount,
    },
    EmptyRange {
        range: AddrRange,
    },
    Level {
        level: Level,
        obstacle: Obstacle,
    },
    Option {
        option: &'static str,
        backend: BackendKind,
    },
    Gone,
}

impl Refusal {
    pub(crate) fn kind(&self) -> ErrorKind {
        match self {
            Self::BadBackend { .. } | Self::OnlyNode { .. } => ErrorKind::InvalidInput,
            Self::NoDeviceAttached | Self::NoNodeToUse { .. } => ErrorKind::NotFound,
            Self::NodeWithoutMemory { .. } => ErrorKind::NotFound,
            Self::SeveralDevices { .. } | Self::SeveralNodes { .. } => ErrorKind::Ambiguous,
            Self::Node { source, .. } => match source.raw_os_error() {
                Some(libc::EPERM | libc::EACCES) => ErrorKind::NotPermitted,
                Some(libc::ENOSYS) => ErrorKind::Unsupported,
                Some(libc::ENOMEM) => ErrorKind::NoMemory,
                _ => ErrorKind::Io,
            },
            Self::Memory { .. } | Self::Option { .. } | Self::Level { .. } => {
                ErrorKind::Unsupported
            }
            Self::Granule { .. } | Self::Misaligned { .. } => ErrorKind::Misaligned,
            Self::TooSmall { .. } | Self::NotPlaced { .. } => ErrorKind::NoFrames,
            Self::Outside { .. } | Self::OffsetOutside { .. } => ErrorKind::OutOfRange,
            Self::EmptyRange { .. } => ErrorKind::Empty,
            Self::Gone => ErrorKind::Gone,
        }
    }

    pub(crate) fn io(&self) -> Option<&io::Error> {
        match self {
            Self::Node { source, .. } => Some(source),
            _ => None,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadBackend { text } => write!(
                f,
                "{text:?} names no backend: auto, driver[:N], numa[:N], or engine[:SIZE | \
                 :/dev/daxX.Y][,level=1..3][,huge]"
            ),
            Self::NoDeviceAttached => {
                f.write_str("the driver has no device: `cohmem attach` attaches one")
            }
            Self::SeveralDevices { numbers } => write!(
                f,
                "{} devices are attached, name one: {}",
                numbers.len(),
                Listed("driver:", numbers)
            ),
            Self::NoNodeToUse { nodes } => write!(
                f,
                "no NUMA node has memory and no processors, so none stands for a device; nodes with \
                 memory: {}",
                Listed("", nodes)
            ),
            Self::SeveralNodes { nodes } => write!(
                f,
                "{} NUMA nodes have memory and no processors, name one: {}",
                nodes.len(),
                Listed("numa:", nodes)
            ),
            Self::NodeWithoutMemory { node, nodes } => write!(
                f,
                "NUMA node {node} has no memory; nodes that have: {}",
                Listed("", nodes)
            ),
            Self::OnlyNode { node } => write!(
                f,
                "NUMA node {node} is the only one with memory: nothing could be at home elsewhere"
            ),
            Self::Node { doing, node, .. } => write!(f, "cannot {doing} NUMA node {node}"),
            Self::Memory { kind, backend } => {
                write!(f, "the {backend} backend has no {kind} memory here")
            }
            Self::Granule {
                asked,
                backend,
                least,
            } => write!(
                f,
                "a granule of {asked} is not a power of two from {least} on, as the {backend} \
                 backend needs it here"
            ),
            Self::TooSmall {
                backend,
                free,
                needed,
            } => write!(f, "{backend} has {free} free, {needed} are needed"),
            Self::NotPlaced {
                backend,
                asked,
                stayed,
                why,
            } => write!(
                f,
                "{stayed} of {asked} pages did not come to {backend}: {why}"
            ),
            Self::Outside { range, region } => {
                write!(f, "the range {range} does not lie in the region {region}")
            }
            Self::OffsetOutside { part, length } => write!(
                f,
                "the bytes {}..{} do not lie in a region of {length} bytes",
                part.start, part.end
            ),
            Self::Misaligned { range, granule } => write!(
                f,
                "the range {range} does not start and end at a multiple of {granule} from the \
                 region's start"
            ),
            Self::EmptyRange { range } => write!(f, "the range {range} is empty"),
            Self::Option { option, backend } => {
                write!(f, "the {backend} backend does not know the option {option}")
            }
            Self::Level { level, obstacle } => write!(
                f,
                "{level} cannot be had here: {obstacle}; {}",
                obstacle.advice()
            ),
            Self::Gone => f.write_str("the region was dropped"),
        }
    }
}

/// Numbers with a word before each.
struct Listed<'a>(&'static str, &'a [u32]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, number) in self.1.iter().enumerate() {
            let comma = if i > 0 { ", " } else { "" };
            write!(f, "{comma}{}{number}", self.0)?;
        }
        Ok(())
    }
}
