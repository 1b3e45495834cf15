//! Following processes that are not: every call may find them changed.

mod fake;

use std::time::Duration;

use cohmem::Reason;
use proptest::{collection::vec, prelude::*};

use self::fake::{Fake, Op, ROOT};
use super::{Follower, Lack, Round, Tally};
use crate::policy::Policy;

const PATIENCE: Duration = Duration::from_millis(500);

/// Follows the fake's processes; the policy names its devices.
fn follower<'a>(fake: &'a Fake, policy: &str) -> Follower<&'a Fake> {
    let mut policy: Policy = policy.parse().unwrap();
    if policy.devices.is_empty() {
        policy.devices = vec![0];
    }
    fake.set_limit(policy.limit_pages());
    Follower::new(fake, policy, ROOT, PATIENCE)
}

fn round(follower: &mut Follower<&Fake>) -> Round {
    follower.round().unwrap()
}

fn moved(tally: &Tally) -> u64 {
    tally.moved.values().sum()
}

#[test]
fn new_memory_follows_and_an_idle_process_is_left_alone() {
    let fake = Fake::new(&[100]);
    let pid = fake.spawn(ROOT);
    fake.map(pid, 0, 10, "");
    fake.touch(pid, 0, 10);
    let mut follower = follower(&fake, "all");
    assert!(round(&mut follower).is_busy);
    assert_eq!(fake.on_device(pid, 0), 10);
    fake.pass(PATIENCE);
    round(&mut follower);
    let calls = fake.nr_looks();
    for _ in 0..3 {
        fake.pass(Duration::from_millis(1));
        assert!(!round(&mut follower).is_busy);
    }
    assert_eq!(fake.nr_looks(), calls, "an idle process is not looked at");
    fake.map(pid, 100, 5, "");
    fake.touch(pid, 100, 5);
    round(&mut follower);
    assert_eq!(fake.on_device(pid, 0), 15);
    let tally = follower.finish();
    assert_eq!((moved(&tally), tally.peak), (15, 15));
}

#[test]
fn looks_without_a_cause_become_rare() {
    let fake = Fake::new(&[100]);
    let pid = fake.spawn(ROOT);
    fake.map(pid, 0, 4, "");
    fake.touch(pid, 0, 4);
    let mut follower = follower(&fake, "all");
    for _ in 0..1000 {
        round(&mut follower);
        fake.pass(Duration::from_millis(250));
    }
    // 250 seconds: doubling pauses up to 10 s, and one look more to move.
    assert!(fake.nr_looks() < 40, "{}", fake.nr_looks());
}

#[test]
fn a_look_that_takes_long_is_followed_by_a_pause() {
    let fake = Fake::new(&[100]);
    let pid = fake.spawn(ROOT);
    fake.map(pid, 0, 4, "");
    fake.touch(pid, 0, 4);
    let mut follower = follower(&fake, "all");
    round(&mut follower);
    fake.pass(Duration::from_secs(60));
    fake.looks_take(Duration::from_secs(1));
    round(&mut follower);
    let nr_looks = fake.nr_looks();
    for _ in 0..40 {
        fake.pass(Duration::from_secs(1));
        round(&mut follower);
    }
    assert_eq!(fake.nr_looks(), nr_looks, "40 s of 50");
}

#[test]
fn many_processes_share_the_time_for_looks() {
    let fake = Fake::new(&[100]);
    for _process in 0..10 {
        let pid = fake.spawn(ROOT);
        fake.map(pid, 0, 4, "");
        fake.touch(pid, 0, 4);
    }
    let mut follower = follower(&fake, "all");
    round(&mut follower);
    fake.pass(Duration::from_secs(60));
    fake.looks_take(Duration::from_secs(1));
    let nr_before = fake.nr_looks();
    for _ in 0..1000 {
        round(&mut follower);
        fake.pass(Duration::from_secs(1));
    }
    // 1000 s and what the looks take: each process rests for 500 s after one.
    let nr_looks = fake.nr_looks() - nr_before;
    assert!((20..=30).contains(&nr_looks), "{nr_looks}");
}

