//! The pool: one device's frames, handed out and taken back.

use core::{fmt, ops::Deref};

use crate::{
    FrameIndex, FrameRun, FreeError, PoolError,
    bitmap::{Coverage, FrameBits, FrameState, Search, words_needed},
    count::Count,
    sync::{AtomicU64, Ordering},
};

/// The most frames a pool can have: a 64-bit physical address space of 4 KiB frames.
pub const MAX_FRAMES: u64 = 1 << 52;

/// Frame words (of 32 frames) that an allocation looks at, once it has met a free frame, in the hope of
/// a longer run: 64 MiB of 4 KiB frames, 4 KiB of metadata.
const SEARCH_WORDS: u32 = 512;

/// What a frame was when it was withdrawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Withdrawal {
    /// Free: it is out of the pool now.
    WasFree,
    /// Allocated: its owner still holds it; freed, it does not become free again.
    WasAllocated,
    /// Withdrawn before, by this or another caller; nothing changed.
    Already,
}

/// The frames of one device.
///
/// `M` is what holds the metadata: a borrowed slice, a box, a kernel buffer. While the pool lives,
/// nothing else may write to it; if something does, frames are lost or handed out twice, but nothing
/// here panics or leaves the slice.
///
/// **Context:** every method may be called from any context, hard-irq included, at any time, on any
/// number of CPUs at once. None blocks, sleeps, locks or allocates.
///
/// **Concurrency:** a frame is held by one caller at most. The counts are exact whenever no other
/// operation is under way, else each is off by at most what is under way.
///
/// # Invariants
///
/// * `nr_frames` is in `1..=MAX_FRAMES`.
/// * With no operation under way, over the frames of the pool: `held` is the number of held bits,
///   `withdrawn` that of withdrawn bits, and `withdrawn_held` that of frames with both.
/// * `hint` is below or equal to `nr_frames`.
pub struct FramePool<M> {
    metadata: M,
    nr_frames: u64,
    held: Count,
    withdrawn: Count,
    withdrawn_held: Count,
    /// The frame at which the next search starts. Only a hint.
    hint: AtomicU64,
}

impl<M: Deref<Target = [AtomicU64]>> FramePool<M> {
    /// Makes a pool of `nr_frames` free frames.
    ///
    /// **Shape:** `metadata` has at least [`words_needed`]`(nr_frames)` words; their content does not
    /// matter, and words past that are not touched. Each dereference of it yields the same slice.
    ///
    /// # Errors
    ///
    /// [`PoolError`], in the order of its variants; the metadata is unchanged and dropped.
    pub fn new(metadata: M, nr_frames: u64) -> Result<Self, PoolError> {
        if nr_frames == 0 {
            return Err(PoolError::NoFrames);
        }
        if nr_frames > MAX_FRAMES {
            return Err(PoolError::TooManyFrames {
                nr_frames,
                limit: MAX_FRAMES,
            });
        }
        let Some(bits) = FrameBits::split(&metadata, nr_frames) else {
            let needed = words_needed(nr_frames);
            return Err(PoolError::MetadataTooSmall {
                nr_words: metadata.len(),
                needed,
            });
        };
        bits.initialise(nr_frames);
        // INVARIANT: `nr_frames` was checked; no bit of a frame is set and each count is 0.
        Ok(Self {
            metadata,
            nr_frames,
            held: Count::zero(),
            withdrawn: Count::zero(),
            withdrawn_held: Count::zero(),
            hint: AtomicU64::new(0),
        })
    }

