//! The story: what is done in which order, what is checked, and what it came to.

use std::{
    thread,
    time::{Duration, Instant},
};

use cohmem::{
    AddrRange, ByteCount, Direction, MemoryType, MigrateOptions, Migrated, Mover, Pool, Reason,
    RegionOptions, RegionStats, Tier,
};
use serde_json::json;

use super::{
    super::{
        report::{Report, print_reasons},
        trouble::{Stop, Trouble},
        voice::Voice,
    },
    data::Graph,
    pauses::Spread,
    picture,
    work::{Progress, Work},
};

/// Only so that a hang ends.
const LIMIT: Duration = Duration::from_secs(300);
/// Bytes a step of a migration: how often its progress can be seen.
const STEP: ByteCount = ByteCount::new(4 << 20);

/// The tour, as far as it is.
pub(super) struct Story<'a> {
    pub(super) pool: &'a Pool,
    pub(super) mover: &'a Mover,
    /// What the searches write.
    pub(super) marks: AddrRange,
    /// What the region moves in.
    pub(super) granule: ByteCount,
    pub(super) graph: Graph<'a>,
    pub(super) work: &'a Work,
    pub(super) voice: &'a Voice,
    pub(super) stop: &'a Stop,
    pub(super) report: &'a mut Report,
    pub(super) step: &'static str,
    pub(super) moves: Vec<Row>,
}

/// What a move, or a rest, was for the searches.
pub(super) struct Row {
    what: &'static str,
    pages: u64,
    elapsed: Duration,
    memcpy: f64,
    edges_per_second: f64,
    spread: Spread,
}

/// What is left to say at the end.
pub(super) struct Ended {
    rows: Vec<Row>,
}