#[test]
fn pages_that_find_no_room_are_tried_rarely_when_that_takes_long() {
    let fake = Fake::new(&[1]);
    let pid = fake.spawn(ROOT);
    fake.map(pid, 0, 4, "");
    fake.touch(pid, 0, 4);
    let mut follower = follower(&fake, "all");
    round(&mut follower);
    fake.pass(Duration::from_secs(60));
    fake.looks_take(Duration::from_secs(1));
    let nr_before = fake.nr_looks();
    for _ in 0..99 {
        round(&mut follower);
        fake.pass(Duration::from_secs(1));
    }
    // One look to see them, one to place them: 2 s, and none for 100 s.
    assert_eq!(fake.nr_looks() - nr_before, 2);
}

#[test]
fn while_nothing_happens_no_process_is_searched_for() {
    let fake = Fake::new(&[100]);
    let pid = fake.spawn(ROOT);
    fake.map(pid, 0, 4, "");
    fake.touch(pid, 0, 4);
    let mut follower = follower(&fake, "limit=64K");
    round(&mut follower);
    fake.pass(PATIENCE);
    round(&mut follower);
    let nr_lists = fake.nr_lists();
    for _ in 0..3 {
        fake.pass(Duration::from_millis(1));
        round(&mut follower);
    }
    assert_eq!(fake.nr_lists(), nr_lists);
    let child = fake.fork(pid);
    fake.exec(child);
    fake.map(child, 0, 3, "");
    fake.touch(child, 0, 3);
    round(&mut follower);
    assert_eq!(fake.on_device(child, 0), 3);
}

#[test]
fn only_what_the_policy_names_moves() {
    let fake = Fake::new(&[100]);
    let pid = fake.spawn(ROOT);
    fake.map(pid, 0, 4, "[heap]");
    fake.map(pid, 10, 4, "[anon:model]");
    fake.map(pid, 20, 8, "");
    fake.map(pid, 30, 4, "");
    for start in [0, 10, 20, 30] {
        fake.touch(pid, start, 8);
    }
    let mut follower = follower(&fake, "name=*model*,size>=32K");
    round(&mut follower);
    assert_eq!(fake.on_device(pid, 0), 12);
    assert!(fake.is_home(pid, 0) && fake.is_home(pid, 30));
}

#[test]
fn children_are_followed_and_a_new_program_is_another_process() {
    let fake = Fake::new(&[100]);
    let parent = fake.spawn(ROOT);
    fake.map(parent, 0, 4, "");
    fake.touch(parent, 0, 4);
    let mut follower = follower(&fake, "all");
    round(&mut follower);
    let child = fake.fork(parent);
    fake.exec(child);
    fake.map(child, 50, 3, "");
    fake.touch(child, 50, 3);
    let grandchild = fake.fork(child);
    fake.exec(grandchild);
    fake.map(grandchild, 0, 2, "");
    fake.touch(grandchild, 0, 2);
    round(&mut follower);
    assert_eq!(
        (fake.on_device(child, 0), fake.on_device(grandchild, 0)),
        (3, 2)
    );
    fake.exec(child);
    fake.map(child, 9, 1, "");
    fake.touch(child, 9, 1);
    round(&mut follower);
    assert_eq!(fake.on_device(child, 0), 1, "in the same round");
}

#[test]
fn the_preferred_device_is_filled_first() {
    let fake = Fake::new(&[6, 3]);
    let pid = fake.spawn(ROOT);
    fake.map(pid, 0, 12, "");
    fake.touch(pid, 0, 12);
    let mut follower = follower(&fake, "devices=cohmem1,cohmem0");
    let round = round(&mut follower);
    assert_eq!((fake.on_device(pid, 1), fake.on_device(pid, 0)), (3, 6));
    assert_eq!(round.lack, Some((Lack::Frames, 3)));
    assert_eq!(follower.finish().stayed.get(Reason::NoFrame), 3);
}

#[test]
fn a_limit_is_filled_to_the_last_page() {
    let fake = Fake::new(&[100]);
    let pid = fake.spawn(ROOT);
    fake.map(pid, 0, 40, "");
    fake.touch(pid, 0, 40);
    let mut follower = follower(&fake, "limit=68K");
    assert_eq!(round(&mut follower).lack, Some((Lack::Limit, 23)));
    assert_eq!(fake.on_device(pid, 0), 17);
    fake.unmap(pid, 0, 5);
    fake.pass(PATIENCE);
    round(&mut follower);
    assert_eq!(fake.on_device(pid, 0), 17, "room that came free is used");
    assert_eq!(follower.finish().stayed.get(Reason::Quota), 18);
}

