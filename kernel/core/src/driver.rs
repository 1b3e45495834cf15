// SPDX-License-Identifier: GPL-2.0
//! The devices, and the commands on them.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use cohmem_frames::FrameIndex;
use cohmem_uapi::{ABI_VERSION, Cause, MAX_DEVICES, Reason, State, args};

use crate::{
    Errno,
    accounts::Asker,
    device::{Attribute, Device, DeviceId},
    drain::Eviction,
    host::{Host, Mapping, PageFacts, Pfn, Privilege, SleepLock, WINDOW_PAGES},
    migrate::Migration,
    node::OpenNode,
    query::Query,
    request::{self, AttachRequest, EvictRequest, MigrateRequest, QueryRequest},
    window::Scratch,
};

mod history;
mod quota;
mod range;

/// Time that hibernation leaves for taking all pages home.
const HIBERNATION_TIMEOUT_MS: u64 = 10_000;

/// What a device number stands for.
#[derive(Debug)]
enum Slot<H: Host> {
    Empty,
    /// Being attached or given back.
    Changing,
    Attached(H::Shared<Device<H>>),
    /// Detached, but chunks that held mapped poison stay claimed until the next boot.
    Kept(args::Info),
}

/// The devices by number, behind the gate.
#[derive(Debug)]
pub(crate) struct Table<H: Host> {
    slots: [Slot<H>; MAX_DEVICES as usize],
    /// Hibernation is under way: nothing moves to a device.
    is_closed: bool,
}

impl<H: Host> Table<H> {
    const fn new() -> Self {
        Self {
            slots: [const { Slot::Empty }; MAX_DEVICES as usize],
            is_closed: false,
        }
    }

    fn slot(&self, number: u32) -> Option<&Slot<H>> {
        self.slots.get(usize::try_from(number).ok()?)
    }

    fn slot_mut(&mut self, number: u32) -> Option<&mut Slot<H>> {
        self.slots.get_mut(usize::try_from(number).ok()?)
    }

    /// The attached device with this number.
    pub(crate) fn by_number(&self, number: u32) -> Option<&Device<H>> {
        match self.slot(number)? {
            Slot::Attached(device) => Some(device),
            Slot::Empty | Slot::Changing | Slot::Kept(_) => None,
        }
    }

    /// The device of this attachment: `ENODEV` when it is gone.
    pub(crate) fn device(&self, id: DeviceId) -> Result<&Device<H>, Errno> {
        self.by_number(id.number)
            .filter(|device| device.id == id)
            .ok_or(Errno::ENODEV)
    }

    /// Pages may move to `device`.
    pub(crate) fn is_open(&self, device: &Device<H>) -> bool {
        !self.is_closed && device.state() == State::Online
    }

    /// Struct pages live on a device, where a hibernation image does not hold them.
    fn has_metadata_on_a_device(&self) -> bool {
        self.slots.iter().any(|slot| match slot {
            Slot::Attached(device) => device.ledger().nr_metadata() != 0,
            Slot::Kept(info) => info.nr_metadata != 0,
            Slot::Empty | Slot::Changing => false,
        })
    }

    /// Number of the device that holds a page, and what the kernel says of the page.
    ///
    /// Most pages that are looked at are on `own` already; of those nothing more is asked unless
    /// `asks_own`.
    pub(crate) fn resident(
        &self,
        pfn: Pfn,
        own: &Device<H>,
        asks_own: bool,
    ) -> Option<(u32, PageFacts)> {
        let (device, frame) = match own.frame_of(pfn) {
            Some(_frame) if !asks_own => return Some((own.id.number, PageFacts::default())),
            Some(frame) => (own, frame),
            None => self.frame_of(pfn)?,
        };
        Some((device.id.number, device.facts(frame)))
    }

    /// The device and frame behind a physical page.
    pub(crate) fn frame_of(&self, pfn: Pfn) -> Option<(&Device<H>, FrameIndex)> {
        self.slots.iter().find_map(|slot| match slot {
            Slot::Attached(device) => Some((&**device, device.frame_of(pfn)?)),
            Slot::Empty | Slot::Changing | Slot::Kept(_) => None,
        })
    }
}

/// The driver: every command that the nodes offer.
#[derive(Debug)]
pub struct Driver<H: Host> {
    host: H,
    gate: H::Lock<Table<H>>,
    generation: AtomicU64,
}

