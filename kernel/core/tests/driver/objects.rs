// SPDX-License-Identifier: GPL-2.0
//! What jobs and run instances may hold of a device, and what is charged to them.

use std::{collections::BTreeMap, thread};

use cohmem_kcore::{DeviceId, Errno, OpenNode};
use cohmem_uapi::{
    Direction, MAX_ACCOUNTS, MAX_NESTED_JOBS, MAX_OBJECTS, MAX_USER_RUNS, MIGRATE_FILL, ObjectKind,
    QUOTA_INHERITED, QUOTA_UNLIMITED, Reason, args,
};

use crate::fake::{ASKER, BASE, Pid, Rig, USER};

const OTHER: u32 = 1001;
const NR_PAGES: u64 = 40;
/// Control groups: the root's number, and some below it.
const ROOT: u64 = 1;
const OUTER: u64 = 50;
const INNER: u64 = 51;
const ASIDE: u64 = 52;

fn rig() -> (Rig, DeviceId, Pid) {
    let (rig, id, pid) = Rig::with_device(1, NR_PAGES);
    rig.host.store_all(pid, BASE..BASE + NR_PAGES, 7);
    (rig, id, pid)
}

fn set_job(rig: &Rig, id: DeviceId, job: u64, flags: u32, limit: u64) -> Result<(), Errno> {
    let args = args::Job {
        job,
        flags,
        limit,
        ..args::Job::default()
    };
    rig.driver.set_job(id, &args)
}

fn set_run(rig: &Rig, node: &OpenNode, limit: u64) -> Result<u64, Errno> {
    let mut args = args::Run {
        limit,
        ..args::Run::default()
    };
    rig.driver.set_run(node, &mut args)?;
    Ok(args.run)
}

/// Pages that moved to the device, and those that stayed for the quota.
#[track_caller]
fn take(rig: &Rig, node: &OpenNode, pid: Pid, nr_pages: u64) -> (u64, u64) {
    let moved = rig
        .migrate_by(node, pid, BASE..BASE + nr_pages, Direction::ToDevice, 0)
        .unwrap();
    (moved.nr_moved, moved.stayed.get(Reason::Quota))
}

/// Frames charged to each object that is listed.
#[track_caller]
fn charged(rig: &Rig, id: DeviceId) -> BTreeMap<(u32, u64), u64> {
    let objects = rig.objects(id).unwrap();
    let entries = objects
        .iter()
        .map(|object| ((object.kind, object.number), object.charged));
    entries.collect()
}

const fn job(number: u64) -> (u32, u64) {
    (ObjectKind::Job as u32, number)
}

const fn run(number: u64) -> (u32, u64) {
    (ObjectKind::Run as u32, number)
}

#[test]
fn user_job_and_run_must_all_allow() {
    for (user, of_job, of_run) in [(10, 20, 30), (20, 10, 30), (30, 20, 10)] {
        let (rig, id, pid) = rig();
        rig.host.join_group(&[ROOT, OUTER]);
        rig.set_limit(id, USER, user).unwrap();
        set_job(&rig, id, OUTER, 0, of_job).unwrap();
        let node = OpenNode::new(id);
        let number = set_run(&rig, &node, of_run).unwrap();
        assert_eq!(take(&rig, &node, pid, NR_PAGES), (10, 30));
        // Nobody is charged for what another did not allow.
        assert_eq!(rig.charged(id), BTreeMap::from([(USER, 10)]));
        let expected = BTreeMap::from([(job(OUTER), 10), (run(number), 10)]);
        assert_eq!(charged(&rig, id), expected);
        rig.to_system(id, pid, BASE..BASE + 4);
        assert_eq!(take(&rig, &node, pid, NR_PAGES), (4, 30));
        rig.host.exit(pid);
        let expected = BTreeMap::from([(job(OUTER), 0), (run(number), 0)]);
        assert_eq!(charged(&rig, id), expected);
        rig.assert_sound();
    }
}

#[test]
fn a_job_is_the_group_with_all_below_it() {
    let (rig, id, pid) = rig();
    let other = rig.spawn(NR_PAGES);
    rig.host.store_all(other, BASE..BASE + NR_PAGES, 9);
    set_job(&rig, id, OUTER, 0, 20).unwrap();
    set_job(&rig, id, INNER, 0, 15).unwrap();
    let node = OpenNode::new(id);
    rig.host.join_group(&[ROOT, OUTER, INNER]);
    assert_eq!(take(&rig, &node, pid, NR_PAGES), (15, 25));
    // Another user, in the outer group only: both together have its limit.
    rig.host.act_as(OTHER);
    rig.host.join_group(&[ROOT, OUTER, ASIDE]);
    assert_eq!(take(&rig, &node, other, NR_PAGES), (5, 35));
    let expected = BTreeMap::from([(job(OUTER), 20), (job(INNER), 15)]);
    assert_eq!(charged(&rig, id), expected);
    // Elsewhere nobody suffers.
    rig.host.join_group(&[ROOT, ASIDE]);
    assert_eq!(take(&rig, &node, other, NR_PAGES), (35, 0));
    assert_eq!(charged(&rig, id), expected);
    rig.assert_sound();
}

