//! The driver, as the tests use it: straight ioctls, so that bad input can be sent as well.

use std::{fs::File, io::Error, ops::Range};

use cohmem_uapi::{
    Direction, FRAME_BYTES, MAX_OBJECTS, ObjectKind, PROC_SELF, PageEntry, Reason, ReasonCounts,
    args, ioctl,
};

use crate::sys::{
    io::{ioctl as command, open},
    memory::{Memory, frames_of, read_number},
};

/// Soft-reserved ranges of the guest, as the lab asked the kernel for them: newer kernels do not show
/// them in `/proc/iomem`.
pub(crate) fn ranges() -> Vec<Range<u64>> {
    let text = std::fs::read_to_string("/proc/cmdline").expect("/proc/cmdline");
    text.split_whitespace()
        .filter_map(|word| {
            // memmap=512M%0x140000000-1+0xefffffff
            let range = word.strip_prefix("memmap=")?;
            let (mib, rest) = range.split_once("M%0x")?;
            let (start, _types) = rest.split_once('-')?;
            let start = u64::from_str_radix(start, 16).expect("hexadecimal");
            let mib: u64 = mib.parse().expect("a number");
            Some(start..start + (mib << 20))
        })
        .collect()
}

/// Kernels from 7 on move large folios that are mapped page by page.
pub(crate) fn moves_large_folios() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("osrelease");
    !release.starts_with("6.")
}

/// The driver's answer as an errno.
pub(crate) fn errno(result: Result<(), Error>) -> i32 {
    match result {
        Ok(()) => 0,
        Err(error) => error.raw_os_error().expect("an errno"),
    }
}

/// Attaches `range`.
pub(crate) fn attach(range: &Range<u64>, flags: u32) -> Result<args::Attach, Error> {
    let mut argument = args::Attach {
        start: range.start,
        length: range.end - range.start,
        flags,
        ..args::Attach::default()
    };
    command(&open("/dev/cohmem"), ioctl::ATTACH, &mut argument)?;
    Ok(argument)
}

/// What a detach or an eviction came to.
#[derive(Debug)]
pub(crate) struct Emptied {
    pub(crate) errno: i32,
    pub(crate) out: args::Detach,
    pub(crate) stuck: Vec<args::Stuck>,
}

impl Emptied {
    pub(crate) fn stayed(&self, reason: Reason) -> u32 {
        self.out.stayed[usize::from(reason as u8)]
    }
}

fn empty(file: &File, number: u32, request: u32, timeout_ms: u32) -> Emptied {
    let mut stuck = vec![args::Stuck::default(); 64];
    let mut out = args::Detach {
        device: number,
        timeout_ms,
        nr_stuck_max: 64,
        stuck_ptr: stuck.as_mut_ptr().addr() as u64,
        ..args::Detach::default()
    };
    let errno = errno(command(file, request, &mut out));
    stuck.truncate(usize::try_from(out.nr_stuck.min(64)).expect("small"));
    Emptied { errno, out, stuck }
}

/// Detaches a device by number.
pub(crate) fn detach(number: u32, timeout_ms: u32) -> Emptied {
    empty(&open("/dev/cohmem"), number, ioctl::DETACH, timeout_ms)
}

/// An attached device; its drop detaches it and fails the test when a frame is left.
#[derive(Debug)]
pub(crate) struct Device {
    pub(crate) number: u32,
    pub(crate) range: Range<u64>,
    pub(crate) file: File,
    is_attached: bool,
}

/// What a migration did.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Migrated {
    pub(crate) moved: u64,
    pub(crate) filled: u64,
    pub(crate) stayed: ReasonCounts,
}

impl Device {
    /// Attaches the whole of soft-reserved range `index`.
    pub(crate) fn attach(index: usize) -> Self {
        Self::attach_range(ranges()[index].clone(), 0)
    }

    /// Attaches the first `bytes` of soft-reserved range `index`.
    pub(crate) fn attach_part(index: usize, bytes: u64) -> Self {
        let start = ranges()[index].start;
        Self::attach_range(start..start + bytes, 0)
    }

