//! Frame numbers and runs of them.

use core::fmt;

/// Index of a frame in its device.
///
/// **Units and ranges:** frames, from 0. Any `u64` can be an index; the pool that is asked checks it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FrameIndex(u64);

impl FrameIndex {
    /// Names the frame with this number.
    #[must_use]
    pub const fn new(index: u64) -> Self {
        Self(index)
    }

    /// The frame's number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for FrameIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// A run of consecutive frames, `start..end`.
///
/// # Invariants
///
/// `start + nr_frames` is at most `u64::MAX`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FrameRun {
    start: FrameIndex,
    nr_frames: u64,
}

impl FrameRun {
    /// Names the `nr_frames` frames from `start` on.
    ///
    /// **Units and ranges:** a length that would run past `u64::MAX` is cut there. No pool has such
    /// frames, so no pool hands out a run that was cut.
    #[must_use]
    pub const fn new(start: FrameIndex, nr_frames: u64) -> Self {
        let room = u64::MAX.saturating_sub(start.0);
        // INVARIANT: at most `room` frames follow `start`.
        Self {
            start,
            nr_frames: if nr_frames < room { nr_frames } else { room },
        }
    }

    /// The first frame.
    #[must_use]
    pub const fn start(self) -> FrameIndex {
        self.start
    }

    /// The frame after the last one.
    #[must_use]
    pub const fn end(self) -> FrameIndex {
        // By the type invariants this never saturates.
        FrameIndex(self.start.0.saturating_add(self.nr_frames))
    }

    /// Number of frames.
    #[must_use]
    pub const fn len(self) -> u64 {
        self.nr_frames
    }

    /// Whether the run has no frame. A run from a pool always has one.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.nr_frames == 0
    }

    /// The frames in ascending order.
    pub fn iter(self) -> impl DoubleEndedIterator<Item = FrameIndex> + Clone {
        (self.start.0..self.end().0).map(FrameIndex)
    }
}