impl Story<'_> {
    pub(super) fn tell(mut self) -> Result<Ended, Trouble> {
        self.at_home()?;
        self.there()?;
        self.on_the_device()?;
        self.a_part_home()?;
        self.pinned()?;
        self.private()?;
        self.check_graph();
        Ok(Ended { rows: self.moves })
    }

    fn begin(&mut self, step: &'static str) {
        self.step = step;
        self.voice.step(step);
    }

    fn check(&mut self, name: &str, held: bool, text: &str) {
        self.report.check(self.step, name, held, text, self.voice);
    }

    fn at_home(&mut self) -> Result<(), Trouble> {
        self.step = "2. A graph, in ordinary memory";
        self.voice.say(format!(
            "{} searches it breadth-first, over and over; the answer is known beforehand, from a \
             search that uses no memory that moves",
            match self.graph.layout.nr_searches() {
                1 => "a thread".to_owned(),
                several => format!("each of {several} threads"),
            }
        ));
        self.voice.say(picture::LEGEND);
        self.draw("")?;
        self.rest("at home")
    }

    fn there(&mut self) -> Result<(), Trouble> {
        self.begin("3. All of it moves to the device, while it is searched");
        let range = self.mover.range();
        let moved = self.migrate("to the device", range, Direction::ToDevice)?;
        self.check_all("every page is on the device", &moved, Tier::Device)
    }

    fn on_the_device(&mut self) -> Result<(), Trouble> {
        self.begin("4. The searches go on, from the device's memory");
        self.rest("on the device")
    }

    fn a_part_home(&mut self) -> Result<(), Trouble> {
        self.begin("5. Only what they write comes home: the marks of the searches");
        let moved = self.migrate("marks home", self.marks, Direction::ToSystem)?;
        let map = self.mover.query(self.mover.range())?;
        let is_there = map.count(Tier::System) == self.marks.nr_pages();
        let text = format!(
            "{} pages are at home, {} on the device",
            map.count(Tier::System),
            map.count(Tier::Device)
        );
        let is_whole = moved.done() == self.marks.nr_pages();
        self.check("a part moves alone", is_there && is_whole, &text);
        self.check_answers()
    }

    fn pinned(&mut self) -> Result<(), Trouble> {
        self.begin("6. The rest comes home, but for what is pinned for I/O");
        let range = self.mover.range();
        let eighth = self.whole_granules(ByteCount::new(range.length().get() / 8));
        let first = AddrRange::with_length(range.start(), eighth)?;
        let pin = self.mover.pin(first)?;
        let moved = self.migrate("home", range, Direction::ToSystem)?;
        self.voice.say("pages that stayed, and why:");
        print_reasons(&moved.stayed, self.voice);
        let nr_pinned = moved.stayed.get(Reason::Pinned);
        let text = format!("{nr_pinned} of {} pinned pages stayed", first.nr_pages());
        self.check("what is pinned stays", nr_pinned == first.nr_pages(), &text);
        drop(pin);
        let moved = self.migrate("the rest home", first, Direction::ToSystem)?;
        self.check_all("every page is at home", &moved, Tier::System)?;
        self.check_answers()
    }

    /// Memory of another type, where the backend has it.
    fn private(&mut self) -> Result<(), Trouble> {
        if !self.pool.capabilities().has_private {
            return Ok(());
        }
        self.begin("7. Memory that the CPU cannot reach: a touch brings it home");
        let options = RegionOptions {
            memory: MemoryType::Private,
            ..RegionOptions::default()
        };
        let mut region = self.pool.allocate(ByteCount::new(4 << 20), &options)?;
        region.as_mut_slice().fill(7);
        region.migrate(Direction::ToDevice)?;
        let before = region.query()?;
        self.voice.say(format!("      {}", picture::line(&before)));
        let touched = std::hint::black_box(region.as_slice()[region.as_slice().len() / 2]);
        let after = region.query()?;
        self.voice.say(format!("      {}", picture::line(&after)));
        let came = after.count(Tier::System);
        let granule = region.granule().frames();
        let held = touched == 7 && before.count(Tier::System) == 0 && came == granule;
        let text = format!("one byte was read, and {came} pages came home");
        self.check("a touch brings a granule home", held, &text);
        Ok(())
    }

    fn check_graph(&mut self) {
        let wrong = self.graph.count_wrong_words();
        let text = match wrong {
            0 => "every edge is what was generated".to_owned(),
            _ => format!("{wrong} words of edges are not what was generated"),
        };
        self.check("the graph", wrong == 0, &text);
    }

    /// Rounded down to whole granules, but one at least.
    fn whole_granules(&self, size: ByteCount) -> ByteCount {
        let granule = self.granule.get();
        ByteCount::new((size.get() / granule).max(1) * granule)
    }

    fn draw(&self, label: &str) -> Result<(), Trouble> {
        let map = self.mover.query(self.mover.range())?;
        self.voice
            .say(format!("{label:<5} {}", picture::line(&map)));
        Ok(())
    }

    /// Moves a range on a thread of its own, and shows how it goes.
    fn migrate(
        &mut self,
        what: &'static str,
        range: AddrRange,
        direction: Direction,
    ) -> Result<Migrated, Trouble> {
        let memcpy = memcpy_rate();
        let options = MigrateOptions {
            step: STEP,
            ..MigrateOptions::default()
        };
        let before = self.work.progress();
        self.work.pauses.take();
        let started = Instant::now();
        let migration = self.mover.start_migration(range, direction, options)?;
        let mut shown = 0;
        while !migration.is_finished() {
            if self.stop.is_set() {
                migration.cancel();
            }
            let (done, total) = migration.progress();
            let quarter = (done * 4).checked_div(total).unwrap_or(0);
            if quarter > shown && quarter < 4 {
                shown = quarter;
                self.draw("")?;
            }
            thread::sleep(Duration::from_millis(2));
        }
        let moved = migration.wait()?;
        let elapsed = started.elapsed();
        let after = self.work.progress();
        self.wait_for_steps(&after)?;
        let spread = self.work.pauses.take();
        self.draw("")?;
        self.note(Row {
            what,
            pages: moved.moved,
            elapsed,
            memcpy,
            edges_per_second: edges_per_second(&before, &after, elapsed),
            spread,
        });
        Ok(moved)
    }

    /// Lets the searches run, each at least once from start to end, measures them, and checks their
    /// answers.
    fn rest(&mut self, what: &'static str) -> Result<(), Trouble> {
        let before = self.work.progress();
        self.work.pauses.take();
        let started = Instant::now();
        let after = self.wait_for_answers()?;
        let elapsed = started.elapsed();
        let spread = self.work.pauses.take();
        self.note(Row {
            what,
            pages: 0,
            elapsed,
            memcpy: 0.0,
            edges_per_second: edges_per_second(&before, &after, elapsed),
            spread,
        });
        self.check_found(&after);
        Ok(())
    }

    fn note(&mut self, row: Row) {
        row.say(self.voice);
        self.report.note(
            if row.pages == 0 { "rest" } else { "move" },
            json!({
                "step": self.step,
                "what": row.what,
                "pages": row.pages,
                "seconds": row.elapsed.as_secs_f64(),
                "mib_per_second": row.mib_per_second(),
                "vs_memcpy": row.vs_memcpy(),
                "edges_per_second": row.edges_per_second,
                "step_median_ns": nanoseconds(row.spread.median),
                "step_p99_ns": nanoseconds(row.spread.p99),
                "step_longest_ns": nanoseconds(row.spread.longest),
            }),
        );
        self.moves.push(row);
    }

    /// Waits until each search has ended twice more: once of these it began after this call.
    fn wait_for_answers(&self) -> Result<Progress, Trouble> {
        let before = self.work.progress();
        self.stop.wait_for("the searches did not end", LIMIT, || {
            let now = self.work.progress();
            let mut pairs = now.right.iter().zip(&before.right);
            let is_done = pairs.all(|(now, before)| now - before >= 2);
            Ok((is_done || now.wrong > 0).then_some(now))
        })
    }

    /// Waits for the step that each search was at, so that what it waited for is noted.
    fn wait_for_steps(&self, before: &Progress) -> Result<(), Trouble> {
        let started = Instant::now();
        loop {
            let now = self.work.progress();
            let mut pairs = now.edges.iter().zip(&before.edges);
            if pairs.all(|(now, before)| now > before) || started.elapsed() > LIMIT {
                return Ok(());
            }
            self.stop.check()?;
            thread::sleep(Duration::from_micros(50));
        }
    }

    fn check_answers(&mut self) -> Result<(), Trouble> {
        let now = self.wait_for_answers()?;
        self.check_found(&now);
        Ok(())
    }

    fn check_found(&mut self, now: &Progress) {
        let right: u64 = now.right.iter().sum();
        let text = match now.wrong {
            0 => format!("all {right} searches so far found what they had to"),
            wrong => format!("{wrong} searches found something else"),
        };
        self.check("answers", now.wrong == 0, &text);
    }

    fn check_all(&mut self, name: &str, moved: &Migrated, tier: Tier) -> Result<(), Trouble> {
        let map = self.mover.query(self.mover.range())?;
        let (found, total) = (map.count(tier), map.range().nr_pages());
        let text = format!("{found} of {total}, and {} were looked at", moved.done());
        self.check(name, found == total && moved.done() == moved.total, &text);
        Ok(())
    }
}

