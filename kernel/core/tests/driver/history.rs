// SPDX-License-Identifier: GPL-2.0
//! What the driver remembers of moves, and whom it tells.

use std::collections::BTreeMap;

use cohmem_kcore::{DeviceId, Errno, ProcessId};
use cohmem_uapi::{
    Cause, Direction, Event, HISTORY_ALL, HISTORY_STAYED, MAX_MOVES, MIGRATE_FILL, NO_DEVICE,
    NO_FRAME, PROC_SELF, Reason, args,
};
use proptest::prelude::*;

use crate::fake::{ASKER, BASE, Home, PAGE, Pid, Rig, SOFT_START, addr};

const ENTRY: usize = size_of::<args::Move>();

impl Rig {
    /// Reads a history with room for `nr_max` records.
    fn read_history(
        &self,
        id: DeviceId,
        mut args: args::History,
        nr_max: u32,
    ) -> Result<(Vec<args::Move>, args::History), Errno> {
        let bytes = usize::try_from(nr_max).unwrap() * ENTRY;
        args.moves_ptr = self.host.user_buffer(bytes + 1);
        args.nr_max = nr_max;
        let result = self.driver.history(id, &mut args);
        let bytes = self.host.free_user_buffer(args.moves_ptr);
        result?;
        let (listed, rest) = bytes.split_at(usize::try_from(args.nr_moves).unwrap() * ENTRY);
        assert!(
            rest.iter().all(|&byte| byte == 0xaa),
            "written past the list"
        );
        let moves = listed.chunks_exact(ENTRY).map(|entry| {
            let word = |at: usize| u64::from_ne_bytes(entry[at..at + 8].try_into().unwrap());
            let half = |at: usize| u32::from_ne_bytes(entry[at..at + 4].try_into().unwrap());
            args::Move {
                sequence: word(0),
                time_ns: word(8),
                start: word(16),
                frame: word(24),
                nr_pages: half(32),
                process: half(36),
                by: half(40),
                event: entry[44],
                cause: entry[45],
                reason: entry[46],
                other: entry[47],
            }
        });
        Ok((moves.collect(), args))
    }

    fn all(&self, id: DeviceId, flags: u32) -> Vec<args::Move> {
        let args = args::History {
            proc_fd: PROC_SELF,
            flags: HISTORY_ALL | flags,
            ..args::History::default()
        };
        self.read_history(id, args, MAX_MOVES).unwrap().0
    }

    fn of(&self, id: DeviceId, pid: Pid, flags: u32) -> Vec<args::Move> {
        let args = args::History {
            proc_fd: i32::try_from(pid.0).unwrap(),
            flags,
            ..args::History::default()
        };
        self.read_history(id, args, MAX_MOVES).unwrap().0
    }

    fn frame(&self, pid: Pid, page: u64) -> u64 {
        self.host.pfn(pid, page) - SOFT_START / PAGE
    }
}

/// What a record says, without when and by whom.
fn said(move_: &args::Move) -> (u64, u32, Event, Cause, u8) {
    assert_eq!(move_.by, ASKER);
    (
        move_.start / PAGE,
        move_.nr_pages,
        Event::from_raw(move_.event).unwrap(),
        Cause::from_raw(move_.cause).unwrap(),
        move_.other,
    )
}

fn with_pages(nr_pages: u64) -> (Rig, DeviceId, Pid) {
    let (rig, id, pid) = Rig::with_device(1, nr_pages);
    rig.host.store_all(pid, BASE..BASE + nr_pages, 9);
    (rig, id, pid)
}

