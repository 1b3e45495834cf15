// SPDX-License-Identifier: GPL-2.0
//! An open node: the process that opened it, mirrored, and the commands.

use cohmem_kcore::{Errno, host::Span};
use cohmem_ksys::{
    hmm::{Entry, Request},
    memory::{Buffer, Shared},
    mirror::{Mirror, Miss, PageBytes, WalkRoom},
    node::{NewArea, OpenFile},
    page::PAGE_BYTES,
    process::{self, Mm, read_plain, write_plain},
};

use crate::{
    abi::{self, Command, seen},
    device::Device,
    migrate,
};

/// Pages that are copied between two moments at which others can take the tables' lock.
const BOUNCE_PAGES: usize = 64;
/// Orders of the entries of the page tables above the lowest.
const HUGE_ORDER: u32 = 9;
const GIGANTIC_ORDER: u32 = 18;

/// An open node.
pub(crate) struct File {
    mirror: Mirror,
    device: Shared<Device>,
}

impl OpenFile for File {
    type Node = Shared<Device>;

    fn open(device: &Shared<Device>) -> Result<Self, Errno> {
        let mirror = Mirror::of_device(&Mm::of_caller()?, device.owner())?;
        device.add_file()?;
        Ok(Self {
            mirror,
            device: device.clone(),
        })
    }

    fn command(&self, command: u32, arg: u64) -> Result<(), Errno> {
        let mut args = read_plain::<Command>(arg)?;
        let span = span_of(&args)?;
        args.nr_done = 0;
        args.nr_faults = 0;
        match command {
            abi::READ => self.read(span, &mut args)?,
            abi::WRITE => self.write(span, &mut args)?,
            abi::MIGRATE_TO_DEVICE => self.migrate_to_device(span, &mut args)?,
            abi::MIGRATE_TO_SYSTEM => {
                args.nr_done = migrate::to_system(&self.device, &self.mirror, span)?;
            }
            abi::SNAPSHOT => self.snapshot(span, &mut args)?,
            abi::RELEASE => self.device.release()?,
            abi::EXCLUSIVE => self.take_exclusively(span, &mut args)?,
            abi::CHECK_EXCLUSIVE if self.mirror.lock().has_exclusive(span) => {
                return Err(Errno::EPERM);
            }
            abi::CHECK_EXCLUSIVE => {}
            _ => return Err(Errno::EINVAL),
        }
        write_plain(arg, &args)
    }

    fn map(&self, area: &mut NewArea<'_>) -> Result<(), Errno> {
        area.insert_zeroed_pages()
    }
}

impl Drop for File {
    fn drop(&mut self) {
        self.device.remove_file();
    }
}

/// The addresses that a command is for.
fn span_of(args: &Command) -> Result<Span, Errno> {
    let bytes = args.nr_pages.checked_mul(PAGE_BYTES);
    let end = bytes.and_then(|bytes| args.address.checked_add(bytes));
    match end {
        Some(end) if args.address.is_multiple_of(PAGE_BYTES) && args.address < end => Ok(Span {
            start: args.address,
            end,
        }),
        _ => Err(Errno::EINVAL),
    }
}

/// What to do about a page that the device has no entry for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum OnMiss {
    Fault,
    Fail,
}

/// Kernel memory between the device and the caller, who may be the process that is mirrored: neither's
/// memory can be touched while the other's is being read.
struct Bounce {
    bytes: Buffer<u8>,
}

impl Bounce {
    fn new(nr_pages: u64) -> Result<Self, Errno> {
        let nr_pages = usize::try_from(nr_pages).map_or(BOUNCE_PAGES, |nr| nr.min(BOUNCE_PAGES));
        let nr_bytes = nr_pages.saturating_mul(PAGE_BYTES as usize);
        Ok(Self {
            bytes: Buffer::new(nr_bytes, 0)?,
        })
    }

    /// The pages for the addresses from `start` on, up to `end`.
    fn pages(&mut self, start: u64, end: u64) -> &mut [PageBytes] {
        let nr_pages = usize::try_from((end - start) / PAGE_BYTES).unwrap_or(BOUNCE_PAGES);
        let (pages, _none) = self.bytes.as_chunks_mut();
        let nr_pages = nr_pages.min(pages.len());
        pages.get_mut(..nr_pages).unwrap_or_default()
    }
}

impl File {
    fn read(&self, span: Span, args: &mut Command) -> Result<(), Errno> {
        self.copy_out(span, OnMiss::Fault, args)
    }