    pub(crate) fn attach_range(range: Range<u64>, flags: u32) -> Self {
        let out =
            attach(&range, flags).unwrap_or_else(|error| panic!("attach {range:x?}: {error}"));
        let file = open(&format!("/dev/cohmem{}", out.device));
        Self {
            number: out.device,
            range,
            file,
            is_attached: true,
        }
    }

    /// The device of this number, which was attached before.
    pub(crate) fn open_attached(number: u32, range: Range<u64>) -> Self {
        let file = open(&format!("/dev/cohmem{number}"));
        Self {
            number,
            range,
            file,
            is_attached: true,
        }
    }

    pub(crate) fn info(&self) -> args::Info {
        let mut info = args::Info::default();
        command(&self.file, ioctl::INFO, &mut info).expect("info");
        info
    }

    pub(crate) fn allocated(&self) -> u64 {
        self.info().nr_allocated
    }

    pub(crate) fn attribute(&self, name: &str) -> u64 {
        read_number(&format!("/sys/class/cohmem/cohmem{}/{name}", self.number))
    }

    /// Frames of `memory` (of this process) that lie on the device.
    pub(crate) fn resident(&self, memory: &Memory) -> u64 {
        self.resident_of(std::process::id(), memory)
    }

    /// Frames of a process's copy of `memory` that lie on the device, as pagemap says.
    pub(crate) fn resident_of(&self, pid: u32, memory: &Memory) -> u64 {
        let frames = frames_of(pid, memory.address(), memory.nr_pages());
        frames
            .iter()
            .filter(|&&pfn| self.range.contains(&(pfn * FRAME_BYTES)))
            .count() as u64
    }

    pub(crate) fn migrate_args(memory: &Memory, direction: Direction, flags: u32) -> args::Migrate {
        args::Migrate {
            start: memory.address(),
            length: memory.len() as u64,
            direction: direction as u32,
            flags,
            proc_fd: PROC_SELF,
            ..args::Migrate::default()
        }
    }

    /// Migrates all of `argument`'s range, however many calls it takes.
    pub(crate) fn migrate_with(&self, mut argument: args::Migrate) -> Result<Migrated, Error> {
        let end = argument.start + argument.length;
        let mut total = Migrated {
            moved: 0,
            filled: 0,
            stayed: ReasonCounts::default(),
        };
        loop {
            let start = argument.start;
            command(&self.file, ioctl::MIGRATE, &mut argument)?;
            let stayed = ReasonCounts::from_raw(argument.stayed);
            let nr_seen = (argument.next - start) / FRAME_BYTES;
            assert_eq!(
                argument.nr_moved + argument.nr_filled + stayed.total(),
                nr_seen,
                "each page is counted once: {argument:?}"
            );
            total.moved += argument.nr_moved;
            total.filled += argument.nr_filled;
            total.stayed.merge(&stayed);
            if argument.next >= end {
                return Ok(total);
            }
            argument.start = argument.next;
            argument.length = end - argument.next;
        }
    }

    /// Moves `memory` of this process to the device.
    pub(crate) fn take(&self, memory: &Memory) -> Migrated {
        self.migrate_with(Self::migrate_args(memory, Direction::ToDevice, 0))
            .expect("to the device")
    }

    /// Moves `memory` of this process home.
    pub(crate) fn give(&self, memory: &Memory) -> Migrated {
        self.migrate_with(Self::migrate_args(memory, Direction::ToSystem, 0))
            .expect("home")
    }

    /// Moves all of `memory` to the device and panics when a page stays.
    pub(crate) fn take_all(&self, memory: &Memory) {
        let migrated = self.take(memory);
        assert_eq!(
            migrated.moved,
            memory.nr_pages(),
            "{:?}",
            named(&migrated.stayed)
        );
        assert_eq!(self.resident(memory), memory.nr_pages());
    }

    /// Moves all of `memory` home and panics when a page stays.
    pub(crate) fn give_all(&self, memory: &Memory) {
        let migrated = self.give(memory);
        assert_eq!(
            migrated.moved,
            memory.nr_pages(),
            "{:?}",
            named(&migrated.stayed)
        );
        assert_eq!(self.resident(memory), 0);
    }

