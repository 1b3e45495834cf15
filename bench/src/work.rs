//! The programs that are followed and looked at: each holds memory of a kind and does what it is told, a
//! line a step, until its standard input ends.

use std::{
    error::Error,
    io::{self, BufRead as _, BufReader, Lines, Write as _},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::{
    figure::time,
    sys::{PAGE, Pages},
};

/// Arguments of such a program.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Args {
    /// MiB of touched memory, which each step goes through
    #[arg(long, default_value_t = 1, value_name = "MIB")]
    touched: usize,
    /// GiB of address space, of which one page in 1 GiB is touched
    #[arg(long, default_value_t = 0, value_name = "GIB")]
    sparse: usize,
    /// Mappings of one touched page each
    #[arg(long, default_value_t = 0, value_name = "N")]
    mappings: usize,
    /// More threads, which sleep
    #[arg(long, default_value_t = 0, value_name = "N")]
    threads: usize,
    /// More processes of this kind, which sleep
    #[arg(long, default_value_t = 0, value_name = "N")]
    children: usize,
}

/// What such a program is.
pub(crate) fn run(args: &Args) -> Result<(), Box<dyn Error>> {
    let mut touched = Pages::touched(args.touched << 20)?;
    let sparse = Pages::sparse(args.sparse << 30)?;
    let pieces = Pages::in_pieces(args.mappings)?;
    for _thread in 0..args.threads {
        // They end with the process.
        thread::Builder::new().spawn(thread::park)?;
    }
    let children = (0..args.children)
        .map(|_child| {
            let mut command = Command::new(std::env::current_exe()?);
            let words = [
                ("--touched", args.touched),
                ("--threads", args.threads),
                ("--children", 0),
            ];
            command.arg("work");
            for (word, value) in words {
                command.arg(format!("{word}={value}"));
            }
            Worker::start(command)
        })
        .collect::<Result<Vec<_>, _>>()?;
    let mut output = io::stdout().lock();
    writeln!(output, "ready")?;
    output.flush()?;
    let mut value = 1_u64;
    for line in io::stdin().lock().lines() {
        let nr_passes: u64 = line?.parse()?;
        let (took, ()) = time(|| {
            for _pass in 0..nr_passes {
                for word in touched.words_mut() {
                    value = value.wrapping_mul(3).wrapping_add(*word);
                    *word = value;
                }
            }
        });
        writeln!(output, "{}", took.as_nanos())?;
        output.flush()?;
    }
    drop((children, sparse, pieces));
    Ok(())
}

/// Such a program, running, perhaps below another one.
#[derive(Debug)]
pub(crate) struct Worker {
    child: Child,
    /// Its end ends the program.
    input: Option<ChildStdin>,
    output: Lines<BufReader<ChildStdout>>,
}

impl Worker {
    /// Starts it and waits until it holds its memory.
    pub(crate) fn start(mut command: Command) -> Result<Self, io::Error> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let output = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
        let mut worker = Self {
            input: child.stdin.take(),
            output: BufReader::new(output).lines(),
            child,
        };
        worker.line()?;
        Ok(worker)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    fn line(&mut self) -> Result<String, io::Error> {
        self.output
            .next()
            .unwrap_or_else(|| Err(io::ErrorKind::UnexpectedEof.into()))
    }

    /// Has it go through its memory so many times; the time that it took.
    pub(crate) fn work(&mut self, nr_passes: u64) -> Result<Duration, Box<dyn Error>> {
        let closed = || io::Error::from(io::ErrorKind::BrokenPipe);
        let input = self.input.as_mut().ok_or_else(closed)?;
        writeln!(input, "{nr_passes}")?;
        Ok(Duration::from_nanos(self.line()?.parse()?))
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.input = None;
        if let Err(error) = self.child.wait() {
            eprintln!("cohmem-bench: cannot wait for a program: {error}");
        }
    }
}

/// Processor time that a process has used so far, all of its threads.
pub(crate) fn processor_time(pid: u32) -> Result<Duration, Box<dyn Error>> {
    let mut sum = 0;
    for thread in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let text = std::fs::read_to_string(thread?.path().join("schedstat"))?;
        let first = text.split_whitespace().next().unwrap_or_default();
        sum += first.parse::<u64>()?;
    }
    Ok(Duration::from_nanos(sum))
}

/// Waits until `is_true_fn`, for at most ten minutes.
pub(crate) fn wait_until(
    mut is_true_fn: impl FnMut() -> Result<bool, Box<dyn Error>>,
) -> Result<(), Box<dyn Error>> {
    let begin = Instant::now();
    while !is_true_fn()? {
        if begin.elapsed() > Duration::from_secs(600) {
            return Err(io::Error::from(io::ErrorKind::TimedOut).into());
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Bytes as pages.
pub(crate) const fn nr_pages(mib: usize) -> u64 {
    ((mib << 20) / PAGE) as u64
}
