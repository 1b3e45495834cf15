//! What jobs and run instances may hold of a device, and what stays charged to them.

use std::{fs, os::unix::fs::MetadataExt as _, path::PathBuf};

use cohmem_uapi::{MAX_USER_RUNS, ObjectKind, QUOTA_INHERITED, QUOTA_UNLIMITED, Reason, args};

use crate::{
    Test,
    driver::{Device, errno, named},
    lifecycle::wait_until,
    sys::{
        memory::{HUGE, Memory, PAGE},
        process::{Child, Ended, become_user},
        userfault::Userfault,
    },
};

pub(crate) const TESTS: &[Test] = &[
    (
        "a_job_is_kept_to_the_frame_over_all_its_groups",
        a_job_is_kept_to_the_frame_over_all_its_groups,
    ),
    (
        "a_job_that_is_full_harms_nobody_outside",
        a_job_that_is_full_harms_nobody_outside,
    ),
    (
        "what_a_group_that_is_gone_asked_for_stays_charged",
        what_a_group_that_is_gone_asked_for_stays_charged,
    ),
    (
        "a_run_instance_is_its_file_whoever_has_it",
        a_run_instance_is_its_file_whoever_has_it,
    ),
    (
        "what_outlives_who_asked_stays_charged_to_job_and_run",
        what_outlives_who_asked_stays_charged_to_job_and_run,
    ),
    (
        "what_userfaultfd_moves_stays_charged_to_job_and_run",
        what_userfaultfd_moves_stays_charged_to_job_and_run,
    ),
    (
        "a_user_has_so_many_run_instances",
        a_user_has_so_many_run_instances,
    ),
];

const USER: u32 = 65_534;
const NR_PAGES: usize = 600;
const LIMIT: u64 = 100;

/// A control group.
struct Group(PathBuf);

impl Group {
    fn new(name: &str) -> Self {
        let group = Self(PathBuf::from("/sys/fs/cgroup").join(name));
        fs::create_dir(&group.0).expect("a group");
        group
    }

    /// What the driver calls it.
    fn number(&self) -> u64 {
        fs::metadata(&self.0).expect("the group").ino()
    }

    fn enter(&self) {
        fs::write(self.0.join("cgroup.procs"), "0").expect("into the group");
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // A group whose last process has just gone may still be busy.
        wait_until(|| fs::remove_dir(&self.0).is_ok());
    }
}

fn device() -> Device {
    Device::attach_part(0, 64 << 20)
}

fn filled() -> Memory {
    Memory::filled(NR_PAGES * PAGE, |index| index as u64)
}

fn run(body: impl FnOnce()) {
    let child = Child::start(|_steps| body());
    assert_eq!(child.join(), Ended::Status(0));
}

fn a_job_is_kept_to_the_frame_over_all_its_groups() {
    let device = device();
    let job = Group::new("job");
    let parts = [Group::new("job/left"), Group::new("job/right")];
    let number = job.number();
    device.set_job(number, 0, LIMIT).expect("a job");
    let children: Vec<Child> = (0..4)
        .map(|index| {
            let part = &parts[index % 2];
            let device = &device;
            Child::start(move |_steps| {
                part.enter();
                let memory = filled();
                for _round in 0..20 {
                    let moved = device.take(&memory);
                    let nr_there = moved.moved + moved.stayed.get(Reason::AlreadyThere);
                    assert!(nr_there <= LIMIT, "{nr_there}");
                    let nr_allocated = device.allocated();
                    assert!(nr_allocated <= LIMIT, "{nr_allocated}");
                    memory.expect(|index| index as u64);
                    device.give(&memory);
                }
            })
        })
        .collect();
    for child in children {
        assert_eq!(child.join(), Ended::Status(0));
    }
    wait_until(|| device.charged_to(ObjectKind::Job, number) == Some(0));
    drop(parts);
}

