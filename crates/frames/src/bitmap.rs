//! The words of a pool's metadata and the atomic operations on them.
//!
//! The metadata of `n` frames is `ceil(n / 32)` **frame words**, then one **summary** bit for each
//! frame word:
//!
//! ```text
//! frame word w:    bit i      (0..32)    somebody holds frame 32 * w + i
//!                  bit 32 + i            frame 32 * w + i is withdrawn
//! summary word s:  bit i      (0..64)    frame word 64 * s + i is full: has no free frame
//! ```
//!
//! Frames past the end of the device, in the last frame word, are withdrawn from the start; so are
//! words past the end full. Nothing else treats the ends apart.
//!
//! # Invariants
//!
//! **S1.** Whenever no operation is under way, the summary bit of a frame word that has a free frame
//! is 0. The other direction is not promised: a full word may have a 0 bit, which costs a search one
//! look at it.

use crate::{
    ids::{FrameIndex, FrameRun},
    sync::{AtomicU64, Ordering},
};

/// Frames whose state one word holds.
const FRAMES_PER_WORD: u64 = 32;

/// Frame words that one summary word covers.
const WORDS_PER_SUMMARY: u64 = 64;

/// The same for indices of words.
const SUMMARY_SPAN: usize = to_usize(WORDS_PER_SUMMARY);

/// The held bits of a frame word.
const LOW: u64 = 0xffff_ffff;

/// How often [`FrameBits::claim`] tries to change one word. An exchange fails only because another
/// operation changed the word in between. If no other CPU allocates, those are at most 32 frees and 32
/// withdrawals, so that the 65th try succeeds.
const CLAIM_TRIES: usize = 65;

/// Number of `u64` metadata words that a pool of `nr_frames` frames needs.
///
/// **Units and ranges:** 64-bit words; about `nr_frames / 31.5`. `usize::MAX` stands for more than the
/// address space holds.
#[must_use]
pub const fn words_needed(nr_frames: u64) -> usize {
    let frame_words = nr_frames.div_ceil(FRAMES_PER_WORD);
    // At most 2^59 + 2^53.
    to_usize(frame_words.saturating_add(frame_words.div_ceil(WORDS_PER_SUMMARY)))
}

/// An index or length, `usize::MAX` (which no slice reaches) if it does not fit.
#[expect(
    clippy::cast_possible_truncation,
    reason = "the value was compared with usize::MAX"
)]
const fn to_usize(value: u64) -> usize {
    if value < usize::MAX as u64 {
        value as usize
    } else {
        usize::MAX
    }
}

/// The lowest `nr_bits` bits.
fn low_mask(nr_bits: u32) -> u64 {
    1u64.checked_shl(nr_bits)
        .map_or(u64::MAX, |bit| bit.wrapping_sub(1))
}

/// `nr_bits` bits from bit `start` on.
fn mask(start: u32, nr_bits: u32) -> u64 {
    low_mask(nr_bits).checked_shl(start).unwrap_or(0)
}

/// The lowest run of ones: its first bit and its length; of no ones, length 0.
fn lowest_run(bits: u64) -> (u32, u32) {
    let start = bits.trailing_zeros();
    (start, bits.checked_shr(start).unwrap_or(0).trailing_ones())
}

/// One frame word's value at some moment.
#[derive(Clone, Copy)]
pub(crate) struct FrameWord(u64);

impl FrameWord {
    /// Bit i: frame i of this word is free.
    fn free(self) -> u64 {
        !(self.0 | (self.0 >> 32)) & LOW
    }

    /// Bit i: somebody holds frame i of this word.
    fn held(self) -> u64 {
        self.0 & LOW
    }

    fn is_full(self) -> bool {
        self.free() == 0
    }
}

/// The state of one frame at some moment.
#[derive(Clone, Copy)]
pub(crate) struct FrameState {
    pub(crate) is_held: bool,
    pub(crate) is_withdrawn: bool,
}

/// A frame's place in the frame words.
#[derive(Clone, Copy)]
struct Place {
    word: usize,
    held_bit: u64,
}

impl Place {
    fn of(frame: FrameIndex) -> Self {
        let word = to_usize(frame.get() / FRAMES_PER_WORD);
        Self {
            word,
            held_bit: 1 << (frame.get() % FRAMES_PER_WORD),
        }
    }

