//! C9: threads, unwinding, fork, and system calls on memory that moves.

use std::{
    fs::File,
    os::unix::fs::FileExt,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use cohmem::{Direction, Fork, KernelAccess, MigrateOptions, Region};

use crate::{
    Test,
    subject::{Subject, assert_whole, fill, migrate_all},
    sys::{Child, in_child},
};

pub(crate) const TESTS: &[Test] = &[
    ("a_region_survives_unwinding", unwinding_over),
    ("unwinding_drops_a_region", unwinding_drops),
    (
        "a_region_is_used_and_dropped_on_another_thread",
        other_thread,
    ),
    ("a_child_has_what_is_declared", fork),
    ("programs_start_while_pages_are_on_the_device", spawn),
    ("the_kernel_reads_memory_that_moves", kernel_reads),
    ("the_kernel_writes_memory_that_moves", kernel_writes),
];

fn unwinding_over(subject: &Subject) {
    let mut region = subject.filled();
    let unwound = catch_unwind(AssertUnwindSafe(|| {
        migrate_all(&region, Direction::ToDevice);
        fill(&mut region, 4);
        // Unlike a panic it prints nothing.
        resume_unwind(Box::new("on purpose"));
    }));
    unwound.unwrap_err();
    assert_whole(&region, 4);
    migrate_all(&region, Direction::ToSystem);
    assert_whole(&region, 4);
}

fn unwinding_drops(subject: &Subject) {
    let before = subject.free();
    let unwound = catch_unwind(AssertUnwindSafe(|| {
        let region = subject.filled();
        migrate_all(&region, Direction::ToDevice);
        resume_unwind(Box::new("on purpose"));
    }));
    unwound.unwrap_err();
    subject.assert_free(before);
}

fn other_thread(subject: &Subject) {
    let before = subject.free();
    let region = subject.filled();
    let mover = region.mover();
    let user = thread::spawn(move || {
        let mut region = region;
        assert_whole(&region, 0);
        fill(&mut region, 8);
        assert_whole(&region, 8);
    });
    // Whatever is still there moves; the rest is gone, and is said to be.
    for _round in 0..subject.nr_rounds() {
        for direction in [Direction::ToDevice, Direction::ToSystem] {
            let migrated = mover.migrate(mover.range(), direction, &MigrateOptions::default());
            if let Err(error) = migrated {
                assert_eq!(error.kind(), cohmem::ErrorKind::Gone, "{error}");
            }
        }
    }
    user.join().expect("all was whole");
    subject.assert_free(before);
}

fn fork(subject: &Subject) {
    let region = subject.filled();
    migrate_all(&region, Direction::ToDevice);
    let byte = &region.as_slice()[8];
    let child = in_child(byte);
    match subject.capabilities().fork {
        Fork::Copy => assert_eq!(child, Child::Read(*byte)),
        Fork::Nothing => assert_eq!(child, Child::Killed(libc::SIGSEGV)),
        _ => panic!("a behaviour that this test does not know"),
    }
    assert_whole(&region, 0);
    migrate_all(&region, Direction::ToSystem);
    assert_whole(&region, 0);
}

fn spawn(subject: &Subject) {
    let region = subject.filled();
    migrate_all(&region, Direction::ToDevice);
    let status = Command::new("true").status().expect("true(1)");
    assert!(status.success());
    assert_whole(&region, 0);
    migrate_all(&region, Direction::ToSystem);
    assert_whole(&region, 0);
}

/// Runs `call_fn` while the region moves to and fro.
fn beside_migration(subject: &Subject, region: &mut Region, call_fn: impl FnOnce(&mut Region)) {
    let mover = region.mover();
    let stop = AtomicBool::new(false);
    let nr_rounds = subject.nr_rounds();
    thread::scope(|scope| {
        let migrating = scope.spawn(|| {
            let mut round = 0;
            while round < nr_rounds || !stop.load(Ordering::Relaxed) {
                for direction in [Direction::ToDevice, Direction::ToSystem] {
                    let options = MigrateOptions::default();
                    mover
                        .migrate(mover.range(), direction, &options)
                        .expect("a migration");
                }
                round += 1;
            }
        });
        let called = catch_unwind(AssertUnwindSafe(|| call_fn(region)));
        stop.store(true, Ordering::Relaxed);
        migrating.join().expect("the migrations went on");
        if let Err(payload) = called {
            resume_unwind(payload);
        }
    });
}

fn file() -> File {
    tempfile::tempfile().expect("a file")
}

fn kernel_reads(subject: &Subject) {
    let mut region = subject.filled();
    let nr_rounds = subject.nr_rounds();
    beside_migration(subject, &mut region, |region| {
        let file = file();
        let length = region.as_slice().len();
        let mut copy = vec![0; length];
        for _round in 0..nr_rounds {
            let written = file.write_at(region.as_slice(), 0).expect("write(2)");
            assert_eq!(written, length);
            file.read_exact_at(&mut copy, 0).expect("read(2)");
            assert!(copy == region.as_slice(), "the kernel read what is there");
        }
    });
    assert_whole(&region, 0);
}

/// A read from the file to the region; whether it came to its end at once.
fn read_whole(file: &File, region: &mut Region) -> bool {
    let bytes = region.as_mut_slice();
    let mut at = 0;
    let mut was_whole = true;
    while at < bytes.len() {
        match file.read_at(&mut bytes[at..], at as u64) {
            Ok(0) => panic!("the file ends at {at}"),
            Ok(read) => at += read,
            Err(error) => assert_eq!(error.raw_os_error(), Some(libc::EFAULT), "{error}"),
        }
        was_whole &= at == bytes.len();
    }
    was_whole
}

fn kernel_writes(subject: &Subject) {
    let mut region = subject.filled();
    let files = [file(), file()];
    for (file, seed) in files.iter().zip(1..) {
        fill(&mut region, seed);
        let written = file.write_at(region.as_slice(), 0).expect("write(2)");
        assert_eq!(written, region.as_slice().len());
    }
    let nr_rounds = subject.nr_rounds();
    let access = subject.capabilities().kernel_access;
    beside_migration(subject, &mut region, |region| {
        for _round in 0..nr_rounds {
            for (file, seed) in files.iter().zip(1..) {
                let was_whole = read_whole(file, region);
                if access == KernelAccess::Waits {
                    assert!(was_whole, "the kernel waits for pages that move");
                }
                assert_whole(region, seed);
            }
        }
    });
    // With a pin it is whole at every level.
    let pin = region.pin(region.range()).expect("a pin");
    beside_migration(subject, &mut region, |region| {
        for (file, seed) in files.iter().zip(1..) {
            assert!(read_whole(file, region), "pinned pages do not move");
            assert_whole(region, seed);
        }
    });
    drop(pin);
}