    /// Moves `memory` of another process.
    pub(crate) fn migrate_process(
        &self,
        pid: u32,
        memory: &Memory,
        direction: Direction,
        flags: u32,
    ) -> Result<Migrated, Error> {
        use std::os::fd::AsRawFd as _;
        let pagemap = File::open(format!("/proc/{pid}/pagemap"))?;
        let proc_fd = pagemap.as_raw_fd();
        self.migrate_with(args::Migrate {
            proc_fd,
            ..Self::migrate_args(memory, direction, flags)
        })
    }

    /// What a query says of each page of `memory`, with reasons.
    pub(crate) fn query(&self, memory: &Memory) -> Vec<PageEntry> {
        let mut map = vec![0u16; usize::try_from(memory.nr_pages()).expect("fits")];
        let mut argument = args::Query {
            start: memory.address(),
            length: memory.len() as u64,
            proc_fd: PROC_SELF,
            flags: cohmem_uapi::QUERY_REASONS,
            map_ptr: map.as_mut_ptr().addr() as u64,
            ..args::Query::default()
        };
        command(&self.file, ioctl::QUERY, &mut argument).expect("query");
        assert_eq!(argument.next, memory.address() + memory.len() as u64);
        map.into_iter().map(PageEntry::from_raw).collect()
    }

    /// What a query of `memory` with reasons answers.
    pub(crate) fn query_errno(&self, memory: &Memory) -> i32 {
        let mut map = vec![0u16; usize::try_from(memory.nr_pages()).expect("fits")];
        let mut argument = args::Query {
            start: memory.address(),
            length: memory.len() as u64,
            proc_fd: PROC_SELF,
            flags: cohmem_uapi::QUERY_REASONS,
            map_ptr: map.as_mut_ptr().addr() as u64,
            ..args::Query::default()
        };
        errno(command(&self.file, ioctl::QUERY, &mut argument))
    }

    pub(crate) fn evict(&self, timeout_ms: u32) -> Emptied {
        empty(&self.file, 0, ioctl::EVICT, timeout_ms)
    }

    /// Tries to detach; the device stays attached when that fails.
    pub(crate) fn try_detach(&mut self, timeout_ms: u32) -> Emptied {
        let emptied = detach(self.number, timeout_ms);
        self.is_attached = emptied.errno != 0;
        emptied
    }

    /// The test detached it by a call of its own.
    pub(crate) fn forget_attachment(&mut self) {
        self.is_attached = false;
    }

    /// Detaches and panics when a frame is left.
    pub(crate) fn detach(mut self) -> args::Detach {
        let emptied = self.try_detach(30_000);
        assert_eq!(emptied.errno, 0, "detach: {emptied:?}");
        emptied.out
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        if !self.is_attached {
            return;
        }
        let emptied = self.try_detach(10_000);
        if !std::thread::panicking() {
            assert_eq!(emptied.errno, 0, "detach: {emptied:?}");
        }
    }
}

/// The reasons that occurred, by name.
pub(crate) fn named(counts: &ReasonCounts) -> Vec<(&'static str, u64)> {
    counts
        .iter()
        .map(|(reason, count)| (reason.name(), count))
        .collect()
}

/// A size knob: `COHMEM_<name>` or the default.
pub(crate) fn knob(name: &str, default: u64) -> u64 {
    std::env::var(format!("COHMEM_{name}")).map_or(default, |text| {
        text.parse()
            .unwrap_or_else(|error| panic!("COHMEM_{name}={text}: {error}"))
    })
}

impl Device {
    /// Moves what of `memory` is at home to the device, where a page already is.
    pub(crate) fn take_all_again(&self, memory: &Memory) {
        self.take(memory);
        assert_eq!(self.resident(memory), memory.nr_pages());
    }
}

impl Device {
    /// A word of text from sysfs.
    pub(crate) fn attribute_text(&self, name: &str) -> String {
        let path = format!("/sys/class/cohmem/cohmem{}/{name}", self.number);
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        text.trim().to_owned()
    }

    /// What the info command answers.
    pub(crate) fn info_errno(&self) -> i32 {
        errno(command(&self.file, ioctl::INFO, &mut args::Info::default()))
    }
}

impl Device {
    /// Moves all of `memory`, for a caller to whom pagemap shows no frames.
    pub(crate) fn take_all_blindly(&self, memory: &Memory) {
        let migrated = self.take(memory);
        assert_eq!(
            migrated.moved,
            memory.nr_pages(),
            "{:?}",
            named(&migrated.stayed)
        );
    }
}

