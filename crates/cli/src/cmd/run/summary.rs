//! What is said when the program has ended.

use std::{fmt::Write as _, time::Duration};

use cohmem::ByteCount;
use rustix::time::{ClockId, clock_gettime};

use crate::follow::Tally;

pub(super) fn print(tally: &Tally, longest_wait: Duration, elapsed: Duration) {
    let processor = clock_gettime(ClockId::ProcessCPUTime);
    let processor = Duration::try_from(processor).unwrap_or_default();
    eprint!("{}", text(tally, longest_wait, processor, elapsed));
}

fn text(tally: &Tally, longest_wait: Duration, processor: Duration, elapsed: Duration) -> String {
    let pages = |count: u64| format!("{count} pages ({})", ByteCount::of_frames(count));
    let moved: Vec<_> = tally
        .moved
        .iter()
        .filter(|(_, count)| **count > 0)
        .map(|(device, count)| format!("{} moved to cohmem{device}", pages(*count)))
        .collect();
    let moved = if moved.is_empty() {
        "no page moved".to_owned()
    } else {
        moved.join(", ")
    };
    let stayed: Vec<_> = tally
        .stayed
        .iter()
        .map(|(reason, count)| format!("{count} {}", reason.name()))
        .collect();
    let stayed = if stayed.is_empty() {
        "none".to_owned()
    } else {
        stayed.join(", ")
    };
    // Of a moment, in which the command itself starts, a share says nothing.
    let share = if elapsed < Duration::from_secs(1) {
        String::new()
    } else {
        let share = 100.0 * processor.as_secs_f64() / elapsed.as_secs_f64();
        format!(
            ": {share:.1} % of a core for {:.1} s",
            elapsed.as_secs_f64()
        )
    };
    let mut text = format!(
        "cohmem run: {moved}, at most {} there at a time; stayed: {stayed}\n\
         cohmem run: {} looks; new memory waited at most {} ms; {:.3} s of processor time, moving \
         included{share}\n",
        ByteCount::of_frames(tally.peak),
        tally.rounds,
        longest_wait.as_millis(),
        processor.as_secs_f64(),
    );
    let mut more = |line: std::fmt::Arguments<'_>| {
        // Writing to a string does not fail.
        writeln!(text, "cohmem run: {line}").unwrap_or_default();
    };
    if tally.evicted > 0 {
        more(format_args!(
            "{} went home to make room",
            pages(tally.evicted)
        ));
    }
    if tally.left.0 > 0 {
        more(format_args!(
            "{} processes go on without the program; {} of theirs went home",
            tally.left.0,
            pages(tally.left.1)
        ));
    }
    if !tally.hidden.is_empty() {
        more(format_args!(
            "{} processes could not be looked into (set-user-ID programs are not this user's to see)",
            tally.hidden.len()
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use cohmem::Reason;

    use super::*;

    #[test]
    fn every_number_has_its_unit() {
        let mut tally = Tally::default();
        let time = Duration::from_millis;
        assert_eq!(
            text(&tally, time(20), time(1), time(1000)),
            "cohmem run: no page moved, at most 0 B there at a time; stayed: none\n\
             cohmem run: 0 looks; new memory waited at most 20 ms; 0.001 s of processor time, moving \
             included: 0.1 % of a core for 1.0 s\n"
        );
        tally.moved.extend([(0, 256), (1, 1), (2, 0)]);
        tally.stayed.add(Reason::Pinned, 3);
        (tally.peak, tally.evicted, tally.left, tally.rounds) = (257, 2, (1, 4), 9);
        tally.hidden.insert(7);
        assert_eq!(
            text(&tally, time(250), time(125), time(2500)),
            "cohmem run: 256 pages (1 MiB) moved to cohmem0, 1 pages (4 KiB) moved to cohmem1, at most \
             1 MiB there at a time; stayed: 3 pinned\n\
             cohmem run: 9 looks; new memory waited at most 250 ms; 0.125 s of processor time, moving \
             included: 5.0 % of a core for 2.5 s\n\
             cohmem run: 2 pages (8 KiB) went home to make room\n\
             cohmem run: 1 processes go on without the program; 4 pages (16 KiB) of theirs went home\n\
             cohmem run: 1 processes could not be looked into (set-user-ID programs are not this user's \
             to see)\n"
        );
    }
}