    /// Copies what the device sees at `span` to the caller's buffer.
    fn copy_out(&self, span: Span, on_miss: OnMiss, args: &mut Command) -> Result<(), Errno> {
        let mut bounce = Bounce::new(args.nr_pages)?;
        let mut room = WalkRoom::new()?;
        let mut at = span.start;
        while at < span.end {
            let pages = bounce.pages(at, span.end);
            let read = self.mirror.lock().read(at, pages);
            let nr_read = read.map_or_else(|stopped| stopped.nr_done, |()| pages.len());
            let read_bytes = pages.get(..nr_read).unwrap_or_default().as_flattened();
            let buffer = args.buffer.wrapping_add(at - span.start);
            process::write_user(buffer, read_bytes)?;
            at = at.saturating_add(read_bytes.len() as u64);
            args.nr_done = args.nr_done.saturating_add(nr_read as u64);
            if let Err(stopped) = read {
                if on_miss == OnMiss::Fail && stopped.miss == Miss::NoEntry {
                    return Err(Errno::ENOENT);
                }
                self.fault(stopped.miss, at, span.end, Request::Read, &mut room)?;
                args.nr_faults = args.nr_faults.saturating_add(1);
            }
        }
        Ok(())
    }

    fn write(&self, span: Span, args: &mut Command) -> Result<(), Errno> {
        let mut bounce = Bounce::new(args.nr_pages)?;
        let mut room = WalkRoom::new()?;
        let mut at = span.start;
        while at < span.end {
            let pages = bounce.pages(at, span.end);
            let buffer = args.buffer.wrapping_add(at - span.start);
            process::read_user(buffer, pages.as_flattened_mut())?;
            let mut pages = &*pages;
            while !pages.is_empty() {
                let written = self.mirror.lock().write(at, pages);
                let nr_written = written.map_or_else(|stopped| stopped.nr_done, |()| pages.len());
                at = at.saturating_add((nr_written as u64).saturating_mul(PAGE_BYTES));
                args.nr_done = args.nr_done.saturating_add(nr_written as u64);
                pages = pages.get(nr_written..).unwrap_or_default();
                if let Err(stopped) = written {
                    self.fault(stopped.miss, at, span.end, Request::Write, &mut room)?;
                    args.nr_faults = args.nr_faults.saturating_add(1);
                }
            }
        }
        Ok(())
    }

    /// Answers a miss: makes entries for all that is left.
    fn fault(
        &self,
        miss: Miss,
        start: u64,
        end: u64,
        request: Request,
        room: &mut WalkRoom,
    ) -> Result<(), Errno> {
        if miss == Miss::Lost {
            return Err(Errno::EIO);
        }
        if process::is_killed() {
            return Err(Errno::EINTR);
        }
        self.mirror
            .map(Span { start, end }, request, room, |_entry| true)
    }

    /// Moves the span, and reads back what is on the device now: `ENOENT` when not all of it is.
    fn migrate_to_device(&self, span: Span, args: &mut Command) -> Result<(), Errno> {
        migrate::to_device(&self.device, &self.mirror, span)?;
        let mut room = WalkRoom::new()?;
        let owner = self.device.owner();
        self.mirror
            .map(span, Request::Nothing, &mut room, |entry| {
                entry.is_of(owner)
            })?;
        self.copy_out(span, OnMiss::Fail, args)
    }

    /// Takes the span away from the processor, and reads back what is there: `ENOENT` when a processor was
    /// faster than the reading.
    fn take_exclusively(&self, span: Span, args: &mut Command) -> Result<(), Errno> {
        self.mirror.make_exclusive(span, &mut WalkRoom::new()?)?;
        self.copy_out(span, OnMiss::Fail, args)
    }

    fn snapshot(&self, span: Span, args: &mut Command) -> Result<(), Errno> {
        let mut room = WalkRoom::new()?;
        let mut start = span.start;
        while start < span.end {
            let mut codes = [seen::ERROR; BOUNCE_PAGES];
            let end = span
                .end
                .min(start.saturating_add(BOUNCE_PAGES as u64 * PAGE_BYTES));
            let mut nr_seen = 0usize;
            self.mirror.walk(
                Span { start, end },
                Request::Nothing,
                &mut room,
                |_address, entry| {
                    if let Some(code) = codes.get_mut(nr_seen) {
                        *code = self.code_of(entry);
                    }
                    nr_seen = nr_seen.saturating_add(1);
                },
            )?;
            let buffer = args.buffer.wrapping_add(args.nr_done);
            process::write_user(buffer, codes.get(..nr_seen).unwrap_or_default())?;
            args.nr_done = args.nr_done.saturating_add(nr_seen as u64);
            start = end;
        }
        Ok(())
    }

    /// What a snapshot says of a page.
    fn code_of(&self, entry: Entry<'_>) -> u8 {
        if entry.is_error() {
            return seen::ERROR;
        }
        if !entry.is_present() {
            return seen::NOTHING;
        }
        let kind = if entry.is_private() {
            seen::PRIVATE_HERE
        } else if entry.is_of(self.device.owner()) {
            seen::ON_THIS_DEVICE
        } else if entry.is_device() {
            seen::ON_OTHER_DEVICE
        } else if entry.is_zero_page() {
            seen::ZERO_PAGE
        } else {
            seen::NOTHING
        };
        let access = if entry.is_writable() {
            seen::WRITABLE
        } else {
            seen::READABLE
        };
        let size = match entry.order() {
            HUGE_ORDER => seen::IN_HUGE_ENTRY,
            GIGANTIC_ORDER => seen::IN_GIGANTIC_ENTRY,
            _ => 0,
        };
        kind | access | size
    }
}