    /// Takes up to `max` consecutive frames.
    ///
    /// Prefers a run of the full length. Where there is none within a bounded search, takes the
    /// longest run met; so a short run does not mean that the pool is nearly empty. The search starts
    /// after the last run handed out. In a pool of up to 8192 frames that nobody else uses meanwhile,
    /// it finds a run of the full length if there is one.
    ///
    /// `None`: no frame is free, or other callers took what was. If a frame is free and nobody else
    /// allocates, the answer is never `None`. `max` 0 is always `None`.
    ///
    /// The content of the frames is what their last owners left; all of their writes come before.
    ///
    /// **Cost:** where frames are free near the last run, a look at some words and one atomic exchange
    /// for each 32 frames. At worst (all but a few frames taken) a walk over the summary, 256 KiB for a
    /// device of 256 GiB; where the summary is being changed at that very moment, over all metadata.
    pub fn allocate_run(&self, max: u64) -> Option<FrameRun> {
        let max = max.min(self.nr_frames);
        if max == 0 {
            return None;
        }
        let bits = self.bits()?;
        // Relaxed: only a hint.
        let hint = self.hint.load(Ordering::Relaxed);
        let mut search = Search {
            max,
            nr_words_left: SEARCH_WORDS,
            best: None,
        };
        bits.search(&mut search, hint, Coverage::Open);
        if hint > 0 && !search.is_over() {
            // From the very start to the very end: a run may lie across the hint.
            bits.search(&mut search, 0, Coverage::Open);
        }
        if let Some(best) = search.best {
            if let Some(run) = self.claim(bits, best) {
                return Some(run);
            }
            // Others took it first. Where many compete, take what is nearest.
            let near = self.claim_first(bits, best.start().get(), max, Coverage::Open);
            if let Some(run) = near.or_else(|| self.claim_first(bits, 0, max, Coverage::Open)) {
                return Some(run);
            }
        }
        // A CPU that stopped between its two steps on the summary may have hidden a free frame.
        if self.nr_free() == 0 {
            None
        } else {
            self.claim_first(bits, 0, max, Coverage::All)
        }
    }

    /// Takes the first run that is still free when it comes to taking it. Each turn starts further on.
    fn claim_first(
        &self,
        bits: FrameBits<'_>,
        mut from: u64,
        max: u64,
        coverage: Coverage,
    ) -> Option<FrameRun> {
        loop {
            let mut search = Search {
                max,
                nr_words_left: 0,
                best: None,
            };
            bits.search(&mut search, from, coverage);
            let found = search.best?;
            if let Some(run) = self.claim(bits, found) {
                return Some(run);
            }
            from = found.start().get().saturating_add(1);
        }
    }

    fn claim(&self, bits: FrameBits<'_>, run: FrameRun) -> Option<FrameRun> {
        let run = bits.claim_run(run)?;
        self.held.add(run.len());
        // INVARIANT: the run lies in the pool, so its end is at most `nr_frames`.
        self.hint.store(run.end().get(), Ordering::Relaxed);
        Some(run)
    }

    /// Gives a frame back. Two or three atomic operations, never a retry.
    ///
    /// A withdrawn frame does not become free, but is no longer held. The writes of the caller to the
    /// frame come before whatever its next owner does.
    ///
    /// # Errors
    ///
    /// * [`FreeError::NotAllocated`]: nobody holds the frame (a double free). The pool is unchanged.
    /// * [`FreeError::OutOfRange`]: no such frame. The pool is unchanged.
    pub fn free(&self, frame: FrameIndex) -> Result<(), FreeError> {
        let before = self.change(frame, FrameBits::release)?;
        if !before.is_held {
            return Err(FreeError::NotAllocated { index: frame });
        }
        if before.is_withdrawn {
            self.withdrawn_held.sub(1);
        }
        // Last, and a release: `nr_held` promises that a counted free touches nothing any more.
        self.held.sub(1);
        Ok(())
    }

    /// Withdraws a frame for good: it is poisoned, or holds the device's memory map.
    ///
    /// A free frame is taken out at once. One that somebody holds stays with its owner until freed,
    /// and then does not become free. From the call on it counts as withdrawn. At most three atomic
    /// operations and two more on the summary, never a retry.
    ///
    /// # Errors
    ///
    /// [`FreeError::OutOfRange`] only: no such frame. The pool is unchanged.
    pub fn withdraw(&self, frame: FrameIndex) -> Result<Withdrawal, FreeError> {
        let before = self.change(frame, FrameBits::withdraw)?;
        if before.is_withdrawn {
            return Ok(Withdrawal::Already);
        }
        if before.is_held {
            self.withdrawn_held.add(1);
        }
        self.withdrawn.add(1);
        Ok(if before.is_held {
            Withdrawal::WasAllocated
        } else {
            Withdrawal::WasFree
        })
    }

