//! Every interleaving (up to the preemption bound) of two or three threads, under loom's memory model.
//!
//! Run with `RUSTFLAGS="--cfg loom" LOOM_MAX_PREEMPTIONS=2 cargo test --release --lib --test loom`.
//! The library's own tests under loom look at the summary, which is not to be seen from here.
#![cfg(loom)]

use cohmem_frames::{FrameIndex, FramePool, FrameRun, FreeError, Withdrawal, words_needed};
use loom::{
    cell::UnsafeCell,
    sync::{Arc, atomic::AtomicU64},
    thread,
};

type Pool = FramePool<Box<[AtomicU64]>>;

/// A device whose frames have content, access to which loom checks for data races.
struct Device {
    pool: Pool,
    content: Vec<UnsafeCell<u32>>,
}

// SAFETY: `content` is what the pool's ordering must protect. Loom's cells check each access, and a
// race panics instead of being undefined behaviour.
unsafe impl Sync for Device {}

impl Device {
    fn new(nr_frames: u64) -> Arc<Self> {
        let metadata = (0..words_needed(nr_frames))
            .map(|_| AtomicU64::new(0))
            .collect();
        let content = (0..nr_frames).map(|_| UnsafeCell::new(0)).collect();
        Arc::new(Self {
            pool: FramePool::new(metadata, nr_frames).unwrap(),
            content,
        })
    }

    /// Writes the frame's content; loom panics if another access is not ordered with it.
    fn write(&self, frame: FrameIndex) {
        self.content[usize::try_from(frame.get()).unwrap()].with_mut(|content| {
            // SAFETY: loom's cell has checked that no other access is under way.
            unsafe { *content += 1 }
        });
    }

    fn allocate(&self, max: u64) -> Option<FrameRun> {
        let run = self.pool.allocate_run(max)?;
        run.iter().for_each(|frame| self.write(frame));
        Some(run)
    }

    fn free(&self, frame: FrameIndex) {
        self.write(frame);
        self.pool.free(frame).unwrap();
    }

    fn free_run(&self, run: FrameRun) {
        run.iter().for_each(|frame| self.free(frame));
    }

    fn counts(&self) -> (u64, u64, u64, u64) {
        let pool = &self.pool;
        (
            pool.nr_free(),
            pool.nr_allocated(),
            pool.nr_withdrawn(),
            pool.nr_held(),
        )
    }
}

fn spawn<T: 'static>(
    device: &Arc<Device>,
    body: impl FnOnce(&Device) -> T + 'static,
) -> thread::JoinHandle<T> {
    let device = Arc::clone(device);
    thread::spawn(move || body(&device))
}

#[test]
fn two_allocations_share_no_frame() {
    loom::model(|| {
        let device = Device::new(3);
        let other = spawn(&device, |device| device.allocate(2));
        let mine = device.allocate(2);
        let other = other.join().unwrap();
        let nr_taken = [mine, other]
            .iter()
            .flatten()
            .map(|run| run.len())
            .sum::<u64>();
        // Two and then one, or one of them found its run half taken: never nothing.
        assert!(mine.is_some() && other.is_some());
        assert!(nr_taken >= 2);
        assert_eq!(device.counts(), (3 - nr_taken, nr_taken, 0, nr_taken));
    });
}

#[test]
fn runs_over_two_words_share_no_frame() {
    loom::model(|| {
        let device = Device::new(34);
        device.allocate(30).unwrap();
        let other = spawn(&device, |device| {
            device.allocate(3).map_or(0, FrameRun::len)
        });
        let nr_taken = device.allocate(3).map_or(0, FrameRun::len) + other.join().unwrap();
        assert_eq!(device.pool.nr_allocated(), 30 + nr_taken);
    });
}

#[test]
fn a_freed_frame_reaches_one_allocation_with_its_content() {
    loom::model(|| {
        let device = Device::new(1);
        let frame = device.allocate(1).unwrap().start();
        let freeing = spawn(&device, move |device| device.free(frame));
        let other = spawn(&device, |device| device.allocate(1));
        let mine = device.allocate(1);
        freeing.join().unwrap();
        let other = other.join().unwrap();
        assert!(mine.is_none() || other.is_none());
        if mine.is_none() && other.is_none() {
            assert!(device.allocate(1).is_some(), "the free frame was lost");
        }
        assert_eq!(device.counts(), (0, 1, 0, 1));
    });
}