fn a_job_that_is_full_harms_nobody_outside() {
    let device = device();
    let job = Group::new("job");
    let part = Group::new("job/part");
    let number = job.number();
    device.set_job(number, 0, LIMIT).expect("a job");
    let mut first = Child::start(|steps| {
        part.enter();
        let memory = filled();
        assert_eq!(device.take(&memory).moved, LIMIT);
        steps.done();
        // The limit is below what is held: that stays, and nothing comes.
        let moved = device.take(&memory);
        let expected = [("already-there", LIMIT), ("quota", NR_PAGES as u64 - LIMIT)];
        let mut stayed = named(&moved.stayed);
        stayed.sort_unstable();
        assert_eq!((moved.moved, &stayed[..]), (0, &expected[..]));
        device.give(&memory);
        assert_eq!(device.take(&memory).moved, LIMIT / 2);
        memory.expect(|index| index as u64);
    });
    first.wait_step();
    run(|| {
        // Another user is bound as well, where the first one's group lies in.
        job.enter();
        become_user(USER);
        let moved = device.take(&filled());
        let all = [("quota", NR_PAGES as u64)];
        assert_eq!((moved.moved, &named(&moved.stayed)[..]), (0, &all[..]));
    });
    let memory = filled();
    device.take_all(&memory);
    device.set_job(number, 0, LIMIT / 2).expect("a lower limit");
    assert_eq!(device.charged_to(ObjectKind::Job, number), Some(LIMIT));
    first.go_on();
    assert_eq!(first.join(), Ended::Status(0));
    wait_until(|| device.charged_to(ObjectKind::Job, number) == Some(0));
    memory.expect(|index| index as u64);
    drop(part);
}

fn what_a_group_that_is_gone_asked_for_stays_charged() {
    let device = device();
    let group = Group::new("short-lived");
    let number = group.number();
    device.set_job(number, QUOTA_UNLIMITED, 0).expect("a job");
    let mut child = Child::start(|steps| {
        group.enter();
        let memory = filled();
        device.take_all(&memory);
        fs::write("/sys/fs/cgroup/cgroup.procs", "0").expect("out of the group");
        steps.done();
        // What is asked for from here on is not the job's.
        let other = filled();
        device.take_all(&other);
        steps.done();
        memory.expect(|index| index as u64);
    });
    child.wait_step();
    drop(group);
    child.go_on();
    child.wait_step();
    let nr_pages = NR_PAGES as u64;
    assert_eq!(device.allocated(), 2 * nr_pages);
    assert_eq!(device.charged_to(ObjectKind::Job, number), Some(nr_pages));
    device.set_job(number, QUOTA_INHERITED, 0).expect("no job");
    let ended = args::Object {
        kind: ObjectKind::Job as u32,
        flags: QUOTA_INHERITED,
        number,
        charged: nr_pages,
        ..args::Object::default()
    };
    assert_eq!(device.objects(), [ended]);
    child.go_on();
    assert_eq!(child.join(), Ended::Status(0));
    wait_until(|| device.objects().is_empty());
}

fn a_run_instance_is_its_file_whoever_has_it() {
    let device = device();
    let file = device.opened_again();
    let number = file.set_run(LIMIT).expect("a run instance");
    let device = &device;
    let own = std::process::id();
    // The child alone has the descriptor from here on.
    let mut child = Child::start(move |steps| {
        become_user(USER);
        let memory = filled();
        let moved = file.take(&memory);
        let left = NR_PAGES as u64 - LIMIT;
        assert_eq!(
            (moved.moved, moved.stayed.get(Reason::Quota)),
            (LIMIT, left)
        );
        // Through another file of the same device.
        assert_eq!(device.take(&memory).moved, left);
        steps.done();
        drop(file);
        steps.done();
        memory.expect(|index| index as u64);
    });
    child.wait_step();
    assert_eq!(device.charged(USER), NR_PAGES as u64);
    let running = args::Object {
        kind: ObjectKind::Run as u32,
        flags: 0,
        number,
        limit: LIMIT,
        charged: LIMIT,
        user: 0,
        process: own,
    };
    assert_eq!(device.objects(), [running]);
    child.go_on();
    child.wait_step();
    let ended = args::Object {
        flags: QUOTA_INHERITED,
        limit: 0,
        ..running
    };
    assert_eq!(device.objects(), [ended]);
    child.go_on();
    assert_eq!(child.join(), Ended::Status(0));
    wait_until(|| device.objects().is_empty());
}

