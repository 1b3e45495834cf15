//! Figures: values over several rounds.

use std::time::Duration;

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

fn print(name: &str, mut values: Vec<f64>, unit: &str) {
    values.sort_by(f64::total_cmp);
    let median = values[values.len() / 2];
    let (least, most) = (values[0], values[values.len() - 1]);
    println!(
        "spread {name} {least:.3}..{most:.3} {unit}, {} rounds",
        values.len()
    );
    println!("figure {name} {median:.3} {unit}");
}
