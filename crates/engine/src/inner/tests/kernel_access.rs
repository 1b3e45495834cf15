//! The kernel's own accesses of a granule that is changing place, at each level: the moment is held open,
//! so what is said of each system call is shown, not waited for.

use std::{
    fs::File,
    io::{Seek as _, Write as _},
    os::{
        fd::AsFd as _,
        unix::{
            fs::{FileExt as _, OpenOptionsExt as _},
            net::UnixStream,
        },
    },
};

use super::*;
use crate::{
    host::HoleHost as _,
    kernel::{Hole, Stop},
    sys::calls::{Patch, Ring},
};

pub(super) const INDEX: usize = 1;
pub(super) const LENGTH: u32 = 4096;
pub(super) const BEFORE: u8 = 0x11;
pub(super) const AFTER: u8 = 0x22;

/// System calls on a page of the granule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    Read,
    Pread,
    Recv,
    GetRandom,
    RingRead,
    DirectRead,
    ProcessVmWritev,
    Write,
    Pwrite,
    Send,
    FutexWait,
    RingWrite,
    FutexWakeOp,
    ProcMem,
}

impl Call {
    /// The kernel writes to the page.
    const WRITERS: [Self; 7] = [
        Self::Read,
        Self::Pread,
        Self::Recv,
        Self::GetRandom,
        Self::RingRead,
        Self::DirectRead,
        Self::ProcessVmWritev,
    ];
    /// The kernel reads it.
    const READERS: [Self; 5] = [
        Self::Write,
        Self::Pwrite,
        Self::Send,
        Self::FutexWait,
        Self::RingWrite,
    ];
    /// It does not wait for pages, whoever asks.
    const IMPATIENT: [Self; 2] = [Self::FutexWakeOp, Self::ProcMem];

    const fn is_writer(self) -> bool {
        !matches!(
            self,
            Self::Write | Self::Pwrite | Self::Send | Self::FutexWait | Self::RingWrite
        )
    }
}

/// What the calls are made with.
struct Tools {
    /// A page of [`AFTER`].
    file: File,
    sink: File,
    /// Its other end holds a page of [`AFTER`], or takes one.
    socket: UnixStream,
    other_end: UnixStream,
    ring: Option<Ring>,
}

impl Tools {
    fn new(call: Call) -> Self {
        let page = [AFTER; LENGTH as usize];
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&page).unwrap();
        file.rewind().unwrap();
        let (socket, mut other_end) = UnixStream::pair().unwrap();
        if call == Call::Recv {
            other_end.write_all(&page).unwrap();
        }
        let needs_ring = matches!(call, Call::RingRead | Call::RingWrite);
        Self {
            file,
            sink: tempfile::tempfile().unwrap(),
            socket,
            other_end,
            ring: needs_ring.then(Ring::new).flatten(),
        }
    }

    /// Bytes that the call did; `None` where the system refuses it altogether.
    fn make(&mut self, call: Call, patch: Patch<'_>) -> Option<io::Result<usize>> {
        let page = [AFTER; LENGTH as usize];
        let (file, sink) = (self.file.as_fd(), self.sink.as_fd());
        Some(match call {
            Call::Read => patch.read(file),
            Call::Pread => patch.pread(file),
            Call::Recv => patch.recv(self.socket.as_fd()),
            Call::GetRandom => patch.getrandom(),
            Call::RingRead => self.ring.as_mut()?.read(file, patch),
            Call::DirectRead => patch.pread(direct(&page)?.as_fd()),
            Call::ProcessVmWritev => patch.write_as_another_process(&page),
            Call::Write => patch.write(sink),
            Call::Pwrite => patch.pwrite(sink),
            Call::Send => patch.send(self.socket.as_fd()),
            // The word is another: the kernel has looked at it.
            Call::FutexWait => match patch.futex_wait(7).map_err(|error| error.raw_os_error()) {
                Err(Some(libc::EAGAIN)) => Ok(LENGTH as usize),
                Err(Some(code)) => Err(io::Error::from_raw_os_error(code)),
                other => panic!("no thread waits here: {other:?}"),
            },
            Call::RingWrite => self.ring.as_mut()?.write(sink, patch),
            Call::FutexWakeOp => patch.futex_wake_and_add(&0),
            Call::ProcMem => File::options()
                .write(true)
                .open("/proc/self/mem")
                .and_then(|memory| memory.write_at(&page, patch.address() as u64)),
        })
    }

    /// Looks at what the kernel read.
    fn check_read(&mut self, call: Call) {
        let mut found = [0; LENGTH as usize];
        match call {
            Call::Write | Call::Pwrite | Call::RingWrite => {
                self.sink.read_exact_at(&mut found, 0).unwrap();
            }
            Call::Send => io::Read::read_exact(&mut self.other_end, &mut found).unwrap(),
            _ => return,
        }
        assert!(found.iter().all(|&byte| byte == BEFORE), "{call:?}");
    }
}

