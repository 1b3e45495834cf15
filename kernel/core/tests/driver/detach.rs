// SPDX-License-Identifier: GPL-2.0
//! Taking a device back: with everything home and the range free, or not at all and with the reasons.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use cohmem_kcore::{Attribute, DeviceId, Errno};
use cohmem_uapi::{ATTACH_ALTMAP, Direction, RANGE_ALIGN, Reason, State, args};

use crate::fake::{BASE, FakeHost, Fallible, Moment, PAGE, Pid, Rig, SOFT_START, addr};

fn on_device(nr_pages: u64) -> (Rig, DeviceId, Pid) {
    let (rig, id, pid) = Rig::with_device(3, nr_pages);
    rig.host.store_all(pid, BASE..BASE + nr_pages, 7);
    let moved = rig.to_device(id, pid, BASE..BASE + nr_pages);
    assert_eq!(moved.nr_moved, nr_pages);
    (rig, id, pid)
}

fn is_attached(rig: &Rig) -> bool {
    let world = rig.host.world();
    assert_eq!(world.claims.is_empty(), world.published.is_empty());
    !world.claims.is_empty()
}

/// A detach with a list of what is stuck.
fn detach_listing(
    rig: &Rig,
    id: DeviceId,
    nr_stuck_max: u32,
) -> (Result<(), Errno>, args::Detach, Vec<args::Stuck>) {
    const STUCK_BYTES: usize = size_of::<args::Stuck>();
    let stuck_ptr = rig
        .host
        .user_buffer(usize::try_from(nr_stuck_max).unwrap() * STUCK_BYTES);
    let mut args = args::Detach {
        device: id.number,
        timeout_ms: 500,
        nr_stuck_max,
        stuck_ptr,
        ..args::Detach::default()
    };
    let result = rig.driver.detach(&mut args);
    let bytes = rig.host.free_user_buffer(stuck_ptr);
    let word = |bytes: &[u8]| u32::from_ne_bytes(bytes.try_into().unwrap());
    let stuck = bytes
        .chunks_exact(STUCK_BYTES)
        .take(usize::try_from(args.nr_stuck).unwrap())
        .map(|entry| args::Stuck {
            phys: u64::from_ne_bytes(entry[..8].try_into().unwrap()),
            refs: word(&entry[8..12]),
            maps: word(&entry[12..16]),
            reason: word(&entry[16..20]),
            reserved: word(&entry[20..]),
        });
    let stuck = stuck.collect();
    (result, args, stuck)
}

#[test]
fn an_empty_device_is_given_back_at_once() {
    let (rig, id, _pid) = Rig::with_device(3, 1);
    assert!(is_attached(&rig));
    assert_eq!(rig.detach(id).unwrap().nr_evicted, 0);
    assert!(!is_attached(&rig));
    assert_eq!(rig.host.now_ms_of_clock(), 0, "nothing to wait for");
    let again = rig.attach(0, 3).unwrap();
    assert_eq!(again.number, id.number);
    assert_ne!(again.generation, id.generation);
}

#[test]
fn all_content_goes_home_and_the_range_is_free() {
    let (rig, id, pid) = on_device(1100);
    assert_eq!(rig.detach(id).unwrap().nr_evicted, 1100);
    assert!(!is_attached(&rig));
    rig.host.assert_all(pid, BASE..BASE + 1100, 7);
    rig.assert_sound();
}

#[test]
fn runs_of_frames_over_the_end_of_a_chunk_are_taken_home() {
    let (rig, id, pid) = on_device(1100);
    rig.host.unmap(pid, BASE..BASE + 3);
    assert_eq!(rig.evict(id).unwrap().nr_evicted, 1097);
    rig.host.assert_all(pid, BASE + 3..BASE + 1100, 10);
    rig.assert_sound();
}

#[test]
fn frames_that_fork_and_mremap_moved_are_found() {
    let (rig, id, parent) = on_device(20);
    let child = rig.host.fork(parent);
    rig.host.exit(parent);
    let other = rig.host.fork(child);
    rig.host.unmap(other, BASE..BASE + 10);
    rig.host.mremap(child, BASE + 15..BASE + 20, BASE + 3000);
    assert_eq!(rig.detach(id).unwrap().nr_evicted, 20);
    rig.host.assert_all(child, BASE..BASE + 15, 7);
    rig.host.assert_all(other, BASE + 10..BASE + 20, 17);
    rig.host.mremap(child, BASE + 3000..BASE + 3005, BASE + 15);
    rig.host.assert_all(child, BASE + 15..BASE + 20, 22);
    rig.assert_sound();
}

