//! The control node: attach and detach.

use std::{io, time::Duration};

use cohmem_uapi::{ATTACH_ALTMAP, RANGE_ALIGN, Reason, ReasonCounts, args};

use crate::{
    backend::driver::{ControlNode, Drained},
    command::{Command, failed},
    error::Result,
    units::{ByteCount, PhysRange},
};

/// How to attach.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AttachOptions {
    /// Keep the memory map (64 bytes a frame) on the device itself.
    pub altmap: bool,
}

/// A range that was attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Attached {
    /// N of the new `/dev/cohmemN`.
    pub device: u32,
    /// Bytes of frames that can be handed out.
    pub usable: ByteCount,
}

/// One frame that could not be taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StuckFrame {
    /// Physical address.
    pub phys: u64,
    /// References that the kernel counts on it.
    pub refs: u32,
    /// Page tables that map it.
    pub maps: u32,
    /// Why it stayed; `None` for a reason that this library does not know.
    pub reason: Option<Reason>,
}

/// What a detach or an evict did.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DetachOutcome {
    /// Frames whose content went home.
    pub evicted: u64,
    /// Frames that stayed at the time limit; then the device works on.
    pub nr_stuck: u64,
    /// Those frames, each by name; a driver's list ends at
    /// [`MAX_STUCK`](cohmem_uapi::MAX_STUCK), so there may be fewer than `nr_stuck`.
    pub stuck: Vec<StuckFrame>,
    /// `nr_stuck` by reason.
    pub stayed: ReasonCounts,
    /// Frames of chunks that stay claimed until the next boot, since mapped poison was found in
    /// them.
    pub kept: u64,
}

impl DetachOutcome {
    /// Whether every page went home (and, for a detach, the device is gone).
    #[must_use]
    pub const fn is_done(&self) -> bool {
        self.nr_stuck == 0
    }
}

impl From<Drained> for DetachOutcome {
    fn from(drained: Drained) -> Self {
        let stuck = drained.stuck.iter().map(|frame| StuckFrame {
            phys: frame.phys,
            refs: frame.refs,
            maps: frame.maps,
            reason: u8::try_from(frame.reason).ok().and_then(Reason::from_raw),
        });
        Self {
            evicted: drained.argument.nr_evicted,
            nr_stuck: drained.argument.nr_stuck,
            stuck: stuck.collect(),
            stayed: ReasonCounts::from_raw(drained.argument.stayed.map(u64::from)),
            kept: drained.argument.nr_kept,
        }
    }
}

/// The control node of the driver. Attaching and detaching needs root.
#[derive(Debug)]
pub struct Control(ControlNode);

impl Control {
    /// Opens `/dev/cohmem`.
    ///
    /// # Errors
    ///
    /// [`NoDriver`](crate::ErrorKind::NoDriver), [`NotPermitted`](crate::ErrorKind::NotPermitted),
    /// [`Unsupported`](crate::ErrorKind::Unsupported) for a driver of another version.
    pub fn open() -> Result<Self> {
        ControlNode::open().map(Self)
    }

    /// Attaches a physical range as a new device.
    ///
    /// # Units and ranges
    ///
    /// The range starts and ends at a multiple of [`RANGE_ALIGN`](crate::RANGE_ALIGN) and is
    /// reserved by the firmware for special purpose.
    ///
    /// # Errors
    ///
    /// Each leaves everything as it was: [`Empty`](crate::ErrorKind::Empty),
    /// [`Misaligned`](crate::ErrorKind::Misaligned), [`OutOfRange`](crate::ErrorKind::OutOfRange),
    /// [`SystemRam`](crate::ErrorKind::SystemRam), [`NotReserved`](crate::ErrorKind::NotReserved),
    /// [`Busy`](crate::ErrorKind::Busy), [`TooMany`](crate::ErrorKind::TooMany),
    /// [`NoMemory`](crate::ErrorKind::NoMemory), [`NotPermitted`](crate::ErrorKind::NotPermitted).
    pub fn attach(&self, range: PhysRange, options: AttachOptions) -> Result<Attached> {
        let argument = args::Attach {
            start: range.start(),
            length: range.length().get(),
            flags: if options.altmap { ATTACH_ALTMAP } else { 0 },
            ..args::Attach::default()
        };
        let argument = self.0.attach(argument)?;
        Ok(Attached {
            device: argument.device,
            usable: ByteCount::of_frames(argument.nr_frames),
        })
    }

    /// The numbers of the attached devices.
    ///
    /// # Errors
    ///
    /// [`Unsupported`](crate::ErrorKind::Unsupported).
    pub fn list(&self) -> Result<Vec<u32>> {
        let devices = self.0.list()?;
        Ok((0..u64::BITS)
            .filter(|number| devices >> number & 1 == 1)
            .collect())
    }

    /// Moves every page of device `number` home and gives its range back.
    ///
    /// Frames that are left at the time limit (in milliseconds, at most 49 days; zero is one try)
    /// are an outcome: see [`DetachOutcome::is_done`].
    ///
    /// # Errors
    ///
    /// [`NoDevice`](crate::ErrorKind::NoDevice), [`Busy`](crate::ErrorKind::Busy) when another
    /// detach or evict runs, [`NoMemory`](crate::ErrorKind::NoMemory) when the content does not fit
    /// into system memory (nothing moved), [`Interrupted`](crate::ErrorKind::Interrupted),
    /// [`NotPermitted`](crate::ErrorKind::NotPermitted).
    pub fn detach(&self, number: u32, timeout: Duration) -> Result<DetachOutcome> {
        self.0
            .detach(number, milliseconds(timeout))
            .map(DetachOutcome::from)
    }
}

/// What of a range's rules needs no driver to be checked.
pub(crate) fn check_range(range: PhysRange) -> Result<()> {
    let (start, length) = (range.start(), range.length().get());
    let errno = if length == 0 {
        libc::ENODATA
    } else if !start.is_multiple_of(RANGE_ALIGN) || !length.is_multiple_of(RANGE_ALIGN) {
        libc::EDOM
    } else {
        return Ok(());
    };
    Err(failed(
        Command::Attach { start, length },
        io::Error::from_raw_os_error(errno),
    ))
}

/// The whole milliseconds of `time`, a part of one counted as one.
pub(crate) fn milliseconds(time: Duration) -> u32 {
    u32::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_limits_are_rounded_up_and_capped() {
        assert_eq!(milliseconds(Duration::ZERO), 0);
        assert_eq!(milliseconds(Duration::from_nanos(1)), 1);
        assert_eq!(milliseconds(Duration::from_secs(30)), 30_000);
        assert_eq!(milliseconds(Duration::MAX), u32::MAX);
    }

    #[test]
    fn stuck_frames_keep_their_names() {
        let mut argument = args::Detach {
            nr_stuck: 1,
            nr_evicted: 5,
            ..args::Detach::default()
        };
        argument.stayed[Reason::KernelHeld as usize] = 1;
        let stuck = args::Stuck {
            phys: 0x1_0000_0000,
            refs: 2,
            maps: 0,
            reason: Reason::KernelHeld as u32,
            reserved: 0,
        };
        let outcome = DetachOutcome::from(Drained {
            argument,
            stuck: vec![stuck],
        });
        assert!(!outcome.is_done());
        assert_eq!(outcome.stuck[0].reason, Some(Reason::KernelHeld));
        assert_eq!(outcome.stayed.get(Reason::KernelHeld), 1);
    }
}