#[test]
fn a_frame_is_charged_to_the_job_it_was_asked_for_in() {
    let (rig, id, pid) = rig();
    let node = OpenNode::new(id);
    set_job(&rig, id, OUTER, QUOTA_UNLIMITED, 0).unwrap();
    assert_eq!(take(&rig, &node, pid, 4), (4, 0));
    assert_eq!(charged(&rig, id), BTreeMap::from([(job(OUTER), 0)]));
    rig.host.join_group(&[ROOT, OUTER]);
    assert_eq!(take(&rig, &node, pid, 10), (6, 0));
    // The task moves on, and the group is gone.
    rig.host.join_group(&[ROOT]);
    let child = rig.host.fork(pid);
    rig.host.exit(pid);
    assert_eq!(charged(&rig, id), BTreeMap::from([(job(OUTER), 6)]));
    rig.host.unmap(child, BASE..BASE + 5);
    assert_eq!(charged(&rig, id), BTreeMap::from([(job(OUTER), 5)]));
    rig.host.exit(child);
    assert_eq!(charged(&rig, id), BTreeMap::from([(job(OUTER), 0)]));
    rig.assert_sound();
}

#[test]
fn a_job_that_is_none_any_more_keeps_its_frames_and_gets_none() {
    let (rig, id, pid) = rig();
    let node = OpenNode::new(id);
    rig.host.join_group(&[ROOT, OUTER]);
    set_job(&rig, id, OUTER, 0, 8).unwrap();
    assert_eq!(take(&rig, &node, pid, 8), (8, 0));
    // Lowered below what it holds.
    set_job(&rig, id, OUTER, 0, 3).unwrap();
    rig.to_system(id, pid, BASE..BASE + 2);
    assert_eq!(take(&rig, &node, pid, 2), (0, 2));
    // With another one there: else no group is asked for.
    set_job(&rig, id, ASIDE, QUOTA_UNLIMITED, 0).unwrap();
    set_job(&rig, id, OUTER, QUOTA_INHERITED, 0).unwrap();
    assert_eq!(take(&rig, &node, pid, 2), (2, 0));
    let ended = args::Object {
        kind: ObjectKind::Job as u32,
        flags: QUOTA_INHERITED,
        number: OUTER,
        charged: 6,
        ..args::Object::default()
    };
    assert_eq!(rig.objects(id).unwrap()[0], ended);
    set_job(&rig, id, ASIDE, QUOTA_INHERITED, 0).unwrap();
    assert_eq!(rig.objects(id).unwrap(), [ended]);
    // Once more a job, it counts what it has.
    set_job(&rig, id, OUTER, 0, 7).unwrap();
    assert_eq!(take(&rig, &node, pid, 12), (1, 3));
    set_job(&rig, id, OUTER, QUOTA_INHERITED, 0).unwrap();
    rig.host.exit(pid);
    assert_eq!(rig.objects(id).unwrap(), []);
    rig.assert_sound();
}

#[test]
fn a_task_in_more_jobs_than_a_frame_can_name_gets_none() {
    let (rig, id, pid) = rig();
    let node = OpenNode::new(id);
    let number = set_run(&rig, &node, 30).unwrap();
    let groups: Vec<u64> = (1..=u64::from(MAX_NESTED_JOBS) + 1).collect();
    for &group in &groups {
        set_job(&rig, id, group, QUOTA_UNLIMITED, 0).unwrap();
    }
    rig.host.join_group(&groups);
    assert_eq!(take(&rig, &node, pid, NR_PAGES), (0, NR_PAGES));
    assert_eq!(rig.info(id).nr_allocated, 0);
    rig.host.join_group(&groups[1..]);
    assert_eq!(take(&rig, &node, pid, NR_PAGES), (30, 10));
    let charged = charged(&rig, id);
    assert_eq!((charged[&job(1)], charged[&run(number)]), (0, 30));
    assert!(groups[1..].iter().all(|&group| charged[&job(group)] == 30));
    rig.assert_sound();
}

