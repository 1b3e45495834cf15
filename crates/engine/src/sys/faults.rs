//! Level 3: a thread that writes to protected memory gets `SIGSEGV`, and waits in the handler.

use std::{
    ffi::c_void,
    io,
    mem::MaybeUninit,
    ptr,
    sync::{
        Arc, Mutex, Once, PoisonError,
        atomic::{AtomicPtr, AtomicU32, AtomicUsize, Ordering},
    },
};

use crate::word::Word;

/// Faults between two stops of a region that found nothing to wait for, after which they are not the
/// engine's: a stop is to blame for at most one a thread.
const NR_VAIN: u32 = 10_000;

/// A region's range, for the handler. Entries are never freed, only used again: the handler may look at
/// any of them at any time.
#[derive(Debug)]
struct Entry {
    start: AtomicUsize,
    /// 0 while the entry is unused or being changed.
    end: AtomicUsize,
    words: AtomicPtr<Word>,
    granule_shift: AtomicU32,
    /// Faults since the last stop that found nothing to wait for.
    nr_vain: AtomicU32,
    next: AtomicPtr<Entry>,
}

static ENTRIES: AtomicPtr<Entry> = AtomicPtr::new(ptr::null_mut());
static CHANGES: Mutex<()> = Mutex::new(());
static INSTALL: Once = Once::new();
/// What handled the signal before.
static PREVIOUS: AtomicPtr<libc::sigaction> = AtomicPtr::new(ptr::null_mut());

/// A range whose write faults wait while its granules are locked.
#[derive(Debug)]
pub(crate) struct Watch {
    entry: &'static Entry,
    /// The entry refers to them.
    _words: Arc<[Word]>,
}

impl Watch {
    /// Watches `length` bytes from `start`, in granules of `1 << granule_shift` bytes, with a word each.
    pub(crate) fn new(
        start: usize,
        length: usize,
        words: Arc<[Word]>,
        granule_shift: u32,
    ) -> io::Result<Self> {
        assert!(words.len() << granule_shift == length, "a word a granule");
        install()?;
        let _changes = CHANGES.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = unused();
        entry.start.store(start, Ordering::Relaxed);
        entry
            .words
            .store(words.as_ptr().cast_mut(), Ordering::Relaxed);
        entry.granule_shift.store(granule_shift, Ordering::Relaxed);
        // Release: pairs with the acquire in `Entry::word_of`.
        entry.end.store(start + length, Ordering::Release);
        Ok(Self {
            entry,
            _words: words,
        })
    }

    /// Says that memory is about to be protected, with its granules locked.
    pub(crate) fn expect_faults(&self) {
        self.entry.nr_vain.store(0, Ordering::Relaxed);
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _changes = CHANGES.lock().unwrap_or_else(PoisonError::into_inner);
        self.entry.end.store(0, Ordering::Release);
    }
}

fn entries() -> impl Iterator<Item = &'static Entry> {
    let mut next = ENTRIES.load(Ordering::Acquire);
    std::iter::from_fn(move || {
        // SAFETY: It is null or an entry that was leaked, so it lives forever; all fields are atomic.
        let entry: &'static Entry = unsafe { next.as_ref() }?;
        next = entry.next.load(Ordering::Acquire);
        Some(entry)
    })
}

/// An entry that nothing uses. Called with the changes locked.
fn unused() -> &'static Entry {
    if let Some(entry) = entries().find(|entry| entry.end.load(Ordering::Relaxed) == 0) {
        return entry;
    }
    let entry: &'static Entry = Box::leak(Box::new(Entry {
        start: AtomicUsize::new(0),
        end: AtomicUsize::new(0),
        words: AtomicPtr::new(ptr::null_mut()),
        granule_shift: AtomicU32::new(0),
        nr_vain: AtomicU32::new(0),
        next: AtomicPtr::new(ENTRIES.load(Ordering::Relaxed)),
    }));
    ENTRIES.store(ptr::from_ref(entry).cast_mut(), Ordering::Release);
    entry
}

