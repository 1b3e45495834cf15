//! The backend under test, and memory whose content is known.

use std::{
    thread,
    time::{Duration, Instant},
};

use cohmem::{
    AddrRange, Backend, BackendKind, Birth, ByteCount, Capabilities, Direction, ErrorKind,
    MemoryType, Placement, Pool, Region, RegionOptions, Tier,
};

/// Born on the device, all of it.
pub(crate) const ON_DEVICE: RegionOptions = RegionOptions {
    birth: Birth::Device(Placement::Strict),
    memory: MemoryType::Coherent,
    granule: None,
};
/// Born at home.
pub(crate) const AT_HOME: RegionOptions = RegionOptions {
    birth: Birth::Home,
    memory: MemoryType::Coherent,
    granule: None,
};

/// Only so that a hang ends.
const LIMIT: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(crate) struct Subject {
    pub(crate) pool: Pool,
}

impl Subject {
    pub(crate) fn open(backend: &Backend) -> Self {
        let started = Instant::now();
        loop {
            match Pool::open(backend) {
                Ok(pool) => return Self { pool },
                // The last test's: a migration in the background that was left to itself lets go of its
                // region after its step.
                Err(error) if error.kind() == ErrorKind::Busy && started.elapsed() < LIMIT => {
                    thread::yield_now();
                }
                Err(error) => panic!("{backend}: {error}"),
            }
        }
    }

    pub(crate) fn capabilities(&self) -> Capabilities {
        self.pool.capabilities()
    }

    /// A size of some granules, and of 1 MiB at least.
    pub(crate) fn size(&self) -> ByteCount {
        ByteCount::new((6 * self.pool.default_granule().get()).max(1 << 20))
    }

    /// How often to repeat what races: the guest's processors are emulated.
    pub(crate) fn nr_rounds(&self) -> u64 {
        match self.pool.selection().kind() {
            BackendKind::Engine if !is_emulated_processor() => 100,
            _ => 3,
        }
    }

    pub(crate) fn free(&self) -> u64 {
        self.pool.query_status().expect("a status").free.get()
    }

    /// Nothing of this pool's is in use any more; `before` is what was free before the test.
    pub(crate) fn assert_free(&self, before: u64) {
        if self.capabilities().is_isolated {
            assert_eq!(self.free(), before, "all frames are back");
        }
    }

    pub(crate) fn region(&self, options: &RegionOptions) -> Region {
        let region = self.pool.allocate(self.size(), options);
        region.unwrap_or_else(|error| panic!("a region of {}: {error}", self.size()))
    }

    /// A region at home whose words all differ.
    pub(crate) fn filled(&self) -> Region {
        let mut region = self.region(&AT_HOME);
        fill(&mut region, 0);
        region
    }
}

fn is_emulated_processor() -> bool {
    std::fs::read_to_string("/proc/cpuinfo").is_ok_and(|text| text.contains("QEMU"))
}

fn word(at: usize, seed: u64) -> u64 {
    (at as u64 + 1)
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .wrapping_add(seed)
}

/// Writes every word of it.
pub(crate) fn fill(region: &mut Region, seed: u64) {
    for (at, bytes) in region.as_mut_slice().chunks_exact_mut(8).enumerate() {
        bytes.copy_from_slice(&word(at, seed).to_ne_bytes());
    }
}

/// Every word is what [`fill`] wrote.
#[track_caller]
pub(crate) fn assert_whole(region: &Region, seed: u64) {
    for (at, bytes) in region.as_slice().chunks_exact(8).enumerate() {
        let found = u64::from_ne_bytes(bytes.try_into().expect("8 bytes"));
        assert_eq!(found, word(at, seed), "word {at} of {}", region.range());
    }
}

/// Every page of `range` is on `tier`.
#[track_caller]
pub(crate) fn assert_on(region: &Region, range: AddrRange, tier: Tier) {
    let map = region.mover().query(range).expect("a map");
    assert_eq!(map.count(tier), range.nr_pages(), "{range}: {map:?}");
}

/// Migrates all of it, and all of it moves.
#[track_caller]
pub(crate) fn migrate_all(region: &Region, direction: Direction) {
    let migrated = region.migrate(direction).expect("a migration");
    assert_eq!(
        (migrated.moved, migrated.stayed.total()),
        (region.range().nr_pages(), 0),
        "{direction:?}: {migrated:?}"
    );
}