#[test]
fn a_run_instance_is_what_comes_through_its_file() {
    let (rig, id, pid) = rig();
    let (node, plain) = (OpenNode::new(id), OpenNode::new(id));
    let number = set_run(&rig, &node, 10).unwrap();
    assert_eq!(take(&rig, &plain, pid, 4), (4, 0));
    assert_eq!(take(&rig, &node, pid, NR_PAGES), (10, 26));
    // Another user has the descriptor: the frames are theirs and the instance's.
    rig.host.act_as(OTHER);
    assert_eq!(take(&rig, &node, pid, NR_PAGES), (0, 26));
    assert_eq!(set_run(&rig, &node, 12), Ok(number));
    assert_eq!(take(&rig, &node, pid, NR_PAGES), (2, 24));
    let users = BTreeMap::from([(USER, 14), (OTHER, 2)]);
    assert_eq!(rig.charged(id), users);
    let expected = args::Object {
        kind: ObjectKind::Run as u32,
        flags: 0,
        number,
        limit: 12,
        charged: 12,
        user: USER,
        process: ASKER,
    };
    assert_eq!(rig.objects(id).unwrap(), [expected]);
    // Lowered below what it holds.
    assert_eq!(set_run(&rig, &node, 5), Ok(number));
    rig.to_system(id, pid, BASE + 4..BASE + 10);
    assert_eq!(take(&rig, &node, pid, NR_PAGES), (0, 30));
    rig.assert_sound();
}

#[test]
fn a_run_instance_ends_with_its_file_and_its_frames_stay_charged() {
    let (rig, id, pid) = rig();
    let node = OpenNode::new(id);
    let number = set_run(&rig, &node, 10).unwrap();
    assert_eq!(take(&rig, &node, pid, 10), (10, 0));
    rig.driver.close(&node);
    let ended = rig.objects(id).unwrap();
    assert_eq!(
        (ended[0].flags, ended[0].limit, ended[0].charged),
        (QUOTA_INHERITED, 0, 10)
    );
    let next = OpenNode::new(id);
    let other = set_run(&rig, &next, 10).unwrap();
    assert_ne!(other, number);
    let expected = BTreeMap::from([(run(number), 10), (run(other), 0)]);
    assert_eq!(charged(&rig, id), expected);
    rig.driver.close(&next);
    rig.driver.close(&OpenNode::new(id));
    rig.host.exit(pid);
    assert_eq!(rig.objects(id).unwrap(), []);
    // Its device goes first.
    let last = OpenNode::new(id);
    set_run(&rig, &last, 1).unwrap();
    rig.detach(id).unwrap();
    rig.driver.close(&last);
    rig.assert_sound();
}

#[test]
fn a_user_cannot_take_every_run_instance() {
    let (rig, id, pid) = rig();
    let open_all = || {
        let open = |_index| {
            let node = OpenNode::new(id);
            set_run(&rig, &node, 1).unwrap();
            node
        };
        (0..MAX_USER_RUNS).map(open).collect::<Vec<_>>()
    };
    let nodes = open_all();
    let late = OpenNode::new(id);
    assert_eq!(set_run(&rig, &late, 1), Err(Errno::EDQUOT));
    // One that holds a frame counts after its end, too.
    assert_eq!(take(&rig, &nodes[0], pid, 1), (1, 0));
    rig.driver.close(&nodes[0]);
    assert_eq!(set_run(&rig, &late, 1), Err(Errno::EDQUOT));
    // Changing the limit of one that is there needs no other.
    set_run(&rig, &nodes[1], 2).unwrap();
    rig.to_system(id, pid, BASE..BASE + 1);
    set_run(&rig, &late, 1).unwrap();
    for user in 1..MAX_ACCOUNTS / MAX_USER_RUNS {
        rig.host.act_as(5000 + user);
        open_all();
    }
    rig.host.act_as(OTHER);
    let none = OpenNode::new(id);
    assert_eq!(set_run(&rig, &none, 1), Err(Errno::ENOSPC));
    assert_eq!(rig.objects(id).unwrap().len(), 256);
    // Those of ended instances are used again, their numbers are not.
    rig.driver.close(&nodes[2]);
    assert!(set_run(&rig, &none, 1).unwrap() > u64::from(MAX_ACCOUNTS));
}

#[test]
fn jobs_that_race_to_a_limit_never_pass_it() {
    const NR_THREADS: u32 = 4;
    const LIMIT: u64 = 100;
    let (rig, id, _pid) = Rig::with_device(1, 1);
    set_job(&rig, id, OUTER, 0, LIMIT).unwrap();
    let shared = OpenNode::new(id);
    set_run(&rig, &shared, LIMIT - 10).unwrap();
    thread::scope(|scope| {
        for index in 0..NR_THREADS {
            let (rig, shared) = (&rig, &shared);
            scope.spawn(move || {
                rig.host.act_as(USER + index / 2);
                rig.host.join_group(&[ROOT, OUTER]);
                let plain = OpenNode::new(id);
                let node = if index % 2 == 0 { shared } else { &plain };
                for _round in 0..50 {
                    let pid = rig.spawn(NR_PAGES);
                    let pages = BASE..BASE + NR_PAGES;
                    let filled = rig
                        .migrate_by(node, pid, pages, Direction::ToDevice, MIGRATE_FILL)
                        .unwrap();
                    let stayed = filled.stayed.get(Reason::Quota);
                    assert_eq!(filled.nr_filled + stayed, NR_PAGES);
                    assert!(rig.info(id).nr_allocated <= LIMIT);
                    rig.host.exit(pid);
                }
            });
        }
    });
    assert_eq!(rig.info(id).nr_allocated, 0);
    assert!(charged(&rig, id).values().all(|&frames| frames == 0));
    rig.assert_sound();
}