#[test]
fn a_held_frame_makes_it_busy_and_is_named_and_all_works_on() {
    let (rig, id, pid) = on_device(6);
    let mapped = rig.host.pfn(pid, BASE);
    let unmapped = rig.host.pfn(pid, BASE + 1);
    rig.host.hold(mapped);
    rig.host.hold(mapped);
    rig.host.hold(unmapped);
    rig.host.unmap(pid, BASE + 1..BASE + 2);
    let before_ms = rig.host.now_ms_of_clock();
    let (result, args, mut stuck) = detach_listing(&rig, id, 10);
    let waited_ms = rig.host.now_ms_of_clock() - before_ms;
    assert_eq!(result, Err(Errno::EBUSY));
    assert!((500..600).contains(&waited_ms), "{waited_ms} ms");
    assert_eq!((args.nr_evicted, args.nr_stuck), (4, 2));
    assert_eq!(args.stayed.iter().sum::<u32>(), 2);
    stuck.sort_by_key(|frame| frame.phys);
    let entry = |pfn: u64, refs, maps, reason: Reason| args::Stuck {
        phys: pfn * PAGE,
        refs,
        maps,
        reason: u32::from(reason as u8),
        reserved: 0,
    };
    let mut expected = [
        entry(mapped, 3, 1, Reason::ExtraRef),
        entry(unmapped, 1, 0, Reason::KernelHeld),
    ];
    expected.sort_by_key(|frame| frame.phys);
    assert_eq!(stuck, expected);

    assert_eq!(rig.state(id), State::Online);
    assert!(is_attached(&rig));
    assert_eq!(rig.to_device(id, pid, BASE + 2..BASE + 6).nr_moved, 4);
    rig.host.assert_all(pid, BASE + 2..BASE + 6, 9);
    rig.assert_sound();
    rig.host.release(mapped);
    rig.host.release(mapped);
    rig.host.release(unmapped);
    assert_eq!(rig.detach(id).unwrap().nr_evicted, 5);
    assert!(!is_attached(&rig));
    rig.assert_sound();
}

#[test]
fn each_cause_of_a_stuck_frame_has_its_reason() {
    type ChangeFn = fn(&FakeHost, u64);
    let causes: [(Reason, ChangeFn); 4] = [
        (Reason::Pinned, |host, pfn| {
            host.change_page(pfn, |page| page.is_pinned = true);
        }),
        (Reason::Locked, |host, pfn| {
            host.change_page(pfn, |page| page.is_locked = true);
        }),
        (Reason::NoMemory, |host, _pfn| {
            host.on(Moment::At(cohmem_kcore::host::Point::Filled), |host| {
                host.leave_available(0);
            });
            host.fail_from(Fallible::Refill, 1);
        }),
        (Reason::Raced, |host, _pfn| {
            host.fail_from(Fallible::Commit, 1);
        }),
    ];
    for (reason, change_fn) in causes {
        let (rig, id, pid) = on_device(512);
        change_fn(&rig.host, rig.host.pfn(pid, BASE));
        let (result, args, stuck) = detach_listing(&rig, id, 4096);
        assert_eq!(result, Err(Errno::EBUSY), "{reason:?}");
        assert_ne!(args.nr_stuck, 0);
        for frame in &stuck {
            assert_eq!(frame.reason, u32::from(reason as u8), "{reason:?}");
            assert_eq!((frame.refs, frame.maps), (1, 1));
        }
        assert_eq!(stuck.len(), usize::try_from(args.nr_stuck).unwrap());
        assert_eq!(rig.state(id), State::Online);
        rig.host.assert_all(pid, BASE..BASE + 512, 7);
    }
}

#[test]
fn the_list_holds_no_more_than_asked_for_and_the_count_tells_all() {
    let (rig, id, pid) = on_device(6);
    for page in BASE..BASE + 6 {
        rig.host.hold(rig.host.pfn(pid, page));
    }
    let (result, args, stuck) = detach_listing(&rig, id, 2);
    assert_eq!(result, Err(Errno::EBUSY));
    assert_eq!(args.nr_stuck, 6);
    assert_eq!(stuck.len(), 2);
    assert_eq!(args.stayed[usize::from(Reason::ExtraRef as u8)], 6);
}

