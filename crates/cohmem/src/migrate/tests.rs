//! Tests of the module above.

use std::{cell::RefCell, io};

use super::*;
use crate::command::{Command, failed};

const PAGE: u64 = FRAME_BYTES;
const START: u64 = 0x7000_0000;

/// Plays a list of answers and notes the parts it was asked for.
struct Script {
    answers: RefCell<Vec<Answer>>,
    asked: RefCell<Vec<(u64, u64)>>,
}

#[derive(Clone, Copy)]
enum Answer {
    Moves(u64),
    Stays(u64, Reason),
    Fails(i32),
}

impl Mover for Script {
    fn move_part(
        &self,
        mut argument: args::Migrate,
        reasons: Option<&mut [u8]>,
    ) -> Result<args::Migrate> {
        self.asked
            .borrow_mut()
            .push((argument.start, argument.length));
        match self.answers.borrow_mut().remove(0) {
            Answer::Moves(pages) => {
                argument.nr_moved = pages;
                argument.next = argument.start + pages * PAGE;
            }
            Answer::Stays(pages, reason) => {
                argument.stayed[reason as usize] = pages;
                argument.next = argument.start + pages * PAGE;
                if let Some(reasons) = reasons {
                    reasons[..usize::try_from(pages).unwrap()].fill(reason as u8);
                }
            }
            Answer::Fails(errno) => {
                let command = Command::Migrate {
                    device: 0,
                    start: argument.start,
                    length: argument.length,
                };
                return Err(failed(command, io::Error::from_raw_os_error(errno)));
            }
        }
        Ok(argument)
    }
}

fn run(pages: u64, answers: &[Answer]) -> (Result<Migrated>, Vec<(u64, u64)>) {
    run_until(pages, answers, |_| ControlFlow::Continue(()))
}

fn run_until(
    pages: u64,
    answers: &[Answer],
    progress_fn: impl FnMut(&Migrated) -> ControlFlow<()>,
) -> (Result<Migrated>, Vec<(u64, u64)>) {
    let script = Script {
        answers: RefCell::new(answers.to_vec()),
        asked: RefCell::default(),
    };
    let options = MigrateOptions {
        step: ByteCount::new(4 * PAGE),
        ..MigrateOptions::default()
    };
    let range = AddrRange::with_length(UserAddr::new(START), ByteCount::new(pages * PAGE));
    let range = range.unwrap();
    let mut reasons = ReasonBuffer::new(range, &options, Target::Own).unwrap();
    let result = parts(
        &script,
        range,
        &options,
        args::Migrate::default(),
        Some(&mut reasons),
        progress_fn,
    );
    (result, script.asked.into_inner())
}

#[test]
fn a_range_is_moved_in_steps_and_each_page_is_counted_once() {
    let (migrated, asked) = run(
        10,
        &[
            Answer::Moves(4),
            Answer::Stays(4, Reason::Pinned),
            Answer::Moves(2),
        ],
    );
    let migrated = migrated.unwrap();
    assert_eq!(
        asked,
        [
            (START, 4 * PAGE),
            (START + 4 * PAGE, 4 * PAGE),
            (START + 8 * PAGE, 2 * PAGE)
        ]
    );
    assert_eq!(
        (migrated.moved, migrated.stayed.get(Reason::Pinned)),
        (6, 4)
    );
    assert_eq!(migrated.done(), migrated.total);
    assert_eq!(migrated.reasons.len(), 10);
    assert_eq!(migrated.reasons[3..5], [None, Some(Reason::Pinned)]);
    assert_eq!(migrated.reasons[8], None);
}

#[test]
fn a_short_call_goes_on_where_it_ended() {
    let (migrated, asked) = run(
        4,
        &[
            Answer::Moves(1),
            Answer::Fails(libc::EINTR),
            Answer::Moves(3),
        ],
    );
    assert_eq!(migrated.unwrap().moved, 4);
    assert_eq!(
        asked[1..],
        [(START + PAGE, 3 * PAGE), (START + PAGE, 3 * PAGE)]
    );
}

#[test]
fn a_gap_of_a_long_range_is_counted_and_a_wholly_unmapped_range_fails() {
    let (migrated, _) = run(8, &[Answer::Fails(libc::EADDRNOTAVAIL), Answer::Moves(4)]);
    let migrated = migrated.unwrap();
    assert_eq!(
        (migrated.moved, migrated.stayed.get(Reason::Unmapped)),
        (4, 4)
    );
    assert_eq!(migrated.reasons[0], Some(Reason::Unmapped));
    let gap = Answer::Fails(libc::EADDRNOTAVAIL);
    let (error, _) = run(8, &[gap, gap]);
    assert_eq!(error.unwrap_err().kind(), ErrorKind::NotMapped);
    let (migrated, _) = run(8, &[Answer::Moves(4), gap]);
    assert_eq!(migrated.unwrap().stayed.get(Reason::Unmapped), 4);
}

#[test]
fn a_cancelled_migration_tells_where_it_ended() {
    let (migrated, asked) = run_until(8, &[Answer::Moves(4)], |_| ControlFlow::Break(()));
    let migrated = migrated.unwrap();
    assert_eq!((migrated.next.get(), migrated.total), (START + 4 * PAGE, 8));
    assert_eq!(asked.len(), 1);
}

#[test]
fn a_driver_that_stands_still_is_an_error_and_no_endless_loop() {
    let (error, _) = run(8, &[Answer::Moves(0)]);
    assert!(
        error
            .unwrap_err()
            .to_string()
            .contains("no progress at 0x70000000")
    );
}

#[test]
fn flags_are_those_of_the_abi() {
    let all = MigrateOptions {
        fill: true,
        shared: true,
        executable: true,
        ..Default::default()
    };
    assert_eq!(all.flags(), 0b111);
    assert_eq!(MigrateOptions::default().flags(), 0);
}
