//! The device of the tour: soft-reserved memory that is attached for it and given back.

use std::{
    fmt, thread,
    time::{Duration, Instant},
};

use cohmem::{
    AttachOptions, ByteCount, Control, DetachOutcome, Device, ErrorKind, PhysRange, RANGE_ALIGN,
    dax::{self, Source, TakeOver},
};

use super::{trouble::Trouble, voice::Voice};
use crate::interrupt::with_time_limit;

/// Time for a detach: the driver's own default.
pub(super) const TIME_LIMIT: Duration = Duration::from_secs(30);

/// An attached device.
///
/// Dropping it detaches the device, if it still is attached, and gives the range back to who had
/// it; a device that the user had attached before is attached again.
#[derive(Debug)]
pub(super) struct Attachment {
    control: Control,
    range: PhysRange,
    number: u32,
    state: State,
    origin: Origin,
    /// How long attaching took; nothing for a device of the user's.
    took: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Attached,
    Detached,
    /// As it was before the tour.
    Restored,
}

#[derive(Debug)]
enum Origin {
    /// Attached for the tour; taken from the dax drivers.
    Tour(TakeOver),
    /// The user's.
    User,
}

impl Attachment {
    /// Opens the driver.
    pub(super) fn open_control() -> Result<Control, Trouble> {
        const ELSE: &str = "`cohmem doctor` says what this machine can do, and `cargo xtask tour --backend driver` \
            shows the tour in a virtual machine that has all it needs";
        Control::open().map_err(|error| match error.kind() {
            ErrorKind::NoDriver => Trouble::NotHere(format!(
                "the driver cannot be used here: the cohmem module is not loaded. {ELSE}"
            )),
            ErrorKind::NotPermitted => Trouble::NotHere(format!(
                "the driver cannot be used: attaching memory needs root. {ELSE}"
            )),
            ErrorKind::Unsupported => Trouble::NotHere(format!("{error}. {ELSE}")),
            _ => error.into(),
        })
    }

    /// Attaches soft-reserved memory: of the first range of at least `least` bytes no more than
    /// `most`.
    pub(super) fn attach(
        control: Control,
        least: ByteCount,
        most: ByteCount,
    ) -> Result<Self, Trouble> {
        let candidates = dax::candidates()?;
        let Some(range) = candidates
            .iter()
            .find_map(|&range| part(range, least, most))
        else {
            return Err(Trouble::NotHere(format!(
                "no soft-reserved memory of {least} or more can be attached; `cohmem doctor` says \
                 what is in the way, and `cargo xtask tour --backend driver` shows the tour in a virtual machine \
                 that has such memory"
            )));
        };
        let taken = with_time_limit(TIME_LIMIT, || dax::take_over(&Source::Range(range)))
            .map_err(|source| Trouble::failed("cannot take the range over", source))??;
        let started = Instant::now();
        let attached = control.attach(range, AttachOptions::default());
        let took = started.elapsed();
        let attached = match attached {
            Ok(attached) => attached,
            Err(error) => {
                let trouble = Trouble::from(error);
                return Err(match taken.give_back() {
                    Ok(()) => trouble,
                    Err(undo) => Trouble::failed(format!("{trouble}; and then"), undo),
                });
            }
        };
        let number = attached.device;
        let origin = Origin::Tour(taken);
        let attachment = Self {
            control,
            range,
            number,
            state: State::Attached,
            origin,
            took: Some(took),
        };
        // So that `cohmem detach` can give it back should the tour be killed.
        if let Origin::Tour(taken) = &attachment.origin {
            match taken.taken().next() {
                Some(_) => taken.save(number)?,
                None => TakeOver::forget(number)?,
            }
        }
        Ok(attachment)
    }

    /// Uses a device of the user's.
    pub(super) fn adopt(control: Control, number: u32) -> Result<Self, Trouble> {
        let status = Device::open(number)?.query_status()?;
        if status.nr_allocated > 0 {
            let pages = status.nr_allocated;
            return Err(Trouble::said(format!(
                "cohmem{number} holds {pages} pages of other programs; the tour needs it to itself"
            )));
        }
        let range = status.range;
        let origin = Origin::User;
        Ok(Self {
            control,
            range,
            number,
            state: State::Attached,
            origin,
            took: None,
        })
    }

    pub(super) const fn range(&self) -> PhysRange {
        self.range
    }

    pub(super) const fn number(&self) -> u32 {
        self.number
    }

