// SPDX-License-Identifier: GPL-2.0
//! Arguments that were checked: what leaves this module is trusted by the rest.

use cohmem_frames::MAX_FRAMES;
use cohmem_uapi::{
    ATTACH_ALTMAP, Direction, FRAME_BYTES, HISTORY_ALL, HISTORY_STAYED, MAX_ACCOUNTS, MAX_MOVES,
    MAX_OBJECTS, MAX_STUCK, MIGRATE_EXEC, MIGRATE_FILL, MIGRATE_SHARED, PROC_SELF, QUERY_REASONS,
    QUOTA_DEFAULT, QUOTA_INHERITED, QUOTA_UNLIMITED, RANGE_ALIGN, args,
};

use crate::{
    Errno,
    accounts::{Holder, Limit, MAX_OBJECT, Whose},
    history::Kind,
    host::{Host, Privilege, Span},
};

/// A range to attach.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AttachRequest {
    pub(crate) start: u64,
    pub(crate) length: u64,
    pub(crate) is_altmap: bool,
}

impl AttachRequest {
    pub(crate) fn check<H: Host>(host: &H, args: &args::Attach) -> Result<Self, Errno> {
        require_zero(&args.reserved)?;
        require_flags(args.flags, ATTACH_ALTMAP)?;
        let end = require_range(args.start, args.length, RANGE_ALIGN)?;
        if end > host.phys_end() {
            return Err(Errno::EOVERFLOW);
        }
        Ok(Self {
            start: args.start,
            length: args.length,
            is_altmap: args.flags & ATTACH_ALTMAP != 0,
        })
    }
}

/// How long and how thoroughly to evict.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EvictRequest {
    pub(crate) timeout_ms: u64,
    pub(crate) nr_stuck_max: usize,
    pub(crate) stuck_ptr: u64,
}

impl EvictRequest {
    pub(crate) fn check(args: &args::Detach) -> Result<Self, Errno> {
        require_zero(&args.reserved)?;
        require_flags(args.flags, 0)?;
        if args.nr_stuck_max > MAX_STUCK {
            return Err(Errno::EMSGSIZE);
        }
        if args.stuck_ptr == 0 && args.nr_stuck_max != 0 {
            return Err(Errno::EFAULT);
        }
        Ok(Self {
            timeout_ms: u64::from(args.timeout_ms),
            nr_stuck_max: usize::try_from(args.nr_stuck_max).unwrap_or(0),
            stuck_ptr: args.stuck_ptr,
        })
    }
}

/// What a migration may touch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MigrateRequest {
    pub(crate) span: Span,
    pub(crate) direction: Direction,
    pub(crate) fills_holes: bool,
    pub(crate) moves_shared: bool,
    pub(crate) moves_executable: bool,
    pub(crate) reasons_ptr: u64,
}

impl MigrateRequest {
    pub(crate) fn check<H: Host>(host: &H, args: &args::Migrate) -> Result<Self, Errno> {
        require_zero(&args.reserved)?;
        require_zero(&[u64::from(args.pad)])?;
        require_flags(args.flags, MIGRATE_FILL | MIGRATE_SHARED | MIGRATE_EXEC)?;
        let direction = Direction::from_raw(args.direction).ok_or(Errno::EILSEQ)?;
        let span = user_span(host, args.start, args.length)?;
        let moves_shared = args.flags & MIGRATE_SHARED != 0;
        if moves_shared && !host.is_privileged(Privilege::MoveShared) {
            return Err(Errno::EPERM);
        }
        Ok(Self {
            span,
            direction,
            fills_holes: args.flags & MIGRATE_FILL != 0 && direction == Direction::ToDevice,
            moves_shared,
            moves_executable: args.flags & MIGRATE_EXEC != 0,
            reasons_ptr: args.reasons_ptr,
        })
    }
}

