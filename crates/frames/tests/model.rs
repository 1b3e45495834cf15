//! Random sequences of operations, each checked against a table of states that is obviously right.
#![cfg(not(loom))]

use std::sync::atomic::AtomicU64;

use cohmem_frames::{FrameIndex, FramePool, FrameRun, FreeError, Withdrawal, words_needed};
use proptest::prelude::*;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct State {
    is_held: bool,
    is_withdrawn: bool,
}

impl State {
    fn is_free(self) -> bool {
        !self.is_held && !self.is_withdrawn
    }
}

/// Frame numbers are fractions of the device's length in 2^16ths, up to 1/16 past its end.
#[derive(Clone, Debug)]
enum Op {
    Allocate { max: u64 },
    Free { at: u64 },
    FreeFrom { at: u64, nr_frames: u64 },
    Withdraw { at: u64 },
    Walk { from: u64, max: u64 },
}

fn op() -> impl Strategy<Value = Op> {
    let at = || 0u64..(1 << 16) + (1 << 12);
    let max = || prop_oneof![Just(0u64), Just(1), 1u64..5, 1u64..80, Just(u64::MAX)];
    prop_oneof![
        6 => max().prop_map(|max| Op::Allocate { max }),
        3 => at().prop_map(|at| Op::Free { at }),
        3 => (at(), 1u64..100).prop_map(|(at, nr_frames)| Op::FreeFrom { at, nr_frames }),
        1 => at().prop_map(|at| Op::Withdraw { at }),
        2 => (at(), max()).prop_map(|(from, max)| Op::Walk { from, max }),
    ]
}

struct Model {
    pool: FramePool<Box<[AtomicU64]>>,
    states: Vec<State>,
}

impl Model {
    fn new(nr_frames: u64) -> Self {
        let metadata = (0..words_needed(nr_frames))
            .map(|_| AtomicU64::new(u64::MAX))
            .collect();
        let pool = FramePool::new(metadata, nr_frames).unwrap();
        let nr_frames = usize::try_from(nr_frames).unwrap();
        Self {
            pool,
            states: vec![
                State {
                    is_held: false,
                    is_withdrawn: false
                };
                nr_frames
            ],
        }
    }

    fn index(&self, at: u64) -> u64 {
        (at * self.pool.nr_frames()) >> 16
    }

    fn state(&mut self, frame: FrameIndex) -> Option<&mut State> {
        self.states.get_mut(usize::try_from(frame.get()).unwrap())
    }

    fn out_of_range(&self, index: FrameIndex) -> FreeError {
        FreeError::OutOfRange {
            index,
            nr_frames: self.pool.nr_frames(),
        }
    }

    fn count(&self, is_counted: impl Fn(State) -> bool) -> u64 {
        self.states
            .iter()
            .filter(|state| is_counted(**state))
            .count()
            .try_into()
            .unwrap()
    }

    /// The maximal runs of frames in such a state.
    fn runs(&self, is_member: impl Fn(State) -> bool) -> Vec<FrameRun> {
        let mut runs = Vec::new();
        let mut index = 0;
        for run in self.states.chunk_by(|a, b| is_member(*a) == is_member(*b)) {
            let len = u64::try_from(run.len()).unwrap();
            if is_member(run[0]) {
                runs.push(FrameRun::new(FrameIndex::new(index), len));
            }
            index += len;
        }
        runs
    }

    fn allocate(&mut self, max: u64) {
        let longest = self
            .runs(State::is_free)
            .into_iter()
            .map(FrameRun::len)
            .max();
        let got = self.pool.allocate_run(max);
        // The pools here are small enough for the promise of the full length.
        let wanted = longest.map_or(0, |longest| longest.min(max));
        assert_eq!(got.map_or(0, FrameRun::len), wanted, "max {max}: {got:?}");
        for frame in got.iter().copied().flat_map(FrameRun::iter) {
            let state = self.state(frame).expect("a frame of the device");
            assert!(state.is_free(), "{frame} handed out while {state:?}");
            state.is_held = true;
        }
    }

