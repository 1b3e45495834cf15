//! One attached device.

use std::{ops::ControlFlow, str::FromStr, time::Duration};

use cohmem_uapi::{Direction, MAX_DEVICES, State, args};

use crate::{
    backend::driver::DeviceNode,
    background::Migration,
    control::{DetachOutcome, milliseconds},
    error::{Cause, Error, Result},
    history,
    migrate::{self, MigrateOptions, Migrated, Target},
    objects::{self, Job, Object},
    process::Process,
    query::{self, PageMap},
    quota::{self, Accounts, Limit, Whose},
    units::{AddrRange, ByteCount, PhysRange},
};

/// An open `/dev/cohmemN`.
///
/// # Concurrency
///
/// All calls may run on several threads at once.
#[derive(Debug)]
pub struct Device {
    pub(crate) node: DeviceNode,
}

/// State of a device, taken from the driver in one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeviceStatus {
    /// N of `cohmemN`.
    pub number: u32,
    /// What the device is doing; `None` for a state that this library does not know.
    pub state: Option<State>,
    /// The physical range.
    pub range: PhysRange,
    /// Frames of the range.
    pub nr_frames: u64,
    /// Frames that can be handed out now.
    pub nr_free: u64,
    /// Frames that are handed out.
    pub nr_allocated: u64,
    /// Frames that were withdrawn after a hardware error.
    pub nr_poisoned: u64,
    /// Frames that hold the memory map.
    pub nr_metadata: u64,
    /// Pages moved to the device since it was attached.
    pub moved_in: u64,
    /// Pages moved home.
    pub moved_out: u64,
    /// Holes filled with zeroed frames.
    pub filled: u64,
    /// Frames that came back to the allocator.
    pub freed: u64,
    /// NUMA node whose statistics the pages count in.
    pub node: u32,
    /// Page maps that the range is registered as.
    pub nr_chunks: u32,
}

impl DeviceStatus {
    fn from_raw(raw: &args::Info) -> Result<Self> {
        let end = raw.start.checked_add(raw.length);
        let end = end.ok_or(Cause::Wraps {
            start: raw.start,
            length: raw.length,
        })?;
        Ok(Self {
            number: raw.device,
            state: State::from_raw(raw.state),
            range: PhysRange::new(raw.start, end)?,
            nr_frames: raw.nr_frames,
            nr_free: raw.nr_free,
            nr_allocated: raw.nr_allocated,
            nr_poisoned: raw.nr_poisoned,
            nr_metadata: raw.nr_metadata,
            moved_in: raw.moved_in,
            moved_out: raw.moved_out,
            filled: raw.filled,
            freed: raw.freed,
            node: raw.node,
            nr_chunks: raw.nr_chunks,
        })
    }
}

impl Device {
    /// Opens `/dev/cohmemN`.
    ///
    /// # Errors
    ///
    /// [`NoDevice`](crate::ErrorKind::NoDevice), [`NoDriver`](crate::ErrorKind::NoDriver),
    /// [`NotPermitted`](crate::ErrorKind::NotPermitted) for a caller outside the group `cohmem`,
    /// [`Unsupported`](crate::ErrorKind::Unsupported) for a driver of another version.
    pub fn open(number: u32) -> Result<Self> {
        if number >= MAX_DEVICES {
            return Err(Cause::BadDevice {
                text: number.to_string(),
            }
            .into());
        }
        Ok(Self {
            node: DeviceNode::open(number)?,
        })
    }

    /// A second handle of the same device.
    ///
    /// # Errors
    ///
    /// [`Io`](crate::ErrorKind::Io): the process has too many open files.
    pub fn try_clone(&self) -> Result<Self> {
        Ok(Self {
            node: self.node.try_clone()?,
        })
    }

    /// N of `cohmemN`.
    #[must_use]
    pub const fn number(&self) -> u32 {
        self.node.device()
    }

    /// Asks the driver for the state of the device.
    ///
    /// # Errors
    ///
    /// [`NoDevice`](crate::ErrorKind::NoDevice): it was detached.
    pub fn query_status(&self) -> Result<DeviceStatus> {
        DeviceStatus::from_raw(&self.node.info()?)
    }

    /// Bytes of frames that can be handed out now.
    ///
    /// # Errors
    ///
    /// As [`Device::query_status`].
    pub fn query_free(&self) -> Result<ByteCount> {
        Ok(ByteCount::of_frames(self.node.info()?.nr_free))
    }

