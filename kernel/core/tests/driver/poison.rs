// SPDX-License-Identifier: GPL-2.0
//! Frames that the hardware loses.

use cohmem_kcore::{Attribute, DeviceId, Errno, poison::Failure};
use cohmem_uapi::{QUERY_REASONS, Reason, State, Tier, args};

use crate::fake::{BASE, PAGE, Pid, Rig, SOFT_START, Seen};

fn on_device(nr_chunks: u64) -> (Rig, DeviceId, Pid) {
    let (rig, id, pid) = Rig::with_device(nr_chunks, 4);
    rig.host.store_all(pid, BASE..BASE + 4, 7);
    assert_eq!(rig.to_device(id, pid, BASE..BASE + 4).nr_moved, 4);
    (rig, id, pid)
}

#[test]
fn a_free_frame_that_failed_is_never_handed_out() {
    let (rig, id, _pid) = Rig::with_device(1, 1);
    let pfn = SOFT_START / PAGE + 3;
    assert_eq!(rig.host.memory_failure(pfn), Failure::Contained);
    assert_eq!(rig.host.memory_failure(pfn), Failure::Contained);
    assert_eq!((rig.info(id).nr_poisoned, rig.info(id).nr_free), (1, 511));
    // The model refuses a poisoned frame, but only a marked one.
    let other = rig.spawn(512);
    let filled = rig.fill(id, other, BASE..BASE + 512);
    assert_eq!(
        (filled.nr_filled, filled.stayed.get(Reason::NoFrame)),
        (511, 1)
    );
    assert!((BASE..BASE + 511).all(|page| rig.host.pfn(other, page) != pfn));
    rig.assert_sound();
    // Nobody had mapped it, so nothing names it.
    assert_eq!(rig.detach(id).unwrap().nr_kept, 0);
}

#[test]
fn a_frame_that_failed_in_use_sends_its_owners_sigbus_and_nobody_else() {
    let (rig, id, pid) = on_device(1);
    let child = rig.host.fork(pid);
    let pfn = rig.host.pfn(pid, BASE + 1);
    assert_eq!(rig.host.memory_failure(pfn), Failure::Contained);
    for process in [pid, child] {
        assert_eq!(rig.host.load(process, BASE + 1), Seen::Lost);
        assert_eq!(rig.host.load(process, BASE), Seen::Stamp(7));
        rig.host.assert_all(process, BASE + 2..BASE + 4, 9);
    }
    let info = rig.info(id);
    assert_eq!((info.nr_poisoned, info.nr_allocated), (1, 3));
    rig.assert_sound();
    // Freed and never handed out again.
    let other = rig.spawn(512);
    assert_eq!(rig.fill(id, other, BASE..BASE + 512).nr_filled, 508);
    rig.assert_sound();
}

#[test]
fn a_page_that_poison_unmapped_is_told_as_poisoned() {
    let (rig, id, pid) = on_device(1);
    let pfn = rig.host.pfn(pid, BASE + 1);
    assert_eq!(rig.host.memory_failure(pfn), Failure::Contained);
    let lost = [None, Some(Reason::Poisoned), None, None];
    let there = lost.map(|reason| Some(reason.unwrap_or(Reason::AlreadyThere)));
    assert_eq!(rig.to_device(id, pid, BASE..BASE + 4).reasons, there);
    let filled = rig.fill(id, pid, BASE..BASE + 4);
    assert_eq!((filled.nr_filled, &filled.reasons[..]), (0, &there[..]));
    let map = rig.query(id, pid, BASE..BASE + 4, QUERY_REASONS).unwrap();
    let told: Vec<_> = map
        .iter()
        .map(|entry| (entry.tier(), entry.reason()))
        .collect();
    let device = (Tier::Device, Some(Reason::AlreadyThere));
    let nothing = (Tier::None, Some(Reason::Poisoned));
    assert_eq!(told, [device, nothing, device, device]);
    let home = rig.to_system(id, pid, BASE..BASE + 4);
    assert_eq!(home.reasons, lost);
    assert_eq!(rig.host.load(pid, BASE + 1), Seen::Lost);
    rig.assert_sound();
}

#[test]
fn a_frame_that_the_kernel_itself_marked_is_not_handed_out_again() {
    let (rig, id, pid) = on_device(1);
    let pfn = rig.host.pfn(pid, BASE);
    rig.host.change_page(pfn, |page| page.is_poisoned = true);
    rig.host.exit(pid);
    let info = rig.info(id);
    assert_eq!((info.nr_poisoned, info.nr_free), (1, 511));
    let other = rig.spawn(512);
    assert_eq!(rig.fill(id, other, BASE..BASE + 512).nr_filled, 511);
    rig.assert_sound();
}