#[test]
fn references_of_lru_batches_are_drained() {
    for timeout_ms in [0, 1000] {
        let (rig, id, pid) = on_device(6);
        let pfn = rig.host.pfn(pid, BASE);
        rig.host.change_page(pfn, |page| page.batched = 2);
        rig.host.unmap(pid, BASE..BASE + 1);
        let mut args = args::Detach {
            device: id.number,
            timeout_ms,
            ..args::Detach::default()
        };
        assert_eq!(rig.driver.detach(&mut args), Ok(()), "{timeout_ms} ms");
        assert_eq!(rig.host.0.nr_drains.load(Relaxed), 1);
        rig.assert_sound();
    }
}

#[test]
fn without_a_time_limit_it_tries_and_does_not_sleep() {
    let (rig, id, pid) = on_device(6);
    rig.host.hold(rig.host.pfn(pid, BASE));
    let mut args = args::Detach {
        device: id.number,
        ..args::Detach::default()
    };
    assert_eq!(rig.driver.detach(&mut args), Err(Errno::EBUSY));
    assert_eq!((args.nr_evicted, args.nr_stuck), (5, 1));
    assert_eq!(rig.host.now_ms_of_clock(), 0);
}

#[test]
fn a_frame_let_go_within_the_time_limit_goes_home() {
    let (rig, id, pid) = on_device(6);
    let pfn = rig.host.pfn(pid, BASE);
    rig.host.hold(pfn);
    rig.host.on(Moment::Sleeping, |_host| ());
    rig.host.on(Moment::Sleeping, |host| {
        host.on(Moment::Sleeping, |_host| ());
    });
    rig.host.on(Moment::Sleeping, move |host| host.release(pfn));
    assert_eq!(rig.detach(id).unwrap().nr_evicted, 6);
    rig.host.assert_all(pid, BASE..BASE + 6, 7);
    rig.assert_sound();
}

#[test]
fn too_little_memory_is_told_before_anything_moves() {
    let (rig, id, pid) = on_device(600);
    rig.host.leave_available((1 << 14) + 599);
    let before = rig.host.fingerprint();
    assert_eq!(rig.detach(id).unwrap_err(), Errno::ENOMEM);
    assert_eq!(rig.evict(id).unwrap_err(), Errno::ENOMEM);
    assert_eq!(rig.host.fingerprint(), before);
    assert_eq!(rig.state(id), State::Online);
    // Swap counts: what went home can go on there.
    rig.host.world().free_swap_pages = 1;
    rig.evict(id).unwrap();
    rig.host.assert_all(pid, BASE..BASE + 600, 7);
    rig.assert_sound();
}

#[test]
fn just_enough_memory_is_enough() {
    let (rig, id, pid) = on_device(100);
    rig.host.leave_available((1 << 14) + 100);
    assert_eq!(rig.detach(id).unwrap().nr_evicted, 100);
    rig.host.assert_all(pid, BASE..BASE + 100, 7);
    rig.assert_sound();
}

#[test]
fn a_device_whose_node_is_being_made_is_neither_filled_nor_taken_away() {
    let rig = Arc::new(Rig::new());
    let pid = rig.spawn(4);
    rig.host.store_all(pid, BASE..BASE + 4, 7);
    let inner = Arc::clone(&rig);
    rig.host.on(Moment::Publishing, move |_host| {
        let id = inner.driver.open(0).unwrap();
        assert_eq!(inner.detach(id).unwrap_err(), Errno::EBUSY);
        let refused = inner.migrate(id, pid, BASE..BASE + 4, Direction::ToDevice, 0);
        assert_eq!(refused.unwrap_err(), Errno::EAGAIN);
    });
    let id = rig.attach(0, 1).unwrap();
    rig.host.assert_hooks_ran();
    assert_eq!(rig.to_device(id, pid, BASE..BASE + 4).nr_moved, 4);
    rig.host.assert_all(pid, BASE..BASE + 4, 7);
    rig.detach(id).unwrap();
    rig.assert_sound();
}

