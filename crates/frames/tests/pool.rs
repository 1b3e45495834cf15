//! What the pool promises a single caller, one behaviour a test.
#![cfg(not(loom))]

use std::{error::Error, sync::atomic::AtomicU64};

use cohmem_frames::{
    FrameIndex, FramePool, FrameRun, FreeError, MAX_FRAMES, PoolError, Withdrawal, words_needed,
};

type Pool = FramePool<Box<[AtomicU64]>>;

/// Metadata full of what an earlier user left.
fn dirty_metadata(nr_words: usize) -> Box<[AtomicU64]> {
    (0..nr_words)
        .map(|_| AtomicU64::new(0xdead_beef_dead_beef))
        .collect()
}

fn pool(nr_frames: u64) -> Pool {
    FramePool::new(dirty_metadata(words_needed(nr_frames)), nr_frames).unwrap()
}

fn frame(index: u64) -> FrameIndex {
    FrameIndex::new(index)
}

fn run(start: u64, nr_frames: u64) -> FrameRun {
    FrameRun::new(frame(start), nr_frames)
}

/// free, allocated, withdrawn, held.
fn counts(pool: &Pool) -> (u64, u64, u64, u64) {
    (
        pool.nr_free(),
        pool.nr_allocated(),
        pool.nr_withdrawn(),
        pool.nr_held(),
    )
}

#[test]
fn metadata_stays_within_a_third_of_a_byte_per_frame() {
    assert_eq!(words_needed(0), 0);
    assert_eq!(words_needed(1), 2);
    assert_eq!(words_needed(32), 2);
    assert_eq!(words_needed(33), 3);
    assert_eq!(words_needed(32 * 64), 65);
    assert_eq!(words_needed(32 * 64 + 1), 67);
    let nr_frames = 64 << 20;
    assert!(words_needed(nr_frames) * 8 <= usize::try_from(nr_frames).unwrap() / 3);
}

#[test]
fn an_impossible_pool_is_refused_with_the_values() {
    let make = |nr_words, nr_frames| FramePool::new(dirty_metadata(nr_words), nr_frames).err();
    assert_eq!(make(8, 0), Some(PoolError::NoFrames));
    assert_eq!(
        make(8, MAX_FRAMES + 1),
        Some(PoolError::TooManyFrames {
            nr_frames: MAX_FRAMES + 1,
            limit: MAX_FRAMES
        })
    );
    assert_eq!(
        make(2, 33),
        Some(PoolError::MetadataTooSmall {
            nr_words: 2,
            needed: 3
        })
    );
    assert_eq!(make(3, 33), None);
    assert_eq!(
        make(0, MAX_FRAMES),
        Some(PoolError::MetadataTooSmall {
            nr_words: 0,
            needed: words_needed(MAX_FRAMES)
        })
    );
}

#[test]
fn words_past_the_needed_ones_are_not_touched() {
    let metadata = dirty_metadata(words_needed(100) + 1);
    let pool = FramePool::new(&metadata[..], 100).unwrap();
    while pool.allocate_run(7).is_some() {}
    assert_eq!(pool.nr_allocated(), 100);
    assert_eq!(
        metadata.into_iter().next_back().unwrap().into_inner(),
        0xdead_beef_dead_beef
    );
}

#[test]
fn runs_cross_words_and_the_whole_device_is_one_run() {
    for nr_frames in [1, 31, 32, 33, 64, 2047, 2048, 2049, 100_000] {
        let pool = pool(nr_frames);
        assert_eq!(
            pool.allocate_run(u64::MAX),
            Some(run(0, nr_frames)),
            "{nr_frames}"
        );
        assert_eq!(pool.allocate_run(1), None);
        assert_eq!(counts(&pool), (0, nr_frames, 0, nr_frames));
    }
}

#[test]
fn a_request_for_nothing_gets_nothing() {
    assert_eq!(pool(10).allocate_run(0), None);
    assert_eq!(pool(10).next_allocated_run(frame(0), 0), None);
}

#[test]
fn a_freed_frame_is_found_wherever_it_is() {
    let nr_frames = 3 * 2048 + 17;
    let pool = pool(nr_frames);
    assert_eq!(
        pool.allocate_run(nr_frames).map(FrameRun::len),
        Some(nr_frames)
    );
    for index in (0..nr_frames).step_by(29).chain([nr_frames - 1]) {
        pool.free(frame(index)).unwrap();
        assert_eq!(pool.allocate_run(64), Some(run(index, 1)));
    }
}

#[test]
fn a_run_of_full_length_is_preferred_to_a_nearer_short_one() {
    let pool = pool(500);
    pool.allocate_run(500).unwrap();
    // Short runs everywhere; the only one of 40 frames lies across what the last search ended in.
    for index in (0..500).step_by(10).chain(230..270) {
        if pool.is_allocated(frame(index)) {
            pool.free(frame(index)).unwrap();
        }
    }
    assert_eq!(pool.allocate_run(40), Some(run(230, 40)));
    pool.free(frame(235)).unwrap();
    for index in 240..270 {
        pool.free(frame(index)).unwrap();
    }
    assert_eq!(
        pool.allocate_run(40),
        Some(run(240, 31)),
        "frame 270 was free as well"
    );
}