    /// Migrates the pages of `range`, which starts and ends at a multiple of
    /// [`FRAME_BYTES`](crate::FRAME_BYTES), and says what became of each.
    ///
    /// # Errors
    ///
    /// [`Empty`](crate::ErrorKind::Empty), [`Misaligned`](crate::ErrorKind::Misaligned),
    /// [`OutOfRange`](crate::ErrorKind::OutOfRange), [`NotMapped`](crate::ErrorKind::NotMapped),
    /// [`NotPermitted`](crate::ErrorKind::NotPermitted),
    /// [`NoProcess`](crate::ErrorKind::NoProcess), [`NoDevice`](crate::ErrorKind::NoDevice),
    /// [`Draining`](crate::ErrorKind::Draining), [`NoMemory`](crate::ErrorKind::NoMemory).
    /// An error after the first part of a long range leaves the pages of that part moved.
    pub fn migrate(
        &self,
        range: AddrRange,
        direction: Direction,
        options: &MigrateOptions,
        target: Target<'_>,
    ) -> Result<Migrated> {
        self.migrate_with(range, direction, options, target, |_| {
            ControlFlow::Continue(())
        })
    }

    /// As [`Device::migrate`], and calls `progress_fn` after each part of
    /// [`MigrateOptions::step`] bytes; on `Break` it ends there, with success.
    ///
    /// # Errors
    ///
    /// As [`Device::migrate`].
    pub fn migrate_with(
        &self,
        range: AddrRange,
        direction: Direction,
        options: &MigrateOptions,
        target: Target<'_>,
        progress_fn: impl FnMut(&Migrated) -> ControlFlow<()>,
    ) -> Result<Migrated> {
        migrate::migrate(&self.node, range, direction, options, target, progress_fn)
    }

    /// Starts a migration on a thread of its own.
    ///
    /// # Errors
    ///
    /// [`Io`](crate::ErrorKind::Io): no thread or no file descriptor could be had. The migration's
    /// own errors come from [`Migration::wait`].
    pub fn start_migration(
        &self,
        range: AddrRange,
        direction: Direction,
        options: MigrateOptions,
        process: Option<&Process>,
    ) -> Result<Migration> {
        Migration::start(self, range, direction, options, process)
    }

    /// Tells of each page of `range` where it is. Nothing is faulted in, moved or changed.
    ///
    /// # Errors
    ///
    /// Those of [`Device::migrate`] that concern the range and the process.
    pub fn query(&self, range: AddrRange, target: Target<'_>) -> Result<PageMap> {
        query::query(&self.node, range, target, query::Detail::Pages)
    }

    /// As [`Device::query`], with the reason why a page would not move to this device.
    ///
    /// # Errors
    ///
    /// As [`Device::query`].
    pub fn query_reasons(&self, range: AddrRange, target: Target<'_>) -> Result<PageMap> {
        query::query(&self.node, range, target, query::Detail::Reasons)
    }

    /// As [`Device::query`], but only counts: the map has no entries.
    ///
    /// # Errors
    ///
    /// As [`Device::query`].
    pub fn query_counts(&self, range: AddrRange, target: Target<'_>) -> Result<PageMap> {
        query::query(&self.node, range, target, query::Detail::Counts)
    }

    /// Moves every page of the device home and keeps the device; needs root. Frames that are left
    /// at the time limit are an outcome.
    ///
    /// # Errors
    ///
    /// As [`Control::detach`](crate::Control::detach).
    pub fn evict(&self, timeout: Duration) -> Result<DetachOutcome> {
        self.node
            .evict(milliseconds(timeout))
            .map(DetachOutcome::from)
    }

    /// Sets how much a user may hold of the device; needs root. From then on no frame above the limit is
    /// handed out; what the user holds already stays. Limits end with the attachment.
    ///
    /// # Errors
    ///
    /// [`Misaligned`](crate::ErrorKind::Misaligned): a limit that is not a multiple of
    /// [`FRAME_BYTES`](crate::FRAME_BYTES); [`OutOfRange`](crate::ErrorKind::OutOfRange): no such user
    /// can be, or no device is so large; [`TooMany`](crate::ErrorKind::TooMany): too many users have
    /// frames or a limit; [`NotPermitted`](crate::ErrorKind::NotPermitted),
    /// [`NoDevice`](crate::ErrorKind::NoDevice). Nothing has changed then.
    pub fn set_limit(&self, whose: Whose, limit: Limit) -> Result<()> {
        quota::set(&self.node, whose, limit)
    }