#[test]
fn a_killed_caller_leaves_the_device_online() {
    let (rig, id, pid) = on_device(1100);
    // Twice before the first run of frames has gone, then in the middle.
    for nth in 1..4 {
        rig.host.fail(Fallible::Killed, nth);
        assert_eq!(rig.detach(id).unwrap_err(), Errno::EINTR);
        assert_eq!(rig.host.heal(), 1);
        assert_eq!(rig.state(id), State::Online);
        rig.assert_sound();
        let moved = rig.to_device(id, pid, BASE..BASE + 1100);
        assert_eq!(
            moved.nr_moved + moved.stayed.get(Reason::AlreadyThere),
            1100
        );
    }
    rig.host.assert_all(pid, BASE..BASE + 1100, 7);
    rig.detach(id).unwrap();
}

#[test]
fn while_it_drains_others_are_told_so() {
    let (rig, id, pid) = on_device(6);
    let other = rig.attach(3, 1).unwrap();
    let pfn = rig.host.pfn(pid, BASE);
    rig.host.hold(pfn);
    let rig = Arc::new(rig);
    let inner = Arc::clone(&rig);
    rig.host.on(Moment::Sleeping, move |host| {
        assert_eq!(inner.state(id), State::Draining);
        let state = inner.driver.attribute(id.number, Attribute::State);
        assert_eq!(state, Ok(State::Draining as u64));
        assert_eq!(inner.detach(id).unwrap_err(), Errno::EBUSY);
        // More than once: a refusal changes nothing, and looks at no frame.
        for _try in 0..2 {
            let mut args = args::Detach::default();
            assert_eq!(inner.driver.evict(id, &mut args), Err(Errno::EBUSY));
            assert_eq!(args.nr_stuck, 0, "another eviction ran");
        }
        let pages = BASE + 1..BASE + 3;
        let refused = inner.migrate(id, pid, pages.clone(), Direction::ToDevice, 0);
        assert_eq!(refused.unwrap_err(), Errno::EAGAIN);
        // Other devices, and the way home, are open.
        assert_eq!(inner.to_device(other, pid, pages.clone()).nr_moved, 2);
        inner.to_system(id, pid, pages);
        assert_eq!(inner.driver.prepare_hibernation(), Err(Errno::EBUSY));
        host.release(pfn);
    });
    rig.detach(id).unwrap();
    rig.host.assert_hooks_ran();
    rig.host.assert_all(pid, BASE..BASE + 6, 7);
    assert_eq!(rig.info(other).nr_allocated, 2);
    rig.assert_sound();
}

#[test]
fn a_migration_under_way_stops_when_the_device_drains() {
    let (rig, id, pid) = Rig::with_device(4, 1500);
    rig.host.store_all(pid, BASE..BASE + 1500, 7);
    // One window goes there; then the state changes, as a detach in another task would do it.
    let held = rig.spawn(1);
    rig.host.store(held, BASE, 1);
    rig.to_device(id, held, BASE..BASE + 1);
    let pfn = rig.host.pfn(held, BASE);
    rig.host.hold(pfn);
    let rig = Arc::new(rig);
    let inner = Arc::clone(&rig);
    rig.host.on(Moment::Sleeping, move |_host| {
        let refused = inner.migrate(id, pid, BASE..BASE + 1500, Direction::ToDevice, 0);
        assert_eq!(refused.unwrap_err(), Errno::EAGAIN);
    });
    let (result, _, _) = detach_listing(&rig, id, 1);
    assert_eq!(result, Err(Errno::EBUSY));
    rig.host.assert_hooks_ran();
    assert_eq!(rig.to_device(id, pid, BASE..BASE + 1500).nr_moved, 1500);
}

#[test]
fn the_name_of_an_earlier_attachment_opens_nothing() {
    let (rig, old, pid) = on_device(6);
    rig.detach(old).unwrap();
    assert_eq!(rig.driver.open(old.number), Err(Errno::ENODEV));
    let new = rig.attach(0, 3).unwrap();
    assert_eq!(new.number, old.number);
    let mut info = args::Info::default();
    assert_eq!(rig.driver.info(old, &mut info), Err(Errno::ENODEV));
    assert_eq!(rig.evict(old).unwrap_err(), Errno::ENODEV);
    let pages = BASE..BASE + 6;
    for direction in [Direction::ToDevice, Direction::ToSystem] {
        let refused = rig.migrate(old, pid, pages.clone(), direction, 0);
        assert_eq!(refused.unwrap_err(), Errno::ENODEV);
    }
    let refused = rig.query(old, pid, pages.clone(), 0);
    assert_eq!(refused.unwrap_err(), Errno::ENODEV);
    assert_eq!(rig.to_device(new, pid, pages).nr_moved, 6);
}