/// A file of that content that is read past the page cache; `None` where no such file can be had.
pub(super) fn direct(content: &[u8]) -> Option<File> {
    // Where the program was built, which is seldom in memory; or, for a user who may not write there,
    // anywhere.
    let program = std::env::current_exe().unwrap();
    let directory = tempfile::tempdir_in(program.parent().unwrap())
        .or_else(|_| tempfile::tempdir())
        .unwrap();
    let path = directory.path().join("data");
    fs::write(&path, content).unwrap();
    let opened = File::options()
        .read(true)
        .custom_flags(libc::O_DIRECT)
        .open(&path);
    opened
        .inspect_err(|error| eprintln!("NOT RUN: O_DIRECT: {error}"))
        .ok()
}

/// Fills the granule, and puts it there.
pub(super) fn fill(region: &Region, place: Place) {
    region.migrate(0..8 * GRANULE, Direction::ToSystem).unwrap();
    let granule = INDEX * GRANULE..(INDEX + 1) * GRANULE;
    for offset in granule.clone().step_by(8) {
        let word = usize::from_ne_bytes([BEFORE; 8]);
        word_at(region, offset).store(word, Ordering::Relaxed);
    }
    if place == Place::Device {
        let out = region.migrate(granule, Direction::ToDevice).unwrap();
        assert!(out.is_complete(), "{out:?}");
    }
}

/// Whether the whole page is of that byte.
pub(super) fn is_all(region: &Region, byte: u8) -> bool {
    let start = INDEX * GRANULE;
    (start..start + LENGTH as usize).step_by(8).all(|offset| {
        word_at(region, offset)
            .load(Ordering::Relaxed)
            .to_ne_bytes()
            == [byte; 8]
    })
}

pub(super) fn patch(region: &Region) -> Patch<'_> {
    let areas = &region.inner().mechanism.memory().areas;
    Patch::new(areas, INDEX * GRANULE, LENGTH)
}

/// The granule is between both places, at level 1.
struct HoleWindow<'r> {
    region: &'r Region,
    hole: &'r Hole,
    place: Place,
}

impl<'r> HoleWindow<'r> {
    fn open(region: &'r Region, place: Place) -> Self {
        let inner = region.inner();
        let hole = inner.hole().unwrap();
        let span = inner.span_of(INDEX..INDEX + 1);
        assert_eq!(inner.words[INDEX].try_lock(Pins::Heeded), Ok(place));
        match place {
            Place::System => {
                hole.make_room(span);
                hole.populate(span).unwrap();
                hole.arm(span).unwrap();
                assert_eq!(hole.take(span), (GRANULE, Ok(())));
            }
            Place::Device => hole.open_hole(span).unwrap(),
        }
        Self {
            region,
            hole,
            place,
        }
    }

    /// The granule is at home again, and whole.
    fn close(self) {
        let inner = self.region.inner();
        let span = inner.span_of(INDEX..INDEX + 1);
        let filled = match self.place {
            Place::System => self.hole.put_back(span),
            Place::Device => self.hole.fill(span, inner.slot(INDEX)),
        };
        assert_eq!(filled, (GRANULE, Ok(())));
        self.hole.disarm(span).unwrap();
        self.hole.wake(span);
        if self.place == Place::Device {
            inner.pool().give_back(inner.slot(INDEX), GRANULE);
        }
        inner.words[INDEX].unlock(Place::System);
    }
}

