//! The tour of a pool: a graph whose memory moves between the tiers while threads search it.
//!
//! | module | what |
//! |---|---|
//! | [`data`] | the graph, and the answers that are known beforehand |
//! | [`work`] | the threads that search it |
//! | [`pauses`] | how long their steps take |
//! | [`picture`] | where the pages are |
//! | [`story`] | what is done in which order, and the summary |

mod data;
mod pauses;
mod picture;
mod story;
mod work;

use std::{num::NonZero, thread, time::Instant};

use cohmem::{
    Backend, Birth, ByteCount, EngineBackend, EngineSource, ErrorKind, MemoryType, Pool,
    RegionOptions,
};

use self::{
    data::{Graph, Layout, reference},
    story::Story,
    work::Work,
};
use super::{
    machine::Machine,
    report::Report,
    trouble::{Stop, Trouble},
    voice::Voice,
};

/// What the user chose.
#[derive(Clone, Debug)]
pub(super) struct Choice {
    pub(super) backend: Backend,
    pub(super) size: ByteCount,
    pub(super) granule: Option<ByteCount>,
}

/// Room on the device beside the graph, for the last step.
const REST: u64 = 32 << 20;

impl Choice {
    /// With a device large enough, where it is emulated and its size was left open.
    pub(super) fn new(
        backend: Option<&Backend>,
        size: ByteCount,
        granule: Option<ByteCount>,
    ) -> Self {
        let fitting = || {
            Backend::Engine(EngineBackend {
                source: EngineSource::Emulated(ByteCount::new(size.get() + REST)),
                ..EngineBackend::default()
            })
        };
        Self {
            backend: backend.cloned().unwrap_or_else(fitting),
            size,
            granule,
        }
    }
}

/// Runs the tour.
pub(super) fn run(
    choice: &Choice,
    voice: &Voice,
    stop: &Stop,
    report: &mut Report,
) -> Result<(), Trouble> {
    let started = Instant::now();
    voice.step("1. Where this runs");
    let machine = Machine::read()?;
    voice.say(format!(
        "Linux {}, {} processors ({}), {} of memory available",
        machine.kernel, machine.nr_processors, machine.processor, machine.available
    ));
    let needed = ByteCount::new(choice.size.get().saturating_mul(3));
    if machine.available < needed {
        return Err(Trouble::NotHere(format!(
            "a graph of {} needs {needed} of memory (for itself, its copy on the device, and the \
             searches), and {} are available; try --size",
            choice.size, machine.available
        )));
    }
    let pool = Pool::open(&choice.backend).map_err(not_here)?;
    voice.say(pool.selection().to_string());

    let nr_searches = thread::available_parallelism()
        .map_or(1, NonZero::get)
        .saturating_sub(1)
        .clamp(1, 4);
    let layout = Layout::fitting(choice.size, nr_searches);
    voice.step("2. A graph, in ordinary memory");
    let options = RegionOptions {
        birth: Birth::Home,
        memory: MemoryType::Coherent,
        granule: choice.granule,
    };
    touch_device(&pool, layout.bytes())?;
    let mut region = pool.allocate(layout.bytes(), &options).map_err(not_here)?;
    voice.say(format!(
        "{} vertices, {} edges, {} in one region that moves in granules of {}",
        layout.nr_vertices(),
        layout.nr_edges(),
        layout.bytes(),
        region.granule()
    ));
    let expected: Vec<_> = (0..nr_searches)
        .map(|search| reference(layout, search))
        .collect();
    stop.check()?;
    let mover = region.mover();
    let marks = region.part(layout.mark_bytes())?;
    let granule = region.granule();
    let graph = Graph::generate(layout, region.as_atomic_words());
    let work = Work::new(nr_searches);
    let ended = thread::scope(|scope| {
        let _at_end = EndOnDrop(&work);
        for (search, &expected) in expected.iter().enumerate() {
            let work = &work;
            scope.spawn(move || work.run(graph, search, expected));
        }
        Story {
            pool: &pool,
            mover: &mover,
            marks,
            granule,
            graph,
            work: &work,
            voice,
            stop,
            report: &mut *report,
            step: "",
            moves: Vec::new(),
        }
        .tell()
    })?;
    story::say_stops(region.stats().as_ref(), voice);
    ended.summary(&pool, started.elapsed(), voice, report);
    Ok(())
}

/// Has emulated device memory there before it is measured, as a device's is.
fn touch_device(pool: &Pool, size: ByteCount) -> Result<(), Trouble> {
    let is_emulated = pool.level().is_some();
    if !is_emulated || !pool.capabilities().has_generic {
        return Ok(());
    }
    let options = RegionOptions {
        memory: MemoryType::Generic,
        ..RegionOptions::default()
    };
    let mut region = pool.allocate(size, &options).map_err(not_here)?;
    region.as_mut_slice().fill(1);
    Ok(())
}

/// Ends the threads on every path, so that the scope does.
struct EndOnDrop<'a>(&'a Work);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// What cannot be had on this machine, as such.
fn not_here(error: cohmem::Error) -> Trouble {
    match error.kind() {
        ErrorKind::NoDriver
        | ErrorKind::NotFound
        | ErrorKind::Unsupported
        | ErrorKind::NotPermitted
        | ErrorKind::Misaligned
        | ErrorKind::NoFrames => {
            let source = std::error::Error::source(&error);
            let source = source.map_or_else(String::new, |source| format!(": {source}"));
            Trouble::NotHere(format!(
                "{error}{source}; `cohmem doctor` says what this machine can do"
            ))
        }
        _ => error.into(),
    }
}