impl Row {
    fn mib_per_second(&self) -> f64 {
        as_f64(self.pages) * 4096.0 / 1_048_576.0 / self.elapsed.as_secs_f64().max(1e-9)
    }

    fn vs_memcpy(&self) -> f64 {
        match self.memcpy > 0.0 {
            true => self.mib_per_second() / self.memcpy,
            false => 0.0,
        }
    }

    fn say(&self, voice: &Voice) {
        if self.pages > 0 {
            voice.say(format!(
                "{:.0} MiB in {:.2} s: {:.0} MiB/s, {:.2} of a memcpy beside the same searches",
                as_f64(self.pages) / 256.0,
                self.elapsed.as_secs_f64(),
                self.mib_per_second(),
                self.vs_memcpy()
            ));
        }
        voice.say(format!(
            "the searches: {:.0} million edges a second; a step of 64 vertices took {} (median), {} \
             (p99), {} (longest)",
            self.edges_per_second / 1e6,
            Micros(self.spread.median),
            Micros(self.spread.p99),
            Micros(self.spread.longest)
        ));
    }
}

/// A time in microseconds.
struct Micros(Duration);

impl std::fmt::Display for Micros {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let micros = self.0.as_secs_f64() * 1e6;
        let digits = if micros < 10.0 { 1 } else { 0 };
        write!(f, "{micros:.digits$} us")
    }
}