#[test]
fn at_level_1_the_kernel_waits_as_threads_do() {
    let _guard = Watchdog::new();
    let Some(region) = region(Level::Full, MemoryType::Coherent) else {
        return;
    };
    let uffd = region.inner().hole().unwrap().uffd.as_fd();
    for place in [Place::System, Place::Device] {
        for call in Call::WRITERS.into_iter().chain(Call::READERS) {
            fill(&region, place);
            let mut tools = Tools::new(call);
            let window = HoleWindow::open(&region, place);
            let (done, mut tools) = thread::scope(|scope| {
                let calling = scope.spawn(|| {
                    let done = tools.make(call, patch(&region));
                    (done, tools)
                });
                // It waits here, or says at once that it cannot be made.
                while nr_queued(uffd) == 0 && !calling.is_finished() {
                    thread::yield_now();
                }
                let is_waiting = !calling.is_finished();
                window.close();
                let (done, tools) = calling.join().unwrap();
                assert!(is_waiting || done.is_none(), "{call:?}: {done:?}");
                (done, tools)
            });
            let Some(done) = done else { continue };
            let nr_bytes = done.unwrap_or_else(|error| panic!("{call:?} at {place:?}: {error}"));
            assert_eq!(nr_bytes, LENGTH as usize, "{call:?}, {place:?}");
            if call.is_writer() {
                assert!(
                    call == Call::GetRandom || is_all(&region, AFTER),
                    "{call:?}"
                );
            } else {
                tools.check_read(call);
                assert!(is_all(&region, BEFORE), "{call:?}");
            }
        }
    }
}

#[test]
fn at_level_1_two_calls_wait_for_nobody_and_fail() {
    let _guard = Watchdog::new();
    let Some(region) = region(Level::Full, MemoryType::Coherent) else {
        return;
    };
    for place in [Place::System, Place::Device] {
        for call in Call::IMPATIENT {
            fill(&region, place);
            let window = HoleWindow::open(&region, place);
            let done = Tools::new(call).make(call, patch(&region)).unwrap();
            window.close();
            assert!(is_refused(call, &done), "{call:?} at {place:?}: {done:?}");
            assert!(is_all(&region, BEFORE), "{call:?}");
        }
    }
}

/// Writes wait, at levels 2 and 3.
fn stopped(region: &Region, place: Place, call_fn: impl FnOnce()) {
    let inner = region.inner();
    let Mechanism::Stop(host) = &inner.mechanism else {
        panic!("levels 2 and 3 stop writes");
    };
    let host: &Stop = host;
    let span = inner.span_of(INDEX..INDEX + 1);
    assert_eq!(inner.words[INDEX].try_lock(Pins::Heeded), Ok(place));
    host.populate(span).unwrap();
    host.stop(span, place).unwrap();
    call_fn();
    host.release(span, place);
    inner.words[INDEX].unlock(place);
}

fn is_refused(call: Call, done: &io::Result<usize>) -> bool {
    let code = done.as_ref().err().and_then(io::Error::raw_os_error);
    let expected = if call == Call::ProcMem {
        libc::EIO
    } else {
        libc::EFAULT
    };
    code == Some(expected)
}

#[test]
fn at_levels_2_and_3_the_kernel_reads_and_is_refused_writes() {
    let _guard = Watchdog::new();
    for level in [Level::UserMode, Level::Signal] {
        let Some(region) = region(level, MemoryType::Coherent) else {
            continue;
        };
        for place in [Place::System, Place::Device] {
            for call in Call::WRITERS
                .into_iter()
                .chain(Call::READERS)
                .chain([Call::FutexWakeOp])
            {
                fill(&region, place);
                let mut tools = Tools::new(call);
                let mut done = None;
                stopped(&region, place, || done = tools.make(call, patch(&region)));
                let Some(done) = done else { continue };
                if call.is_writer() {
                    assert!(
                        is_refused(call, &done),
                        "{call:?} at {level}, {place:?}: {done:?}"
                    );
                } else {
                    assert_eq!(done.unwrap(), LENGTH as usize, "{call:?} at {level}");
                    tools.check_read(call);
                }
                assert!(is_all(&region, BEFORE), "{call:?} at {level}, {place:?}");
                // At rest it works.
                let done = Tools::new(call).make(call, patch(&region)).unwrap();
                let expected = if call == Call::FutexWakeOp {
                    0
                } else {
                    LENGTH as usize
                };
                assert_eq!(done.unwrap(), expected, "{call:?} at {level}, {place:?}");
            }
        }
    }
}