impl<H: Host> Driver<H> {
    /// A driver with no device. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub fn new(host: H) -> Result<Self, Errno> {
        let gate = host.new_lock(Table::new())?;
        Ok(Self {
            host,
            gate,
            generation: AtomicU64::new(0),
        })
    }

    /// The host.
    pub const fn host(&self) -> &H {
        &self.host
    }

    /// Names the device that now has this number, for a file that is being opened.
    ///
    /// # Errors
    ///
    /// `ENODEV`.
    pub fn open(&self, number: u32) -> Result<DeviceId, Errno> {
        self.gate
            .read()
            .by_number(number)
            .map(|device| device.id)
            .ok_or(Errno::ENODEV)
    }

    /// `COHMEM_IOC_VERSION`.
    ///
    /// # Errors
    ///
    /// `EINVAL`.
    pub fn version(&self, args: &mut args::Version) -> Result<(), Errno> {
        request::require_zero(&args.reserved)?;
        *args = args::Version {
            abi: ABI_VERSION,
            ..args::Version::default()
        };
        Ok(())
    }

    /// `COHMEM_IOC_LIST`.
    ///
    /// # Errors
    ///
    /// `EINVAL`.
    pub fn list(&self, args: &mut args::List) -> Result<(), Errno> {
        request::require_zero(&args.reserved)?;
        let table = self.gate.read();
        args.devices = (0..MAX_DEVICES)
            .filter(|&number| matches!(table.slot(number), Some(Slot::Attached(_) | Slot::Kept(_))))
            .fold(0, |bits, number| bits | 1 << number);
        Ok(())
    }

    /// `COHMEM_IOC_ATTACH`. The header lists the errors; on each, nothing has changed.
    ///
    /// **Context:** sleeps.
    ///
    /// # Errors
    ///
    /// As the header says.
    pub fn attach(&self, args: &mut args::Attach) -> Result<(), Errno> {
        if !self.host.is_privileged(Privilege::Administrate) {
            return Err(Errno::EPERM);
        }
        let request = AttachRequest::check(&self.host, args)?;
        let number = self.reserve_number()?;
        let generation = self.generation.fetch_add(1, Relaxed);
        let id = DeviceId { number, generation };
        match self.attach_as(id, request) {
            Ok(nr_frames) => {
                args.device = number;
                args.nr_frames = nr_frames;
                Ok(())
            }
            Err(error) => {
                self.set_slot(number, Slot::Empty);
                Err(error)
            }
        }
    }

    fn attach_as(&self, id: DeviceId, request: AttachRequest) -> Result<u64, Errno> {
        let device = Device::new(
            &self.host,
            id,
            request.start,
            request.length,
            request.is_altmap,
        )?;
        let nr_frames = device.ledger().pool().nr_free();
        let ledger = device.share_ledger();
        // Until its node is there nobody detaches it, and no frame of it is handed out: if there cannot be
        // a node, it goes as it came.
        let _right = ledger.begin_eviction().ok_or(Errno::EBUSY)?;
        device.set_state(State::Draining);
        let device = self.host.share(device)?;
        self.set_slot(id.number, Slot::Attached(device));
        if let Err(error) = self.host.publish(id.number) {
            drop(self.take_slot(id.number));
            return Err(error);
        }
        self.set_state(id, State::Online)?;
        Ok(nr_frames)
    }

    fn reserve_number(&self) -> Result<u32, Errno> {
        let mut table = self.gate.write();
        if table.is_closed {
            return Err(Errno::EAGAIN);
        }
        let number = (0..MAX_DEVICES)
            .find(|&number| matches!(table.slot(number), Some(Slot::Empty)))
            .ok_or(Errno::ENOSPC)?;
        if let Some(slot) = table.slot_mut(number) {
            *slot = Slot::Changing;
        }
        Ok(number)
    }

    fn set_slot(&self, number: u32, value: Slot<H>) {
        if let Some(slot) = self.gate.write().slot_mut(number) {
            *slot = value;
        }
    }

    /// Takes what the number stands for; the number stays taken.
    fn take_slot(&self, number: u32) -> Option<Slot<H>> {
        let mut table = self.gate.write();
        table
            .slot_mut(number)
            .map(|slot| core::mem::replace(slot, Slot::Changing))
    }

    /// `COHMEM_IOC_DETACH`. The (out) fields are valid with success and with `EBUSY`.
    ///
    /// **Context:** sleeps, up to the time limit.
    ///
    /// # Errors
    ///
    /// As the header says.
    pub fn detach(&self, args: &mut args::Detach) -> Result<(), Errno> {
        if !self.host.is_privileged(Privilege::Administrate) {
            return Err(Errno::EPERM);
        }
        let request = EvictRequest::check(args)?;
        let id = self.open(args.device)?;
        let ledger = self.gate.read().device(id)?.share_ledger();
        let _right = ledger.begin_eviction().ok_or(Errno::EBUSY)?;
        let mut eviction = Eviction::new(&self.host, &self.gate, id, Cause::Detach)?;
        self.set_state(id, State::Draining)?;
        match self
            .evict_with(&mut eviction, request, args)
            .and_then(|()| self.give_back(id, args))
        {
            Ok(()) => Ok(()),
            Err(error) => {
                self.set_state(id, State::Online)?;
                Err(error)
            }
        }
    }

    /// `COHMEM_IOC_EVICT`. The (out) fields are valid with success and with `EBUSY`.
    ///
    /// **Context:** sleeps, up to the time limit.
    ///
    /// # Errors
    ///
    /// As the header says.
    pub fn evict(&self, id: DeviceId, args: &mut args::Detach) -> Result<(), Errno> {
        if !self.host.is_privileged(Privilege::Administrate) {
            return Err(Errno::EPERM);
        }
        request::require_zero(&[u64::from(args.device)])?;
        let request = EvictRequest::check(args)?;
        let ledger = self.gate.read().device(id)?.share_ledger();
        let _right = ledger.begin_eviction().ok_or(Errno::EBUSY)?;
        let mut eviction = Eviction::new(&self.host, &self.gate, id, Cause::Evict)?;
        self.evict_with(&mut eviction, request, args)
    }

    fn evict_with(
        &self,
        eviction: &mut Eviction<'_, H>,
        request: EvictRequest,
        args: &mut args::Detach,
    ) -> Result<(), Errno> {
        let evicted = eviction.run(request.timeout_ms)?;
        args.nr_evicted = evicted.nr_evicted;
        args.nr_stuck = evicted.nr_left;
        args.nr_kept = 0;
        args.stayed = [0; cohmem_uapi::NR_REASONS];
        if evicted.nr_left == 0 {
            return Ok(());
        }
        let counts = eviction.list_stuck(request.nr_stuck_max, request.stuck_ptr)?;
        args.nr_stuck = counts.total();
        for (slot, &count) in args.stayed.iter_mut().zip(counts.raw()) {
            *slot = u32::try_from(count).unwrap_or(u32::MAX);
        }
        Err(Errno::EBUSY)
    }

    fn set_state(&self, id: DeviceId, state: State) -> Result<(), Errno> {
        // The write side waits for every batch that may still hand out a frame.
        let table = self.gate.write();
        table.device(id)?.set_state(state);
        Ok(())
    }

    /// Gives an empty, draining device's range back.
    fn give_back(&self, id: DeviceId, args: &mut args::Detach) -> Result<(), Errno> {
        let (device, kept) = {
            let mut table = self.gate.write();
            let device = table.device(id)?;
            // Before asking which chunks to keep: whoever gives poison back has said so before.
            if device.ledger().pool().nr_held() != 0 {
                return Err(Errno::EBUSY);
            }
            let nr_kept = device.keep_poisoned_chunks();
            let info = args::Info {
                state: State::Kept as u32,
                nr_free: 0,
                ..device.info()
            };
            args.nr_kept = nr_kept;
            let slot = table.slot_mut(id.number).ok_or(Errno::ENODEV)?;
            (
                core::mem::replace(slot, Slot::Changing),
                (nr_kept > 0).then_some(info),
            )
        };
        let is_kept = kept.is_some();
        if !is_kept {
            self.host.unpublish(id.number);
        }
        // The last owner: dropping it unregisters the chunks, none of whose frames is in use.
        drop(device);
        self.set_slot(id.number, kept.map_or(Slot::Empty, Slot::Kept));
        Ok(())
    }

    /// `COHMEM_IOC_INFO`.
    ///
    /// # Errors
    ///
    /// `EINVAL`, `ENODEV`.
    pub fn info(&self, id: DeviceId, args: &mut args::Info) -> Result<(), Errno> {
        request::require_zero(&args.reserved)?;
        *args = self.gate.read().device(id)?.info();
        Ok(())
    }

    /// One value for sysfs. May sleep.
    ///
    /// # Errors
    ///
    /// `ENODEV`.
    pub fn attribute(&self, number: u32, attribute: Attribute) -> Result<u64, Errno> {
        let table = self.gate.read();
        match table.slot(number) {
            Some(Slot::Attached(device)) => Ok(attribute.of(&device.info())),
            Some(Slot::Kept(info)) => Ok(attribute.of(info)),
            Some(Slot::Empty | Slot::Changing) | None => Err(Errno::ENODEV),
        }
    }

    /// `COHMEM_IOC_MIGRATE`.
    ///
    /// **Context:** sleeps; lets go of all locks between windows; ends early on a signal.
    ///
    /// # Errors
    ///
    /// As the header says.
    pub fn migrate(&self, node: &OpenNode, args: &mut args::Migrate) -> Result<(), Errno> {
        let id = node.id();
        let request = MigrateRequest::check(&self.host, args)?;
        self.gate.read().device(id)?;
        let migration = Migration {
            host: &self.host,
            gate: &self.gate,
            id,
            asker: Asker {
                user: self.host.user(),
                run: node.run(),
            },
            space: request::space(&self.host, args.proc_fd)?,
            request,
            scratch: Scratch::new(&self.host)?,
        };
        let outcome = migration.run()?;
        args.next = outcome.next;
        args.nr_moved = outcome.nr_moved;
        args.nr_filled = outcome.nr_filled;
        args.stayed = *outcome.stayed.raw();
        Ok(())
    }

    /// `COHMEM_IOC_QUERY`.
    ///
    /// **Context:** as [`Self::migrate`].
    ///
    /// # Errors
    ///
    /// As the header says.
    pub fn query(&self, id: DeviceId, args: &mut args::Query) -> Result<(), Errno> {
        let request = QueryRequest::check(&self.host, args)?;
        self.gate.read().device(id)?;
        let query = Query {
            host: &self.host,
            gate: &self.gate,
            id,
            space: request::space(&self.host, args.proc_fd)?,
            request,
            mappings: self.host.new_buffer(WINDOW_PAGES, Mapping::Absent)?,
            entries: self.host.new_buffer(WINDOW_PAGES, 0u16)?,
        };
        query.run(args)
    }

    /// Takes every device's pages home and keeps the devices closed until
    /// [`Self::finish_hibernation`], since a hibernation image does not hold device memory.
    ///
    /// **Context:** sleeps.
    ///
    /// # Errors
    ///
    /// `EBUSY` when a page cannot go home in time, or a device holds its own struct pages; `ENOMEM`,
    /// `EINTR`; hibernation must not go on then.
    /// The devices are open again.
    pub fn prepare_hibernation(&self) -> Result<(), Errno> {
        {
            let mut table = self.gate.write();
            if table.has_metadata_on_a_device() {
                return Err(Errno::EBUSY);
            }
            table.is_closed = true;
        }
        let evicted = (0..MAX_DEVICES).try_for_each(|number| self.empty_device(number));
        if evicted.is_err() {
            self.finish_hibernation();
        }
        evicted
    }

    /// Opens the devices again, after hibernation or its failure.
    pub fn finish_hibernation(&self) {
        self.gate.write().is_closed = false;
    }

    fn empty_device(&self, number: u32) -> Result<(), Errno> {
        let Ok(id) = self.open(number) else {
            return Ok(());
        };
        let ledger = self.gate.read().device(id)?.share_ledger();
        let _right = ledger.begin_eviction().ok_or(Errno::EBUSY)?;
        let evicted = Eviction::new(&self.host, &self.gate, id, Cause::Hibernate)?
            .run(HIBERNATION_TIMEOUT_MS)?;
        if evicted.nr_left == 0 {
            Ok(())
        } else {
            Err(Errno::EBUSY)
        }
    }
}

/// Reasons fit the arrays of the ABI.
const _: () = assert!((Reason::ALL.len() as u64) < cohmem_uapi::NR_REASONS as u64);