#[test]
fn a_frame_is_freed_once() {
    let pool = pool(40);
    let taken = pool.allocate_run(3).unwrap();
    let last = frame(taken.end().get() - 1);
    pool.free(last).unwrap();
    assert_eq!(
        pool.free(last),
        Err(FreeError::NotAllocated { index: last })
    );
    assert_eq!(
        pool.free(frame(39)),
        Err(FreeError::NotAllocated { index: frame(39) })
    );
    for index in [40, 63, 64, u64::MAX] {
        let index = frame(index);
        assert_eq!(
            pool.free(index),
            Err(FreeError::OutOfRange {
                index,
                nr_frames: 40
            })
        );
        assert_eq!(
            pool.withdraw(index),
            Err(FreeError::OutOfRange {
                index,
                nr_frames: 40
            })
        );
        assert!(!pool.is_allocated(index));
        assert!(!pool.is_withdrawn(index));
    }
    assert_eq!(counts(&pool), (38, 2, 0, 2));
}

#[test]
fn a_free_frame_is_withdrawn_at_once() {
    let pool = pool(2);
    assert_eq!(pool.withdraw(frame(0)), Ok(Withdrawal::WasFree));
    assert_eq!(pool.withdraw(frame(0)), Ok(Withdrawal::Already));
    assert_eq!(counts(&pool), (1, 0, 1, 0));
    assert_eq!(
        pool.free(frame(0)),
        Err(FreeError::NotAllocated { index: frame(0) })
    );
    assert_eq!(pool.allocate_run(2), Some(run(1, 1)));
    assert_eq!(pool.allocate_run(2), None);
    assert!(pool.is_withdrawn(frame(0)) && !pool.is_allocated(frame(0)));
}

#[test]
fn a_held_frame_is_withdrawn_and_leaves_when_its_owner_frees_it() {
    let pool = pool(2);
    pool.allocate_run(2).unwrap();
    assert_eq!(pool.withdraw(frame(1)), Ok(Withdrawal::WasAllocated));
    assert_eq!(pool.withdraw(frame(1)), Ok(Withdrawal::Already));
    assert_eq!(counts(&pool), (0, 1, 1, 2));
    assert!(pool.is_withdrawn(frame(1)) && pool.is_allocated(frame(1)));
    assert_eq!(pool.next_allocated_run(frame(0), 9), Some(run(0, 2)));

    assert_eq!(pool.free(frame(1)), Ok(()));
    assert_eq!(
        pool.free(frame(1)),
        Err(FreeError::NotAllocated { index: frame(1) })
    );
    assert_eq!(counts(&pool), (0, 1, 1, 1));
    assert_eq!(pool.allocate_run(1), None);
    assert_eq!(pool.next_allocated_run(frame(0), 9), Some(run(0, 1)));
}

#[test]
fn the_walk_meets_each_held_frame_once_in_order() {
    let pool = pool(5000);
    pool.allocate_run(5000).unwrap();
    for index in (0..5000).filter(|index| index % 97 == 0 || (700..3900).contains(index)) {
        pool.free(frame(index)).unwrap();
    }
    for max in [1, 3, 32, 33, 10_000] {
        let mut met = Vec::new();
        let mut from = frame(0);
        while let Some(run) = pool.next_allocated_run(from, max) {
            assert!(run.start() >= from && run.len() <= max && !run.is_empty());
            met.extend(run.iter());
            from = run.end();
        }
        let held: Vec<_> = (0..5000)
            .map(frame)
            .filter(|frame| pool.is_allocated(*frame))
            .collect();
        assert_eq!(met, held, "max {max}");
    }
    assert_eq!(pool.next_allocated_run(frame(5000), 1), None);
    assert_eq!(pool.next_allocated_run(frame(u64::MAX), 1), None);
}

#[test]
fn a_run_never_ends_past_the_last_number() {
    let run = run(u64::MAX - 2, 100);
    assert_eq!((run.len(), run.end()), (2, frame(u64::MAX)));
    assert_eq!(
        run.iter().rev().map(FrameIndex::get).collect::<Vec<_>>(),
        [u64::MAX - 1, u64::MAX - 2]
    );
    assert!(FrameRun::new(frame(7), 0).is_empty());
}

#[test]
fn messages_name_the_value_and_the_limit() {
    let of = |error: &dyn Error| error.to_string();
    assert_eq!(
        of(&PoolError::NoFrames),
        "a pool needs at least 1 frame, got 0"
    );
    assert_eq!(
        of(&PoolError::TooManyFrames {
            nr_frames: 9,
            limit: 8
        }),
        "9 frames are more than the 8 a pool can have"
    );
    assert_eq!(
        of(&PoolError::MetadataTooSmall {
            nr_words: 1,
            needed: 2
        }),
        "metadata has 1 64-bit words, 2 needed"
    );
    assert_eq!(
        of(&FreeError::NotAllocated { index: frame(5) }),
        "frame 5 is not allocated"
    );
    assert_eq!(
        of(&FreeError::OutOfRange {
            index: frame(5),
            nr_frames: 4
        }),
        "frame 5 is out of range, the device has 4 frames"
    );
    assert_eq!(
        format!("{:?}", pool(3)),
        "FramePool { nr_frames: 3, nr_free: 3, nr_allocated: 0, nr_withdrawn: 0, .. }"
    );
}