#[test]
fn one_record_tells_of_a_run_and_those_who_trace_get_the_same() {
    let (rig, id, pid) = with_pages(12);
    rig.to_device(id, pid, BASE..BASE + 12);
    let frame = rig.frame(pid, BASE);
    let first_home = rig.frame(pid, BASE + 3);
    rig.to_system(id, pid, BASE + 3..BASE + 5);
    let moves = rig.of(id, pid, 0);
    assert_eq!(
        moves.iter().map(said).collect::<Vec<_>>(),
        [
            (BASE, 12, Event::Arrived, Cause::Migrate, NO_DEVICE),
            (BASE + 3, 2, Event::Left, Cause::Migrate, NO_DEVICE),
        ]
    );
    let frames: Vec<_> = moves.iter().map(|move_| move_.frame).collect();
    assert_eq!(frames, [frame, first_home]);
    let number = rig.host.identity(pid).number;
    assert!(moves.iter().all(|move_| move_.process == number));
    assert_eq!((moves[0].sequence, moves[1].sequence), (0, 1));
    assert!(moves[0].time_ns < moves[1].time_ns);
    let traced = rig.host.0.traced().clone();
    let expected = moves.iter().map(|&move_| {
        let sequence = 0;
        (id.number, args::Move { sequence, ..move_ })
    });
    assert_eq!(traced, expected.collect::<Vec<_>>());
    assert_eq!(rig.of(id, pid, HISTORY_STAYED), []);
    rig.assert_sound();
}

#[test]
fn a_page_that_stays_parts_a_run_and_is_told_with_its_reason() {
    let (rig, id, pid) = with_pages(6);
    rig.host.hold(rig.host.pfn(pid, BASE + 2));
    rig.to_device(id, pid, BASE..BASE + 6);
    let moves = rig.of(id, pid, 0);
    let runs: Vec<_> = moves.iter().map(|m| (m.start / PAGE, m.nr_pages)).collect();
    assert_eq!(runs, [(BASE, 2), (BASE + 3, 3)]);
    let stayed = rig.of(id, pid, HISTORY_STAYED);
    assert_eq!(
        stayed.iter().map(said).collect::<Vec<_>>(),
        [(BASE + 2, 1, Event::Stayed, Cause::Migrate, NO_DEVICE)]
    );
    assert_eq!(stayed[0].reason, Reason::ExtraRef as u8);
    assert_eq!(stayed[0].frame, NO_FRAME);
    assert!(moves.iter().all(|move_| move_.reason == 0));
    // On its way home as well.
    rig.host.hold(rig.host.pfn(pid, BASE + 4));
    rig.to_system(id, pid, BASE..BASE + 6);
    let stuck = rig.of(id, pid, HISTORY_STAYED)[1];
    assert_eq!(
        (said(&stuck).0, said(&stuck).2, stuck.reason),
        (BASE + 4, Event::Stuck, Reason::ExtraRef as u8)
    );
}

#[test]
fn what_a_look_at_the_page_tells_is_not_remembered() {
    let (rig, id, pid) = with_pages(4);
    rig.host.unmap(pid, BASE + 3..BASE + 4);
    rig.host.swap_out(pid, BASE);
    for _twice in 0..2 {
        // There already, swapped, and never touched.
        rig.to_device(id, pid, BASE..BASE + 3);
    }
    rig.to_system(id, pid, BASE..BASE + 3);
    rig.to_system(id, pid, BASE..BASE + 3);
    assert_eq!(rig.all(id, HISTORY_STAYED), []);
    assert_eq!(rig.all(id, 0).len(), 2);
}

#[test]
fn a_hole_that_is_filled_is_told_so() {
    let (rig, id, pid) = Rig::with_device(1, 8);
    rig.host.store_all(pid, BASE..BASE + 4, 1);
    rig.fill(id, pid, BASE..BASE + 8);
    let moves = rig.of(id, pid, 0);
    assert_eq!(
        moves.iter().map(said).collect::<Vec<_>>(),
        [
            (BASE, 4, Event::Arrived, Cause::Migrate, NO_DEVICE),
            (BASE + 4, 4, Event::Filled, Cause::Migrate, NO_DEVICE),
        ]
    );
    assert_eq!(moves[1].frame, rig.frame(pid, BASE + 4));
}

