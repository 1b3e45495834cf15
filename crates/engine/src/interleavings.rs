//! Every interleaving (up to the preemption bound) of the hand-over with threads that use the region,
//! under loom's memory model: the code that moves memory, on the model of the kernel.
//!
//! Run with `RUSTFLAGS="--cfg loom" LOOM_MAX_PREEMPTIONS=2 cargo test --release -p cohmem-engine --lib`.
//! A thread that nobody wakes is a deadlock, which loom reports.

use loom::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    thread,
};

use crate::{
    host::Span,
    protocol::{
        hole,
        model::{Access, Model, PAGE},
        stop,
    },
    slots::{Content, Slots},
    touch::Touches,
    word::{Pins, Place, Word},
};

const FIRST: Span = Span {
    start: 0,
    length: PAGE,
};

/// Moves the first page there and back, while another thread writes it twice.
fn there_and_back(move_fn: impl Fn(&Model, Place) + Send + Sync + Copy + 'static) {
    loom::model(move || {
        let model = Arc::new(Model::new());
        let user = {
            let model = Arc::clone(&model);
            thread::spawn(move || {
                model.access_waiting(0, Access::Write, |_| {});
                model.access_waiting(0, Access::Read, |_| {});
                model.access_waiting(0, Access::Write, |_| {});
            })
        };
        move_fn(&model, Place::Device);
        move_fn(&model, Place::System);
        user.join().unwrap();
        model.check_rest(FIRST, Place::System, false);
        assert_eq!(model.nr_waiting(), 0);
    });
}

#[test]
fn level_1_loses_no_write_and_no_wake() {
    there_and_back(|model, to| {
        match to {
            Place::Device => hole::to_device(model, FIRST, 0),
            Place::System => hole::to_system(model, FIRST, 0),
        }
        .unwrap();
    });
}

#[test]
fn levels_2_and_3_lose_no_write_and_no_wake() {
    there_and_back(|model, to| {
        match to {
            Place::Device => stop::to_device(model, FIRST, 0),
            Place::System => stop::to_system(model, FIRST, 0),
        }
        .unwrap();
    });
}

/// At level 3 nobody is queued in the kernel: who is stopped waits for the granule's word.
#[test]
fn level_3_loses_no_write_and_no_wake_of_the_word() {
    loom::model(|| {
        let model = Arc::new(Model::new());
        let word = Arc::new(Word::new(Place::System));
        let user = {
            let (model, word) = (Arc::clone(&model), Arc::clone(&word));
            thread::spawn(move || {
                for access in [Access::Write, Access::Read, Access::Write] {
                    model.access_retrying(0, access, || word.wait_until_unlocked());
                }
            })
        };
        for to in [Place::Device, Place::System] {
            assert!(word.lock(Pins::Heeded).is_some_and(|place| place != to));
            match to {
                Place::Device => stop::to_device(&*model, FIRST, 0),
                Place::System => stop::to_system(&*model, FIRST, 0),
            }
            .unwrap();
            word.unlock(to);
        }
        user.join().unwrap();
        model.check_rest(FIRST, Place::System, false);
        assert_eq!(model.nr_waiting(), 0);
    });
}

#[test]
fn a_touch_while_the_granule_is_held_is_kept() {
    loom::model(|| {
        let model = Arc::new(Model::new());
        let word = Arc::new(Word::new(Place::System));
        let touches = Arc::new(Touches::new(1));
        let porter = {
            let (model, word, touches) =
                (Arc::clone(&model), Arc::clone(&word), Arc::clone(&touches));
            thread::spawn(move || {
                while touches.wait() {
                    while touches.next().is_some() {
                        if word.lock(Pins::Ignored) == Some(Place::Device) {
                            hole::from_private(&*model, FIRST, 0).unwrap();
                        } else {
                            crate::host::HoleHost::wake(&*model, FIRST);
                        }
                        word.unlock(Place::System);
                    }
                }
            })
        };
        let user = {
            let (model, touches) = (Arc::clone(&model), Arc::clone(&touches));
            thread::spawn(move || {
                model.access_waiting(0, Access::Write, |page| touches.add(page));
                touches.end();
            })
        };
        if word.lock(Pins::Heeded) == Some(Place::System) {
            hole::to_private(&*model, FIRST, 0).unwrap();
            word.unlock(Place::Device);
        }
        user.join().unwrap();
        porter.join().unwrap();
        let is_home = word.place() == Place::System;
        model.check_rest(FIRST, word.place(), !is_home);
        assert_eq!(model.nr_waiting(), 0);
    });
}

#[test]
fn a_lock_is_held_by_one_and_waited_for() {
    loom::model(|| {
        let word = Arc::new(Word::new(Place::System));
        let nr_inside = Arc::new(AtomicU32::new(0));
        let other = {
            let (word, nr_inside) = (Arc::clone(&word), Arc::clone(&nr_inside));
            thread::spawn(move || {
                word.lock(Pins::Heeded).unwrap();
                assert_eq!(nr_inside.fetch_add(1, Ordering::Relaxed), 0);
                nr_inside.fetch_sub(1, Ordering::Relaxed);
                word.unlock(Place::Device);
            })
        };
        word.lock(Pins::Heeded).unwrap();
        assert_eq!(nr_inside.fetch_add(1, Ordering::Relaxed), 0);
        nr_inside.fetch_sub(1, Ordering::Relaxed);
        word.unlock(Place::Device);
        word.wait_until_unlocked();
        other.join().unwrap();
        assert_eq!(word.place(), Place::Device);
    });
}

#[test]
fn a_guard_and_a_move_exclude_each_other() {
    loom::model(|| {
        let word = Arc::new(Word::new(Place::System));
        let is_moving = Arc::new(AtomicU32::new(0));
        let guard = {
            let (word, is_moving) = (Arc::clone(&word), Arc::clone(&is_moving));
            thread::spawn(move || {
                word.pin();
                assert_eq!(is_moving.load(Ordering::Relaxed), 0);
                word.unpin();
            })
        };
        if word.lock(Pins::Heeded).is_some() {
            is_moving.store(1, Ordering::Relaxed);
            is_moving.store(0, Ordering::Relaxed);
            word.unlock(Place::Device);
        }
        guard.join().unwrap();
        assert!(word.try_lock(Pins::Heeded).is_ok());
    });
}

#[test]
fn a_slot_is_never_emptied_under_its_new_owner() {
    loom::model(|| {
        let slots = Arc::new(Slots::new(1));
        // What the slot holds: 1 are old pages, 2 the new owner's.
        let content = Arc::new(AtomicU32::new(1));
        slots.leave(0);
        let owner = {
            let (slots, content) = (Arc::clone(&slots), Arc::clone(&content));
            thread::spawn(move || {
                if slots.claim(0) == Content::Old {
                    content.store(0, Ordering::Relaxed);
                }
                assert_eq!(content.load(Ordering::Relaxed), 0, "not empty");
                content.store(2, Ordering::Relaxed);
            })
        };
        slots.empty(0, 1, |_, _| content.store(0, Ordering::Relaxed));
        owner.join().unwrap();
        assert_eq!(content.load(Ordering::Relaxed), 2);
    });
}
