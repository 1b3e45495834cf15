use std::{sync::mpsc, thread};

use proptest::prelude::*;

use super::*;

#[derive(Clone, Copy, Debug)]
enum Op {
    TryLock(Pins),
    Unlock(Place),
    Pin,
    Unpin,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        Just(Op::TryLock(Pins::Heeded)),
        Just(Op::TryLock(Pins::Ignored)),
        Just(Op::Unlock(Place::System)),
        Just(Op::Unlock(Place::Device)),
        Just(Op::Pin),
        Just(Op::Unpin),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is done in whatever order, the word says what three plain variables say.
    #[test]
    fn a_word_behaves_as_its_parts(ops in prop::collection::vec(op(), 1..200)) {
        let word = Word::new(Place::System);
        let (mut is_locked, mut place, mut nr_pins) = (false, Place::System, 0_u32);
        for op in ops {
            match op {
                Op::TryLock(pins) => {
                    let expected = match () {
                        () if is_locked => Err(Held::Locked),
                        () if nr_pins > 0 && pins == Pins::Heeded => Err(Held::Pinned),
                        () => Ok(place),
                    };
                    prop_assert_eq!(word.try_lock(pins), expected);
                    is_locked |= expected.is_ok();
                }
                Op::Unlock(to) if is_locked => {
                    word.unlock(to);
                    (is_locked, place) = (false, to);
                }
                // It would wait for the lock.
                Op::Pin if !is_locked => {
                    prop_assert_eq!(word.pin(), place);
                    nr_pins += 1;
                }
                Op::Unpin if nr_pins > 0 => {
                    word.unpin();
                    nr_pins -= 1;
                }
                Op::Unlock(_) | Op::Pin | Op::Unpin => {}
            }
            prop_assert_eq!(word.place(), place);
            prop_assert_eq!(word.nr_pins(), nr_pins);
        }
    }
}

#[test]
fn who_waits_for_a_granule_goes_on_when_it_is_let_go() {
    let word = Word::new(Place::System);
    assert_eq!(word.try_lock(Pins::Heeded), Ok(Place::System));
    thread::scope(|scope| {
        let (done, is_done) = mpsc::channel();
        for _ in 0..3 {
            let (done, word) = (done.clone(), &word);
            scope.spawn(move || {
                word.wait_until_unlocked();
                done.send(word.place()).unwrap();
            });
        }
        is_done.try_recv().unwrap_err();
        word.unlock(Place::Device);
        for _ in 0..3 {
            assert_eq!(is_done.recv().unwrap(), Place::Device);
        }
    });
}