/// What a query looks at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct QueryRequest {
    pub(crate) span: Span,
    pub(crate) wants_reasons: bool,
    pub(crate) map_ptr: u64,
}

impl QueryRequest {
    pub(crate) fn check<H: Host>(host: &H, args: &args::Query) -> Result<Self, Errno> {
        require_zero(&args.reserved)?;
        require_flags(args.flags, QUERY_REASONS)?;
        let span = user_span(host, args.start, args.length)?;
        Ok(Self {
            span,
            wants_reasons: args.flags & QUERY_REASONS != 0,
            map_ptr: args.map_ptr,
        })
    }
}

/// A limit to set.
#[derive(Clone, Copy, Debug)]
pub(crate) struct QuotaRequest {
    pub(crate) whose: Whose,
    pub(crate) limit: Limit,
}

impl QuotaRequest {
    pub(crate) fn check(args: &args::Quota) -> Result<Self, Errno> {
        require_zero(&args.reserved)?;
        require_flags(
            args.flags,
            QUOTA_DEFAULT | QUOTA_UNLIMITED | QUOTA_INHERITED,
        )?;
        let whose = if args.flags & QUOTA_DEFAULT == 0 {
            Whose::One(Holder::User(args.user))
        } else {
            require_zero(&[u64::from(args.user)])?;
            Whose::Default
        };
        let limit = limit(args.flags, args.limit)?;
        if limit == Limit::Inherited && whose == Whose::Default {
            return Err(Errno::EINVAL);
        }
        // The number that says "no user" everywhere.
        if args.limit > MAX_FRAMES || whose == Whose::One(Holder::User(u32::MAX)) {
            return Err(Errno::ERANGE);
        }
        Ok(Self { whose, limit })
    }

    pub(crate) fn check_job(args: &args::Job) -> Result<Self, Errno> {
        require_zero(&args.reserved)?;
        require_zero(&[u64::from(args.pad)])?;
        require_flags(args.flags, QUOTA_UNLIMITED | QUOTA_INHERITED)?;
        let limit = limit(args.flags, args.limit)?;
        if args.limit > MAX_FRAMES || args.job == 0 || args.job > MAX_OBJECT {
            return Err(Errno::ERANGE);
        }
        let whose = Whose::One(Holder::Job(args.job));
        Ok(Self { whose, limit })
    }

    /// What a run instance may hold.
    pub(crate) fn check_run(args: &args::Run) -> Result<Limit, Errno> {
        require_zero(&args.reserved)?;
        require_zero(&[u64::from(args.pad)])?;
        require_flags(args.flags, QUOTA_UNLIMITED)?;
        let limit = limit(args.flags, args.limit)?;
        if args.limit > MAX_FRAMES {
            return Err(Errno::ERANGE);
        }
        Ok(limit)
    }
}

/// The limit that two fields of a command say.
fn limit(flags: u32, nr_frames: u64) -> Result<Limit, Errno> {
    let limit = match flags & (QUOTA_UNLIMITED | QUOTA_INHERITED) {
        0 => return Ok(Limit::Frames(nr_frames)),
        QUOTA_UNLIMITED => Limit::Unlimited,
        QUOTA_INHERITED => Limit::Inherited,
        _ => return Err(Errno::EINVAL),
    };
    require_zero(&[nr_frames])?;
    Ok(limit)
}

/// How many accounts to list, and where.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AccountsRequest {
    pub(crate) nr_max: usize,
    pub(crate) accounts_ptr: u64,
}

impl AccountsRequest {
    pub(crate) fn check(args: &args::Accounts) -> Result<Self, Errno> {
        require_zero(&args.reserved)?;
        require_flags(args.flags, 0)?;
        if args.nr_max > MAX_ACCOUNTS {
            return Err(Errno::EMSGSIZE);
        }
        if args.accounts_ptr == 0 && args.nr_max != 0 {
            return Err(Errno::EFAULT);
        }
        Ok(Self {
            nr_max: usize::try_from(args.nr_max).unwrap_or(0),
            accounts_ptr: args.accounts_ptr,
        })
    }
}

