// SPDX-License-Identifier: GPL-2.0
//! A device: its memory, who holds which of its frames, and how they are taken home.
//!
//! The memory is registered when the first page is to go there, and given up when the last file is
//! closed or the memory is released, unless something outside still holds a frame of it. Registered memory
//! holds the module.
//!
//! Lock order: a device's memory -> the address space -> the tables of a mirror.

use core::{
    ffi::CStr,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

use cohmem_frames::{FrameIndex, FramePool, FrameRun, words_needed};
use cohmem_kcore::{
    Errno,
    host::{SleepLock as _, Source, WINDOW_PAGES},
};
use cohmem_ksys::{
    arrays::Arrays,
    memory::{Shared, Words},
    module::Module,
    node::{DebugFile, DeviceNode},
    page::PAGE_BYTES,
    pagemap::{Chunk, FrameKeeper, NotHandedOut, Owner, Spec},
    range::Claim,
    stock::Stock,
    sync::{self, ReadGuard, RwLock},
};

use crate::{file::File, gup::GupFile, migrate, sys::start_of};

/// Frames of a device: 256 MiB.
const NR_FRAMES: u64 = (256 << 20) / PAGE_BYTES;
/// Rounds of an eviction; between those that moved nothing it waits, up to 2 s in all.
const NR_ROUNDS: u64 = 20;
const WAIT_MS: u64 = 100;

const NR_DEVICES: usize = 4;
/// The kernel's suite has devices with private memory at 0 and 1, and with coherent memory at 2 and 3.
/// Without private memory in the kernel the first two only mirror.
const NAMES: [&CStr; NR_DEVICES] = [
    c"hmm_dmirror0",
    c"hmm_dmirror1",
    c"hmm_dmirror2",
    c"hmm_dmirror3",
];
/// Tell the devices' memory apart by their addresses.
static OWNERS: [u8; NR_DEVICES] = [0; NR_DEVICES];

/// What memory a device has.
#[derive(Clone, Copy, Debug)]
enum Kind {
    /// The processor cannot reach it.
    Private,
    /// At this physical address.
    Coherent(u64),
}

/// Everything that the module offers.
pub(crate) struct Devices {
    _nodes: [Option<DeviceNode<File>>; NR_DEVICES],
    _gup_test: Option<DebugFile<GupFile>>,
}

impl Module for Devices {
    fn load() -> Result<Self, Errno> {
        let kinds = [
            Kind::Private,
            Kind::Private,
            Kind::Coherent(start_of(0).ok_or(Errno::EINVAL)?),
            Kind::Coherent(start_of(1).ok_or(Errno::EINVAL)?),
        ];
        let mut nodes: [Option<DeviceNode<File>>; NR_DEVICES] = [None, None, None, None];
        for (((node, name), owner), kind) in nodes.iter_mut().zip(NAMES).zip(&OWNERS).zip(kinds) {
            let device = Shared::new(Device::new(kind, owner)?)?;
            *node = Some(DeviceNode::new(name, device)?);
        }
        // The kernel's own, if it has one, serves as well.
        let gup_test = match DebugFile::new(c"gup_test", ()) {
            Ok(file) => Some(file),
            Err(Errno::ENOMEM) => return Err(Errno::ENOMEM),
            Err(_exists) => None,
        };
        // Only now, since a module that cannot be loaded goes even if a file of it is open.
        for node in nodes.iter().flatten() {
            node.node().is_open.store(true, Relaxed);
        }
        Ok(Self {
            _nodes: nodes,
            _gup_test: gup_test,
        })
    }
}

/// One device.
#[derive(Debug)]
pub(crate) struct Device {
    owner: Owner,
    kind: Kind,
    pool: Shared<FramePool<Words>>,
    memory: RwLock<Memory>,
    /// Files may be opened. Ordering: a stale `false` only refuses a file.
    is_open: AtomicBool,
}

/// What of a device changes as a whole.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    nr_files: u64,
    chunk: Option<Chunk<Keeper>>,
}

impl Memory {
    /// The registered memory.
    pub(crate) fn chunk(&self) -> Option<&Chunk<Keeper>> {
        self.chunk.as_ref()
    }
}

/// Where frames go back to.
#[derive(Debug)]
pub(crate) struct Keeper(Shared<FramePool<Words>>);

impl FrameKeeper for Keeper {
    fn frame_freed(&self, frame: FrameIndex, is_poisoned: bool) -> Result<(), NotHandedOut> {
        if is_poisoned {
            self.0.withdraw(frame).map_err(|_which| NotHandedOut)?;
        }
        self.0.free(frame).map(drop).map_err(|_which| NotHandedOut)
    }