    /// Asks the driver who holds how much of the device, and may hold how much.
    ///
    /// # Errors
    ///
    /// [`NoDevice`](crate::ErrorKind::NoDevice): it was detached.
    pub fn query_accounts(&self) -> Result<Accounts> {
        quota::accounts(&self.node)
    }

    /// Reads what the driver remembers of the device's pages, from the record with the number `since`
    /// on: those of `subject` that overlap `range`, or all. The driver keeps the newest
    /// records, at least 256 of pages that moved and 128 of pages that stayed.
    ///
    /// # Errors
    ///
    /// Those of [`Device::query`] that concern the range and the process, except that nothing need be
    /// mapped; [`NotPermitted`](crate::ErrorKind::NotPermitted) for
    /// [`Subject::Everyone`](history::Subject::Everyone) without root.
    pub fn query_history(
        &self,
        subject: history::Subject<'_>,
        records: history::Records,
        range: Option<AddrRange>,
        since: u64,
    ) -> Result<history::History> {
        history::read(&self.node, subject, records, range, since)
    }

    /// Makes a control group with all below it a job that may hold so much of the device, or changes that;
    /// needs root. What its tasks ask for from then on is charged to it, until it is freed.
    /// [`Limit::Inherited`]: it is no job any more. Jobs end with the attachment.
    ///
    /// # Errors
    ///
    /// As [`Device::set_limit`]; [`TooMany`](crate::ErrorKind::TooMany): there are too many jobs.
    pub fn set_job(&self, job: Job, limit: Limit) -> Result<()> {
        objects::set_job(&self.node, job, limit)
    }

    /// Makes this open device, with every clone of it, a run instance that may hold so much, or changes
    /// that, and tells its number: what is migrated through it from then on is charged to the instance,
    /// until it is freed. It ends when the last clone is dropped. [`Limit::Inherited`] is
    /// [`Limit::Unlimited`] here.
    ///
    /// # Errors
    ///
    /// [`Misaligned`](crate::ErrorKind::Misaligned), [`OutOfRange`](crate::ErrorKind::OutOfRange): as for
    /// [`Device::set_limit`]; [`TooMany`](crate::ErrorKind::TooMany): the user has too many, or there
    /// are; [`NoDevice`](crate::ErrorKind::NoDevice). Nothing has changed then.
    pub fn set_run(&self, limit: Limit) -> Result<u64> {
        objects::set_run(&self.node, limit)
    }

    /// Asks the driver which jobs and run instances there are, with those that ended and still hold
    /// something.
    ///
    /// # Errors
    ///
    /// [`NoDevice`](crate::ErrorKind::NoDevice): it was detached.
    pub fn query_objects(&self) -> Result<Vec<Object>> {
        objects::list(&self.node)
    }

    /// Reads the number of a device from `N` or `cohmemN`.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput): it is neither, or N is above the limit.
    pub fn parse_number(text: &str) -> Result<u32> {
        let digits = text.strip_prefix("cohmem").unwrap_or(text);
        let all_digits = digits.bytes().all(|byte| byte.is_ascii_digit());
        let bad = || {
            Error::from(Cause::BadDevice {
                text: text.to_owned(),
            })
        };
        let number = u32::from_str(digits)
            .ok()
            .filter(|_| all_digits)
            .ok_or_else(bad)?;
        if number >= MAX_DEVICES {
            Err(bad())
        } else {
            Ok(number)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[test]
    fn device_numbers_are_read_both_ways() {
        assert_eq!(Device::parse_number("cohmem0").unwrap(), 0);
        assert_eq!(Device::parse_number("15").unwrap(), 15);
        for text in [
            "",
            "cohmem",
            "16",
            "cohmem99",
            "+1",
            "-1",
            "dax0.0",
            "cohmem0x1",
        ] {
            let error = Device::parse_number(text).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
            assert!(error.to_string().contains("N below 16"), "{error}");
        }
    }

    #[test]
    fn a_number_above_the_limit_is_refused_before_the_driver_is_asked() {
        assert_eq!(
            Device::open(16).unwrap_err().kind(),
            ErrorKind::InvalidInput
        );
    }
}