#[test]
fn both_devices_tell_of_a_page_that_went_from_one_to_the_other() {
    let (rig, first, pid) = with_pages(4);
    let second = rig.attach(1, 1).unwrap();
    rig.to_device(first, pid, BASE..BASE + 4);
    rig.to_device(second, pid, BASE..BASE + 4);
    let last = |id| said(rig.of(id, pid, 0).last().unwrap());
    let other = |id: DeviceId| u8::try_from(id.number).unwrap();
    assert_eq!(
        last(first),
        (BASE, 4, Event::Left, Cause::Migrate, other(second))
    );
    assert_eq!(
        last(second),
        (BASE, 4, Event::Arrived, Cause::Migrate, other(first))
    );
}

#[test]
fn pages_that_leave_by_their_frames_are_told_with_where_they_were() {
    let (rig, id, pid) = with_pages(6);
    let other = rig.spawn(2);
    rig.host.store_all(other, BASE..BASE + 2, 5);
    rig.to_device(id, pid, BASE..BASE + 6);
    rig.to_device(id, other, BASE..BASE + 2);
    let held = rig.host.pfn(pid, BASE + 1);
    rig.host.hold(held);
    assert_eq!(rig.evict(id).unwrap_err(), Errno::EBUSY);
    let left = |pid| {
        let moves = rig.of(id, pid, 0);
        let left = moves.into_iter().filter(|m| m.event == Event::Left as u8);
        left.map(|move_| said(&move_)).collect::<Vec<_>>()
    };
    let evicted = |page, nr_pages| (page, nr_pages, Event::Left, Cause::Evict, NO_DEVICE);
    assert_eq!(left(pid), [evicted(BASE, 1), evicted(BASE + 2, 4)]);
    assert_eq!(left(other), [evicted(BASE, 2)]);
    let stuck = rig.of(id, pid, HISTORY_STAYED)[0];
    assert_eq!(
        said(&stuck),
        (BASE + 1, 1, Event::Stuck, Cause::Evict, NO_DEVICE)
    );
    assert_eq!(stuck.reason, Reason::ExtraRef as u8);
    // A refused detach, and a machine that hibernates.
    rig.to_device(id, other, BASE..BASE + 1);
    assert_eq!(rig.detach(id).unwrap_err(), Errno::EBUSY);
    rig.host.release(held);
    rig.to_device(id, other, BASE..BASE + 1);
    rig.driver.prepare_hibernation().unwrap();
    rig.driver.finish_hibernation();
    let causes: Vec<_> = left(other).iter().map(|left| left.3).collect();
    assert_eq!(causes, [Cause::Evict, Cause::Detach, Cause::Hibernate]);
    rig.assert_sound();
}

#[test]
fn a_frame_that_failed_is_told_once() {
    let (rig, id, pid) = with_pages(4);
    rig.to_device(id, pid, BASE..BASE + 4);
    let pfn = rig.host.pfn(pid, BASE + 2);
    rig.host.memory_failure(pfn);
    rig.host.memory_failure(pfn);
    // One that nobody had.
    rig.host.memory_failure(pfn + 100);
    let moves = rig.all(id, 0);
    assert_eq!(moves.len(), 2);
    assert_eq!(
        said(&moves[1]),
        (BASE + 2, 1, Event::Lost, Cause::Failure, NO_DEVICE)
    );
}

