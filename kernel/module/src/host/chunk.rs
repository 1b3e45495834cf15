// SPDX-License-Identifier: GPL-2.0
//! Chunks whose frames a ledger keeps.

use cohmem_frames::{FrameIndex, FrameRun};
use cohmem_kcore::{
    Errno,
    host::{self, ChunkSpec, PageFacts},
    ledger::Ledger,
    poison::{self, Failure},
};
use cohmem_ksys::{
    arrays::Arrays,
    batch::Batch,
    memory::Shared,
    pagemap::{self, FrameKeeper, NotHandedOut, Owner, Spec},
    range::Claim,
};
use cohmem_uapi::MAX_DEVICES;

use super::Kernel;

/// A chunk of one of the driver's devices.
pub(crate) type Chunk = pagemap::Chunk<Keeper>;

/// The ledger of a chunk's device.
#[derive(Debug)]
pub(crate) struct Keeper(Shared<Ledger<Kernel>>);

/// All chunks of a device have its one as their owner.
static OWNERS: [u8; MAX_DEVICES as usize] = [0; MAX_DEVICES as usize];

/// Creates a chunk's struct pages. May sleep.
pub(super) fn register(
    spec: ChunkSpec,
    claim: Claim,
    ledger: Shared<Ledger<Kernel>>,
) -> Result<Chunk, Errno> {
    let owner = usize::try_from(spec.device)
        .ok()
        .and_then(|device| OWNERS.get(device))
        .ok_or(Errno::ENOSPC)?;
    let spec = Spec {
        owner: Owner::new(owner),
        phys: spec.phys,
        nr_frames: spec.nr_frames,
        first: spec.first,
        nr_metadata: spec.nr_metadata,
    };
    Chunk::register(spec, claim, Keeper(ledger))
}

impl FrameKeeper for Keeper {
    fn frame_freed(&self, frame: FrameIndex, is_poisoned: bool) -> Result<(), NotHandedOut> {
        self.0
            .frame_freed(frame, is_poisoned)
            .map_err(|_which| NotHandedOut)
    }

    fn frame_failed(&self, chunk: &Chunk, frame: FrameIndex) -> Result<(), Errno> {
        match poison::frame_failed(&Kernel, &self.0, chunk, frame) {
            Failure::Contained => Ok(()),
            Failure::StillHeld => Err(Errno::EBUSY),
        }
    }
}

impl host::Chunk<Kernel> for Chunk {
    fn run(&self) -> FrameRun {
        Self::run(self)
    }

    fn facts(&self, frame: FrameIndex) -> PageFacts {
        Self::facts(self, frame)
    }

    fn collect<'b>(&'b self, run: FrameRun, arrays: &'b mut Arrays) -> Batch<'b> {
        Self::collect(self, run, arrays)
    }

    fn mark_poisoned(&self, frame: FrameIndex) {
        Self::mark_poisoned(self, frame);
    }

    fn keep(&self) {
        Self::keep(self);
    }
}
