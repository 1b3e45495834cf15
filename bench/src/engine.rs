//! The engine's migrations against memcpy of the same bytes, interleaved in one run, on emulated device
//! memory.
//!
//! "quiet": no other thread of the process runs. "live": one spins, so that each change of the page
//! tables has to reach its processor.

use std::{
    error::Error,
    fs, hint,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use cohmem_engine::{
    Direction, Granule, Level, LevelChoice, MemoryType, Pool, PoolOptions, Region, RegionOptions,
    survey,
};

use crate::{figure::Times, sys};

/// Arguments of the benchmark.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// MiB to move each time
    #[arg(long, default_value_t = 32, value_name = "MIB")]
    size: usize,
    /// Rounds
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Levels to measure, those that cannot be had are left out
    #[arg(long, value_delimiter = ',', default_values_t = [1, 2, 3])]
    levels: Vec<u8>,
    /// Shapes to measure
    #[arg(long, value_delimiter = ',', default_values_t = SHAPES.map(|shape| shape.name.to_owned()))]
    shapes: Vec<String>,
    /// Figures to take
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Part::Moves, Part::Access, Part::Pauses])]
    parts: Vec<Part>,
    /// Print ratios of processor time of the thread that moves as well, which other load hardly changes
    #[arg(long)]
    cpu: bool,
    /// KiB of neighbouring granules that move in one stop [default: the engine's]
    #[arg(long, value_name = "KIB")]
    stop: Option<usize>,
}

/// A kind of figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// Ratios of migrations to memcpy
    Moves,
    /// Ratio of accesses to those of plain memory
    Access,
    /// Times that a migration keeps another thread
    Pauses,
}

/// What is moved, and what it is called.
#[derive(Clone, Copy)]
struct Shape {
    name: &'static str,
    granule: Granule,
    /// Small granules are slow: this is the part of the bytes that moves.
    share: usize,
    pages: Pages,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Pages {
    Huge,
    Small,
}

const SHAPES: [Shape; 4] = [
    Shape {
        name: "2m_thp",
        granule: Granule::HUGE,
        share: 1,
        pages: Pages::Huge,
    },
    Shape {
        name: "2m",
        granule: Granule::HUGE,
        share: 1,
        pages: Pages::Small,
    },
    Shape {
        name: "64k",
        granule: Granule::MEDIUM,
        share: 1,
        pages: Pages::Small,
    },
    Shape {
        name: "4k",
        granule: Granule::SMALLEST,
        share: 8,
        pages: Pages::Small,
    },
];

/// Runs it.
pub(crate) fn run(args: &Args) -> Result<(), Box<dyn Error>> {
    let survey = survey();
    println!(
        "conditions: Linux {}, {} processors, base pages of 4 KiB, {} MiB, emulated device memory, \
         1 thread that moves, medians of {} rounds with least and most",
        fs::read_to_string("/proc/sys/kernel/osrelease")?.trim(),
        thread::available_parallelism()?,
        args.size,
        args.rounds
    );
    for level in Level::ALL {
        if !args.levels.contains(&level.number()) {
            continue;
        }
        if let Err(obstacle) = survey.check(level) {
            println!("not measured: {level}: {obstacle}");
            continue;
        }
        let prefix = match level {
            Level::Full => "engine".to_owned(),
            Level::UserMode | Level::Signal => format!("engine.l{}", level.number()),
        };
        for shape in SHAPES {
            let is_wanted = args.shapes.iter().any(|name| name == shape.name);
            if !is_wanted || !args.parts.contains(&Part::Moves) {
                continue;
            }
            let course = Course { args, level, shape };
            course.measure(&prefix, MemoryType::Coherent)?;
            if level == Level::Full {
                course.measure("engine.private", MemoryType::Private)?;
            }
        }
        if args.parts.contains(&Part::Access) {
            access(&prefix, args, level)?;
        }
        if args.parts.contains(&Part::Pauses) {
            for shape in [SHAPES[2], SHAPES[0]] {
                Course { args, level, shape }.pause(&prefix)?;
            }
        }
    }
    println!("not measured: TLB shootdowns and system calls (they need tracepoints)");
    Ok(())
}

struct Course<'a> {
    args: &'a Args,
    level: Level,
    shape: Shape,
}