    fn withdrawn_bit(self) -> u64 {
        self.held_bit << 32
    }

    fn state_in(self, word: u64) -> FrameState {
        FrameState {
            is_held: word & self.held_bit != 0,
            is_withdrawn: word & self.withdrawn_bit() != 0,
        }
    }
}

/// Which frame words a search looks at.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Coverage {
    /// Those that the summary does not call full.
    Open,
    /// Every one, whatever the summary says.
    All,
}

/// A search for free frames: what is wanted, and the longest run met so far.
pub(crate) struct Search {
    /// A run of this length ends the search. At least 1.
    pub(crate) max: u64,
    /// Words still to look at after the first free frame, in the hope of a longer run.
    pub(crate) nr_words_left: u32,
    /// The longest run so far, at most `max` long; `None` if no free frame was met.
    pub(crate) best: Option<FrameRun>,
}

impl Search {
    /// Whether looking further can't help or isn't wanted.
    pub(crate) fn is_over(&self) -> bool {
        self.has_full_length() || (self.best.is_some() && self.nr_words_left == 0)
    }

    fn has_full_length(&self) -> bool {
        self.best.is_some_and(|best| best.len() >= self.max)
    }

    fn offer(&mut self, run: FrameRun) {
        if self.best.is_none_or(|best| best.len() < run.len()) {
            self.best = Some(FrameRun::new(run.start(), run.len().min(self.max)));
        }
    }
}

/// A pool's metadata, split into its two parts.
#[derive(Clone, Copy)]
pub(crate) struct FrameBits<'m> {
    frames: &'m [AtomicU64],
    summary: &'m [AtomicU64],
}

impl<'m> FrameBits<'m> {
    /// Splits the metadata of `nr_frames` frames; `None` if it has too few words.
    pub(crate) fn split(metadata: &'m [AtomicU64], nr_frames: u64) -> Option<Self> {
        let metadata = metadata.get(..words_needed(nr_frames))?;
        let nr_words = to_usize(nr_frames.div_ceil(FRAMES_PER_WORD));
        let (frames, summary) = metadata.split_at_checked(nr_words)?;
        Some(Self { frames, summary })
    }

    /// Makes all `nr_frames` frames free.
    pub(crate) fn initialise(self, nr_frames: u64) {
        // Relaxed: whoever shares the pool with other threads orders these before their accesses.
        for word in self.frames.iter().chain(self.summary) {
            word.store(0, Ordering::Relaxed);
        }
        let (_, nr_in_last) = position(nr_frames);
        if let (Some(last), 1..) = (self.frames.last(), nr_in_last) {
            last.store((LOW & !low_mask(nr_in_last)) << 32, Ordering::Relaxed);
        }
        let nr_in_last = self.frames.len() % SUMMARY_SPAN;
        if let (Some(last), 1..) = (self.summary.last(), nr_in_last) {
            last.store(u64::MAX << nr_in_last, Ordering::Relaxed);
        }
    }

    /// A frame's state; `None` if it is out of range.
    pub(crate) fn state(self, frame: FrameIndex) -> Option<FrameState> {
        let place = Place::of(frame);
        // Relaxed: a moment's view; an owner's content is ordered by allocating, not by looking.
        let word = self.frames.get(place.word)?.load(Ordering::Relaxed);
        Some(place.state_in(word))
    }

    /// Ends the holding of a frame and returns what it was before; a frame that nobody held stays as
    /// it was. `None` if it is out of range. One atomic operation, and one more if the word was full.
    pub(crate) fn release(self, frame: FrameIndex) -> Option<FrameState> {
        let place = Place::of(frame);
        // Release: the old owner's writes to the frame come before it. Pairs with the acquire in
        // `claim` and in `withdraw`; what other frames' owners do to the word in between are
        // read-modify-writes and so continue the release sequence.
        let old = self
            .frames
            .get(place.word)?
            .fetch_and(!place.held_bit, Ordering::Release);
        let state = place.state_in(old);
        if FrameWord(old).is_full() && state.is_held && !state.is_withdrawn {
            self.mark_open(place.word);
        }
        Some(state)
    }

