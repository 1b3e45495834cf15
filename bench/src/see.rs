//! What `map` and `top` cost on processes with much address space, or with many mappings.

use std::{
    error::Error,
    io,
    path::PathBuf,
    process::{Command, Stdio},
};

use crate::{figure, sys::wait_measured, work::Worker};

/// Arguments of the benchmark.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The command `cohmem`
    #[arg(long, value_name = "FILE")]
    program: PathBuf,
    /// Rounds
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Part of the names of the figures
    #[arg(long, default_value = "native")]
    place: String,
}

pub(crate) fn run(args: &Args) -> Result<(), Box<dyn Error>> {
    figure::print_machine()?;
    for (kind, what) in [("sparse", "--sparse=100"), ("mappings", "--mappings=50000")] {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["work", what]);
        let subject = Worker::start(command)?;
        let pid = subject.pid().to_string();
        println!("a process with {what}");
        for (name, words) in [
            ("map", vec!["map", &pid, "--json"]),
            ("top", vec!["top", "--json"]),
        ] {
            let (mut seconds, mut peak) = (Vec::new(), 0);
            for _round in 0..args.rounds {
                let child = Command::new(&args.program)
                    .args(&words)
                    .stdout(Stdio::null())
                    .spawn()?;
                let measured = wait_measured(child)?;
                if !measured.is_success {
                    return Err(io::Error::other(format!("cohmem {words:?} failed")).into());
                }
                seconds.push(measured.processor.as_secs_f64());
                peak = peak.max(measured.peak_kib);
            }
            figure::print(
                &format!("see.{}.{kind}.{name}.cpu", args.place),
                seconds,
                "s",
            );
            println!(
                "figure see.{}.{kind}.{name}.peak {} MiB",
                args.place,
                peak >> 10
            );
        }
    }
    Ok(())
}