impl Course<'_> {
    fn region(&self, memory_type: MemoryType) -> Result<Region, Box<dyn Error>> {
        let bytes = (self.args.size << 20) / self.shape.share;
        let pool = Pool::memfd(&PoolOptions::new(bytes).frame(self.shape.granule))?;
        let mut options = RegionOptions::new()
            .level(LevelChoice::Exactly(self.level))
            .memory_type(memory_type)
            .granule(self.shape.granule);
        if let Some(stop_kib) = self.args.stop {
            options = options.stop_bytes(stop_kib << 10);
        }
        let mut region = Region::allocate(&pool, bytes, &options)?;
        region.as_mut_slice().fill(0x5a);
        Ok(region)
    }

    /// Prints the ratio to memcpy for both ways, quiet and with a live thread.
    fn measure(&self, prefix: &str, memory_type: MemoryType) -> Result<(), Box<dyn Error>> {
        let _small = (self.shape.pages == Pages::Small).then(sys::NoHugePages::enter);
        let region = self.region(memory_type)?;
        let bytes = region.len();
        // Pages of the same size on all sides.
        let source = self.region(MemoryType::Coherent)?;
        let mut target = self.region(MemoryType::Coherent)?;
        for is_live in [false, true] {
            let mut rounds = Rounds::default();
            while_live(is_live, || -> Result<(), Box<dyn Error>> {
                // The first round warms up.
                for round in 0..=self.args.rounds {
                    let (from, to) = (source.as_slice(), target.as_mut_slice());
                    let watch = Watch::start();
                    to.copy_from_slice(hint::black_box(from));
                    let copied = watch.stop();
                    let mut moved = [Spent::default(); 2];
                    for (spent, to) in moved
                        .iter_mut()
                        .zip([Direction::ToDevice, Direction::ToSystem])
                    {
                        let watch = Watch::start();
                        let migrated = region.migrate(0..bytes, to)?;
                        *spent = watch.stop();
                        if migrated.moved != migrated.total {
                            return Err(format!("not all moved: {migrated:?}").into());
                        }
                    }
                    if round > 0 {
                        rounds.push(copied, moved);
                    }
                }
                Ok(())
            })?;
            let live = if is_live { ".live" } else { "" };
            let name = format!("{prefix}.{}.vs_memcpy{live}", self.shape.name);
            rounds.wall.print(&name, bytes);
            if self.args.cpu {
                rounds.cpu.print(&format!("{name}.cpu"), bytes);
            }
        }
        if region.as_slice() != source.as_slice() {
            return Err("the content changed".into());
        }
        Ok(())
    }

    /// Prints how long single writes took while the granule that they hit moved to and fro.
    fn pause(&self, prefix: &str) -> Result<(), Box<dyn Error>> {
        let region = self.region(MemoryType::Coherent)?;
        let granule = self.shape.granule.bytes();
        let word = sys::word(&region);
        let is_over = AtomicBool::new(false);
        let moves_per_round = 200;
        let mut stalls = thread::scope(|scope| -> Result<Vec<u64>, Box<dyn Error>> {
            let writer = scope.spawn(|| {
                let mut longest = Vec::new();
                while !is_over.load(Ordering::Relaxed) {
                    let start = Instant::now();
                    word.fetch_add(1, Ordering::Relaxed);
                    let time_ns = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
                    // Shorter ones did not meet a move.
                    if time_ns > 3_000 {
                        longest.push(time_ns);
                    }
                }
                longest
            });
            for _ in 0..moves_per_round {
                for to in [Direction::ToDevice, Direction::ToSystem] {
                    region.migrate(0..granule, to)?;
                    thread::sleep(Duration::from_micros(200));
                }
            }
            is_over.store(true, Ordering::Relaxed);
            writer.join().map_err(|_panic| "the writer panicked".into())
        })?;
        stalls.sort_unstable();
        let name = self.shape.name;
        for (part, percent) in [("p50", 50), ("p99", 99)] {
            let value = stalls
                .get(stalls.len() * percent / 100)
                .copied()
                .unwrap_or_default();
            println!("figure {prefix}.pause.{name}.{part} {} us", value / 1000);
        }
        Ok(())
    }
}