#[test]
fn a_frame_that_failed_while_held_is_withdrawn_when_let_go() {
    let (rig, id, pid) = on_device(1);
    let pfn = rig.host.pfn(pid, BASE);
    rig.host.hold(pfn);
    assert_eq!(rig.host.memory_failure(pfn), Failure::StillHeld);
    assert_eq!(rig.host.load(pid, BASE), Seen::Lost);
    rig.assert_sound();
    let mut args = stuck_args(&rig, id, 4);
    assert_eq!(rig.driver.detach(&mut args), Err(Errno::EBUSY));
    assert_eq!((args.nr_evicted, args.nr_stuck), (3, 1));
    assert_eq!(args.stayed[usize::from(Reason::Poisoned as u8)], 1);
    assert_eq!(rig.state(id), State::Online);
    rig.host.release(pfn);
    assert_eq!(rig.info(id).nr_poisoned, 1);
    rig.assert_sound();
    let other = rig.spawn(512);
    assert_eq!(rig.fill(id, other, BASE..BASE + 512).nr_filled, 511);
    rig.assert_sound();
}

fn stuck_args(rig: &Rig, id: DeviceId, nr_stuck_max: u32) -> args::Detach {
    let bytes = usize::try_from(nr_stuck_max).unwrap() * size_of::<args::Stuck>();
    args::Detach {
        device: id.number,
        timeout_ms: 200,
        nr_stuck_max,
        stuck_ptr: rig.host.user_buffer(bytes),
        ..args::Detach::default()
    }
}

#[test]
fn a_frame_found_lost_by_a_copy_is_reported() {
    for is_eviction in [false, true] {
        let (rig, id, pid) = on_device(1);
        let pfn = rig.host.pfn(pid, BASE + 2);
        rig.host.break_page(pfn);
        if is_eviction {
            assert_eq!(rig.evict(id).unwrap().nr_evicted, 3);
        } else {
            let moved = rig.to_system(id, pid, BASE..BASE + 4);
            assert_eq!(moved.reasons, [None, None, Some(Reason::Poisoned), None]);
        }
        assert_eq!(rig.host.load(pid, BASE + 2), Seen::Lost);
        rig.host.assert_all(pid, BASE..BASE + 2, 7);
        let info = rig.info(id);
        assert_eq!((info.nr_poisoned, info.nr_allocated), (1, 0));
        rig.assert_sound();
    }
}

#[test]
fn a_frame_found_lost_on_the_way_to_another_device_is_reported_to_its_own() {
    let (rig, first, pid) = on_device(1);
    let second = rig.attach(1, 1).unwrap();
    rig.host.break_page(rig.host.pfn(pid, BASE));
    let moved = rig.to_device(second, pid, BASE..BASE + 4);
    assert_eq!(moved.reasons[0], Some(Reason::Poisoned));
    assert_eq!(rig.info(first).nr_poisoned, 1);
    assert_eq!(rig.info(second).nr_poisoned, 0);
    assert_eq!(rig.host.load(pid, BASE), Seen::Lost);
    rig.assert_sound();
}

#[test]
fn a_lost_system_page_stays_and_harms_no_device() {
    let (rig, id, pid) = Rig::with_device(1, 2);
    rig.host.store_all(pid, BASE..BASE + 2, 7);
    rig.host.break_page(rig.host.pfn(pid, BASE));
    let moved = rig.to_device(id, pid, BASE..BASE + 2);
    assert_eq!(moved.reasons, [Some(Reason::Poisoned), None]);
    let info = rig.info(id);
    assert_eq!((info.nr_poisoned, info.nr_allocated), (0, 1));
    rig.assert_sound();
}

#[test]
fn a_chunk_that_held_mapped_poison_stays_claimed_and_is_listed() {
    let (rig, id, pid) = on_device(3);
    let pfn = rig.host.pfn(pid, BASE + 1);
    assert_eq!(rig.host.memory_failure(pfn), Failure::Contained);
    let detached = rig.detach(id).unwrap();
    assert_eq!((detached.nr_kept, detached.nr_evicted), (512, 3));
    rig.host.assert_all(pid, BASE + 2..BASE + 4, 9);
    assert_eq!(rig.host.load(pid, BASE + 1), Seen::Lost);

    let claims = rig.host.world().claims.clone();
    let kept = SOFT_START..SOFT_START + 0x20_0000;
    assert_eq!(claims, [(kept, true)]);
    let mut list = args::List::default();
    rig.driver.list(&mut list).unwrap();
    assert_eq!(list.devices, 1);
    let state = rig.driver.attribute(id.number, Attribute::State).unwrap();
    assert_eq!(state, State::Kept as u64);
    assert!(rig.host.world().published.contains(&id.number));
    let poisoned = rig.driver.attribute(id.number, Attribute::Poisoned);
    assert_eq!(poisoned, Ok(1));

    // Nothing works on it, and its number is not given to another.
    assert_eq!(rig.driver.open(id.number), Err(Errno::ENODEV));
    assert_eq!(rig.detach(id).unwrap_err(), Errno::ENODEV);
    assert_eq!(rig.attach(0, 3).unwrap_err(), Errno::EBUSY);
    let again = rig.attach(1, 2).unwrap();
    assert_eq!(again.number, 1);
    rig.host.assert_sound(&rig.driver);
    rig.detach(again).unwrap();
}

#[test]
fn a_frame_of_a_kept_chunk_may_come_back_after_the_detach() {
    let (rig, id, pid) = on_device(1);
    let pfn = rig.host.pfn(pid, BASE);
    rig.host.memory_failure(pfn);
    rig.detach(id).unwrap();
    rig.host.exit(pid);
    rig.assert_sound();
}