#[test]
fn an_eviction_keeps_the_device() {
    let (rig, id, pid) = on_device(600);
    assert_eq!(rig.evict(id).unwrap().nr_evicted, 600);
    assert_eq!(rig.state(id), State::Online);
    let info = rig.info(id);
    assert_eq!((info.nr_allocated, info.moved_out), (0, 600));
    assert_eq!(rig.to_device(id, pid, BASE..BASE + 600).nr_moved, 600);
    rig.host.assert_all(pid, BASE..BASE + 600, 7);
    rig.assert_sound();
}

#[test]
fn hibernation_takes_all_home_and_keeps_devices_closed_until_it_is_over() {
    let (rig, id, pid) = on_device(6);
    let other = rig.attach(3, 1).unwrap();
    rig.to_device(other, pid, BASE..BASE + 2);
    rig.driver.prepare_hibernation().unwrap();
    assert_eq!(rig.host.nr_on_device(pid, BASE..BASE + 6), 0);
    for device in [id, other] {
        let refused = rig.migrate(device, pid, BASE..BASE + 6, Direction::ToDevice, 0);
        assert_eq!(refused.unwrap_err(), Errno::EAGAIN);
    }
    rig.driver.finish_hibernation();
    assert_eq!(rig.to_device(id, pid, BASE..BASE + 6).nr_moved, 6);
    rig.host.assert_all(pid, BASE..BASE + 6, 7);
    rig.assert_sound();
}

#[test]
fn hibernation_is_refused_while_struct_pages_live_on_a_device() {
    let rig = Rig::new();
    rig.host.world().chunk_bytes = 4 * RANGE_ALIGN;
    let mut args = args::Attach {
        start: SOFT_START,
        length: 4 * RANGE_ALIGN,
        flags: ATTACH_ALTMAP,
        ..args::Attach::default()
    };
    rig.driver.attach(&mut args).unwrap();
    assert_eq!(rig.driver.prepare_hibernation(), Err(Errno::EBUSY));
    let id = rig.driver.open(args.device).unwrap();
    rig.detach(id).unwrap();
    assert_eq!(rig.driver.prepare_hibernation(), Ok(()));
    assert_eq!(rig.attach(0, 1).unwrap_err(), Errno::EAGAIN);
    rig.driver.finish_hibernation();
    rig.attach(0, 1).unwrap();
    rig.assert_sound();
}

#[test]
fn hibernation_is_refused_while_a_frame_is_held_and_devices_stay_open() {
    let (rig, id, pid) = on_device(6);
    let pfn = rig.host.pfn(pid, BASE);
    rig.host.hold(pfn);
    assert_eq!(rig.driver.prepare_hibernation(), Err(Errno::EBUSY));
    assert_eq!(rig.to_device(id, pid, BASE..BASE + 6).nr_moved, 5);
    rig.host.release(pfn);
    rig.host.leave_available(0);
    assert_eq!(rig.driver.prepare_hibernation(), Err(Errno::ENOMEM));
    assert_eq!(rig.host.nr_on_device(pid, BASE..BASE + 6), 6);
    rig.assert_sound();
}

#[test]
fn a_window_that_was_past_the_draining_ends_the_call_with_what_was_done() {
    let (rig, id, pid) = Rig::with_device(4, 1500);
    rig.host.store_all(pid, BASE..BASE + 1500, 7);
    // An error after the first window: the second lock is interrupted.
    rig.host.fail_from(Fallible::LockSpace, 2);
    let moved = rig.to_device(id, pid, BASE..BASE + 1500);
    assert_eq!((moved.nr_moved, moved.next), (512, BASE + 512));
    rig.host.fail_from(Fallible::LockSpace, 1);
    let refused = rig.migrate(id, pid, BASE..BASE + 1500, Direction::ToDevice, 0);
    assert_eq!(refused.unwrap_err(), Errno::EINTR);
    rig.host.heal();
    rig.assert_sound();
    assert_eq!(addr(moved.next) % PAGE, 0);
}