#[test]
fn two_frees_of_one_word_reach_their_next_owner() {
    loom::model(|| {
        let device = Device::new(2);
        let run = device.allocate(2).unwrap();
        let one = spawn(&device, move |device| device.free(run.start()));
        let two = spawn(&device, move |device| device.free(FrameIndex::new(1)));
        let early = device.allocate(2).map_or(0, FrameRun::len);
        one.join().unwrap();
        two.join().unwrap();
        let late = device.allocate(2).map_or(0, FrameRun::len);
        assert_eq!(early + late, 2);
        assert_eq!(device.counts(), (0, 2, 0, 2));
    });
}

#[test]
fn an_allocation_beside_frees_alone_finds_a_frame() {
    loom::model(|| {
        let device = Device::new(3);
        device.allocate(2).unwrap();
        // Frame 2 is free all the time.
        let one = spawn(&device, |device| device.free(FrameIndex::new(0)));
        let two = spawn(&device, |device| device.free(FrameIndex::new(1)));
        assert!(device.allocate(1).is_some());
        one.join().unwrap();
        two.join().unwrap();
        assert_eq!(device.counts(), (2, 1, 0, 1));
    });
}

#[test]
fn of_two_frees_of_one_frame_one_succeeds() {
    loom::model(|| {
        let device = Device::new(2);
        let frame = device.allocate(1).unwrap().start();
        let other = spawn(&device, move |device| device.pool.free(frame));
        let results = [device.pool.free(frame), other.join().unwrap()];
        assert!(results.contains(&Ok(())));
        assert!(results.contains(&Err(FreeError::NotAllocated { index: frame })));
        assert_eq!(device.counts(), (2, 0, 0, 0));
    });
}

#[test]
fn a_frame_withdrawn_while_it_is_freed_never_comes_back() {
    loom::model(|| {
        let device = Device::new(1);
        let frame = device.allocate(1).unwrap().start();
        let other = spawn(&device, move |device| {
            let was = device.pool.withdraw(frame).unwrap();
            if was == Withdrawal::WasFree {
                device.write(frame);
            }
            was
        });
        device.free(frame);
        assert_ne!(other.join().unwrap(), Withdrawal::Already);
        assert_eq!(device.counts(), (0, 0, 1, 0));
        assert!(device.allocate(1).is_none());
    });
}

#[test]
fn a_frame_is_withdrawn_or_handed_out_and_then_withdrawn() {
    loom::model(|| {
        let device = Device::new(2);
        device.pool.withdraw(FrameIndex::new(1)).unwrap();
        let frame = FrameIndex::new(0);
        let other = spawn(&device, move |device| {
            let was = device.pool.withdraw(frame).unwrap();
            if was == Withdrawal::WasFree {
                device.write(frame);
            }
            was
        });
        let mine = device.allocate(2);
        match other.join().unwrap() {
            Withdrawal::WasFree => {
                assert_eq!(mine, None);
                assert_eq!(device.counts(), (0, 0, 2, 0));
            }
            Withdrawal::WasAllocated => {
                assert_eq!(mine.map(FrameRun::start), Some(frame));
                assert_eq!(device.counts(), (0, 0, 2, 1));
                device.free(frame);
                assert_eq!(device.counts(), (0, 0, 2, 0));
            }
            Withdrawal::Already => unreachable!("withdrawn once"),
        }
        assert!(device.allocate(1).is_none());
    });
}

#[test]
fn allocation_free_and_withdrawal_in_one_word_add_up() {
    loom::model(|| {
        let device = Device::new(2);
        let held = device.allocate(1).unwrap().start();
        let freeing = spawn(&device, move |device| device.free(held));
        let withdrawing = spawn(&device, move |device| device.pool.withdraw(held).unwrap());
        let mine = device.allocate(2).expect("frame 1 is free");
        freeing.join().unwrap();
        assert_ne!(withdrawing.join().unwrap(), Withdrawal::Already);
        let nr_held = mine.len();
        assert_eq!(device.pool.nr_held(), nr_held);
        assert_eq!(device.pool.nr_withdrawn(), 1);
        device.free_run(mine);
        assert_eq!(device.counts(), (1, 0, 1, 0));
    });
}

#[test]
fn whoever_sees_that_nothing_is_held_sees_all_content() {
    loom::model(|| {
        let device = Device::new(2);
        let run = device.allocate(2).unwrap();
        let one = spawn(&device, move |device| device.free(run.start()));
        let two = spawn(&device, move |device| device.free(FrameIndex::new(1)));
        if device.pool.nr_held() == 0 {
            run.iter().for_each(|frame| device.write(frame));
        }
        one.join().unwrap();
        two.join().unwrap();
        assert_eq!(device.counts(), (2, 0, 0, 0));
    });
}