#[test]
fn a_process_is_told_of_itself_alone() {
    let (rig, id, pid) = with_pages(2);
    let other = rig.spawn(2);
    rig.host.store_all(other, BASE..BASE + 2, 5);
    rig.to_device(id, pid, BASE..BASE + 2);
    rig.to_device(id, other, BASE..BASE + 2);
    let started = |pid: Pid| rig.host.identity(pid);
    assert_eq!(rig.of(id, pid, 0).len(), 1);
    assert_eq!(rig.of(id, pid, 0)[0].process, started(pid).number);
    assert_eq!(rig.all(id, 0).len(), 2);
    // A later process of the same number.
    let later = ProcessId {
        began_ns: started(pid).began_ns + 1,
        ..started(pid)
    };
    rig.host.know_as(other, later);
    assert_eq!(rig.of(id, other, 0), []);
    // Processes that are not known have nothing in common.
    let third = rig.spawn(1);
    rig.host.store_all(third, BASE..BASE + 1, 5);
    rig.host.know_as(third, ProcessId::default());
    rig.to_device(id, third, BASE..BASE + 1);
    assert_eq!(rig.of(id, third, 0), []);
    let last = rig.all(id, 0)[2];
    assert_eq!((last.process, last.start, last.nr_pages), (0, 0, 1));
    assert_eq!(rig.evict(id).unwrap().nr_evicted, 5);
    assert_eq!(rig.of(id, third, 0), []);
}

#[test]
fn frames_and_the_history_of_all_are_for_root() {
    let (rig, id, pid) = with_pages(2);
    rig.to_device(id, pid, BASE..BASE + 2);
    assert_ne!(rig.of(id, pid, 0)[0].frame, NO_FRAME);
    rig.host.set_privileges(false, false);
    assert_eq!(rig.of(id, pid, 0)[0].frame, NO_FRAME);
    let args = args::History {
        proc_fd: PROC_SELF,
        flags: HISTORY_ALL,
        ..args::History::default()
    };
    assert_eq!(rig.read_history(id, args, 1).unwrap_err(), Errno::EPERM);
}

#[test]
fn a_reader_goes_on_where_it_was_and_hears_what_it_missed() {
    // The least that a device keeps.
    const NR_KEPT: u64 = 256;
    let (rig, id, pid) = with_pages(1);
    let mut args = args::History {
        proc_fd: i32::try_from(pid.0).unwrap(),
        ..args::History::default()
    };
    let turn = || {
        rig.to_device(id, pid, BASE..BASE + 1);
        rig.to_system(id, pid, BASE..BASE + 1);
    };
    for _turn in 0..3 {
        turn();
    }
    for expected in [0..4, 4..6, 6..6] {
        let (moves, read) = rig.read_history(id, args, 4).unwrap();
        let sequences: Vec<_> = moves.iter().map(|move_| move_.sequence).collect();
        assert_eq!(sequences, expected.clone().collect::<Vec<_>>());
        assert_eq!((read.next, read.nr_lost), (expected.end, 0));
        assert!(moves.iter().all(|move_| move_.time_ns < read.now_ns));
        args.since = read.next;
    }
    for _turn in 0..NR_KEPT / 2 + 5 {
        turn();
    }
    let (moves, read) = rig.read_history(id, args, MAX_MOVES).unwrap();
    assert_eq!((moves.len() as u64, read.nr_lost), (NR_KEPT, 10));
    assert_eq!((moves[0].sequence, read.next), (16, 16 + NR_KEPT));
    // Without room for a record nothing is looked at.
    args.since = read.next - 1;
    let (moves, read) = rig.read_history(id, args, 0).unwrap();
    assert_eq!((moves.len(), read.next), (0, args.since));
    // From the future there is nothing.
    args.since = u64::MAX;
    let (moves, read) = rig.read_history(id, args, 1).unwrap();
    assert_eq!((moves.len(), read.next, read.nr_lost), (0, u64::MAX, 0));
}

#[test]
fn a_frame_whose_arrival_was_overwritten_leaves_without_a_name() {
    let (rig, id, pid) = with_pages(2);
    rig.to_device(id, pid, BASE..BASE + 1);
    for _turn in 0..200 {
        rig.to_device(id, pid, BASE + 1..BASE + 2);
        rig.to_system(id, pid, BASE + 1..BASE + 2);
    }
    assert_eq!(rig.evict(id).unwrap().nr_evicted, 1);
    let last = *rig.all(id, 0).last().unwrap();
    assert_eq!((last.process, last.start, last.nr_pages), (0, 0, 1));
    assert_eq!(said(&last).2, Event::Left);
}