impl Entry {
    fn word_of(&self, address: usize) -> Option<&Word> {
        let end = self.end.load(Ordering::Acquire);
        let start = self.start.load(Ordering::Relaxed);
        if !(start..end).contains(&address) {
            return None;
        }
        let index = (address - start) >> self.granule_shift.load(Ordering::Relaxed);
        let words = self.words.load(Ordering::Relaxed);
        // SAFETY: The address is within the range, so the index is within its words, which the watch
        // holds; and a thread that uses the region, as the one that faulted does, keeps it alive.
        unsafe { words.wrapping_add(index).as_ref() }
    }

    /// Whether a fault that found its granule unlocked can be one that the engine caused: the granule
    /// was let go between the fault and the look. Such a fault does not come again and again.
    fn is_worth_another_try(&self) -> bool {
        self.nr_vain.fetch_add(1, Ordering::Relaxed) < NR_VAIN
    }
}

fn install() -> io::Result<()> {
    let mut result = Ok(());
    INSTALL.call_once(|| result = set_handler());
    if PREVIOUS.load(Ordering::Acquire).is_null() && result.is_ok() {
        result = Err(io::ErrorKind::Other.into());
    }
    result
}

fn set_handler() -> io::Result<()> {
    let mut previous = MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: A null action asks only; the place for the answer is valid.
    if unsafe { libc::sigaction(libc::SIGSEGV, ptr::null(), previous.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: The call succeeded, so it wrote the answer.
    let previous = Box::leak(Box::new(unsafe { previous.assume_init() }));
    PREVIOUS.store(previous, Ordering::Release);
    let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut c_void) = on_fault;
    // SAFETY: All zeros is a valid action: the default, no flags, an empty mask.
    let mut action: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
    action.sa_sigaction = handler as usize;
    // SA_NODEFER: while a thread waits here another of its signals may come, whose handler faults, too.
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER | libc::SA_RESTART;
    // SAFETY: The handler is a function that lives forever, takes the arguments that SA_SIGINFO means,
    // and does only what is safe in a handler.
    if unsafe { libc::sigaction(libc::SIGSEGV, &raw const action, ptr::null_mut()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Waits if the address lies in a locked granule, and lets the thread try again; leaves the fault to
/// whoever handled it before otherwise.
extern "C" fn on_fault(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: The kernel gives a handler with SA_SIGINFO a valid structure.
    let info_ref = unsafe { &*info };
    // SAFETY: The signal is SIGSEGV, for which the kernel sets the address.
    let address = unsafe { info_ref.si_addr() }.addr();
    if signal == libc::SIGSEGV && info_ref.si_code > 0 {
        for entry in entries() {
            let Some(word) = entry.word_of(address) else {
                continue;
            };
            if word.is_locked() {
                word.wait_until_unlocked();
                return;
            }
            if entry.is_worth_another_try() {
                return;
            }
        }
    }
    pass_on(signal, info, context);
}

fn pass_on(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: It was set before the handler was, to a value that was leaked.
    let Some(previous) = (unsafe { PREVIOUS.load(Ordering::Acquire).as_ref() }) else {
        return;
    };
    match previous.sa_sigaction {
        libc::SIG_DFL | libc::SIG_IGN => {
            // SAFETY: It is the default action. The instruction faults again, and ends the process as
            // it would have without the engine.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
        handler if previous.sa_flags & libc::SA_SIGINFO != 0 => {
            // SAFETY: Whoever set it gave a function of this kind, by SA_SIGINFO.
            let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut c_void) =
                unsafe { std::mem::transmute(handler) };
            handler(signal, info, context);
        }
        handler => {
            // SAFETY: Whoever set it gave a function of this kind, without SA_SIGINFO.
            let handler: extern "C" fn(libc::c_int) = unsafe { std::mem::transmute(handler) };
            handler(signal);
        }
    }
}