    /// Marks a frame as withdrawn and returns what it was before. `None` if it is out of range.
    pub(crate) fn withdraw(self, frame: FrameIndex) -> Option<FrameState> {
        let place = Place::of(frame);
        // Acquire: who withdraws a free frame may use it (a memory map lives there), and its last
        // owner's writes must not land on top. Pairs with the release in `release`.
        let bit = place.withdrawn_bit();
        let old = self
            .frames
            .get(place.word)?
            .fetch_or(bit, Ordering::Acquire);
        if !FrameWord(old).is_full() && FrameWord(old | bit).is_full() {
            self.mark_full(place.word);
        }
        Some(place.state_in(old))
    }

    /// Takes the frames of `run` from its start on, up to the first that is no longer free.
    pub(crate) fn claim_run(self, run: FrameRun) -> Option<FrameRun> {
        let mut nr_claimed = 0u64;
        while nr_claimed < run.len() {
            let next = run.start().get().saturating_add(nr_claimed);
            let (word, first) = position(next);
            let room = FRAMES_PER_WORD.saturating_sub(u64::from(first));
            let wanted = room.min(run.len().saturating_sub(nr_claimed));
            let got = self.claim(word, first, wanted);
            nr_claimed = nr_claimed.saturating_add(got);
            if got < wanted {
                break;
            }
        }
        (nr_claimed > 0).then(|| FrameRun::new(run.start(), nr_claimed))
    }

    /// Takes up to `wanted` free frames of one word, consecutive from frame `first` of it on, and
    /// returns how many.
    fn claim(self, index: usize, first: u32, wanted: u64) -> u64 {
        let Some(word) = self.frames.get(index) else {
            return 0;
        };
        let mut seen = word.load(Ordering::Relaxed);
        for _ in 0..CLAIM_TRIES {
            let free = FrameWord(seen).free().checked_shr(first).unwrap_or(0);
            let got = u64::from(free.trailing_ones()).min(wanted);
            if got == 0 {
                return 0;
            }
            let taken = seen | mask(first, u32::try_from(got).unwrap_or(0));
            // Acquire: pairs with the release in `release`. A value that comes back to what was seen
            // (freed and taken again in between) does no harm, the word is the whole state. Strong:
            // `CLAIM_TRIES` counts on failures having a cause.
            match word.compare_exchange(seen, taken, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => {
                    if FrameWord(taken).is_full() {
                        self.mark_full(index);
                    }
                    return got;
                }
                Err(now) => seen = now,
            }
        }
        0
    }

    /// Notes in the summary that frame word `index` was seen full.
    ///
    /// A free may have come in between. If its `mark_open` came after our change of the summary, the
    /// bit is right. If it came before, we read what it wrote, so that our second look sees the free.
    /// This holds only because both sides write the summary with read-modify-writes, whatever the bit
    /// was: `mark_open` must not be skipped for a bit that is 0. Hence S1.
    fn mark_full(self, index: usize) {
        let Some((summary, bit)) = self.summary_bit(index) else {
            return;
        };
        // Acquire: pairs with the release in `mark_open`.
        summary.fetch_or(bit, Ordering::Acquire);
        // Relaxed: ordered after the free's change of the word by the acquire above.
        let now = self
            .frames
            .get(index)
            .map(|word| FrameWord(word.load(Ordering::Relaxed)));
        if now.is_some_and(|word| !word.is_full()) {
            self.mark_open(index);
        }
    }

    /// Notes in the summary that frame word `index` got a free frame.
    fn mark_open(self, index: usize) {
        if let Some((summary, bit)) = self.summary_bit(index) {
            // Release: the free frame's word comes before it. Pairs with the acquire in `mark_full`.
            summary.fetch_and(!bit, Ordering::Release);
        }
    }

    fn summary_bit(self, index: usize) -> Option<(&'m AtomicU64, u64)> {
        let summary = self.summary.get(index / SUMMARY_SPAN)?;
        Some((summary, 1 << (index % SUMMARY_SPAN)))
    }

    /// The first frame word at or after `from` that the summary does not call full.
    fn next_open(self, from: usize) -> Option<usize> {
        let mut index = from / SUMMARY_SPAN;
        let mut first = from % SUMMARY_SPAN;
        while let Some(summary) = self.summary.get(index) {
            // Relaxed: a hint where to look; `claim` looks for itself.
            let open = !summary.load(Ordering::Relaxed) & (u64::MAX << first);
            if open != 0 {
                let bit = to_usize(u64::from(open.trailing_zeros()));
                return Some(index.saturating_mul(SUMMARY_SPAN).saturating_add(bit));
            }
            index = index.saturating_add(1);
            first = 0;
        }
        None
    }

