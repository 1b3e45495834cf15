// SPDX-License-Identifier: GPL-2.0
//! What the kernel does not guard against, so that the driver must.

use cohmem_kcore::host::Point;
use cohmem_uapi::{Direction, Reason};

use crate::fake::{BASE, FakeHost, Home, Kind, Moment, Pid, Rig, Seen};

/// A device page with one foreign reference, whose holder writes and lets go just before the commit.
fn late_writer(rig: &Rig, pid: Pid) -> u64 {
    let pfn = rig.host.pfn(pid, BASE);
    rig.host.hold(pfn);
    rig.host
        .on(Moment::At(Point::Filled), move |host: &FakeHost| {
            host.change_page(pfn, |page| page.stamp = 1000);
            host.release(pfn);
        });
    pfn
}

fn on_device() -> (Rig, cohmem_kcore::DeviceId, Pid) {
    let (rig, id, pid) = Rig::with_device(1, 4);
    rig.host.store_all(pid, BASE..BASE + 4, 7);
    assert_eq!(rig.to_device(id, pid, BASE..BASE + 4).nr_moved, 4);
    (rig, id, pid)
}

#[test]
fn a_late_write_is_not_lost_on_the_way_home() {
    let (rig, id, pid) = on_device();
    late_writer(&rig, pid);
    let moved = rig.to_system(id, pid, BASE..BASE + 4);
    rig.host.assert_hooks_ran();
    assert_eq!(moved.reasons[0], Some(Reason::ExtraRef));
    assert_eq!(rig.host.load(pid, BASE), Seen::Stamp(1000));
    rig.host.assert_all(pid, BASE + 1..BASE + 4, 8);
    assert_eq!(rig.to_system(id, pid, BASE..BASE + 4).nr_moved, 1);
    assert_eq!(rig.host.load(pid, BASE), Seen::Stamp(1000));
    rig.assert_sound();
}

#[test]
fn a_late_write_is_not_lost_on_the_way_to_another_device() {
    let (rig, _first, pid) = on_device();
    let second = rig.attach(1, 1).unwrap();
    late_writer(&rig, pid);
    let moved = rig.to_device(second, pid, BASE..BASE + 4);
    rig.host.assert_hooks_ran();
    assert_eq!(moved.reasons[0], Some(Reason::ExtraRef));
    assert_eq!(rig.host.load(pid, BASE), Seen::Stamp(1000));
    rig.assert_sound();
}

#[test]
fn a_late_write_is_not_lost_in_an_eviction() {
    let (rig, id, pid) = on_device();
    late_writer(&rig, pid);
    // The first round leaves the page, the next takes it.
    assert_eq!(rig.evict(id).unwrap().nr_evicted, 4);
    rig.host.assert_hooks_ran();
    assert_eq!(rig.host.load(pid, BASE), Seen::Stamp(1000));
    rig.host.assert_all(pid, BASE + 1..BASE + 4, 8);
    rig.assert_sound();
}

#[test]
fn a_late_write_is_not_lost_on_the_way_to_the_device() {
    let (rig, id, pid) = Rig::with_device(1, 1);
    rig.host.store(pid, BASE, 7);
    let pfn = rig.host.pfn(pid, BASE);
    rig.host.on(Moment::Collecting, move |host| host.hold(pfn));
    rig.host.on(Moment::At(Point::Filled), move |host| {
        host.change_page(pfn, |page| page.stamp = 1000);
        host.release(pfn);
    });
    rig.to_device(id, pid, BASE..BASE + 1);
    rig.host.assert_hooks_ran();
    assert_eq!(rig.host.load(pid, BASE), Seen::Stamp(1000));
    rig.assert_sound();
}

#[test]
fn a_page_that_ksm_merged_meanwhile_stays() {
    let (rig, id, pid) = Rig::with_device(1, 3);
    for page in BASE..BASE + 3 {
        rig.host.store(pid, page, 7);
    }
    rig.host.on(Moment::Collecting, move |host| {
        assert!(host.merge(&[(pid, BASE), (pid, BASE + 1)]));
    });
    let moved = rig.to_device(id, pid, BASE..BASE + 3);
    rig.host.assert_hooks_ran();
    let ksm = Some(Reason::Ksm);
    assert_eq!(moved.reasons, [ksm, ksm, None]);
    for page in BASE..BASE + 3 {
        assert_eq!(rig.host.load(pid, page), Seen::Stamp(7));
    }
    rig.assert_sound();
}

#[test]
fn a_page_that_went_away_meanwhile_is_not_taken_for_another() {
    let (rig, id, pid) = Rig::with_device(1, 3);
    for page in BASE..BASE + 3 {
        rig.host.store(pid, page, 7);
    }
    rig.host.on(Moment::Snapshotted, move |host| {
        assert!(host.merge(&[(pid, BASE), (pid, BASE + 1)]));
    });
    let moved = rig.to_device(id, pid, BASE..BASE + 3);
    rig.host.assert_hooks_ran();
    assert_eq!((moved.nr_moved, moved.reasons[2]), (1, None));
    for page in BASE..BASE + 3 {
        assert_eq!(rig.host.load(pid, page), Seen::Stamp(7));
    }
    rig.assert_sound();
}

