//! Threads that allocate, free each other's frames and withdraw, with an owner's tag on each frame.
#![cfg(not(loom))]

use std::{
    sync::{
        atomic::{AtomicU32, AtomicU64, Ordering},
        mpsc,
    },
    thread,
};

use cohmem_frames::{FrameIndex, FramePool, FrameRun, FreeError, Withdrawal, words_needed};

type Pool = FramePool<Box<[AtomicU64]>>;

const NR_THREADS: u32 = 4;
const NR_ROUNDS: u32 = if cfg!(miri) { 50 } else { 40_000 };

/// Xorshift: the same sequence on each run, another one for each thread.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

struct Device {
    pool: Pool,
    /// The holder of each frame, 0 for none.
    tags: Vec<AtomicU32>,
}

impl Device {
    fn new(nr_frames: u64) -> Self {
        let metadata = (0..words_needed(nr_frames))
            .map(|_| AtomicU64::new(0))
            .collect();
        let pool = FramePool::new(metadata, nr_frames).unwrap();
        Self {
            pool,
            tags: (0..nr_frames).map(|_| AtomicU32::new(0)).collect(),
        }
    }

    fn tag(&self, frame: FrameIndex) -> &AtomicU32 {
        &self.tags[usize::try_from(frame.get()).unwrap()]
    }

    /// The tags are relaxed on purpose: the pool alone must order one owner's before the next one's.
    fn allocate(&self, owner: u32, max: u64) -> Option<FrameRun> {
        let run = self.pool.allocate_run(max)?;
        assert!(!run.is_empty() && run.len() <= max);
        for frame in run.iter() {
            assert_eq!(
                self.tag(frame).swap(owner, Ordering::Relaxed),
                0,
                "{frame} handed out twice"
            );
        }
        Some(run)
    }

    fn free(&self, frame: FrameIndex) {
        assert_ne!(
            self.tag(frame).swap(0, Ordering::Relaxed),
            0,
            "{frame} was nobody's"
        );
        self.pool.free(frame).unwrap();
    }
}

/// Each thread frees half of what it takes itself and sends the other half to its neighbour, as an
/// interrupt on another CPU would free it. Returns how often no frame was left.
fn churn(device: &Device, max: u64, extra_fn: impl Fn(&Device, &mut Random) + Sync) -> u64 {
    let (senders, receivers): (Vec<_>, Vec<_>) =
        (0..NR_THREADS).map(|_| mpsc::channel::<FrameRun>()).unzip();
    let extra_fn = &extra_fn;
    thread::scope(|scope| {
        let threads: Vec<_> = (1..=NR_THREADS)
            .zip(receivers)
            .map(|(owner, inbox)| {
                let next = usize::try_from(owner % NR_THREADS).unwrap();
                let neighbour = senders[next].clone();
                scope.spawn(move || {
                    let mut random = Random(0x9e37_79b9_7f4a_7c15 ^ u64::from(owner));
                    let mut nr_refused = 0;
                    for _ in 0..NR_ROUNDS {
                        match device.allocate(owner, 1 + random.below(max)) {
                            Some(run) if random.below(2) == 0 => {
                                // A neighbour that is done has left its inbox.
                                if let Err(refused) = neighbour.send(run) {
                                    refused.0.iter().for_each(|frame| device.free(frame));
                                }
                            }
                            Some(run) => run.iter().for_each(|frame| device.free(frame)),
                            None => nr_refused += 1,
                        }
                        extra_fn(device, &mut random);
                        if random.below(3) == 0 {
                            while let Ok(run) = inbox.try_recv() {
                                run.iter().for_each(|frame| device.free(frame));
                            }
                        }
                    }
                    (inbox, nr_refused)
                })
            })
            .collect();
        drop(senders);
        // Inboxes are emptied once every sender is gone.
        let ends: Vec<_> = threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect();
        let mut nr_refused = 0;
        for (inbox, refused) in ends {
            inbox
                .iter()
                .flat_map(FrameRun::iter)
                .for_each(|frame| device.free(frame));
            nr_refused += refused;
        }
        nr_refused
    })
}

/// All frames are there and each can be had once.
fn assert_whole(device: &Device) {
    let pool = &device.pool;
    assert_eq!((pool.nr_held(), pool.nr_allocated()), (0, 0));
    assert_eq!(pool.nr_free() + pool.nr_withdrawn(), pool.nr_frames());
    let nr_free = pool.nr_free();
    let mut nr_taken = 0;
    while let Some(run) = device.allocate(1, 1) {
        nr_taken += run.len();
    }
    assert_eq!(nr_taken, nr_free);
    assert_eq!(pool.nr_allocated(), nr_free);
}

#[test]
fn no_frame_is_handed_out_twice() {
    // A few words, so that threads meet in them, and a device of several summary words.
    for (nr_frames, max) in [(5, 3), (3 * 32 + 5, 40), (5000, 600)] {
        let device = Device::new(nr_frames);
        churn(&device, max, |_, _| ());
        assert_whole(&device);
    }
}

#[test]
fn a_device_that_is_nearly_full_refuses_and_recovers() {
    let device = Device::new(4);
    let nr_refused = churn(&device, 4, |_, _| ());
    assert!(nr_refused > 0, "the test is meant to meet exhaustion");
    assert_whole(&device);
}

#[test]
fn withdrawn_frames_leave_while_others_come_and_go() {
    let device = Device::new(300);
    let nr_withdrawn = AtomicU64::new(0);
    churn(&device, 20, |device, random| {
        if random.below(400) != 0 {
            return;
        }
        let frame = FrameIndex::new(random.below(150));
        match device.pool.withdraw(frame).unwrap() {
            Withdrawal::Already => (),
            Withdrawal::WasFree => {
                nr_withdrawn.fetch_add(1, Ordering::Relaxed);
                let tag = device.tag(frame).load(Ordering::Relaxed);
                assert_eq!(tag, 0, "{frame} was withdrawn as free while held");
            }
            Withdrawal::WasAllocated => {
                nr_withdrawn.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    assert_eq!(device.pool.nr_withdrawn(), nr_withdrawn.into_inner());
    assert!(device.pool.nr_withdrawn() > 0);
    for frame in (0..300)
        .map(FrameIndex::new)
        .filter(|frame| device.pool.is_withdrawn(*frame))
    {
        assert_eq!(
            device.pool.free(frame),
            Err(FreeError::NotAllocated { index: frame })
        );
    }
    assert_whole(&device);
}

#[test]
fn of_several_frees_of_one_frame_one_succeeds() {
    let device = Device::new(1);
    for _ in 0..NR_ROUNDS / 100 {
        let frame = device.pool.allocate_run(1).unwrap().start();
        let nr_freed: u32 = thread::scope(|scope| {
            let threads: Vec<_> = (0..3)
                .map(|_| scope.spawn(|| u32::from(device.pool.free(frame).is_ok())))
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .sum()
        });
        assert_eq!(nr_freed, 1);
        assert_eq!(device.pool.nr_free(), 1);
    }
}