    /// Goes on with a search, from frame `from` to the end of the device.
    pub(crate) fn search(self, search: &mut Search, from: u64, coverage: Coverage) {
        let (mut index, first) = position(from);
        let mut ignored = low_mask(first);
        // The run at the end of what was looked at.
        let mut run = FrameRun::new(FrameIndex::new(from), 0);
        loop {
            if coverage == Coverage::Open {
                let Some(open) = self.next_open(index) else {
                    return;
                };
                if open != index {
                    ignored = 0;
                }
                index = open;
            }
            let Some(word) = self.frames.get(index) else {
                return;
            };
            // Relaxed: a hint where to look; `claim` looks for itself.
            let mut free = FrameWord(word.load(Ordering::Relaxed)).free() & !ignored;
            ignored = 0;
            let base = base_of(index);
            while free != 0 {
                let (start, len) = lowest_run(free);
                free &= !mask(start, len);
                let start = base.saturating_add(u64::from(start));
                run = joined(run, FrameRun::new(FrameIndex::new(start), u64::from(len)));
                search.offer(run);
            }
            index = index.saturating_add(1);
            if search.has_full_length() {
                return;
            }
            // A run that reaches the word's end is still growing: the look at it was no detour.
            let is_growing = !run.is_empty() && run.end().get() == base_of(index);
            if search.best.is_some() && !is_growing {
                if search.nr_words_left == 0 {
                    return;
                }
                search.nr_words_left = search.nr_words_left.saturating_sub(1);
            }
        }
    }

    /// The first run of held frames at or after frame `from`, cut after `max` frames. `max` is at
    /// least 1.
    pub(crate) fn next_held_run(self, from: u64, max: u64) -> Option<FrameRun> {
        let (mut index, first) = position(from);
        let mut ignored = low_mask(first);
        let mut run: Option<FrameRun> = None;
        while let Some(word) = self.frames.get(index) {
            // Relaxed: a moment's view, as for `state`.
            let held = FrameWord(word.load(Ordering::Relaxed)).held() & !ignored;
            let (start, len) = lowest_run(held);
            let start = FrameIndex::new(base_of(index).saturating_add(u64::from(start)));
            ignored = 0;
            index = index.saturating_add(1);
            let more = FrameRun::new(start, u64::from(len));
            let so_far = match run {
                None if more.is_empty() => continue,
                None => more,
                Some(run) if more.is_empty() || run.end() != start => break,
                Some(run) => joined(run, more),
            };
            run = Some(so_far);
            if so_far.len() >= max || so_far.end().get() != base_of(index) {
                break;
            }
        }
        run.map(|run| FrameRun::new(run.start(), run.len().min(max)))
    }
}

/// The word of a frame, and the frame's number in it (below 32).
fn position(frame: u64) -> (usize, u32) {
    let in_word = u32::try_from(frame % FRAMES_PER_WORD).unwrap_or(0);
    (to_usize(frame / FRAMES_PER_WORD), in_word)
}

/// The first frame of a frame word.
fn base_of(index: usize) -> u64 {
    u64::try_from(index)
        .unwrap_or(u64::MAX)
        .saturating_mul(FRAMES_PER_WORD)
}

