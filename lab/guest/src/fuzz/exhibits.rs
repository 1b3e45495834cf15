//! Memory in every state for which a page stays, put up for all processes to move and query.

use std::fs::File;

use cohmem_uapi::{Direction, MIGRATE_FILL, PROC_SELF, QUERY_REASONS, Reason, args};

use super::{call::Caller, opening::migration};
use crate::{
    holders::{Swap, vdso},
    lifecycle::wait_until,
    sys::{
        field::{Backing, Field},
        io::PagePipe,
        memfd,
        memory::{HUGE, Memory, PAGE, read_number},
        process::Child,
        uring::Ring,
        userfault::Userfault,
    },
};

const LEN: usize = 16 * PAGE;
/// A number that no worker's field has.
const FIELD: usize = 100;

/// What holds the pages in their states, until the drop.
#[derive(Debug)]
pub(crate) struct Exhibits {
    memories: Vec<(Memory, Filling)>,
    ring: Ring,
    pipe: PagePipe,
    userfault: Userfault,
    sharer: Child,
}

/// What the word with an index is.
type Filling = fn(usize) -> u64;

const INDEX: Filling = |index| index as u64;
const ZERO: Filling = |_index| 0;
const SAME: Filling = |_index| 0x1234_5678;

impl Exhibits {
    /// Makes each and sees that its reason is told, by a migration and by a query.
    pub(crate) fn set_up(caller: Caller, device: &File, small: &File) -> Self {
        let show = Show { caller, device };
        let mut memories = Vec::new();
        let mut ranges = Vec::new();
        let mut add = |memory: Memory, filling, reason| {
            show.demand(range_of(&memory), reason);
            ranges.push(range_of(&memory));
            memories.push((memory, filling));
        };

        let there = Memory::filled(LEN, INDEX);
        show.move_to(device, &there);
        add(there, INDEX, Reason::AlreadyThere);
        add(Memory::anonymous(LEN), ZERO, Reason::Untouched);

        let shared = Memory::shared(LEN);
        shared.fill(INDEX);
        add(shared, INDEX, Reason::File);
        let zeros = memfd::zeros(LEN);
        let file = Memory::file(&zeros, LEN);
        file.expect(ZERO);
        add(file, ZERO, Reason::File);

        std::fs::write("/proc/sys/vm/nr_hugepages", "4").expect("nr_hugepages");
        add(Memory::hugetlb(HUGE), ZERO, Reason::Hugetlb);

        let large = Memory::huge(HUGE);
        large.protect(PAGE, PAGE, libc::PROT_READ);
        large.protect(PAGE, PAGE, libc::PROT_READ | libc::PROT_WRITE);
        if !moves_large_folios() {
            add(large, INDEX, Reason::LargeFolio);
        }

        let executable = Memory::filled(LEN, INDEX);
        executable.protect(0, LEN, libc::PROT_READ | libc::PROT_EXEC);
        add(executable, INDEX, Reason::Executable);
        let hidden = Memory::filled(LEN, INDEX);
        hidden.protect(0, LEN, libc::PROT_NONE);
        add(hidden, INDEX, Reason::NoPermission);

        let ring = Ring::new();
        let pinned = Memory::filled(LEN, INDEX);
        ring.pin(&pinned).expect("io_uring_register");
        add(pinned, INDEX, Reason::Pinned);
        let pipe = PagePipe::new();
        let piped = Memory::filled(LEN, INDEX);
        pipe.hold(&piped, 3);
        add(piped, INDEX, Reason::ExtraRef);

        let hole = Memory::anonymous(LEN);
        let userfault = Userfault::register(&hole).expect("userfaultfd");
        show.demand_migration(
            range_of(&hole),
            Direction::ToDevice,
            MIGRATE_FILL,
            Reason::Userfault,
        );
        ranges.push(range_of(&hole));

        let merged = Memory::filled(LEN, SAME);
        merged.advise(libc::MADV_MERGEABLE).expect("MADV_MERGEABLE");
        let ksm = |name: &str, value: &str| {
            std::fs::write(format!("/sys/kernel/mm/ksm/{name}"), value).expect("ksm");
        };
        ksm("pages_to_scan", "1000");
        ksm("sleep_millisecs", "20");
        ksm("run", "1");
        wait_until(|| read_number("/sys/kernel/mm/ksm/pages_sharing") >= 14);
        let range = range_of(&merged);
        show.demand(range, Reason::Ksm);
        ranges.push(range);
        // It goes on, slowly, in the race.
        ksm("pages_to_scan", "100");
        ksm("sleep_millisecs", "100");

        // Swap stays until the machine goes.
        std::mem::forget(Swap::enable());
        let swapped = Memory::filled(LEN, INDEX);
        swapped.advise(libc::MADV_PAGEOUT).expect("MADV_PAGEOUT");
        let range = range_of(&swapped);
        show.demand(range, Reason::Swapped);
        ranges.push(range);
        memories.push((swapped, INDEX));

        let vdso = vdso();
        let range = (vdso.start, vdso.end - vdso.start);
        show.demand(range, Reason::Special);
        ranges.push(range);

        let field = Field::new(FIELD);
        field.map(0, LEN, Backing::Anonymous);
        let range = (field.address(0), 2 * LEN as u64);
        show.demand(range, Reason::Unmapped);
        ranges.push(range);

        let elsewhere = Memory::filled(LEN, INDEX);
        show.move_to(small, &elsewhere);
        let range = range_of(&elsewhere);
        show.demand_migration(range, Direction::ToSystem, 0, Reason::OtherDevice);
        ranges.push(range);
        memories.push((elsewhere, INDEX));

        let much = Memory::filled(2 * HUGE, INDEX);
        let small = Show {
            caller,
            device: small,
        };
        let range = range_of(&much);
        small.demand_migration(range, Direction::ToDevice, 0, Reason::NoFrame);
        ranges.push(range);
        memories.push((much, INDEX));

        let common = Memory::filled(LEN, INDEX);
        let mut sharer = Child::start(|steps| {
            common.expect(INDEX);
            steps.done();
        });
        sharer.wait_step();
        let range = range_of(&common);
        show.demand(range, Reason::Shared);
        ranges.push(range);
        memories.push((common, INDEX));

        caller.board.exhibit(&ranges);
        memories.push((hole, ZERO));
        memories.push((merged, SAME));
        Self {
            memories,
            ring,
            pipe,
            userfault,
            sharer,
        }
    }