#[test]
fn a_range_picks_the_records_that_overlap_it() {
    let (rig, id, pid) = with_pages(12);
    for page in [BASE, BASE + 4, BASE + 8] {
        rig.to_device(id, pid, page..page + 4);
    }
    let within = |first: u64, nr_pages: u64| {
        let args = args::History {
            start: addr(first),
            length: nr_pages * PAGE,
            proc_fd: i32::try_from(pid.0).unwrap(),
            ..args::History::default()
        };
        let (moves, read) = rig.read_history(id, args, MAX_MOVES).unwrap();
        assert_eq!(read.next, 3);
        moves.iter().map(|move_| move_.sequence).collect::<Vec<_>>()
    };
    assert_eq!(within(BASE, 12), [0, 1, 2]);
    assert_eq!(within(BASE + 3, 1), [0]);
    assert_eq!(within(BASE + 4, 1), [1]);
    assert_eq!(within(BASE + 3, 2), [0, 1]);
    assert_eq!(within(BASE + 7, 2), [1, 2]);
    assert_eq!(within(BASE + 12, 4), []);
    assert_eq!(within(BASE - 4, 4), []);
}

#[test]
fn history_refuses_what_the_header_says() {
    type ChangeFn = fn(&mut args::History);
    let cases: &[(Errno, ChangeFn)] = &[
        (Errno::EINVAL, |args| args.reserved[0] = 1),
        (Errno::EINVAL, |args| args.reserved[1] = 1),
        (Errno::EOPNOTSUPP, |args| args.flags = 1 << 2),
        (Errno::EOPNOTSUPP, |args| args.flags = 1 << 31),
        (Errno::EINVAL, |args| args.flags = HISTORY_ALL),
        (Errno::EINVAL, |args| args.start = PAGE),
        (Errno::EDOM, |args| args.length = 1),
        (Errno::EDOM, |args| (args.start, args.length) = (8, PAGE)),
        (Errno::EOVERFLOW, |args| {
            (args.start, args.length) = (u64::MAX - PAGE + 1, PAGE);
        }),
        (Errno::ERANGE, |args| {
            (args.start, args.length) = (1 << 47, PAGE)
        }),
        (Errno::EMSGSIZE, |args| args.nr_max = MAX_MOVES + 1),
        (Errno::EFAULT, |args| args.nr_max = 1),
        (Errno::EFAULT, |args| (args.nr_max, args.moves_ptr) = (1, 8)),
        (Errno::EBADF, |args| args.proc_fd = 1000),
        (Errno::EBADFD, |args| args.proc_fd = 900),
        (Errno::EBADF, |args| args.proc_fd = -2),
    ];
    let (rig, id, pid) = with_pages(2);
    rig.to_device(id, pid, BASE..BASE + 2);
    let asked = args::History {
        proc_fd: i32::try_from(pid.0).unwrap(),
        ..args::History::default()
    };
    for (index, (errno, change_fn)) in cases.iter().enumerate() {
        let mut args = asked;
        change_fn(&mut args);
        let result = rig.driver.history(id, &mut args);
        assert_eq!(result, Err(*errno), "case {index}");
    }
    rig.host.exit(pid);
    let result = rig.driver.history(id, &mut { asked });
    assert_eq!(result, Err(Errno::ESRCH));
    rig.detach(id).unwrap();
    let other = rig.spawn(1);
    let args = args::History {
        proc_fd: i32::try_from(other.0).unwrap(),
        ..asked
    };
    assert_eq!(rig.driver.history(id, &mut { args }), Err(Errno::ENODEV));
    // A history ends with the attachment.
    let id = rig.attach(0, 1).unwrap();
    assert_eq!(rig.all(id, 0), []);
}

const NR_PAGES: u64 = 24;

