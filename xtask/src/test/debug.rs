//! The stages that the debug kernel runs as well.

use std::time::Instant;

use anyhow::{Result, bail};

use super::{Size, Stage};
use crate::kernel;

/// In this order, each in a machine of its own.
pub(super) const STAGES: [Stage; 7] = [
    Stage::Lab,
    Stage::Guest,
    Stage::Poison,
    Stage::Hooks,
    Stage::Dmirror,
    Stage::Selftest,
    Stage::Fuzz,
];

/// Builds the kernel and runs all of them, small; prints the seconds of each.
///
/// # Errors
///
/// When the kernel cannot be built; or, after all have run, those that failed.
pub(super) fn check() -> Result<()> {
    let start = Instant::now();
    let release = kernel::Name::Debug.find()?.release;
    println!("debug: {release}, ready in {} s", start.elapsed().as_secs());
    let mut failed = Vec::new();
    for stage in STAGES {
        let start = Instant::now();
        let name = format!("{stage:?}").to_lowercase();
        let verdict = match stage.run(None, kernel::Name::Debug, Size::Small) {
            Ok(()) => "ok",
            Err(error) => {
                eprintln!("debug: {name}: {error:#}");
                failed.push(name.clone());
                "FAILED"
            }
        };
        println!(
            "debug: {name:<8} {:>4} s  {verdict}",
            start.elapsed().as_secs()
        );
    }
    if !failed.is_empty() {
        bail!("on the debug kernel: {}", failed.join(", "));
    }
    Ok(())
}
