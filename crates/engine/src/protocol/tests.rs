//! Each protocol against the model, with accesses before any call and a failure at any call.

use rustix::io::Errno;

use super::{
    hole,
    model::{Access, Failure, Model, NR_PAGES, Outcome, PAGE},
    stop,
};
use crate::{host::Span, word::Place};

const ALL: Span = Span {
    start: 0,
    length: NR_PAGES * PAGE,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    Hole,
    Private,
    Stop,
}

const PROTOCOLS: [Protocol; 3] = [Protocol::Hole, Protocol::Private, Protocol::Stop];

impl Protocol {
    fn run(self, model: &Model, to: Place) -> Result<(), cohmem_uapi::Reason> {
        match (self, to) {
            (Self::Hole, Place::Device) => hole::to_device(model, ALL, 0),
            (Self::Hole, Place::System) => hole::to_system(model, ALL, 0),
            (Self::Private, Place::Device) => hole::to_private(model, ALL, 0),
            (Self::Private, Place::System) => hole::from_private(model, ALL, 0),
            (Self::Stop, Place::Device) => stop::to_device(model, ALL, 0),
            (Self::Stop, Place::System) => stop::to_system(model, ALL, 0),
        }
    }
}

/// Every page is written before each call of the kernel, or of one call only.
#[derive(Clone, Copy, Debug)]
enum Users {
    Always,
    Before(usize),
}

fn model(failure: Failure, users: Users) -> Model {
    let nr_calls = std::sync::atomic::AtomicUsize::new(0);
    Model::new(failure, move |model| {
        let call = nr_calls.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let is_time = match users {
            Users::Always => true,
            Users::Before(nr_before) => call == nr_before,
        };
        // In a gap a program would end: the kernel was out of memory for its own structures.
        if model.has_gap() {
            return;
        }
        model.retry_woken();
        if is_time {
            for page in 0..NR_PAGES {
                model.access(page, Access::Read);
                model.access(page, Access::Write);
            }
        }
    })
}

/// Where the content is after a try, and whether nobody waits.
fn settle(model: &Model, protocol: Protocol, place: Place) {
    let is_private = protocol == Protocol::Private;
    model.retry_woken();
    model.check_rest(ALL, place, is_private);
    if !(is_private && place == Place::Device) {
        assert_eq!(model.nr_waiting(), 0, "somebody was not woken");
        for page in 0..NR_PAGES {
            assert_eq!(model.access(page, Access::Write), Outcome::Done);
        }
    }
}

#[test]
fn nothing_is_lost_or_left_waiting_wherever_accesses_come() {
    for protocol in PROTOCOLS {
        for users in (0..40).map(Users::Before).chain([Users::Always]) {
            let model = model(Failure::default(), users);
            for _ in 0..2 {
                protocol.run(&model, Place::Device).unwrap();
                settle(&model, protocol, Place::Device);
                protocol.run(&model, Place::System).unwrap();
                settle(&model, protocol, Place::System);
            }
        }
    }
}

/// The errors that calls are known to end with, and some others.
const ERRORS: [Errno; 5] = [
    Errno::NOMEM,
    Errno::BUSY,
    Errno::INVAL,
    Errno::AGAIN,
    Errno::PERM,
];

#[test]
fn a_failure_anywhere_leaves_the_content_whole_in_one_place() {
    let mut nr_failed = 0;
    for protocol in PROTOCOLS {
        for error in ERRORS {
            for leaves_gap in [false, true] {
                for users in (0..30).map(Users::Before).chain([Users::Always]) {
                    for nr_calls_before in 0.. {
                        let failure = Failure {
                            nr_calls_before,
                            error: Some(error),
                            leaves_gap,
                        };
                        let model = model(failure, users);
                        let mut place = Place::System;
                        for to in [Place::Device, Place::System] {
                            match protocol.run(&model, to) {
                                Ok(()) => place = to,
                                Err(_) => nr_failed += 1,
                            }
                            settle(&model, protocol, place);
                            if place != to {
                                break;
                            }
                        }
                        if model.nr_calls() <= nr_calls_before {
                            break;
                        }
                    }
                }
            }
        }
    }
    assert!(nr_failed > 1000, "{nr_failed}");
}

#[test]
fn a_page_given_back_to_the_system_moves_as_zeros() {
    // NOENT as if somebody had given the first page back at the moment of the take.
    let failure = Failure {
        nr_calls_before: 2,
        error: Some(Errno::NOENT),
        leaves_gap: false,
    };
    let model = Model::new(failure, |_| {});
    let moved = hole::to_device(&model, ALL, 0);
    // The model's first page was taken before the call failed; the second one becomes zeros, which the
    // model takes for a lost value.
    assert_eq!(moved, Ok(()));
    let seen = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        model.access(1, Access::Read)
    }));
    seen.unwrap_err();
}
