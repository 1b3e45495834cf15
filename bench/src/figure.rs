//! Figures: values over several rounds.

use std::{
    io,
    time::{Duration, Instant},
};

/// Times of one operation, one a round.
#[derive(Clone, Debug, Default)]
pub(crate) struct Times(Vec<f64>);

impl Times {
    pub(crate) fn push(&mut self, time: Duration) {
        self.0.push(time.as_secs_f64());
    }

    /// Prints how often this fits into `peer`, round by round: above 1 this is faster.
    pub(crate) fn print_ratio(&self, name: &str, peer: &Self) {
        let ratios = self
            .0
            .iter()
            .zip(&peer.0)
            .map(|(own, peer)| peer / own)
            .collect();
        print(name, ratios, "x");
    }

    /// Prints the rate at which `bytes` were worked on.
    pub(crate) fn print_rate(&self, name: &str, bytes: usize) {
        #[expect(
            clippy::cast_precision_loss,
            reason = "a size in bytes, shown with three digits"
        )]
        let mebibytes = bytes as f64 / f64::from(1 << 20);
        print(
            name,
            self.0.iter().map(|time| mebibytes / time).collect(),
            "MiB/s",
        );
    }
}

/// Prints the median of `values`, of which there is at least one, and their spread.
pub(crate) fn print(name: &str, mut values: Vec<f64>, unit: &str) {
    values.sort_by(f64::total_cmp);
    let median = values[values.len() / 2];
    let (least, most) = (values[0], values[values.len() - 1]);
    println!(
        "spread {name} {least:.3}..{most:.3} {unit}, {} rounds",
        values.len()
    );
    println!("figure {name} {median:.3} {unit}");
}

/// Runs `work_fn`; how long it took, and what it gave.
pub(crate) fn time<T>(work_fn: impl FnOnce() -> T) -> (Duration, T) {
    let start = Instant::now();
    let result = work_fn();
    (start.elapsed(), result)
}

/// Prints the kernel, the processor, and whether the machine is real.
pub(crate) fn print_machine() -> io::Result<()> {
    let read = |path: &str| std::fs::read_to_string(path);
    let cpu = read("/proc/cpuinfo")?;
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .unwrap_or("unknown");
    let is_emulated = cpu.contains("hypervisor");
    println!("kernel {}", read("/proc/sys/kernel/osrelease")?.trim());
    println!("processor {}", model.trim_start_matches(['\t', ' ', ':']));
    println!(
        "machine {}",
        if is_emulated {
            "virtual: only ratios within this run mean anything"
        } else {
            "real"
        }
    );
    Ok(())
}
