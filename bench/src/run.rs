//! What `cohmem run` costs: processor time while its program is idle, and the program's own speed.
//!
//! The same program runs alone and below `cohmem run`, both at once, and they work in turns, the first
//! of a round being another one each time: a difference is the follower's doing, or noise. It is measured
//! once all of the followed one's memory is on the device.

use std::{
    error::Error,
    path::PathBuf,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use cohmem::Device;

use crate::{
    figure::{self, Times},
    work::{Worker, nr_pages, processor_time, wait_until},
};

/// Arguments of the benchmark.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The command `cohmem`
    #[arg(long, value_name = "FILE")]
    program: PathBuf,
    /// MiB that the program holds and goes through
    #[arg(long, default_value_t = 64, value_name = "MIB")]
    size: usize,
    /// Rounds
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Seconds that an idle program is watched for
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// Number of the device
    #[arg(long, default_value_t = 0, value_name = "N")]
    device: u32,
}

/// Time that one turn takes at least, so that the follower has looked several times in it.
const TURN: Duration = Duration::from_millis(800);

pub(crate) fn run(args: &Args) -> Result<(), Box<dyn Error>> {
    figure::print_machine()?;
    println!(
        "program of {} MiB under `cohmem run --interval 1s`; no part of it is measured before its memory \
         is on cohmem{}",
        args.size, args.device
    );
    idle(args, "run.idle", args.size, &[])?;
    // 9 processes of 17 threads.
    idle(args, "run.idle.many", 9, &["--threads=16", "--children=8"])?;
    paired(args)
}

/// Prints the share of a processor that following takes when nothing happens.
fn idle(args: &Args, name: &str, size: usize, more: &[&str]) -> Result<(), Box<dyn Error>> {
    let touched = if more.is_empty() { size } else { 1 };
    let followed = start_followed(args, touched, size, more)?;
    // The looks without a cause become rare.
    thread::sleep(Duration::from_secs(args.seconds / 4));
    let (begin, before) = (Instant::now(), processor_time(followed.pid())?);
    thread::sleep(Duration::from_secs(args.seconds));
    let used = processor_time(followed.pid())?.saturating_sub(before);
    let share = 100.0 * used.as_secs_f64() / begin.elapsed().as_secs_f64();
    println!("figure {name}.cpu {share:.3} %");
    Ok(())
}

fn paired(args: &Args) -> Result<(), Box<dyn Error>> {
    let mut alone = Worker::start(worker(args.size)?)?;
    let mut followed = start_followed(args, args.size, args.size, &[])?;
    let one_pass = alone.work(1)?;
    let nr_passes = 1 + u64::try_from(TURN.as_nanos() / one_pass.as_nanos().max(1))?;
    let (mut times_alone, mut times_followed) = (Times::default(), Times::default());
    for round in 0..args.rounds {
        if round % 2 == 0 {
            times_alone.push(alone.work(nr_passes)?);
        }
        times_followed.push(followed.work(nr_passes)?);
        if round % 2 == 1 {
            times_alone.push(alone.work(nr_passes)?);
        }
    }
    times_followed.print_ratio("run.followed.vs_alone", &times_alone);
    Ok(())
}

fn worker(size: usize) -> Result<Command, std::io::Error> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("work").arg(format!("--touched={size}"));
    Ok(command)
}

/// Starts the program below the command, and waits until `size` MiB are on the device.
fn start_followed(
    args: &Args,
    touched: usize,
    size: usize,
    more: &[&str],
) -> Result<Worker, Box<dyn Error>> {
    let device = Device::open(args.device)?;
    let free = device.query_free()?;
    let mut command = Command::new(&args.program);
    command.args(["run", "--device", &args.device.to_string(), "--"]);
    let program = worker(touched)?;
    command.arg(program.get_program()).args(program.get_args());
    command.args(more).stderr(Stdio::null());
    let worker = Worker::start(command)?;
    wait_until(|| {
        let taken = free.frames().saturating_sub(device.query_free()?.frames());
        Ok(taken >= nr_pages(size))
    })?;
    Ok(worker)
}