#[test]
fn jobs_runs_and_their_list_refuse_what_the_header_says() {
    type ChangeFn<T> = fn(&mut T);
    let jobs: &[(Errno, ChangeFn<args::Job>)] = &[
        (Errno::EINVAL, |args| args.reserved[1] = 1),
        (Errno::EINVAL, |args| args.pad = 1),
        (Errno::EOPNOTSUPP, |args| args.flags = 1),
        (Errno::EOPNOTSUPP, |args| args.flags = 1 << 3),
        (Errno::EINVAL, |args| {
            args.flags = QUOTA_UNLIMITED | QUOTA_INHERITED;
            args.limit = 0;
        }),
        (Errno::EINVAL, |args| args.flags = QUOTA_UNLIMITED),
        (Errno::EINVAL, |args| args.flags = QUOTA_INHERITED),
        (Errno::ERANGE, |args| args.limit = (1 << 52) + 1),
        (Errno::ERANGE, |args| args.job = 0),
        (Errno::ERANGE, |args| args.job = 1 << 62),
    ];
    let runs: &[(Errno, ChangeFn<args::Run>)] = &[
        (Errno::EINVAL, |args| args.reserved[0] = 1),
        (Errno::EINVAL, |args| args.pad = 1),
        (Errno::EOPNOTSUPP, |args| args.flags = QUOTA_INHERITED),
        (Errno::EINVAL, |args| args.flags = QUOTA_UNLIMITED),
        (Errno::ERANGE, |args| args.limit = (1 << 52) + 1),
    ];
    let lists: &[(Errno, ChangeFn<args::Objects>)] = &[
        (Errno::EINVAL, |args| args.reserved[0] = 1),
        (Errno::EINVAL, |args| args.pad = 1),
        (Errno::EOPNOTSUPP, |args| args.flags = 1),
        (Errno::EMSGSIZE, |args| args.nr_max = MAX_OBJECTS + 1),
        (Errno::EFAULT, |args| args.nr_max = 1),
        (Errno::EFAULT, |args| {
            (args.nr_max, args.objects_ptr) = (1, 8);
        }),
    ];
    let (rig, id, _pid) = rig();
    let node = OpenNode::new(id);
    set_job(&rig, id, OUTER, 0, 3).unwrap();
    set_run(&rig, &node, 3).unwrap();
    let before = rig.objects(id).unwrap();
    for (index, (errno, change_fn)) in jobs.iter().enumerate() {
        let mut args = args::Job {
            job: OUTER,
            limit: 1,
            ..args::Job::default()
        };
        change_fn(&mut args);
        let result = rig.driver.set_job(id, &args);
        assert_eq!(result, Err(*errno), "job case {index}");
    }
    for (index, (errno, change_fn)) in runs.iter().enumerate() {
        for node in [&node, &OpenNode::new(id)] {
            let mut args = args::Run {
                limit: 1,
                ..args::Run::default()
            };
            change_fn(&mut args);
            let result = rig.driver.set_run(node, &mut args);
            assert_eq!(result, Err(*errno), "run case {index}");
        }
    }
    for (index, (errno, change_fn)) in lists.iter().enumerate() {
        let mut args = args::Objects::default();
        change_fn(&mut args);
        let result = rig.driver.objects(id, &mut args);
        assert_eq!(result, Err(*errno), "list case {index}");
    }
    rig.host.set_privileges(false, true);
    assert_eq!(set_job(&rig, id, OUTER, 0, 1), Err(Errno::EPERM));
    assert_eq!(rig.objects(id).unwrap(), before);
    // Nobody but the caller is bound by it.
    set_run(&rig, &node, 3).unwrap();
    rig.host.set_privileges(true, true);
    for number in 1..u64::from(MAX_ACCOUNTS) {
        set_job(&rig, id, 1000 + number, 0, 1).unwrap();
    }
    assert_eq!(set_job(&rig, id, 7, 0, 1), Err(Errno::ENOSPC));
    rig.detach(id).unwrap();
    assert_eq!(set_job(&rig, id, OUTER, 0, 1), Err(Errno::ENODEV));
    assert_eq!(set_run(&rig, &node, 1), Err(Errno::ENODEV));
    assert_eq!(rig.objects(id), Err(Errno::ENODEV));
}