    fn frame_failed(&self, chunk: &Chunk<Self>, frame: FrameIndex) -> Result<(), Errno> {
        self.0.withdraw(frame).map_err(|_which| Errno::EINVAL)?;
        if !self.0.is_allocated(frame) {
            return Ok(());
        }
        // Entries may name the frame for as long as a process lives.
        chunk.keep();
        chunk.mark_poisoned(frame);
        let mut arrays = Arrays::new()?;
        let mut batch = chunk.collect(FrameRun::new(frame, 1), &mut arrays);
        // With no destination: unmapping a marked page leaves entries that tell of the loss.
        if matches!(batch.source(0), Source::Page(_)) {
            batch.commit();
        }
        drop(batch);
        if self.0.is_allocated(frame) {
            Err(Errno::EBUSY)
        } else {
            Ok(())
        }
    }
}

impl Device {
    fn new(kind: Kind, owner: &'static u8) -> Result<Self, Errno> {
        let words = Words::zeroed(words_needed(NR_FRAMES))?;
        let pool = FramePool::new(words, NR_FRAMES).map_err(|_size| Errno::EOVERFLOW)?;
        Ok(Self {
            owner: Owner::new(owner),
            kind,
            pool: Shared::new(pool)?,
            memory: RwLock::new(Memory::default())?,
            is_open: AtomicBool::new(false),
        })
    }

    pub(crate) fn owner(&self) -> Owner {
        self.owner
    }

    /// Its memory is private: the processor cannot reach it.
    pub(crate) fn is_private(&self) -> bool {
        matches!(self.kind, Kind::Private)
    }

    pub(crate) fn pool(&self) -> &FramePool<Words> {
        &self.pool
    }

    /// Takes back a frame that was handed out and not used.
    pub(crate) fn give_back(&self, frame: FrameIndex) {
        if self.pool.free(frame).is_err() {
            cohmem_ksys::complain();
        }
    }

    /// Counts a file that is being opened.
    pub(crate) fn add_file(&self) -> Result<(), Errno> {
        if !self.is_open.load(Relaxed) {
            return Err(Errno::ENODEV);
        }
        let mut memory = self.memory.write();
        memory.nr_files = memory.nr_files.saturating_add(1);
        Ok(())
    }

    /// A file was closed; the last one gives the memory up.
    pub(crate) fn remove_file(&self) {
        let mut memory = self.memory.write();
        memory.nr_files = memory.nr_files.saturating_sub(1);
        if memory.nr_files == 0 {
            // What cannot go home now stays, and is tried again when the next file is closed.
            let _left = self.take_home(&mut memory);
        }
    }

    /// Takes everything home and gives the memory up. Sleeps.
    ///
    /// # Errors
    ///
    /// `EBUSY`: something outside holds frames; those stay, and the memory with them. `ENOMEM`: there
    /// is no room at home.
    pub(crate) fn release(&self) -> Result<(), Errno> {
        self.take_home(&mut self.memory.write())
    }

    /// The memory, registered. Sleeps.
    ///
    /// # Errors
    ///
    /// Those of [`Claim::of_private`] or [`Claim::new`], and of [`Chunk::register`].
    pub(crate) fn memory(&self) -> Result<ReadGuard<'_, Memory>, Errno> {
        loop {
            let memory = self.memory.read();
            if memory.chunk.is_some() {
                return Ok(memory);
            }
            drop(memory);
            let mut memory = self.memory.write();
            if memory.chunk.is_none() {
                memory.chunk = Some(self.register()?);
            }
        }
    }

    fn register(&self) -> Result<Chunk<Keeper>, Errno> {
        let bytes = NR_FRAMES.saturating_mul(PAGE_BYTES);
        let claim = match self.kind {
            Kind::Private => Claim::of_private(bytes)?,
            Kind::Coherent(start) => Claim::new(start, bytes)?,
        };
        let spec = Spec {
            owner: self.owner,
            phys: claim.start(),
            nr_frames: NR_FRAMES,
            first: FrameIndex::new(0),
            nr_metadata: 0,
        };
        Chunk::register(spec, claim, Keeper(self.pool.clone()))
    }

    fn take_home(&self, memory: &mut Memory) -> Result<(), Errno> {
        if let Some(chunk) = &memory.chunk {
            self.evict(chunk)?;
            memory.chunk = None;
        }
        Ok(())
    }

    fn evict(&self, chunk: &Chunk<Keeper>) -> Result<(), Errno> {
        let mut arrays = Arrays::new()?;
        let mut stock = Stock::new()?;
        for _round in 0..NR_ROUNDS {
            let mut has_moved = false;
            let mut from = FrameIndex::new(0);
            while let Some(run) = self.pool.next_allocated_run(from, WINDOW_PAGES as u64) {
                from = run.end();
                let nr_frames = usize::try_from(run.len()).unwrap_or(WINDOW_PAGES);
                if stock.refill(nr_frames) == 0 {
                    return Err(Errno::ENOMEM);
                }
                let mut batch = chunk.collect(run, &mut arrays);
                has_moved |= migrate::carry_home(&mut batch, nr_frames, self, &mut stock) != 0;
                drop(batch);
                sync::relax();
            }
            if self.pool.nr_held() == 0 {
                return Ok(());
            }
            if !has_moved {
                sync::drain_processors();
                sync::sleep_ms(WAIT_MS);
            }
        }
        Err(Errno::EBUSY)
    }
}
