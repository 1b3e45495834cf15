//! C9: the limits of control groups hold for processes with device pages.

use std::{fs, path::PathBuf};

use cohmem_uapi::{Direction, MIGRATE_FILL};

use crate::{
    Test,
    driver::Device,
    sys::{
        memory::{Memory, read_number},
        process::{Child, Ended},
    },
};

pub(crate) const TESTS: &[Test] = &[
    (
        "a_page_stays_charged_wherever_it_is",
        a_page_stays_charged_wherever_it_is,
    ),
    (
        "who_is_over_the_limit_is_killed_alone",
        who_is_over_the_limit_is_killed_alone,
    ),
];

const BYTES: usize = 16 << 20;
const LIMIT: u64 = 64 << 20;
/// What else a group may be charged with meanwhile: page tables, stacks, batches.
const SLACK: u64 = 2 << 20;

/// A group with a limit and no swap.
struct Group(PathBuf);

impl Group {
    fn limited(name: &str) -> Self {
        let root = PathBuf::from("/sys/fs/cgroup");
        fs::write(root.join("cgroup.subtree_control"), "+memory").expect("the memory controller");
        let group = Self(root.join(name));
        fs::create_dir(&group.0).expect("a group");
        group.set("memory.max", LIMIT);
        group.set("memory.swap.max", 0);
        group
    }

    fn set(&self, file: &str, value: u64) {
        fs::write(self.0.join(file), value.to_string())
            .unwrap_or_else(|error| panic!("{file}: {error}"));
    }

    /// Moves the calling process into the group.
    fn enter(&self) {
        self.set("cgroup.procs", u64::from(std::process::id()));
    }

    fn charged(&self) -> u64 {
        read_number(&self.0.join("memory.current").display().to_string())
    }

    fn nr_killed(&self) -> u64 {
        let events = fs::read_to_string(self.0.join("memory.events")).expect("memory.events");
        let count = events
            .lines()
            .find_map(|line| line.strip_prefix("oom_kill "));
        count
            .and_then(|count| count.parse().ok())
            .expect("oom_kill")
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // A group whose last process has just gone may still be busy.
        crate::lifecycle::wait_until(|| fs::remove_dir(&self.0).is_ok());
    }
}

fn a_page_stays_charged_wherever_it_is() {
    let device = Device::attach_part(0, 128 << 20);
    let group = Group::limited("charged");
    let child = Child::start(|_steps| {
        group.enter();
        let memory = Memory::filled(BYTES, |index| index as u64);
        let near = |wanted: u64, what: &str| {
            let charged = group.charged();
            assert!(
                charged.abs_diff(wanted) <= SLACK,
                "{what}: {charged}, not {wanted}"
            );
        };
        let at_home = group.charged();
        assert!(at_home >= BYTES as u64, "{at_home}");
        device.take_all(&memory);
        near(at_home, "on the device");
        device.give_all(&memory);
        near(at_home, "home again");
        device.take_all(&memory);
        let hole = Memory::anonymous(BYTES);
        let filled = device
            .migrate_with(Device::migrate_args(
                &hole,
                Direction::ToDevice,
                MIGRATE_FILL,
            ))
            .expect("fill");
        assert_eq!(filled.filled, hole.nr_pages());
        near(at_home + BYTES as u64, "born on the device");
        memory.expect(|index| index as u64);
        hole.expect(|_index| 0);
        drop((memory, hole));
        near(at_home - BYTES as u64, "freed");
    });
    assert_eq!(child.join(), Ended::Status(0));
    assert_eq!((device.allocated(), group.nr_killed()), (0, 0));
}

fn who_is_over_the_limit_is_killed_alone() {
    let device = Device::attach_part(0, 128 << 20);
    let group = Group::limited("killed");
    let other = Memory::filled(BYTES, |index| index as u64);
    device.take_all(&other);
    let child = Child::start(|_steps| {
        group.enter();
        let memory = Memory::filled(BYTES, |index| index as u64);
        device.take_all(&memory);
        // Moving out made no room.
        Memory::filled(usize::try_from(LIMIT).expect("fits"), |index| index as u64);
    });
    assert_eq!(child.join(), Ended::Signal(libc::SIGKILL));
    assert_eq!(group.nr_killed(), 1);
    crate::lifecycle::wait_until(|| device.allocated() == other.nr_pages());
    other.expect(|index| index as u64);
}