/// Which records to read, and where to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HistoryRequest {
    pub(crate) is_of_all: bool,
    pub(crate) kind: Kind,
    /// `None`: all addresses.
    pub(crate) span: Option<Span>,
    pub(crate) nr_max: usize,
    pub(crate) moves_ptr: u64,
}

impl HistoryRequest {
    pub(crate) fn check<H: Host>(host: &H, args: &args::History) -> Result<Self, Errno> {
        require_zero(&args.reserved)?;
        require_flags(args.flags, HISTORY_ALL | HISTORY_STAYED)?;
        let is_of_all = args.flags & HISTORY_ALL != 0;
        if is_of_all && args.proc_fd != PROC_SELF {
            return Err(Errno::EINVAL);
        }
        let span = if args.length == 0 {
            require_zero(&[args.start])?;
            None
        } else {
            Some(user_span(host, args.start, args.length)?)
        };
        if args.nr_max > MAX_MOVES {
            return Err(Errno::EMSGSIZE);
        }
        if args.moves_ptr == 0 && args.nr_max != 0 {
            return Err(Errno::EFAULT);
        }
        if is_of_all && !host.is_privileged(Privilege::Administrate) {
            return Err(Errno::EPERM);
        }
        Ok(Self {
            is_of_all,
            kind: if args.flags & HISTORY_STAYED == 0 {
                Kind::Moved
            } else {
                Kind::Stayed
            },
            span,
            nr_max: usize::try_from(args.nr_max).unwrap_or(0),
            moves_ptr: args.moves_ptr,
        })
    }
}

/// How many objects to list, and where.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ObjectsRequest {
    pub(crate) nr_max: usize,
    pub(crate) objects_ptr: u64,
}

impl ObjectsRequest {
    pub(crate) fn check(args: &args::Objects) -> Result<Self, Errno> {
        require_zero(&args.reserved)?;
        require_zero(&[u64::from(args.pad)])?;
        require_flags(args.flags, 0)?;
        if args.nr_max > MAX_OBJECTS {
            return Err(Errno::EMSGSIZE);
        }
        if args.objects_ptr == 0 && args.nr_max != 0 {
            return Err(Errno::EFAULT);
        }
        Ok(Self {
            nr_max: usize::try_from(args.nr_max).unwrap_or(0),
            objects_ptr: args.objects_ptr,
        })
    }
}

/// The address space that a command names.
pub(crate) fn space<H: Host>(host: &H, proc_fd: i32) -> Result<H::Space, Errno> {
    if proc_fd == PROC_SELF {
        host.own_space()
    } else {
        host.proc_space(proc_fd)
    }
}

/// Refuses a reserved field that is not zero.
pub(crate) fn require_zero(fields: &[u64]) -> Result<(), Errno> {
    if fields.iter().all(|&field| field == 0) {
        Ok(())
    } else {
        Err(Errno::EINVAL)
    }
}

fn require_flags(flags: u32, known: u32) -> Result<(), Errno> {
    if flags & !known == 0 {
        Ok(())
    } else {
        Err(Errno::EOPNOTSUPP)
    }
}

/// The end of a range that is not empty, aligned, and does not wrap.
fn require_range(start: u64, length: u64, align: u64) -> Result<u64, Errno> {
    if length == 0 {
        return Err(Errno::ENODATA);
    }
    if !start.is_multiple_of(align) || !length.is_multiple_of(align) {
        return Err(Errno::EDOM);
    }
    start.checked_add(length).ok_or(Errno::EOVERFLOW)
}

fn user_span<H: Host>(host: &H, start: u64, length: u64) -> Result<Span, Errno> {
    let end = require_range(start, length, FRAME_BYTES)?;
    if end > host.user_end() {
        return Err(Errno::ERANGE);
    }
    Ok(Span { start, end })
}