    /// Detaches the device and shows how far that is.
    pub(super) fn detach(
        &mut self,
        device: &Device,
        voice: &Voice,
    ) -> Result<(DetachOutcome, Duration), Trouble> {
        let total = device.query_status()?.nr_allocated;
        let mut progress = voice.progress("pages that went home", total);
        let started = Instant::now();
        let control = &self.control;
        let number = self.number;
        let outcome = thread::scope(|scope| {
            let detaching = scope.spawn(move || control.detach(number, TIME_LIMIT));
            while !detaching.is_finished() {
                // The device goes away meanwhile: that it does not answer is no trouble.
                let left = device
                    .query_status()
                    .map_or(0, |status| status.nr_allocated);
                progress.set(total.saturating_sub(left));
                thread::sleep(Duration::from_millis(20));
            }
            detaching.join()
        });
        let elapsed = started.elapsed();
        let outcome = match outcome {
            Ok(outcome) => outcome?,
            Err(_panic) => return Err(Trouble::said("the thread that detaches has panicked")),
        };
        if outcome.is_done() {
            self.state = State::Detached;
        }
        Ok((outcome, elapsed))
    }

    /// Gives the range back to who had it, if it is detached; what was done, for people.
    pub(super) fn restore_detached(&mut self) -> Result<Option<String>, Trouble> {
        match self.state {
            State::Detached => self.restore().map(Some),
            State::Attached | State::Restored => Ok(None),
        }
    }

    fn restore(&mut self) -> Result<String, Trouble> {
        let done = match &self.origin {
            Origin::Tour(taken) => {
                taken.give_back()?;
                TakeOver::forget(self.number)?;
                let devices: Vec<_> = taken.taken().map(|(device, ..)| device).collect();
                match devices.as_slice() {
                    [] => format!("{} is free soft-reserved memory again", self.range),
                    devices => format!("{} was given back to {}", self.range, devices.join(", ")),
                }
            }
            Origin::User => {
                let attached = self.control.attach(self.range, AttachOptions::default())?;
                format!(
                    "{} is attached again, as cohmem{}",
                    self.range, attached.device
                )
            }
        };
        self.state = State::Restored;
        Ok(done)
    }

    fn clean_up(&mut self) -> Result<(), Trouble> {
        match (self.state, &self.origin) {
            (State::Restored, _) | (State::Attached, Origin::User) => return Ok(()),
            (State::Attached, Origin::Tour(_)) => {
                let outcome = self.control.detach(self.number, TIME_LIMIT)?;
                if !outcome.is_done() {
                    let stuck = outcome.nr_stuck;
                    return Err(Trouble::said(format!(
                        "{stuck} frames cannot be taken back"
                    )));
                }
            }
            (State::Detached, _) => {}
        }
        self.restore().map(|_done| ())
    }
}

/// What is attached, and how it came to be.
impl fmt::Display for Attachment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let length = self.range.length();
        write!(
            f,
            "{} ({length}, {} frames of 4 KiB)",
            self.range,
            length.frames()
        )?;
        match (&self.origin, self.took) {
            (Origin::User, _) => f.write_str(", found attached"),
            (Origin::Tour(taken), took) => {
                if let Some(took) = took {
                    write!(f, ", attached in {:.2} s", took.as_secs_f64())?;
                }
                taken.taken().try_for_each(|(device, driver, nr_blocks)| {
                    write!(f, ", taken from {device} ({driver}")?;
                    if nr_blocks > 0 {
                        write!(f, ", {nr_blocks} memory blocks taken offline")?;
                    }
                    f.write_str(")")
                })
            }
        }
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        if let Err(trouble) = self.clean_up() {
            eprintln!(
                "cohmem tour: cohmem{} is not as it was before: {trouble}",
                self.number
            );
        }
    }
}

/// The start of `range`, if it has `least` bytes, up to `most`.
fn part(range: PhysRange, least: ByteCount, most: ByteCount) -> Option<PhysRange> {
    let range = range.aligned_inward(RANGE_ALIGN)?;
    let most = most.get().checked_next_multiple_of(RANGE_ALIGN)?;
    let bytes = range.length().get().min(most);
    if bytes < least.get() {
        return None;
    }
    PhysRange::new(range.start(), range.start().checked_add(bytes)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_aligned_and_within_its_limits() {
        const MIB: u64 = 1 << 20;
        let range = PhysRange::new(0x1_0000_1000, 0x1_1000_0000).unwrap();
        let part = |least, most| part(range, ByteCount::new(least), ByteCount::new(most));
        let found = part(64 * MIB, 99 * MIB).unwrap();
        assert_eq!(
            (found.start(), found.length().get()),
            (0x1_0020_0000, 100 * MIB)
        );
        assert_eq!(
            part(64 * MIB, 4096 * MIB).unwrap().length().get(),
            254 * MIB
        );
        assert_eq!(part(256 * MIB, 4096 * MIB), None);
        assert_eq!(part(MIB, u64::MAX), None);
    }
}