    /// Does one operation on a frame that exists.
    fn change<'p>(
        &'p self,
        frame: FrameIndex,
        change_fn: impl FnOnce(FrameBits<'p>, FrameIndex) -> Option<FrameState>,
    ) -> Result<FrameState, FreeError> {
        let out_of_range = FreeError::OutOfRange {
            index: frame,
            nr_frames: self.nr_frames,
        };
        if frame.get() >= self.nr_frames {
            return Err(out_of_range);
        }
        self.bits()
            .and_then(|bits| change_fn(bits, frame))
            .ok_or(out_of_range)
    }

    /// Whether somebody holds the frame, withdrawn or not; `false` for a frame out of range. A moment's
    /// view, unless the caller is the one who holds it.
    pub fn is_allocated(&self, frame: FrameIndex) -> bool {
        self.state(frame).is_some_and(|state| state.is_held)
    }

    /// Whether the frame is withdrawn, held or not; `false` for a frame out of range. `true` is for
    /// good.
    pub fn is_withdrawn(&self, frame: FrameIndex) -> bool {
        self.state(frame).is_some_and(|state| state.is_withdrawn)
    }

    fn state(&self, frame: FrameIndex) -> Option<FrameState> {
        if frame.get() >= self.nr_frames {
            return None;
        }
        self.bits()?.state(frame)
    }

    /// The next run of frames that somebody holds, at or after `from` and at most `max` long; `None`
    /// if there is none, or `max` is 0. To walk all of them, go on from the run's end.
    ///
    /// Withdrawn frames that their owner has not given back are part of it. A moment's view: by the
    /// time the caller looks, any of the frames may have been freed and handed out anew.
    pub fn next_allocated_run(&self, from: FrameIndex, max: u64) -> Option<FrameRun> {
        if max == 0 || from.get() >= self.nr_frames {
            return None;
        }
        self.bits()?.next_held_run(from.get(), max)
    }

    fn bits(&self) -> Option<FrameBits<'_>> {
        // `None` only if the holder yields a shorter slice than it did for `new`.
        FrameBits::split(&self.metadata, self.nr_frames)
    }
}

impl<M> FramePool<M> {
    /// All frames of the pool, in any state: `nr_free + nr_allocated + nr_withdrawn`.
    pub fn nr_frames(&self) -> u64 {
        self.nr_frames
    }

    /// Frames that can be allocated.
    pub fn nr_free(&self) -> u64 {
        self.nr_frames
            .saturating_sub(self.nr_allocated())
            .saturating_sub(self.nr_withdrawn())
    }

    /// Frames handed out that will be free again: held and not withdrawn.
    pub fn nr_allocated(&self) -> u64 {
        self.held.get().saturating_sub(self.withdrawn_held.get())
    }

    /// Frames withdrawn, including those that their owners still hold.
    pub fn nr_withdrawn(&self) -> u64 {
        self.withdrawn.get()
    }

    /// Frames that somebody holds, withdrawn or not: those that [`Self::is_allocated`] tells and
    /// [`Self::next_allocated_run`] walks. What a detach waits for.
    ///
    /// Once nobody allocates any more and this is 0, all that owners wrote to frames came before, and
    /// each call of [`Self::free`] that succeeded has made its last access to the pool.
    pub fn nr_held(&self) -> u64 {
        self.held.get()
    }
}

impl<M> fmt::Debug for FramePool<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FramePool")
            .field("nr_frames", &self.nr_frames())
            .field("nr_free", &self.nr_free())
            .field("nr_allocated", &self.nr_allocated())
            .field("nr_withdrawn", &self.nr_withdrawn())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;

    #[test]
    fn a_frame_that_the_summary_hides_for_a_moment_is_found() {
        let metadata = [const { AtomicU64::new(0) }; words_needed(3)];
        let pool = FramePool::new(&metadata[..], 3).unwrap();
        assert_eq!(pool.allocate_run(2).map(FrameRun::len), Some(2));
        // As if a CPU had stopped in the middle of filling the word when frames came back.
        metadata[1].store(u64::MAX, Ordering::Relaxed);
        assert_eq!(
            pool.allocate_run(2),
            Some(FrameRun::new(FrameIndex::new(2), 1))
        );
        assert_eq!(pool.allocate_run(1), None);
    }
}
