//! The driver's commands, each result counted and checked against the header.

use std::{fs::File, os::fd::AsRawFd as _};

use cohmem_uapi::{
    Cause, Event, FRAME_BYTES, HISTORY_ALL, Holder, MAX_ACCOUNTS, PROC_SELF, PageEntry,
    QUOTA_INHERITED, QUOTA_UNLIMITED, Reason, State, args, ioctl,
};

use super::{
    board::{Board, Command},
    documented::errno_name,
};
use crate::{
    driver::errno,
    sys::{io::ioctl_raw, task::interrupt},
};

/// A thread that calls the driver.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caller {
    pub(crate) board: Board,
    pub(crate) seat: usize,
}

impl Caller {
    /// Takes the seat.
    pub(crate) fn sit(board: Board, seat: usize) -> Self {
        board.sit(seat);
        Self { board, seat }
    }

    /// Issues a command with any argument; an answer that the header does not list fails the run.
    pub(crate) fn raw(&self, command: Command, file: &File, request: u32, argument: usize) -> i32 {
        self.board.begin(self.seat, command);
        let errno = errno(ioctl_raw(file.as_raw_fd(), request, argument));
        self.board.end(self.seat, command, errno);
        if !self.board.documented().allows(command, errno) {
            self.board.fail(&format!(
                "{} answered {}, which the header does not list",
                command.name(),
                errno_name(errno)
            ));
        }
        errno
    }

    pub(crate) fn call<T>(
        &self,
        command: Command,
        file: &File,
        request: u32,
        argument: &mut T,
    ) -> i32 {
        self.raw(command, file, request, std::ptr::from_mut(argument).addr())
    }

    /// Fails the run unless `errno` is one of `wanted`.
    pub(crate) fn demand(&self, what: &str, errno: i32, wanted: &[i32]) {
        if !wanted.contains(&errno) {
            let wanted: Vec<_> = wanted.iter().map(|&errno| errno_name(errno)).collect();
            self.board.fail(&format!(
                "{what} answered {}, not {}",
                errno_name(errno),
                wanted.join(" or ")
            ));
        }
    }

    pub(crate) fn attach(&self, control: &File, argument: &mut args::Attach) -> i32 {
        self.call(Command::Attach, control, ioctl::ATTACH, argument)
    }

    pub(crate) fn list(&self, control: &File) -> u64 {
        let mut list = args::List::default();
        let errno = self.call(Command::List, control, ioctl::LIST, &mut list);
        self.demand("LIST", errno, &[0]);
        list.devices
    }

    /// Goes through the soft-reserved memory; fails the run when the parts cannot be.
    pub(crate) fn ranges(&self, control: &File) {
        let mut part = args::Range::default();
        loop {
            match self.call(Command::Range, control, ioctl::RANGE, &mut part) {
                0 => {}
                errno => return self.demand("RANGE", errno, &[libc::ENODATA]),
            }
            let holder = Holder::from_raw(part.holder);
            let is_sound = part.length != 0
                && part.start >= part.from
                && holder.is_some()
                && (part.device == 0 || holder == Some(Holder::Device));
            if !is_sound {
                self.board
                    .fail(&format!("RANGE tells what cannot be: {part:?}"));
            }
            part.from = part.start + part.length;
        }
    }

    /// Asks a device; fails the run when the numbers cannot be.
    pub(crate) fn info(&self, device: &File) -> Result<args::Info, i32> {
        let mut info = args::Info::default();
        let errno = self.call(Command::Info, device, ioctl::INFO, &mut info);
        if errno != 0 {
            return Err(errno);
        }
        let is_possible = info.nr_frames * FRAME_BYTES == info.length
            && info.nr_free <= info.nr_frames
            && info.nr_allocated <= info.nr_frames
            && State::from_raw(info.state).is_some();
        if !is_possible {
            self.board
                .fail(&format!("INFO tells what cannot be: {info:?}"));
        }
        Ok(info)
    }

    /// Detaches or evicts; fails the run when the numbers do not agree.
    pub(crate) fn empty(&self, command: Command, file: &File, argument: &mut args::Detach) -> i32 {
        let request = if command == Command::Detach {
            ioctl::DETACH
        } else {
            ioctl::EVICT
        };
        argument.stayed = [0; cohmem_uapi::NR_REASONS];
        argument.nr_stuck = 0;
        let errno = self.call(command, file, request, argument);
        let nr_stayed: u64 = argument.stayed.iter().map(|&count| u64::from(count)).sum();
        if nr_stayed != argument.nr_stuck || (errno == 0 && nr_stayed != 0) {
            self.board.fail(&format!(
                "{} answered {}, and its numbers do not agree: {argument:?}",
                command.name(),
                errno_name(errno)
            ));
        }
        for (reason, &count) in argument.stayed.iter().enumerate() {
            self.board.count_reason(command, reason, u64::from(count));
        }
        errno
    }

    /// Migrates; fails the run when a page of the range is not counted once.
    pub(crate) fn migrate(&self, device: &File, argument: &mut args::Migrate) -> i32 {
        let errno = self.call(Command::Migrate, device, ioctl::MIGRATE, argument);
        if errno != 0 {
            return errno;
        }
        let nr_seen = (argument.next - argument.start) / FRAME_BYTES;
        let nr_stayed: u64 = argument.stayed.iter().sum();
        let is_named = argument
            .stayed
            .iter()
            .zip(0u8..)
            .all(|(&count, raw)| count == 0 || Reason::from_raw(raw).is_some());
        if argument.nr_moved + argument.nr_filled + nr_stayed != nr_seen
            || argument.next > argument.start + argument.length
            || !is_named
        {
            self.board
                .fail(&format!("not each page is counted once: {argument:?}"));
        }
        self.board
            .count_moved(argument.nr_moved, argument.nr_filled);
        for (reason, &count) in argument.stayed.iter().enumerate() {
            self.board.count_reason(Command::Migrate, reason, count);
        }
        if argument.next < argument.start + argument.length {
            self.board.count_short();
        }
        0
    }

