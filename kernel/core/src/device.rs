// SPDX-License-Identifier: GPL-2.0
//! One attached device: a claimed range, its chunks, its ledger.

use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use cohmem_frames::{FrameIndex, FrameRun};
use cohmem_uapi::{FRAME_BYTES, State, args};

use crate::{
    Errno,
    host::{Chunk, ChunkSpec, Host, PageFacts, Pfn},
    ledger::Ledger,
};

/// Chunks of a device at most: one bit each in the ledger.
pub(crate) const MAX_CHUNKS: usize = 64;

const STRUCT_PAGE_BYTES: u64 = 64;
/// The memory map of a chunk ends at a multiple of this many frames, a huge page's worth.
const METADATA_ALIGN: u64 = 512;

/// Names one attachment: the number comes back after a detach, the generation never.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceId {
    /// N of `/dev/cohmemN`.
    pub number: u32,
    /// Counts attachments.
    pub generation: u64,
}

/// One value that sysfs shows of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(
    missing_docs,
    reason = "each names the field of `struct cohmem_info` that it shows"
)]
pub enum Attribute {
    Start,
    Size,
    Free,
    Allocated,
    Poisoned,
    Metadata,
    MovedIn,
    MovedOut,
    Filled,
    Freed,
    Node,
    Chunks,
    State,
}

impl Attribute {
    pub(crate) const fn of(self, info: &args::Info) -> u64 {
        match self {
            Self::Start => info.start,
            Self::Size => info.length,
            Self::Free => info.nr_free,
            Self::Allocated => info.nr_allocated,
            Self::Poisoned => info.nr_poisoned,
            Self::Metadata => info.nr_metadata,
            Self::MovedIn => info.moved_in,
            Self::MovedOut => info.moved_out,
            Self::Filled => info.filled,
            Self::Freed => info.freed,
            Self::Node => info.node as u64,
            Self::Chunks => info.nr_chunks as u64,
            Self::State => info.state as u64,
        }
    }
}

/// One attached device.
#[derive(Debug)]
pub(crate) struct Device<H: Host> {
    pub(crate) id: DeviceId,
    phys: u64,
    nr_frames: u64,
    chunk_frames: u64,
    chunks: [Option<H::Chunk>; MAX_CHUNKS],
    ledger: H::Shared<Ledger<H>>,
    node: u32,
    /// Written under the gate's write side, read under either.
    state: AtomicU32,
}

impl<H: Host> Device<H> {
    /// Claims and registers `bytes` at `phys`, both checked for alignment and overflow.
    pub(crate) fn new(
        host: &H,
        id: DeviceId,
        phys: u64,
        bytes: u64,
        is_altmap: bool,
    ) -> Result<Self, Errno> {
        let nr_frames = bytes / FRAME_BYTES;
        let chunk_frames = chunk_frames(host.chunk_bytes(), nr_frames);
        let ledger = host.share(Ledger::new(host, id.number, nr_frames, chunk_frames)?)?;
        let mut device = Self {
            id,
            phys,
            nr_frames,
            chunk_frames,
            chunks: [const { None }; MAX_CHUNKS],
            ledger,
            node: host.node_of(phys),
            state: AtomicU32::new(State::Online as u32),
        };
        let mut first = 0u64;
        for slot in &mut device.chunks {
            let nr_chunk = nr_frames.saturating_sub(first).min(chunk_frames);
            if nr_chunk == 0 {
                break;
            }
            let nr_metadata = if is_altmap {
                metadata_frames(nr_chunk)
            } else {
                0
            };
            let spec = ChunkSpec {
                device: id.number,
                phys: phys.saturating_add(first.saturating_mul(FRAME_BYTES)),
                nr_frames: nr_chunk,
                first: FrameIndex::new(first),
                nr_metadata,
            };
            let claim = host.claim(spec.phys, nr_chunk.saturating_mul(FRAME_BYTES))?;
            device
                .ledger
                .set_metadata(FrameRun::new(spec.first, nr_metadata))
                .map_err(|_range| Errno::EIO)?;
            *slot = Some(host.register(spec, claim, device.ledger.clone())?);
            first = first.saturating_add(nr_chunk);
        }
        Ok(device)
    }