#[test]
fn a_hole_that_is_touched_before_the_call_is_in_the_limit() {
    let fake = Fake::new(&[100]);
    let pid = fake.spawn(ROOT);
    fake.map(pid, 0, 10, "");
    fake.touch(pid, 0, 1);
    fake.touch(pid, 2, 1);
    fake.before_move(Op::Touch(pid, 1, 1));
    let mut follower = follower(&fake, "limit=8K");
    round(&mut follower);
    assert_eq!(fake.on_device(pid, 0), 2);
}

#[test]
fn pages_of_a_guard_mapping_stay_counted() {
    let fake = Fake::new(&[100]);
    let pid = fake.spawn(ROOT);
    fake.map(pid, 0, 4, "");
    fake.touch(pid, 0, 4);
    let mut follower = follower(&fake, "limit=16K");
    round(&mut follower);
    fake.protect(pid, 0);
    fake.map(pid, 20, 4, "");
    fake.touch(pid, 20, 4);
    round(&mut follower);
    assert_eq!(fake.on_device(pid, 0), 4);
    assert!(fake.is_home(pid, 20));
}

#[test]
fn a_child_that_comes_while_the_others_are_counted_is_counted() {
    let fake = Fake::new(&[100]);
    let (parent, other) = (fake.spawn(ROOT), fake.spawn(ROOT));
    for pid in [parent, other] {
        fake.map(pid, 0, 4, "");
        fake.touch(pid, 0, 4);
    }
    let mut follower = follower(&fake, "limit=16K");
    round(&mut follower);
    assert_eq!(
        (fake.on_device(parent, 0), fake.on_device(other, 0)),
        (4, 0)
    );
    fake.pass(Duration::from_secs(60));
    // The parent's pages are the child's alone before they are counted in the parent.
    let child = fake.next_pid();
    fake.before_signature(Op::ForkAndReplace(parent));
    round(&mut follower);
    assert_eq!((fake.on_device(child, 0), fake.on_device(other, 0)), (4, 0));
}

#[test]
fn pages_of_a_mapping_that_goes_elsewhere_meanwhile_stay_counted() {
    let fake = Fake::new(&[100]);
    let (first, second) = (fake.spawn(ROOT), fake.spawn(ROOT));
    for pid in [first, second] {
        fake.map(pid, 0, 4, "");
        fake.touch(pid, 0, 4);
    }
    let mut follower = follower(&fake, "limit=16K");
    round(&mut follower);
    fake.pass(Duration::from_secs(60));
    // When the old place is looked at, another mapping is there.
    fake.before_look(&[Op::Move(first, 0), Op::Map(first, 0, 4)]);
    round(&mut follower);
    assert_eq!(
        (fake.on_device(first, 0), fake.on_device(second, 0)),
        (4, 0)
    );
}

#[test]
fn older_memory_yields_once() {
    let fake = Fake::new(&[8]);
    let (first, second) = (fake.spawn(ROOT), fake.spawn(ROOT));
    fake.map(first, 0, 6, "");
    fake.touch(first, 0, 6);
    let mut follower = follower(&fake, "full=evict");
    round(&mut follower);
    fake.map(second, 0, 5, "");
    fake.touch(second, 0, 5);
    round(&mut follower);
    assert_eq!(
        (fake.on_device(first, 0), fake.on_device(second, 0)),
        (3, 5)
    );
    for _ in 0..50 {
        fake.pass(Duration::from_secs(11));
        fake.touch_faults(first);
        fake.touch_faults(second);
        round(&mut follower);
    }
    assert_eq!(
        (fake.on_device(first, 0), fake.on_device(second, 0)),
        (3, 5)
    );
    let tally = follower.finish();
    assert_eq!(
        (moved(&tally), tally.evicted),
        (11, 3),
        "nothing goes to and fro"
    );
}

#[test]
fn the_memory_of_other_processes_yields_first() {
    let fake = Fake::new(&[8]);
    let (first, second) = (fake.spawn(ROOT), fake.spawn(ROOT));
    fake.map(first, 0, 4, "");
    fake.touch(first, 0, 4);
    let mut follower = follower(&fake, "full=evict;limit=32K");
    round(&mut follower);
    fake.map(second, 0, 4, "");
    fake.touch(second, 0, 4);
    round(&mut follower);
    fake.map(first, 20, 2, "");
    fake.touch(first, 20, 2);
    round(&mut follower);
    assert_eq!(
        (fake.on_device(first, 0), fake.on_device(second, 0)),
        (6, 2)
    );
}