fn what_outlives_who_asked_stays_charged_to_job_and_run() {
    const GO_ON: &str = "/tmp/objects-go-on";
    // It need not be there.
    drop(fs::remove_file(GO_ON));
    let device = device();
    let group = Group::new("orphans");
    let job = group.number();
    device.set_job(job, QUOTA_UNLIMITED, 0).expect("a job");
    let file = device.opened_again();
    let number = file.set_run(NR_PAGES as u64).expect("a run instance");
    let nr_pages = NR_PAGES as u64;
    let charged = || {
        [
            device.charged_to(ObjectKind::Job, job),
            device.charged_to(ObjectKind::Run, number),
        ]
    };
    run(|| {
        group.enter();
        let memory = filled();
        file.take_all(&memory);
        let orphan = Child::start(|_steps| {
            fs::write("/sys/fs/cgroup/cgroup.procs", "0").expect("out of the group");
            wait_until(|| fs::exists(GO_ON).expect("/tmp"));
            memory.expect(|index| index as u64);
        });
        assert_eq!(charged(), [Some(nr_pages); 2], "one charge for both");
        // Who has asked ends first.
        std::mem::forget((orphan, memory));
    });
    assert_eq!(charged(), [Some(nr_pages); 2]);
    fs::write(GO_ON, "go on").expect("/tmp");
    wait_until(|| charged() == [Some(0); 2]);
    assert_eq!(device.allocated(), 0);
}

fn what_userfaultfd_moves_stays_charged_to_job_and_run() {
    let device = device();
    let group = Group::new("moved");
    let job = group.number();
    device.set_job(job, QUOTA_UNLIMITED, 0).expect("a job");
    let file = device.opened_again();
    let number = file.set_run(1 << 20).expect("a run instance");
    let charged = || {
        [
            device.charged_to(ObjectKind::Job, job),
            device.charged_to(ObjectKind::Run, number),
        ]
    };
    run(|| {
        group.enter();
        let target = Memory::anonymous(HUGE);
        let userfault = Userfault::register(&target).expect("userfaultfd");
        let source = Memory::filled(HUGE, |index| index as u64);
        let nr_pages = source.nr_pages();
        file.take_all(&source);
        let nr_bytes = userfault.move_pages(&source, &target).expect("UFFDIO_MOVE");
        assert_eq!(nr_bytes, HUGE as u64);
        drop(source);
        assert_eq!(charged(), [Some(nr_pages); 2]);
        target.expect(|index| index as u64);
        assert_eq!(device.give(&target).moved, nr_pages);
        assert_eq!(charged(), [Some(0); 2]);
    });
}

fn a_user_has_so_many_run_instances() {
    let device = device();
    let open = |_index| {
        let file = device.opened_again();
        file.set_run(1).expect("a run instance");
        file
    };
    let mut files: Vec<Device> = (0..MAX_USER_RUNS).map(open).collect();
    let late = device.opened_again();
    assert_eq!(errno(late.set_run(1).map(drop)), libc::EDQUOT);
    run(|| {
        become_user(USER);
        late.set_run(1).expect("another user's");
    });
    files.pop();
    let memory = filled();
    assert_eq!(late.take(&memory).moved, 1);
    drop((files, late));
    assert_eq!(device.objects().len(), 1, "what holds a page");
}