#[derive(Clone, Debug)]
enum Op {
    Migrate {
        who: usize,
        device: usize,
        page: u64,
        len: u64,
        home: bool,
    },
    Evict {
        device: usize,
    },
    Hold {
        who: usize,
        page: u64,
    },
    Release,
}

fn op() -> impl Strategy<Value = Op> {
    let page = || BASE..BASE + NR_PAGES;
    prop_oneof![
        8 => (0usize..3, 0usize..2, page(), 1..=NR_PAGES, any::<bool>()).prop_map(
            |(who, device, page, len, home)| Op::Migrate { who, device, page, len, home }
        ),
        1 => (0usize..2).prop_map(|device| Op::Evict { device }),
        2 => (0usize..3, page()).prop_map(|(who, page)| Op::Hold { who, page }),
        1 => Just(Op::Release),
    ]
}

/// Where each page is, as the histories of both devices tell it.
fn replay(rig: &Rig, devices: [DeviceId; 2]) -> BTreeMap<(u32, u64), (u32, u64)> {
    let mut moves: Vec<_> = devices
        .iter()
        .flat_map(|&id| rig.all(id, 0).into_iter().map(move |move_| (id, move_)))
        .collect();
    moves.sort_by_key(|(_, move_)| move_.time_ns);
    let mut places = BTreeMap::new();
    for (id, move_) in moves {
        for index in 0..u64::from(move_.nr_pages) {
            let page = (move_.process, move_.start / PAGE + index);
            let place = (id.number, move_.frame + index);
            match Event::from_raw(move_.event).unwrap() {
                Event::Arrived | Event::Filled => {
                    places.insert(page, place);
                }
                // From one device to the other it arrives first, and leaves then.
                Event::Left if move_.other != NO_DEVICE => {}
                Event::Left => {
                    assert_eq!(places.remove(&page), Some(place), "{page:?} left");
                }
                event => panic!("{event:?} among the moves"),
            }
        }
    }
    places
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever moves: who replays the records knows where each page is, and in which frame.
    #[test]
    fn the_records_tell_where_each_page_is(ops in prop::collection::vec(op(), 1..25)) {
        let rig = Rig::new();
        let devices = [rig.attach(0, 1).unwrap(), rig.attach(1, 1).unwrap()];
        let pids: Vec<_> = (0..3).map(|_| rig.spawn(NR_PAGES)).collect();
        for &pid in &pids {
            rig.host.store_all(pid, BASE..BASE + NR_PAGES / 2, 3);
        }
        let mut held = Vec::new();
        for op in ops {
            match op {
                Op::Migrate { who, device, page, len, home } => {
                    let end = (page + len).min(BASE + NR_PAGES);
                    let direction = if home { Direction::ToSystem } else { Direction::ToDevice };
                    rig.migrate(devices[device], pids[who], page..end, direction, MIGRATE_FILL)
                        .unwrap();
                }
                Op::Evict { device } => {
                    let result = rig.evict(devices[device]);
                    prop_assert!(result.is_ok() || result.unwrap_err() == Errno::EBUSY);
                }
                Op::Hold { who, page } => {
                    if rig.host.has_page(pids[who], page) {
                        let pfn = rig.host.pfn(pids[who], page);
                        rig.host.hold(pfn);
                        held.push(pfn);
                    }
                }
                Op::Release => {
                    for pfn in held.drain(..) {
                        rig.host.release(pfn);
                    }
                }
            }
            let told = replay(&rig, devices);
            let mut true_places = BTreeMap::new();
            for &pid in &pids {
                for page in (BASE..BASE + NR_PAGES).filter(|&page| rig.host.has_page(pid, page)) {
                    if let Home::Frame { .. } = rig.host.home(pid, page) {
                        let frame = rig.frame(pid, page);
                        let place = (u32::try_from(frame / 512).unwrap(), frame % 512);
                        true_places.insert((rig.host.identity(pid).number, page), place);
                    }
                }
            }
            prop_assert_eq!(told, true_places);
        }
    }
}