/// Prints the time of dependent loads in a region at rest, against plain memory.
fn access(prefix: &str, args: &Args, level: Level) -> Result<(), Box<dyn Error>> {
    let shape = SHAPES[2];
    let course = Course { args, level, shape };
    let mut region = course.region(MemoryType::Coherent)?;
    let mut plain = vec![0_u8; region.len()];
    let (mut own, mut peer) = (Times::default(), Times::default());
    link(region.as_mut_slice());
    link(&mut plain);
    for round in 0..=args.rounds {
        // In turn: who comes second finds a warmer processor.
        let (own_time, peer_time) = if round % 2 == 0 {
            let own_time = time(|| follow(region.as_slice()));
            (own_time, time(|| follow(&plain)))
        } else {
            let peer_time = time(|| follow(&plain));
            (time(|| follow(region.as_slice())), peer_time)
        };
        if round > 0 {
            own.push(own_time);
            peer.push(peer_time);
        }
    }
    own.print_ratio(&format!("{prefix}.access.vs_plain"), &peer);
    Ok(())
}

/// Makes a chain of all words, each of which names the next one.
fn link(bytes: &mut [u8]) {
    let nr_words = bytes.len() / 8;
    // An odd step that is far from any power of two visits every word of a power of two of them.
    let step = 0x9e37_79b1;
    for (index, word) in bytes.chunks_exact_mut(8).enumerate() {
        let next = (index + step) % nr_words;
        word.copy_from_slice(&next.to_ne_bytes());
    }
}

fn follow(bytes: &[u8]) -> usize {
    let mut at = 0;
    for _ in 0..1 << 20 {
        let mut word = [0; 8];
        word.copy_from_slice(&bytes[at * 8..at * 8 + 8]);
        at = usize::from_ne_bytes(word);
    }
    hint::black_box(at)
}

/// Time that passed, and that a thread worked.
#[derive(Clone, Copy, Default)]
struct Spent {
    wall: Duration,
    cpu: Duration,
}

/// Measures both.
struct Watch {
    wall: Instant,
    cpu: Duration,
}

impl Watch {
    fn start() -> Self {
        Self {
            cpu: sys::thread_time(),
            wall: Instant::now(),
        }
    }

    fn stop(&self) -> Spent {
        Spent {
            wall: self.wall.elapsed(),
            cpu: sys::thread_time() - self.cpu,
        }
    }
}

/// What rounds took by one clock.
#[derive(Default)]
struct Moves {
    copy: Times,
    out: Times,
    home: Times,
    both: Times,
}

impl Moves {
    fn push(&mut self, copied: Duration, [out, home]: [Duration; 2]) {
        self.copy.push(copied);
        self.out.push(out);
        self.home.push(home);
        self.both.push((out + home) / 2);
    }

    fn print(&self, name: &str, bytes: usize) {
        self.copy.print_rate(&format!("{name}.memcpy"), bytes);
        self.out.print_ratio(&format!("{name}.out"), &self.copy);
        self.home.print_ratio(&format!("{name}.home"), &self.copy);
        self.both.print_ratio(name, &self.copy);
    }
}

/// What they took by both.
#[derive(Default)]
struct Rounds {
    wall: Moves,
    cpu: Moves,
}

impl Rounds {
    fn push(&mut self, copied: Spent, moved: [Spent; 2]) {
        self.wall.push(copied.wall, moved.map(|spent| spent.wall));
        self.cpu.push(copied.cpu, moved.map(|spent| spent.cpu));
    }
}

fn time<T>(work_fn: impl FnOnce() -> T) -> Duration {
    let start = Instant::now();
    hint::black_box(work_fn());
    start.elapsed()
}

/// Does the work while another thread spins, if so asked.
fn while_live<T>(is_live: bool, work_fn: impl FnOnce() -> T) -> T {
    let is_over = AtomicBool::new(false);
    let nr_turns = AtomicU64::new(0);
    thread::scope(|scope| {
        if is_live {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    nr_turns.fetch_add(1, Ordering::Relaxed);
                }
            });
            while nr_turns.load(Ordering::Relaxed) == 0 {
                thread::yield_now();
            }
        }
        let result = work_fn();
        is_over.store(true, Ordering::Relaxed);
        result
    })
}
