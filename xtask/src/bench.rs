//! `cargo xtask bench NAME`: side-by-side benchmarks, in the lab where they need it.

use std::{
    fs,
    os::unix::process::CommandExt as _,
    process::{Command, ExitCode},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;

use crate::{
    engine::{Copies, NOBODY, is_root},
    kmod::{self, Variant},
    lab::{self, Cpu, Guest, ModuleLoad, Output, Range},
    place::{cargo, target},
    selftest::{self, Suite},
    setup::{self, Group},
};

/// Arguments of `cargo xtask bench`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Which
    #[arg(value_enum)]
    name: Name,
    /// MiB to move each time [default: 256; 64 for run and for dmirror, whose devices have 256; 32 for
    /// engine]
    #[arg(long, value_name = "MIB")]
    size: Option<u64>,
    /// Rounds
    #[arg(long, default_value_t = 7)]
    rounds: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Name {
    /// The driver's migration against move_pages(2) and memcpy, in the lab
    Migrate,
    /// The test device against the kernel's own, in the lab
    Dmirror,
    /// The engine's migrations against memcpy: level 1 as the caller, levels 2 and 3 without privilege
    Engine,
    /// What following costs a program and the machine, in the lab; what map and top cost on large
    /// processes, here and in the lab
    Run,
}

/// Figures that a run must print.
const MIGRATE_FIGURES: [&str; 6] = [
    "figure migrate.to_device.vs_move_pages ",
    "figure migrate.to_system.vs_move_pages ",
    "figure migrate.to_device.vs_memcpy ",
    "figure migrate.to_system.vs_memcpy ",
    "figure migrate.there_already.vs_move ",
    "figure migrate.query.vs_move ",
];

/// Figures that a run must print.
const DMIRROR_FIGURES: [&str; 2] = [
    "figure dmirror.to_device.vs_test_hmm ",
    "figure dmirror.to_system.vs_test_hmm ",
];

/// Figures that a run must print: what following costs.
const FOLLOW_FIGURES: [&str; 3] = [
    "figure run.idle.cpu ",
    "figure run.idle.many.cpu ",
    "figure run.followed.vs_alone ",
];

/// Figures that a run must print: what looking costs.
const SEE_FIGURES: [&str; 4] = [
    "sparse.map.cpu ",
    "sparse.top.cpu ",
    "mappings.map.cpu ",
    "mappings.top.cpu ",
];

/// Runs the job.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    match args.name {
        Name::Migrate => {
            for cpu in [Cpu::Max, Cpu::ByWords] {
                println!("{}", conditions(cpu));
                migrate(cpu, args.size.unwrap_or(256), args.rounds, Output::Inherit)?;
            }
        }
        Name::Dmirror => {
            dmirror(args.size.unwrap_or(64), args.rounds, Output::Inherit)?;
        }
        Name::Engine => {
            print!("{}", engine(args.size.unwrap_or(32), args.rounds)?);
        }
        Name::Run => {
            print!("{}", see_here(args.rounds)?);
            follow(args.size.unwrap_or(64), args.rounds, 20, Output::Inherit)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// What an emulated processor makes of copies, which decides what the figures mean.
fn conditions(cpu: Cpu) -> &'static str {
    match cpu {
        Cpu::Max => {
            "== with fast string moves, as processors of today have: the kernel (and so the peer) copies and\n   \
             clears by them, which the emulator runs byte by byte; the driver moves words"
        }
        Cpu::ByWords => {
            "== without fast string moves: the kernel and the driver both move words, and what is left is the\n   \
             cost of the kernel's migration itself"
        }
    }
}

/// Figures that a run must print whatever the process may do.
const ENGINE_FIGURES: [&str; 6] = [
    "figure engine.l3.2m_thp.vs_memcpy ",
    "figure engine.l3.2m.vs_memcpy.live ",
    "figure engine.l3.64k.vs_memcpy ",
    "figure engine.l3.4k.vs_memcpy.live.home ",
    "figure engine.l3.access.vs_plain ",
    "figure engine.l3.pause.64k.p99 ",
];

/// Runs each benchmark small, for its output and its content check.
pub(crate) fn check() -> Result<()> {
    expect_figures(&engine(4, 1)?, &ENGINE_FIGURES)?;
    for cpu in [Cpu::Max, Cpu::ByWords] {
        println!("{}", conditions(cpu));
        expect_figures(&migrate(cpu, 32, 3, Output::Capture)?, &MIGRATE_FIGURES)?;
    }
    expect_figures(&dmirror(16, 2, Output::Capture)?, &DMIRROR_FIGURES)?;
    let (here, followed) = (see_here(1)?, follow(16, 1, 2, Output::Capture)?);
    expect_figures(&followed, &FOLLOW_FIGURES)?;
    for (place, output) in [("native", &here), ("lab", &followed)] {
        let figures = SEE_FIGURES.map(|figure| format!("figure see.{place}.{figure}"));
        expect_figures(output, &figures.each_ref().map(String::as_str))?;
    }
    Ok(())
}

fn expect_figures(output: &str, figures: &[&str]) -> Result<()> {
    print!("{output}");
    for figure in figures {
        if !output.contains(figure) {
            bail!("the benchmark prints no line \"{figure}...\"");
        }
    }
    Ok(())
}

fn dmirror(size_mib: u64, nr_rounds: u64, output: Output) -> Result<String> {
    setup::ensure(Group::Guest)?;
    setup::ensure(Group::Source)?;
    cargo(&["build", "--quiet", "--release", "--package", "cohmem-bench"])?;
    let ours = kmod::build(Variant::Dmirror)?;
    let theirs = selftest::test_device(&Suite::unpack()?)?;
    let program = target()?.join("release/cohmem-bench");
    let guest = Guest::default();
    let mut command = vec![program.display().to_string(), "dmirror".to_owned()];
    command.push(format!("--ours={}", ours.display()));
    command.push(format!("--theirs={}", theirs.display()));
    for parameter in selftest::parameters(&guest) {
        command.push(format!("--parameter={parameter}"));
    }
    command.push(format!("--size={size_mib}"));
    command.push(format!("--rounds={nr_rounds}"));
    let guest = Guest {
        command,
        timeout: Duration::from_secs(1800),
        output,
        ..guest
    };
    measured(&guest)
}

/// Measures what map and top cost on this machine, which need no module.
fn see_here(nr_rounds: u64) -> Result<String> {
    build_release()?;
    let directory = target()?.join("release");
    let mut bench = Command::new(directory.join("cohmem-bench"));
    bench
        .arg("see")
        .arg("--program")
        .arg(directory.join("cohmem"));
    capture(bench.args(["--rounds", &nr_rounds.to_string()]))
}

/// Measures what following costs, and what map and top cost with a device.
fn follow(size_mib: u64, nr_rounds: u64, seconds: u64, output: Output) -> Result<String> {
    setup::ensure(Group::Guest)?;
    build_release()?;
    let directory = target()?.join("release");
    let script = format!(
        "{cli} attach 0x140000000+512M && {bench} run --program {cli} --size {size_mib} --rounds {nr_rounds} \
         --seconds {seconds} && {bench} see --program {cli} --rounds {nr_rounds} --place lab; status=$?; \
         {cli} detach 0 && exit $status",
        cli = directory.join("cohmem").display(),
        bench = directory.join("cohmem-bench").display(),
    );
    let guest = Guest {
        modules: vec![ModuleLoad::file(kmod::build(Variant::Shipped)?)],
        command: ["sh", "-c", &script].map(str::to_owned).to_vec(),
        timeout: Duration::from_secs(900),
        output,
        ..Guest::default()
    };
    measured(&guest)
}

fn build_release() -> Result<()> {
    let packages = ["--package", "cohmem-bench", "--package", "cohmem-cli"];
    cargo(&[&["build", "--quiet", "--release"][..], &packages].concat())
}

fn migrate(cpu: Cpu, size_mib: u64, nr_rounds: u64, output: Output) -> Result<String> {
    setup::ensure(Group::Guest)?;
    build_release()?;
    let directory = target()?.join("release");
    let script = format!(
        "{cli} attach && {bench} migrate --size {size_mib} --rounds {nr_rounds}; status=$?; \
         {cli} detach 0 && exit $status",
        cli = directory.join("cohmem").display(),
        bench = directory.join("cohmem-bench").display(),
    );
    let guest = Guest {
        memory_mib: 6144,
        cpu,
        spm: vec![Range {
            start: 0x1_4000_0000,
            bytes: 1 << 30,
        }],
        numa: true,
        modules: vec![ModuleLoad::file(kmod::build(Variant::Shipped)?)],
        command: ["sh", "-c", &script].map(str::to_owned).to_vec(),
        timeout: Duration::from_secs(1800),
        output,
        ..Guest::default()
    };
    measured(&guest)
}

/// Runs a benchmark and returns what it printed.
fn measured(guest: &Guest) -> Result<String> {
    let outcome = guest.run()?;
    lab::tell(&outcome);
    if !outcome.is_success() {
        eprint!("{}", String::from_utf8_lossy(&outcome.stderr));
        bail!("the benchmark: exit status {}", outcome.exit_code());
    }
    Ok(String::from_utf8_lossy(&outcome.stdout).into_owned())
}

/// Measures level 1 as the caller; levels 2 and 3 as a user without privilege, where the caller may
/// become one.
fn engine(size_mib: u64, nr_rounds: u64) -> Result<String> {
    cargo(&["build", "--quiet", "--release", "--package", "cohmem-bench"])?;
    let program = target()?.join("release/cohmem-bench");
    let arguments = |levels: &str| {
        let (size, rounds) = (size_mib.to_string(), nr_rounds.to_string());
        [
            "engine", "--size", &size, "--rounds", &rounds, "--levels", levels,
        ]
        .map(str::to_owned)
    };
    let _huge = SharedHugePages::on();
    let mut output = capture(Command::new(&program).args(arguments("1")))?;
    if is_root()? {
        let copies = Copies::of(std::slice::from_ref(&program))?;
        let mut command = Command::new(&copies.programs()[0]);
        command.args(arguments("2,3")).current_dir("/");
        output.push_str("levels 2 and 3 as nobody:\n");
        output.push_str(&capture(command.uid(NOBODY).gid(NOBODY))?);
    } else {
        output.push_str(&capture(Command::new(&program).args(arguments("2,3")))?);
    }
    Ok(output)
}

fn capture(command: &mut Command) -> Result<String> {
    let output = command
        .output()
        .with_context(|| format!("{}", command.get_program().display()))?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        bail!("the benchmark: {}\n{text}", output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

const SHARED_HUGE_PAGES: &str = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";

/// Huge pages for shared memory that asks for them: off by default, so a memfd has none. As they were
/// when it is dropped.
struct SharedHugePages {
    before: Option<String>,
}

impl SharedHugePages {
    fn on() -> Self {
        let chosen = fs::read_to_string(SHARED_HUGE_PAGES).ok().and_then(|text| {
            let (_, rest) = text.split_once('[')?;
            Some(rest.split_once(']')?.0.to_owned())
        });
        let before = chosen
            .filter(|chosen| chosen == "never" && fs::write(SHARED_HUGE_PAGES, "advise").is_ok());
        Self { before }
    }
}

impl Drop for SharedHugePages {
    fn drop(&mut self) {
        if let Some(before) = &self.before
            && let Err(error) = fs::write(SHARED_HUGE_PAGES, before)
        {
            eprintln!("xtask: {SHARED_HUGE_PAGES} is still \"advise\": {error}");
        }
    }
}