    pub(crate) fn ledger(&self) -> &Ledger<H> {
        &self.ledger
    }

    pub(crate) fn share_ledger(&self) -> H::Shared<Ledger<H>> {
        self.ledger.clone()
    }

    pub(crate) fn state(&self) -> State {
        State::from_raw(self.state.load(Relaxed)).unwrap_or(State::Draining)
    }

    pub(crate) fn set_state(&self, state: State) {
        self.state.store(state as u32, Relaxed);
    }

    /// The frame behind a physical page, if it is one of this device.
    pub(crate) fn frame_of(&self, pfn: Pfn) -> Option<FrameIndex> {
        let index = pfn.0.checked_sub(self.phys / FRAME_BYTES)?;
        (index < self.nr_frames).then_some(FrameIndex::new(index))
    }

    pub(crate) fn phys_of(&self, frame: FrameIndex) -> u64 {
        self.phys
            .saturating_add(frame.get().saturating_mul(FRAME_BYTES))
    }

    /// The chunk that holds `frame`.
    pub(crate) fn chunk_of(&self, frame: FrameIndex) -> Option<&H::Chunk> {
        let index = frame.get().checked_div(self.chunk_frames)?;
        self.chunks.get(usize::try_from(index).ok()?)?.as_ref()
    }

    pub(crate) fn first_chunk(&self) -> Option<&H::Chunk> {
        self.chunks.first()?.as_ref()
    }

    pub(crate) fn facts(&self, frame: FrameIndex) -> PageFacts {
        self.chunk_of(frame)
            .map_or_else(PageFacts::default, |chunk| chunk.facts(frame))
    }

    /// Marks the chunks to keep after mapped poison; returns how many frames they have.
    pub(crate) fn keep_poisoned_chunks(&self) -> u64 {
        let mut nr_kept = 0u64;
        for chunk in self.chunks.iter().flatten() {
            if self.ledger.is_chunk_kept(chunk.run().start()) {
                chunk.keep();
                nr_kept = nr_kept.saturating_add(chunk.run().len());
            }
        }
        nr_kept
    }

    pub(crate) fn info(&self) -> args::Info {
        let pool = self.ledger.pool();
        let counters = &self.ledger.counters;
        args::Info {
            device: self.id.number,
            state: self.state() as u32,
            start: self.phys,
            length: self.nr_frames.saturating_mul(FRAME_BYTES),
            nr_frames: self.nr_frames,
            nr_free: pool.nr_free(),
            nr_allocated: pool.nr_allocated(),
            nr_poisoned: self.ledger.nr_poisoned(),
            nr_metadata: self.ledger.nr_metadata(),
            moved_in: counters.moved_in.load(Relaxed),
            moved_out: counters.moved_out.load(Relaxed),
            filled: counters.filled.load(Relaxed),
            freed: counters.freed.load(Relaxed),
            node: self.node,
            nr_chunks: u32::try_from(self.chunks.iter().flatten().count()).unwrap_or(u32::MAX),
            reserved: [0; 3],
        }
    }
}

/// Frames of a chunk: as the host wishes, but never so few that the chunks become too many.
fn chunk_frames(wanted_bytes: u64, nr_frames: u64) -> u64 {
    let wanted = (wanted_bytes / FRAME_BYTES).max(METADATA_ALIGN);
    let least = nr_frames.div_ceil(MAX_CHUNKS as u64);
    wanted
        .max(least)
        .checked_next_multiple_of(METADATA_ALIGN)
        .unwrap_or(nr_frames)
}

/// Frames at a chunk's start that hold its struct pages; 0 when the chunk is too small to spare them.
fn metadata_frames(nr_frames: u64) -> u64 {
    let bytes = nr_frames.saturating_mul(STRUCT_PAGE_BYTES);
    let needed = bytes
        .div_ceil(FRAME_BYTES)
        .checked_next_multiple_of(METADATA_ALIGN)
        .unwrap_or(nr_frames);
    if needed < nr_frames { needed } else { 0 }
}
