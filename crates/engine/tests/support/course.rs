//! Threads that read, write and count in a region while others move its granules: nothing is lost, torn
//! or stale.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    thread,
};

use cohmem_engine::{
    Direction, Granule, Level, LevelChoice, MemoryType, Pool, Region, RegionOptions,
};

use super::{scale, words};

/// What is stressed, and how.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Course {
    pub(crate) level: Level,
    pub(crate) memory_type: MemoryType,
    pub(crate) granule: Granule,
    pub(crate) nr_granules: usize,
    pub(crate) stop_bytes: usize,
    /// Each with words of its own, and counters that it shares with the others; up to 7.
    pub(crate) nr_users: usize,
    pub(crate) nr_movers: usize,
    /// Migrations of single granules, or of runs of them, that must have happened.
    pub(crate) nr_stops: u64,
}

impl Course {
    pub(crate) const fn bytes(self) -> usize {
        self.nr_granules * self.granule.bytes()
    }

    /// Runs it on a pool that nothing else uses; the migrations that happened.
    pub(crate) fn run(self, pool: &Pool) -> u64 {
        let bytes = self.bytes();
        let free = pool.free_bytes();
        let options = RegionOptions::new()
            .memory_type(self.memory_type)
            .level(LevelChoice::Exactly(self.level))
            .granule(self.granule)
            .stop_bytes(self.stop_bytes);
        let region = Region::allocate(pool, bytes, &options).unwrap();
        let nr_stops = self.nr_stops * scale();
        let is_over = AtomicBool::new(false);
        let nr_checks = AtomicU64::new(0);
        let nr_counted = AtomicU64::new(0);
        let nr_moving = AtomicUsize::new(self.nr_movers);
        thread::scope(|scope| {
            for user in 0..self.nr_users {
                let (words, is_over) = (words::of(&region), &is_over);
                let (nr_checks, nr_counted) = (&nr_checks, &nr_counted);
                scope.spawn(move || {
                    let user = User::new(words, user, self.nr_users);
                    let (checks, counted) = user.run(is_over);
                    nr_checks.fetch_add(checks, Ordering::Relaxed);
                    nr_counted.fetch_add(counted, Ordering::Relaxed);
                });
            }
            for mover in 0..self.nr_movers {
                let (region, is_over, nr_moving) = (&region, &is_over, &nr_moving);
                scope.spawn(move || {
                    self.shift(region, mover as u64 + 1, nr_stops);
                    if nr_moving.fetch_sub(1, Ordering::Relaxed) == 1 {
                        is_over.store(true, Ordering::Relaxed);
                    }
                });
            }
        });
        let stats = region.stats();
        assert!(stats.nr_stops >= nr_stops, "{self:?}: {stats:?}");
        assert!(nr_checks.load(Ordering::Relaxed) > 0);
        let counted: u64 = words::counters(words::of(&region))
            .map(|word| word.load(Ordering::Relaxed))
            .sum();
        assert_eq!(counted, nr_counted.load(Ordering::Relaxed), "{self:?}");
        drop(region);
        assert_eq!(pool.free_bytes(), free);
        stats.nr_stops
    }

    /// Moves runs of granules at random.
    fn shift(self, region: &Region, seed: u64, nr_stops: u64) {
        let mut random = words::Random::new(seed);
        while region.stats().nr_stops < nr_stops {
            let start = random.below(self.nr_granules);
            let length = 1 + random.below((self.nr_granules - start).min(4));
            let range = start * self.granule.bytes()..(start + length) * self.granule.bytes();
            let to = if random.below(2) == 0 {
                Direction::ToDevice
            } else {
                Direction::ToSystem
            };
            let migrated = region.migrate(range, to).unwrap();
            assert_eq!(migrated.done(), migrated.total);
        }
    }
}

/// One thread that uses a region.
///
/// The words are dealt in turn: word i belongs to user `i % (nr_users + 1)`, and those of the last turn
/// are counters for all. A user's word only ever grows, by one; so the owner knows its value exactly,
/// and any other thread never sees it shrink.
pub(crate) struct User<'r> {
    words: &'r [AtomicU64],
    own: usize,
    nr_users: usize,
    /// What each of the own words must hold.
    expected: Vec<u64>,
    /// What others' words were seen to hold.
    seen: Vec<u64>,
}

impl<'r> User<'r> {
    pub(crate) fn new(words: &'r [AtomicU64], own: usize, nr_users: usize) -> Self {
        let nr_words = words.len() / words::TURN + 1;
        Self {
            words,
            own,
            nr_users,
            expected: vec![0; nr_words],
            seen: vec![0; nr_words],
        }
    }

    fn word(&self, turn: usize, place: usize) -> &'r AtomicU64 {
        &self.words[turn * words::TURN + place]
    }

    /// Works until it is over, and once more; rounds of work, and what was added to counters.
    pub(crate) fn run(mut self, is_over: &AtomicBool) -> (u64, u64) {
        let mut random = words::Random::new(1000 + self.own as u64);
        let nr_turns = self.words.len() / words::TURN;
        let other = (self.own + 1) % self.nr_users;
        let (mut nr_checks, mut nr_counted) = (0, 0);
        loop {
            let is_last = is_over.load(Ordering::Relaxed);
            for _ in 0..256 {
                let turn = random.below(nr_turns);
                let own = self.word(turn, self.own);
                assert_eq!(
                    own.load(Ordering::Relaxed),
                    self.expected[turn],
                    "lost or stale"
                );
                self.expected[turn] += 1;
                own.store(self.expected[turn], Ordering::Release);
                self.word(turn, words::COUNTER)
                    .fetch_add(1, Ordering::Relaxed);
                nr_counted += 1;
                if other != self.own {
                    let value = self.word(turn, other).load(Ordering::Acquire);
                    assert!(value >= self.seen[turn], "a word went back in time");
                    self.seen[turn] = value;
                }
                nr_checks += 1;
            }
            if is_last {
                break;
            }
        }
        for turn in 0..nr_turns {
            let found = self.word(turn, self.own).load(Ordering::Relaxed);
            assert_eq!(found, self.expected[turn], "lost at the end");
        }
        (nr_checks, nr_counted)
    }
}