impl Device {
    /// Sets how many frames a user may hold: a number, and no flags; or flags.
    pub(crate) fn set_quota(&self, user: u32, flags: u32, limit: u64) -> Result<(), Error> {
        let mut quota = args::Quota {
            user,
            flags,
            limit,
            ..args::Quota::default()
        };
        command(&self.file, ioctl::SET_QUOTA, &mut quota)
    }

    /// The users with frames or a limit.
    pub(crate) fn accounts(&self) -> Vec<args::Account> {
        let mut list = vec![args::Account::default(); 256];
        let mut answer = args::Accounts {
            nr_max: 256,
            accounts_ptr: list.as_mut_ptr().addr() as u64,
            ..args::Accounts::default()
        };
        command(&self.file, ioctl::ACCOUNTS, &mut answer).expect("accounts");
        list.truncate(usize::try_from(answer.nr_accounts).expect("small"));
        list
    }

    /// Frames charged to a user.
    pub(crate) fn charged(&self, user: u32) -> u64 {
        let accounts = self.accounts();
        let account = accounts.iter().find(|account| account.user == user);
        account.map_or(0, |account| account.charged)
    }
}

impl Device {
    /// What a query says of each page of `start..end` of another process, with reasons; nothing when
    /// it is mapped no more.
    pub(crate) fn query_process(&self, pid: u32, start: u64, end: u64) -> Option<Vec<PageEntry>> {
        use std::os::fd::AsRawFd as _;
        let pagemap = File::open(format!("/proc/{pid}/pagemap")).ok()?;
        let nr_pages = usize::try_from((end - start) / FRAME_BYTES).expect("fits");
        let mut map = vec![0u16; nr_pages];
        let mut argument = args::Query {
            start,
            length: end - start,
            proc_fd: pagemap.as_raw_fd(),
            flags: cohmem_uapi::QUERY_REASONS,
            map_ptr: map.as_mut_ptr().addr() as u64,
            ..args::Query::default()
        };
        while argument.next < end {
            command(&self.file, ioctl::QUERY, &mut argument).ok()?;
            let nr_done = (argument.next - argument.start) / FRAME_BYTES;
            argument.start = argument.next;
            argument.length = end - argument.next;
            argument.map_ptr += nr_done * size_of::<u16>() as u64;
        }
        Some(map.into_iter().map(PageEntry::from_raw).collect())
    }

    /// Another open file of the same device.
    pub(crate) fn opened_again(&self) -> Self {
        let mut again = Self::open_attached(self.number, self.range.clone());
        again.is_attached = false;
        again
    }

    /// Makes a control group a job with so many frames, and no flags; or with flags.
    pub(crate) fn set_job(&self, job: u64, flags: u32, limit: u64) -> Result<(), Error> {
        let mut argument = args::Job {
            job,
            flags,
            limit,
            ..args::Job::default()
        };
        command(&self.file, ioctl::SET_JOB, &mut argument)
    }

    /// Makes this open file a run instance with so many frames, and tells its number.
    pub(crate) fn set_run(&self, limit: u64) -> Result<u64, Error> {
        let mut argument = args::Run {
            limit,
            ..args::Run::default()
        };
        command(&self.file, ioctl::SET_RUN, &mut argument)?;
        Ok(argument.run)
    }

    /// The jobs and run instances that are, or hold frames.
    pub(crate) fn objects(&self) -> Vec<args::Object> {
        let mut list = vec![args::Object::default(); MAX_OBJECTS as usize];
        let mut answer = args::Objects {
            nr_max: MAX_OBJECTS,
            objects_ptr: list.as_mut_ptr().addr() as u64,
            ..args::Objects::default()
        };
        command(&self.file, ioctl::OBJECTS, &mut answer).expect("objects");
        list.truncate(usize::try_from(answer.nr_objects).expect("small"));
        list
    }

    /// Frames charged to a job or a run instance that is listed.
    pub(crate) fn charged_to(&self, kind: ObjectKind, number: u64) -> Option<u64> {
        let objects = self.objects();
        let mut matching = objects
            .iter()
            .filter(|object| (object.kind, object.number) == (kind as u32, number));
        Some(matching.next()?.charged)
    }
}
