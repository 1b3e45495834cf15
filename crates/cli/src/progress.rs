//! Progress on the standard error, if that is a terminal.

use std::{io::IsTerminal, time::Duration};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

fn shown(bar: ProgressBar, template: &str) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

/// A bar over a number of bytes.
pub(crate) fn bytes(what: &'static str, total: u64) -> ProgressBar {
    let template =
        "{msg} [{bar:30}] {binary_bytes} of {binary_total_bytes}, {binary_bytes_per_sec}";
    shown(ProgressBar::new(total), template).with_message(what)
}

/// Work whose end is not known.
pub(crate) fn spinner(what: String) -> ProgressBar {
    let spinner = shown(ProgressBar::new_spinner(), "{spinner} {msg} {elapsed}").with_message(what);
    spinner.enable_steady_tick(Duration::from_millis(200));
    spinner
}