    /// Checks what may be read, and lets all go.
    pub(crate) fn take_down(self) {
        let Self {
            memories,
            ring,
            pipe,
            userfault,
            mut sharer,
        } = self;
        // It has all of these as well.
        sharer.go_on();
        assert_eq!(sharer.join(), crate::sys::process::Ended::Status(0));
        drop((ring, pipe));
        // Its handler never answers.
        drop(userfault);
        for (memory, filling) in &memories {
            // One is hidden.
            memory.protect(0, memory.len(), libc::PROT_READ);
            memory.expect(filling);
        }
    }
}

/// Kernels from 7 on move large folios that are mapped page by page.
pub(crate) fn moves_large_folios() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("osrelease");
    !release.starts_with("6.")
}

fn range_of(memory: &Memory) -> (u64, u64) {
    (memory.address(), memory.len() as u64)
}

/// A device and who calls it.
#[derive(Clone, Copy, Debug)]
struct Show<'a> {
    caller: Caller,
    device: &'a File,
}

impl Show<'_> {
    fn move_to(&self, device: &File, memory: &Memory) {
        let mut argument = migration(memory, Direction::ToDevice, 0);
        let errno = self.caller.migrate(device, &mut argument);
        self.caller.demand("MIGRATE", errno, &[0]);
    }

    /// The reason is told by a migration, and by a query.
    fn demand(&self, range: (u64, u64), reason: Reason) {
        let mut query = args::Query {
            start: range.0,
            length: range.1,
            proc_fd: PROC_SELF,
            flags: QUERY_REASONS,
            ..args::Query::default()
        };
        let errno = self.caller.query(self.device, &mut query, true);
        self.caller.demand("QUERY", errno, &[0]);
        self.demand_migration(range, Direction::ToDevice, 0, reason);
    }

    fn demand_migration(
        &self,
        (start, length): (u64, u64),
        direction: Direction,
        flags: u32,
        reason: Reason,
    ) {
        let mut argument = args::Migrate {
            start,
            length,
            direction: direction as u32,
            flags,
            proc_fd: PROC_SELF,
            ..args::Migrate::default()
        };
        let errno = self.caller.migrate(self.device, &mut argument);
        self.caller.demand("MIGRATE", errno, &[0]);
        if argument.stayed[usize::from(reason as u8)] == 0 {
            self.caller.board.fail(&format!(
                "no page stayed for {}: {argument:?}",
                reason.name()
            ));
        }
    }
}
