// SPDX-License-Identifier: GPL-2.0
//! The command that reads a device's history.

use cohmem_uapi::{NO_FRAME, args};

use super::Driver;
use crate::{
    Errno,
    device::DeviceId,
    history::{Entry, Filter, History, Kind},
    host::{AddressSpace, Host, Privilege, SleepLock},
    request::{self, HistoryRequest},
};

const ENTRY_BYTES: usize = size_of::<args::Move>();
/// Records that are looked at before other tasks may run.
const NR_AT_ONCE: u64 = 1024;

impl<H: Host> Driver<H> {
    /// `COHMEM_IOC_HISTORY`.
    ///
    /// **Context:** sleeps.
    ///
    /// # Errors
    ///
    /// As the header says.
    pub fn history(&self, id: DeviceId, args: &mut args::History) -> Result<(), Errno> {
        let request = HistoryRequest::check(&self.host, args)?;
        let ledger = self.gate.read().device(id)?.share_ledger();
        let process = if request.is_of_all {
            None
        } else {
            Some(request::space(&self.host, args.proc_fd)?.process())
        };
        let filter = Filter {
            process,
            span: request.span,
        };
        let bytes = request.nr_max.saturating_mul(ENTRY_BYTES).max(1);
        let mut reading = Reading {
            host: &self.host,
            history: ledger.history(),
            kind: request.kind,
            tells_frames: self.host.is_privileged(Privilege::Administrate),
            bytes: self.host.new_buffer(bytes, 0u8)?,
            nr_moves: 0,
            nr_lost: 0,
        };
        let next = reading.run(args.since, request.nr_max, &filter)?;
        let listed = reading.nr_moves.saturating_mul(ENTRY_BYTES);
        if listed != 0 {
            let listed = reading.bytes.get(..listed).unwrap_or_default();
            self.host.write_user(request.moves_ptr, listed)?;
        }
        args.nr_moves = u32::try_from(reading.nr_moves).unwrap_or(u32::MAX);
        args.next = next;
        args.nr_lost = reading.nr_lost;
        args.now_ns = self.host.now_ns();
        Ok(())
    }
}

/// One reader at work.
struct Reading<'a, H: Host> {
    host: &'a H,
    history: &'a History<H>,
    kind: Kind,
    tells_frames: bool,
    bytes: H::Buffer<u8>,
    nr_moves: usize,
    nr_lost: u64,
}

impl<H: Host> Reading<'_, H> {
    /// Collects up to `nr_max` records; returns the first sequence number not looked at.
    fn run(&mut self, since: u64, nr_max: usize, filter: &Filter) -> Result<u64, Errno> {
        let bounds = self.history.bounds(self.kind);
        self.nr_lost = bounds.start.saturating_sub(since);
        let mut at = since.max(bounds.start);
        while at < bounds.end && self.nr_moves < nr_max {
            match self.history.read(self.kind, at, filter) {
                Entry::Move(move_) => self.take(move_),
                Entry::Other => {}
                Entry::Gone => self.nr_lost = self.nr_lost.saturating_add(1),
                Entry::Unfinished => break,
            }
            at = at.saturating_add(1);
            if at.is_multiple_of(NR_AT_ONCE) {
                if self.host.is_killed() {
                    return Err(Errno::EINTR);
                }
                self.host.relax();
            }
        }
        Ok(at)
    }

    fn take(&mut self, mut move_: args::Move) {
        if !self.tells_frames {
            move_.frame = NO_FRAME;
        }
        let start = self.nr_moves.saturating_mul(ENTRY_BYTES);
        let end = start.saturating_add(ENTRY_BYTES);
        if let Some(entry) = self.bytes.get_mut(start..end) {
            write_entry(entry, &move_);
        }
        self.nr_moves = self.nr_moves.saturating_add(1);
    }
}

/// The bytes of `struct cohmem_move`.
fn write_entry(entry: &mut [u8], move_: &args::Move) {
    let longs = [move_.sequence, move_.time_ns, move_.start, move_.frame];
    let words = [move_.nr_pages, move_.process, move_.by];
    let bytes = [move_.event, move_.cause, move_.reason, move_.other];
    let all = longs
        .into_iter()
        .flat_map(u64::to_ne_bytes)
        .chain(words.into_iter().flat_map(u32::to_ne_bytes))
        .chain(bytes);
    for (byte, value) in entry.iter_mut().zip(all) {
        *byte = value;
    }
}

const _: () = assert!(ENTRY_BYTES == 48);