/// `run` and `more` as one if they touch, else `more`.
fn joined(run: FrameRun, more: FrameRun) -> FrameRun {
    if run.end() == more.start() {
        FrameRun::new(run.start(), run.len().saturating_add(more.len()))
    } else {
        more
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;

    #[test]
    fn a_full_word_is_passed_over_and_an_opened_one_is_not() {
        let metadata = [const { AtomicU64::new(0) }; words_needed(64)];
        let bits = FrameBits::split(&metadata, 64).unwrap();
        bits.initialise(64);
        bits.claim_run(FrameRun::new(FrameIndex::new(0), 32));
        assert_eq!(bits.next_open(0), Some(1));
        bits.claim_run(FrameRun::new(FrameIndex::new(32), 31));
        assert_eq!(bits.next_open(0), Some(1));
        bits.withdraw(FrameIndex::new(63));
        assert_eq!(bits.next_open(0), None);
        bits.release(FrameIndex::new(63));
        assert_eq!(bits.next_open(0), None, "nobody held a withdrawn frame");
        bits.release(FrameIndex::new(40));
        assert_eq!(bits.next_open(0), Some(1));
    }
}

/// S1, which the public methods hide: a stale summary only makes them slower.
#[cfg(test)]
#[cfg(loom)]
mod loom_tests {
    use std::{boxed::Box, vec::Vec};

    use loom::{model, sync::Arc, thread};

    use super::*;

    struct Metadata {
        words: Box<[AtomicU64]>,
        nr_frames: u64,
    }

    impl Metadata {
        /// A device of one frame word, the first `nr_taken` of its frames taken.
        fn new(nr_frames: u64, nr_taken: u64) -> Arc<Self> {
            let words: Vec<_> = (0..words_needed(nr_frames))
                .map(|_| AtomicU64::new(0))
                .collect();
            let metadata = Self {
                words: words.into(),
                nr_frames,
            };
            metadata.bits().initialise(nr_frames);
            metadata
                .bits()
                .claim_run(FrameRun::new(FrameIndex::new(0), nr_taken));
            Arc::new(metadata)
        }

        fn bits(&self) -> FrameBits<'_> {
            FrameBits::split(&self.words, self.nr_frames).unwrap()
        }

        fn assert_s1(&self) {
            let word = FrameWord(self.words[0].load(Ordering::Relaxed));
            if !word.is_full() {
                assert_eq!(self.bits().next_open(0), Some(0), "a free frame is hidden");
            }
        }
    }

    fn spawn(
        metadata: &Arc<Metadata>,
        body: impl FnOnce(FrameBits<'_>) + 'static,
    ) -> thread::JoinHandle<()> {
        let metadata = Arc::clone(metadata);
        thread::spawn(move || body(metadata.bits()))
    }

    #[test]
    fn a_claim_that_fills_a_word_beside_a_free_hides_nothing() {
        model(|| {
            let metadata = Metadata::new(2, 1);
            let free = spawn(&metadata, |bits| {
                bits.release(FrameIndex::new(0));
            });
            metadata.bits().claim(0, 1, 1);
            free.join().unwrap();
            metadata.assert_s1();
        });
    }

    #[test]
    fn a_withdrawal_that_fills_a_word_beside_a_free_hides_nothing() {
        model(|| {
            let metadata = Metadata::new(2, 1);
            let free = spawn(&metadata, |bits| {
                bits.release(FrameIndex::new(0));
            });
            metadata.bits().withdraw(FrameIndex::new(1));
            free.join().unwrap();
            metadata.assert_s1();
        });
    }

    #[test]
    fn a_claim_beside_changes_of_other_frames_of_its_word_succeeds() {
        model(|| {
            let metadata = Metadata::new(4, 2);
            let free = spawn(&metadata, |bits| {
                bits.release(FrameIndex::new(0));
            });
            let withdraw = spawn(&metadata, |bits| {
                bits.withdraw(FrameIndex::new(3));
            });
            assert_eq!(metadata.bits().claim(0, 2, 1), 1);
            free.join().unwrap();
            withdraw.join().unwrap();
            metadata.assert_s1();
        });
    }

    #[test]
    fn two_claims_and_a_free_hide_nothing() {
        model(|| {
            let metadata = Metadata::new(2, 1);
            let free = spawn(&metadata, |bits| {
                bits.release(FrameIndex::new(0));
            });
            let claim = spawn(&metadata, |bits| {
                bits.claim(0, 0, 1);
            });
            metadata.bits().claim(0, 1, 1);
            free.join().unwrap();
            claim.join().unwrap();
            metadata.assert_s1();
        });
    }

    #[test]
    fn frees_and_a_claim_between_them_hide_nothing() {
        model(|| {
            let metadata = Metadata::new(1, 1);
            let turn = |bits: FrameBits<'_>| {
                if bits.claim(0, 0, 1) == 1 {
                    bits.release(FrameIndex::new(0));
                }
            };
            let one = spawn(&metadata, turn);
            let two = spawn(&metadata, turn);
            metadata.bits().release(FrameIndex::new(0));
            one.join().unwrap();
            two.join().unwrap();
            metadata.assert_s1();
        });
    }
}