#[test]
fn a_strict_policy_is_told_what_found_no_room() {
    let fake = Fake::new(&[3]);
    let pid = fake.spawn(ROOT);
    fake.map(pid, 0, 5, "");
    fake.touch(pid, 0, 5);
    let mut follower = follower(&fake, "full=strict");
    assert_eq!(round(&mut follower).lack, Some((Lack::Frames, 2)));
}

#[test]
fn what_the_program_leaves_behind_goes_home() {
    let fake = Fake::new(&[10, 10]);
    let (first, second) = (fake.spawn(ROOT), fake.spawn(ROOT));
    for pid in [first, second] {
        fake.map(pid, 0, 8, "");
        fake.touch(pid, 0, 8);
    }
    let mut follower = follower(&fake, "devices=0,1");
    round(&mut follower);
    fake.exit(first);
    let tally = follower.finish();
    assert_eq!(tally.left, (1, 8));
    assert_eq!(fake.nr_frames_on_devices(), 0);
}

#[test]
fn a_process_that_may_not_be_seen_is_counted_once() {
    let fake = Fake::new(&[10]);
    let pid = fake.spawn(ROOT);
    fake.hide(pid);
    let mut follower = follower(&fake, "all");
    round(&mut follower);
    round(&mut follower);
    assert_eq!(follower.finish().hidden.len(), 1);
}

fn any_op() -> impl Strategy<Value = Op> {
    let process = 0..4_u32;
    let place = 0..48_u64;
    prop_oneof![
        4 => (process.clone(), place.clone(), 1..9_u64).prop_map(|(p, at, n)| Op::Touch(p, at, n)),
        2 => (process.clone(), place.clone(), 1..17_u64).prop_map(|(p, at, n)| Op::Map(p, at, n)),
        2 => (process.clone(), place.clone(), 1..9_u64).prop_map(|(p, at, n)| Op::Unmap(p, at, n)),
        1 => (process.clone(), place.clone()).prop_map(|(p, at)| Op::Move(p, at)),
        1 => (process.clone(), place).prop_map(|(p, at)| Op::Protect(p, at)),
        1 => process.clone().prop_map(Op::Fork),
        1 => process.clone().prop_map(Op::ForkAndReplace),
        1 => process.clone().prop_map(Op::Exec),
        1 => process.prop_map(Op::Exit),
    ]
}

proptest! {
    /// The fake checks the limit after each of its changes; operations come between any two calls.
    #[test]
    fn no_frame_is_ever_over_the_limit(
        ops in vec(any_op(), 1..60),
        gaps in vec(0..4_usize, 60),
        limit in 1..24_u64,
        full in prop_oneof![Just("spill"), Just("evict")],
        capacity in 1..40_u64,
    ) {
        let fake = Fake::new(&[capacity, 8]);
        fake.spawn(ROOT);
        fake.script(&ops, &gaps);
        let policy = format!("all;limit={};devices=0,1;full={full}", limit * 4096);
        let mut follower = follower(&fake, &policy);
        let mut nr_rounds = 0;
        while nr_rounds < 200 && (nr_rounds < 5 || fake.has_script()) {
            round(&mut follower);
            fake.pass(Duration::from_millis(300));
            nr_rounds += 1;
        }
        follower.finish();
        prop_assert_eq!(fake.nr_frames_on_devices_seen(), 0, "what can be reached is home");
    }

    #[test]
    fn in_the_end_all_that_may_move_has_moved(
        ops in vec(any_op(), 1..60),
        gaps in vec(0..4_usize, 60),
    ) {
        let fake = Fake::new(&[1 << 20]);
        fake.spawn(ROOT);
        fake.script(&ops, &gaps);
        let mut follower = follower(&fake, "all");
        let mut nr_rounds = 0;
        while nr_rounds < 200 && (nr_rounds < 5 || fake.has_script()) {
            round(&mut follower);
            fake.pass(Duration::from_millis(300));
            nr_rounds += 1;
        }
        fake.drop_script();
        for _ in 0..3 {
            fake.pass(Duration::from_secs(20));
            round(&mut follower);
        }
        prop_assert_eq!(fake.nr_movable(), 0);
    }
}