    /// Queries, with or without a map; fails the run when map and numbers do not agree.
    pub(crate) fn query(&self, device: &File, argument: &mut args::Query, has_map: bool) -> i32 {
        let nr_pages = usize::try_from(argument.length / FRAME_BYTES).expect("fits");
        let mut map = vec![u16::MAX; if has_map { nr_pages } else { 0 }];
        argument.map_ptr = if has_map {
            map.as_mut_ptr().addr() as u64
        } else {
            0
        };
        let errno = self.call(Command::Query, device, ioctl::QUERY, argument);
        if errno != 0 {
            return errno;
        }
        let nr_seen = (argument.next - argument.start) / FRAME_BYTES;
        let mut is_sound = argument.nr_by_tier.iter().sum::<u64>() == nr_seen;
        if has_map {
            let mut nr_by_tier = [0u64; 4];
            for &raw in &map[..usize::try_from(nr_seen).expect("fits")] {
                let entry = PageEntry::from_raw(raw);
                nr_by_tier[entry.tier() as usize] += 1;
                if let Some(reason) = entry.reason() {
                    let reason = usize::from(reason as u8);
                    self.board.count_reason(Command::Query, reason, 1);
                }
            }
            is_sound &= nr_by_tier == argument.nr_by_tier;
        }
        if !is_sound {
            self.board
                .fail(&format!("map and numbers do not agree: {argument:?}"));
        }
        if argument.next < argument.start + argument.length {
            self.board.count_short();
        }
        0
    }

    /// Sets a limit.
    pub(crate) fn set_quota(&self, device: &File, user: u32, flags: u32, limit: u64) -> i32 {
        let mut argument = args::Quota {
            user,
            flags,
            limit,
            ..args::Quota::default()
        };
        self.call(Command::SetQuota, device, ioctl::SET_QUOTA, &mut argument)
    }

    /// Lists up to `nr_max` accounts; fails the run when one of them cannot be.
    pub(crate) fn accounts(&self, device: &File, nr_max: u32) -> Result<Vec<args::Account>, i32> {
        let untouched = args::Account {
            user: u32::MAX,
            ..args::Account::default()
        };
        let mut list = vec![untouched; usize::try_from(nr_max).expect("fits")];
        let mut argument = args::Accounts {
            nr_max,
            accounts_ptr: list.as_mut_ptr().addr() as u64,
            ..args::Accounts::default()
        };
        let errno = self.call(Command::Accounts, device, ioctl::ACCOUNTS, &mut argument);
        if errno != 0 {
            return Err(errno);
        }
        let nr_told = argument.nr_accounts.min(nr_max);
        let rest = list.split_off(usize::try_from(nr_told).expect("fits"));
        let is_sound = |account: &args::Account| match account.flags {
            0 => account.user != u32::MAX,
            QUOTA_UNLIMITED => account.limit == 0,
            // Frames come back meanwhile, but nobody is listed for nothing.
            QUOTA_INHERITED => account.limit == 0 && account.charged != 0,
            _ => false,
        };
        if argument.nr_accounts > MAX_ACCOUNTS
            || !list.iter().all(is_sound)
            || rest.iter().any(|account| *account != untouched)
        {
            self.board
                .fail(&format!("accounts that cannot be: {argument:?} {list:?}"));
        }
        Ok(list)
    }

    /// Reads a history; fails the run when a record was not asked for, or cannot be.
    pub(crate) fn history(&self, device: &File, argument: &mut args::History) -> i32 {
        let mut moves =
            vec![args::Move::default(); usize::try_from(argument.nr_max).expect("fits")];
        argument.moves_ptr = moves.as_mut_ptr().addr() as u64;
        let errno = self.call(Command::History, device, ioctl::HISTORY, argument);
        if errno != 0 {
            return errno;
        }
        let told = &moves[..usize::try_from(argument.nr_moves).expect("fits")];
        let own = std::process::id();
        let is_of_one = argument.flags & HISTORY_ALL == 0;
        let is_possible = |move_: &args::Move| {
            let end = move_.start + u64::from(move_.nr_pages) * FRAME_BYTES;
            let overlaps = argument.length == 0
                || (move_.start < argument.start + argument.length && argument.start < end);
            Event::from_raw(move_.event).is_some()
                && Cause::from_raw(move_.cause).is_some()
                && (argument.since..argument.next).contains(&move_.sequence)
                && move_.time_ns <= argument.now_ns
                && overlaps
                && (!is_of_one || argument.proc_fd != PROC_SELF || move_.process == own)
        };
        let is_in_order = told.is_sorted_by(|one, next| one.sequence < next.sequence);
        if !is_in_order || !told.iter().all(is_possible) {
            self.board
                .fail(&format!("a history that cannot be: {argument:?} {told:?}"));
        }
        0
    }

    /// Interrupts the thread on another seat of this process.
    pub(crate) fn interrupt(&self, seat: usize) {
        if let Some(sitter) = self.board.sitter(seat)
            && sitter.pid == std::process::id()
        {
            // It may just have ended.
            drop(interrupt(sitter.thread));
        }
    }
}