impl Ended {
    /// The table, and what to try next.
    pub(super) fn summary(&self, pool: &Pool, elapsed: Duration, voice: &Voice, report: &Report) {
        voice.step("Summary");
        voice.say(format!(
            "{:<14} {:>7} {:>7} {:>7} {:>9} {:>8} {:>8} {:>9}",
            "what", "MiB", "MiB/s", "memcpy", "Medges/s", "p50 us", "p99 us", "longest"
        ));
        let micros = |time: Duration| format!("{:.1}", time.as_secs_f64() * 1e6);
        for row in &self.rows {
            let (size, rate, ratio) = match row.pages {
                0 => ("-".to_owned(), "-".to_owned(), "-".to_owned()),
                pages => (
                    format!("{:.0}", as_f64(pages) / 256.0),
                    format!("{:.0}", row.mib_per_second()),
                    format!("{:.2} x", row.vs_memcpy()),
                ),
            };
            voice.say(format!(
                "{:<14} {size:>7} {rate:>7} {ratio:>7} {:>9.0} {:>8} {:>8} {:>9}",
                row.what,
                row.edges_per_second / 1e6,
                micros(row.spread.median),
                micros(row.spread.p99),
                micros(row.spread.longest)
            ));
        }
        voice.say(
            "(the times are those of a step of 64 vertices of a searching thread, with whatever \
             else kept it waiting, such as the scheduler)",
        );
        report.print_verdict(elapsed, voice);
        say_next(pool, voice);
    }
}

/// What migrations cost, as the engine measured it.
pub(super) fn say_stops(stats: Option<&RegionStats>, voice: &Voice) {
    let Some(stats) = stats.filter(|stats| stats.nr_stops > 0) else {
        return;
    };
    let nr_stops = u32::try_from(stats.nr_stops).unwrap_or(u32::MAX);
    voice.say("");
    voice.say(format!(
        "A granule was kept from the threads {} times, for {} on average and {} at most.",
        stats.nr_stops,
        Micros(stats.total_stop / nr_stops),
        Micros(stats.longest_stop)
    ));
}

fn say_next(pool: &Pool, voice: &Voice) {
    voice.say("");
    voice.say("To try next:");
    let next = |command: &str, what: &str| voice.say(format!("  {command:<42} {what}"));
    next(
        "cohmem doctor",
        "what this machine can do, and what is in the way",
    );
    if pool.level().is_some() {
        next("cohmem tour --granule 2M", "faster, with longer pauses");
        next("cohmem tour --granule 4K", "the other way round");
        next(
            "cohmem tour --backend engine,level=3",
            "without userfaultfd, as in a strict container",
        );
        next(
            "cohmem tour --backend engine:/dev/dax0.0",
            "on real device memory, where there is some",
        );
    }
    next(
        "cargo xtask tour --backend driver",
        "the kernel module, on unmodified programs, in a virtual machine",
    );
    if let Ok(program) = std::env::current_exe() {
        voice.say(format!("(cohmem is {} here)", program.display()));
    }
}

fn edges_per_second(before: &Progress, after: &Progress, elapsed: Duration) -> f64 {
    let sum = |progress: &Progress| progress.edges.iter().sum::<u64>();
    as_f64(sum(after) - sum(before)) / elapsed.as_secs_f64().max(1e-9)
}

#[expect(
    clippy::cast_precision_loss,
    reason = "for people, who read three digits of it"
)]
const fn as_f64(count: u64) -> f64 {
    count as f64
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// MiB a second of a plain copy, beside the same searches.
fn memcpy_rate() -> f64 {
    const BYTES: usize = 32 << 20;
    let from = vec![1_u8; BYTES];
    let mut to = vec![2_u8; BYTES];
    let started = Instant::now();
    to.copy_from_slice(&from);
    let elapsed = started.elapsed().as_secs_f64();
    std::hint::black_box(&to);
    as_f64(BYTES as u64 >> 20) / elapsed.max(1e-9)
}
