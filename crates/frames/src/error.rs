//! What can be wrong with a request.

use core::{error, fmt};

use crate::FrameIndex;

/// Why a pool could not be made. The metadata is unchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolError {
    /// A pool of no frames was asked for.
    NoFrames,
    /// More frames than a 64-bit physical address space holds.
    TooManyFrames {
        /// Frames asked for.
        nr_frames: u64,
        /// The most that is possible, [`MAX_FRAMES`](crate::MAX_FRAMES).
        limit: u64,
    },
    /// The metadata has fewer words than [`words_needed`](crate::words_needed) says.
    MetadataTooSmall {
        /// 64-bit words given.
        nr_words: usize,
        /// 64-bit words needed.
        needed: usize,
    },
}

impl fmt::Display for PoolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoFrames => write!(f, "a pool needs at least 1 frame, got 0"),
            Self::TooManyFrames { nr_frames, limit } => {
                write!(
                    f,
                    "{nr_frames} frames are more than the {limit} a pool can have"
                )
            }
            Self::MetadataTooSmall { nr_words, needed } => {
                write!(f, "metadata has {nr_words} 64-bit words, {needed} needed")
            }
        }
    }
}

impl error::Error for PoolError {}

/// Why a frame could not be freed or withdrawn. The pool is unchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FreeError {
    /// Nobody holds the frame: it was freed before, or never handed out.
    NotAllocated {
        /// The frame given.
        index: FrameIndex,
    },
    /// The device has no such frame.
    OutOfRange {
        /// The frame given.
        index: FrameIndex,
        /// Frames of the device; valid indices are below.
        nr_frames: u64,
    },
}

impl fmt::Display for FreeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAllocated { index } => write!(f, "frame {index} is not allocated"),
            Self::OutOfRange { index, nr_frames } => {
                write!(
                    f,
                    "frame {index} is out of range, the device has {nr_frames} frames"
                )
            }
        }
    }
}

impl error::Error for FreeError {}