    fn free(&mut self, frame: FrameIndex) {
        let expected = match self.state(frame) {
            None => Err(self.out_of_range(frame)),
            Some(state) if !state.is_held => Err(FreeError::NotAllocated { index: frame }),
            Some(state) => {
                state.is_held = false;
                Ok(())
            }
        };
        assert_eq!(self.pool.free(frame), expected);
    }

    fn withdraw(&mut self, frame: FrameIndex) {
        let expected = match self.state(frame) {
            None => Err(self.out_of_range(frame)),
            Some(state) if state.is_withdrawn => Ok(Withdrawal::Already),
            Some(state) => {
                state.is_withdrawn = true;
                Ok(if state.is_held {
                    Withdrawal::WasAllocated
                } else {
                    Withdrawal::WasFree
                })
            }
        };
        assert_eq!(self.pool.withdraw(frame), expected);
    }

    fn walk(&self, from: u64, max: u64) {
        let expected = self
            .runs(|state| state.is_held)
            .into_iter()
            .find_map(|run| {
                let start = run.start().get().max(from);
                let len = run.end().get().saturating_sub(start).min(max);
                (len > 0).then(|| FrameRun::new(FrameIndex::new(start), len))
            });
        assert_eq!(
            self.pool.next_allocated_run(FrameIndex::new(from), max),
            expected
        );
    }

    fn step(&mut self, op: &Op) {
        match *op {
            Op::Allocate { max } => self.allocate(max),
            Op::Free { at } => self.free(FrameIndex::new(self.index(at))),
            Op::FreeFrom { at, nr_frames } => {
                for frame in FrameRun::new(FrameIndex::new(self.index(at)), nr_frames).iter() {
                    self.free(frame);
                }
            }
            Op::Withdraw { at } => self.withdraw(FrameIndex::new(self.index(at))),
            Op::Walk { from, max } => self.walk(self.index(from), max),
        }
    }

    fn check(&self) {
        let pool = &self.pool;
        let nr_free = self.count(State::is_free);
        assert_eq!(pool.nr_free(), nr_free);
        assert_eq!(
            pool.nr_allocated(),
            self.count(|state| state.is_held && !state.is_withdrawn)
        );
        assert_eq!(pool.nr_withdrawn(), self.count(|state| state.is_withdrawn));
        assert_eq!(pool.nr_held(), self.count(|state| state.is_held));
        assert_eq!(
            pool.nr_free() + pool.nr_allocated() + pool.nr_withdrawn(),
            pool.nr_frames()
        );
        for (index, state) in (0..).zip(&self.states) {
            let index = FrameIndex::new(index);
            assert_eq!(pool.is_allocated(index), state.is_held, "{index}");
            assert_eq!(pool.is_withdrawn(index), state.is_withdrawn, "{index}");
        }
    }

    /// Takes all that is left, one by one, and checks that it was all.
    fn exhaust(&mut self) {
        while self.count(State::is_free) > 0 {
            self.allocate(u64::MAX);
        }
        assert_eq!(self.pool.allocate_run(1), None);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) })]

    #[test]
    fn agrees_with_the_table(nr_frames in 1u64..300, ops in prop::collection::vec(op(), 1..100)) {
        let mut model = Model::new(nr_frames);
        for op in &ops {
            model.step(op);
            model.check();
        }
        model.exhaust();
        model.check();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(48) })]

    /// Over several summary words.
    #[test]
    fn agrees_with_the_table_on_a_larger_device(
        nr_frames in 2000u64..8192,
        ops in prop::collection::vec(op(), 1..60),
    ) {
        let mut model = Model::new(nr_frames);
        model.allocate(nr_frames);
        for op in &ops {
            model.step(op);
        }
        model.check();
        model.exhaust();
        model.check();
    }
}