#[test]
fn a_ksm_page_in_the_middle_of_a_batch_is_left_alone() {
    let (rig, id, pid) = Rig::with_device(1, 3);
    rig.host.store_all(pid, BASE..BASE + 3, 7);
    assert!(rig.host.merge(&[(pid, BASE + 1)]));
    let merged = rig.host.pfn(pid, BASE + 1);
    assert_eq!(rig.to_device(id, pid, BASE..BASE + 3).nr_moved, 2);
    assert_eq!(rig.host.pfn(pid, BASE + 1), merged);
    assert_eq!(rig.host.world().page(merged).kind, Kind::Ksm);
    rig.host.assert_all(pid, BASE..BASE + 3, 7);
    rig.assert_sound();
}

#[test]
fn a_page_poisoned_meanwhile_is_not_copied() {
    let (rig, id, pid) = Rig::with_device(1, 2);
    rig.host.store_all(pid, BASE..BASE + 2, 7);
    let pfn = rig.host.pfn(pid, BASE);
    rig.host.on(Moment::Collecting, move |host| {
        host.change_page(pfn, |page| page.is_poisoned = true);
    });
    let moved = rig.to_device(id, pid, BASE..BASE + 2);
    assert_eq!(moved.reasons, [Some(Reason::Poisoned), None]);
    assert_eq!(rig.info(id).nr_allocated, 1);
}

#[test]
fn a_process_that_exits_meanwhile_leaves_no_frame_behind() {
    let (rig, id, pid) = Rig::with_device(1, 4);
    rig.host.store_all(pid, BASE..BASE + 4, 7);
    rig.host
        .on(Moment::At(Point::Filled), move |host| host.exit(pid));
    assert_eq!(rig.to_device(id, pid, BASE..BASE + 4).nr_moved, 4);
    rig.host.assert_hooks_ran();
    assert_eq!(rig.info(id).nr_allocated, 0);
    rig.assert_sound();
}

#[test]
fn an_eviction_while_a_sharer_exits_keeps_the_other_s_content() {
    let (rig, id, pid) = on_device();
    let child = rig.host.fork(pid);
    rig.host
        .on(Moment::At(Point::Filled), move |host| host.exit(pid));
    assert_eq!(rig.evict(id).unwrap().nr_evicted, 4);
    rig.host.assert_all(child, BASE..BASE + 4, 7);
    rig.assert_sound();
}

#[test]
fn an_eviction_while_all_exit_leaves_nothing() {
    let (rig, id, pid) = on_device();
    rig.host
        .on(Moment::At(Point::Committed), move |host| host.exit(pid));
    rig.evict(id).unwrap();
    rig.assert_sound();
    assert_eq!(rig.info(id).nr_allocated, 0);
    rig.detach(id).unwrap();
}

#[test]
fn a_page_written_between_batches_of_a_window_keeps_the_write() {
    let (rig, first, pid) = on_device();
    let second = rig.attach(1, 1).unwrap();
    rig.host.unmap(pid, BASE + 4..BASE + 5);
    let child = rig.host.fork(pid);
    // Copy-on-write puts one page into system memory: two batches, one for each origin.
    rig.host.store(child, BASE + 2, 500);
    rig.host.exit(pid);
    rig.host
        .on(Moment::At(Point::Collected), move |host: &FakeHost| {
            // A page of the other batch is not in flight.
            host.store(child, BASE + 2, 501);
        });
    assert_eq!(rig.to_device(second, child, BASE..BASE + 4).nr_moved, 4);
    rig.host.assert_hooks_ran();
    assert_eq!(rig.host.load(child, BASE + 2), Seen::Stamp(501));
    assert_eq!(rig.info(first).nr_allocated, 0);
    for page in BASE..BASE + 4 {
        assert!(matches!(rig.host.home(child, page), Home::Frame { .. }));
    }
    rig.assert_sound();
}

#[test]
fn a_device_page_pinned_meanwhile_stays() {
    let (rig, id, pid) = on_device();
    let pfn = rig.host.pfn(pid, BASE);
    rig.host.on(Moment::Collecting, move |host| {
        host.hold(pfn);
        host.change_page(pfn, |page| page.is_pinned = true);
    });
    let moved = rig
        .migrate(id, pid, BASE..BASE + 1, Direction::ToSystem, 0)
        .unwrap();
    assert_eq!(moved.nr_moved, 0);
    rig.host.change_page(pfn, |page| page.is_pinned = false);
    rig.host.release(pfn);
    rig.host.assert_all(pid, BASE..BASE + 4, 7);
    rig.assert_sound();
}
