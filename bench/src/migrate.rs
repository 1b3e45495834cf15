//! The driver's migration against `move_pages(2)` and memcpy, interleaved in one run.
//!
//! One thread; pages of 4 KiB, exclusive, touched before, not huge. `move_pages` moves the same pages
//! between two NUMA nodes with one call for the whole range, its arrays prepared beforehand.

use std::{error::Error, fmt, time::Duration};

use cohmem::{
    AddrRange, Device, Direction, MigrateOptions, Migrated, Placement, Reason, Region, Target,
};

use crate::{
    figure::{Times, print_machine, time},
    sys::{MovePages, PAGE, Pages},
};

/// Arguments of the benchmark.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// MiB to move each time
    #[arg(long, default_value_t = 256, value_name = "MIB")]
    size: usize,
    /// Rounds
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Number of the device
    #[arg(long, default_value_t = 0, value_name = "N")]
    device: u32,
    /// Node that move_pages moves to (and back from, to node 0)
    #[arg(long, default_value_t = 1)]
    node: i32,
}

/// A figure would be worth nothing.
#[derive(Debug)]
enum Spoiled {
    /// Not all pages moved.
    Partial {
        step: &'static str,
        nr_moved: u64,
        nr_pages: u64,
        stayed: Vec<(Reason, u64)>,
    },
    /// The content changed.
    Content { step: &'static str },
}

impl fmt::Display for Spoiled {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Partial {
                step,
                nr_moved,
                nr_pages,
                stayed,
            } => {
                write!(
                    formatter,
                    "{step}: {nr_moved} of {nr_pages} pages moved ({stayed:?} stayed)"
                )
            }
            Self::Content { step } => write!(formatter, "{step}: the content changed"),
        }
    }
}

impl Error for Spoiled {}

#[derive(Default)]
struct Rounds {
    to_device: Times,
    to_system: Times,
    there_already: Times,
    query: Times,
    to_node: Times,
    to_node_back: Times,
    memcpy: Times,
}

pub(crate) fn run(args: &Args) -> Result<(), Box<dyn Error>> {
    let bytes = args.size << 20;
    let device = Device::open(args.device)?;
    print_conditions(args)?;
    touch_frames(&device)?;
    let pages = Pages::touched(bytes)?;
    let mut copy = Pages::touched(bytes)?;
    let mut subject = Subject {
        device,
        pages,
        nr_pages: (bytes / PAGE) as u64,
    };
    let mut rounds = Rounds::default();
    for _round in 0..args.rounds {
        rounds
            .to_node
            .push(subject.move_pages(args.node, "move_pages out")?);
        rounds
            .to_node_back
            .push(subject.move_pages(0, "move_pages back")?);
        rounds
            .to_device
            .push(subject.migrate(Direction::ToDevice, "to the device")?);
        rounds.there_already.push(subject.migrate_again()?);
        rounds.query.push(subject.query()?);
        rounds
            .to_system
            .push(subject.migrate(Direction::ToSystem, "home")?);
        rounds
            .memcpy
            .push(time(|| copy.words_mut().copy_from_slice(subject.pages.words())).0);
        if !copy.is_whole() {
            return Err(Spoiled::Content { step: "memcpy" }.into());
        }
    }
    print_figures(&rounds, bytes);
    Ok(())
}

/// Has every free frame written once. A virtual machine's memory is given by its host at the first touch,
/// which would be counted as migration otherwise.
fn touch_frames(device: &Device) -> cohmem::Result<()> {
    Region::allocate(device, device.query_free()?, Placement::Strict).map(drop)
}

fn print_conditions(args: &Args) -> Result<(), Box<dyn Error>> {
    print_machine()?;
    println!(
        "pages {PAGE} bytes, {} MiB, exclusive, touched, not huge, 1 thread, each frame written before",
        args.size
    );
    println!(
        "device cohmem{}, peer move_pages(2) between nodes 0 and {}",
        args.device, args.node
    );
    Ok(())
}

fn print_figures(rounds: &Rounds, bytes: usize) {
    rounds
        .to_device
        .print_ratio("migrate.to_device.vs_move_pages", &rounds.to_node);
    rounds
        .to_system
        .print_ratio("migrate.to_system.vs_move_pages", &rounds.to_node_back);
    rounds
        .to_device
        .print_ratio("migrate.to_device.vs_memcpy", &rounds.memcpy);
    rounds
        .to_system
        .print_ratio("migrate.to_system.vs_memcpy", &rounds.memcpy);
    rounds
        .there_already
        .print_ratio("migrate.there_already.vs_move", &rounds.to_device);
    rounds
        .query
        .print_ratio("migrate.query.vs_move", &rounds.to_device);
    rounds.to_device.print_rate("migrate.to_device.rate", bytes);
    rounds.to_system.print_rate("migrate.to_system.rate", bytes);
}

/// The memory that moves.
struct Subject {
    device: Device,
    pages: Pages,
    nr_pages: u64,
}

impl Subject {
    fn range(&self) -> AddrRange {
        AddrRange::covering(self.pages.words())
    }

    fn move_pages(&mut self, node: i32, step: &'static str) -> Result<Duration, Box<dyn Error>> {
        let mut call = MovePages::new(&self.pages, node);
        let (elapsed, moved) = time(|| call.call());
        self.check(step, moved? as u64, Vec::new())?;
        Ok(elapsed)
    }

    fn call_driver(&self, direction: Direction) -> cohmem::Result<Migrated> {
        self.device.migrate(
            self.range(),
            direction,
            &MigrateOptions::default(),
            Target::Own,
        )
    }

    fn migrate(
        &mut self,
        direction: Direction,
        step: &'static str,
    ) -> Result<Duration, Box<dyn Error>> {
        let (elapsed, migrated) = time(|| self.call_driver(direction));
        let migrated = migrated?;
        self.check(step, migrated.moved, migrated.stayed.iter().collect())?;
        Ok(elapsed)
    }

    fn migrate_again(&self) -> Result<Duration, Box<dyn Error>> {
        let (elapsed, migrated) = time(|| self.call_driver(Direction::ToDevice));
        let nr_there = migrated?.stayed.get(Reason::AlreadyThere);
        self.check("there already", nr_there, Vec::new())?;
        Ok(elapsed)
    }

    fn query(&self) -> Result<Duration, Box<dyn Error>> {
        let (elapsed, map) = time(|| self.device.query_counts(self.range(), Target::Own));
        self.check("query", map?.nr_here(), Vec::new())?;
        Ok(elapsed)
    }

    fn check(
        &self,
        step: &'static str,
        nr_moved: u64,
        stayed: Vec<(Reason, u64)>,
    ) -> Result<(), Spoiled> {
        if nr_moved != self.nr_pages {
            return Err(Spoiled::Partial {
                step,
                nr_moved,
                nr_pages: self.nr_pages,
                stayed,
            });
        }
        if !self.pages.is_whole() {
            return Err(Spoiled::Content { step });
        }
        Ok(())
    }
}
