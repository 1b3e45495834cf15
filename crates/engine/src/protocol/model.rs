//! A model of the kernel and of a region of a few pages: what each call of the protocols does to the
//! page tables, and what an access finds there.
//!
//! A page's content is one number. The model knows the value that was written last, so it notices each
//! access that sees another one, and each access that is not woken.

#[cfg(loom)]
use loom::sync::{Condvar, Mutex, MutexGuard};
#[cfg(not(loom))]
use std::sync::{Condvar, Mutex, MutexGuard};

use rustix::io::Errno;

use crate::{
    host::{HoleHost, Host, Progress, Slot, Span, StopHost},
    word::Place,
};

pub(crate) const PAGE: usize = 4096;
pub(crate) const NR_PAGES: usize = 3;

/// What a page of the region has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Entry {
    /// A page of system memory, with its content.
    Own(u32),
    Device,
    /// Nothing: an access waits if the hole is armed, and gets a page of zeros if not.
    Hole,
    /// Not even a mapping.
    Gap,
}

#[derive(Clone, Copy, Debug)]
struct Page {
    entry: Entry,
    is_armed: bool,
    is_protected: bool,
    leaving: Option<u32>,
    coming: Option<u32>,
    device: u32,
    /// What was written last.
    truth: u32,
    /// Accesses that wait for a wake.
    nr_waiting: u32,
    nr_wakes: u32,
}

/// What a thread does to a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    /// Adds one.
    Write,
}

/// The outcome of an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Done,
    MustWait,
}

/// One call that fails.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Failure {
    /// Which call, of those that can fail, from 0.
    pub(crate) nr_calls_before: usize,
    pub(crate) error: Option<Errno>,
    /// Whether a mapping is gone afterwards, where that can be.
    pub(crate) leaves_gap: bool,
}

#[derive(Debug)]
pub(crate) struct State {
    pages: [Page; NR_PAGES],
    failure: Failure,
    nr_calls: usize,
}

/// The kernel, for the protocols.
pub(crate) struct Model {
    state: Mutex<State>,
    woken: Condvar,
    /// Runs before each call.
    #[cfg(not(loom))]
    before_fn: Box<dyn Fn(&Model) + Sync>,
}

impl Model {
    #[cfg(not(loom))]
    pub(crate) fn new(failure: Failure, before_fn: impl Fn(&Self) + Sync + 'static) -> Self {
        Self {
            state: Mutex::new(State::new(failure)),
            woken: Condvar::new(),
            before_fn: Box::new(before_fn),
        }
    }

    #[cfg(loom)]
    pub(crate) fn new() -> Self {
        Self {
            state: Mutex::new(State::new(Failure::default())),
            woken: Condvar::new(),
        }
    }

    /// A call of the protocol begins.
    fn call(&self) -> MutexGuard<'_, State> {
        #[cfg(not(loom))]
        (self.before_fn)(self);
        self.lock()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// One try of an access; who must wait is queued by it, as a thread in the kernel is.
    #[cfg(not(loom))]
    pub(crate) fn access(&self, page: usize, access: Access) -> Outcome {
        self.lock().access(page, access)
    }

    /// An access that waits as long as it must. `touch_fn` is told of each page that is waited for.
    #[cfg(loom)]
    pub(crate) fn access_waiting(&self, page: usize, access: Access, touch_fn: impl Fn(usize)) {
        let mut state = self.lock();
        while state.access(page, access) == Outcome::MustWait {
            let seen = state.pages[page].nr_wakes;
            touch_fn(page);
            while state.pages[page].nr_wakes == seen {
                state = self.woken.wait(state).unwrap();
            }
            state.pages[page].nr_waiting -= 1;
        }
    }

    /// An access as at level 3, where who must wait is not queued: `wait_fn` waits, and it is tried again.
    #[cfg(loom)]
    pub(crate) fn access_retrying(&self, page: usize, access: Access, wait_fn: impl Fn()) {
        loop {
            let mut state = self.lock();
            if state.access(page, access) == Outcome::Done {
                return;
            }
            state.pages[page].nr_waiting -= 1;
            drop(state);
            wait_fn();
        }
    }

    /// Tries all accesses again that were woken.
    #[cfg(not(loom))]
    pub(crate) fn retry_woken(&self) {
        let mut state = self.lock();
        for page in 0..NR_PAGES {
            let nr_woken = std::mem::take(&mut state.pages[page].nr_wakes);
            if nr_woken > 0 {
                let nr_waiting = std::mem::take(&mut state.pages[page].nr_waiting);
                for _ in 0..nr_waiting {
                    state.access(page, Access::Write);
                }
            }
        }
    }

    /// Accesses that nobody has woken.
    pub(crate) fn nr_waiting(&self) -> u32 {
        self.lock().pages.iter().map(|page| page.nr_waiting).sum()
    }

    /// Whether a thread that uses the region now would end with a signal.
    #[cfg(not(loom))]
    pub(crate) fn has_gap(&self) -> bool {
        self.lock()
            .pages
            .iter()
            .any(|page| page.entry == Entry::Gap)
    }

    #[cfg(not(loom))]
    pub(crate) fn nr_calls(&self) -> usize {
        self.lock().nr_calls
    }

    /// Checks that the span's pages are whole and all at one place, with nothing left of the move.
    pub(crate) fn check_rest(&self, span: Span, place: Place, is_private: bool) {
        for &mut page in self.lock().pages(span) {
            let expected = match place {
                Place::System => Entry::Own(page.truth),
                Place::Device if is_private => Entry::Hole,
                Place::Device => Entry::Device,
            };
            assert_eq!(page.entry, expected, "{page:?}");
            if place == Place::Device {
                assert_eq!(page.device, page.truth, "{page:?}");
            }
            assert!(!page.is_protected, "{page:?}");
            assert_eq!(
                page.is_armed,
                is_private && place == Place::Device,
                "{page:?}"
            );
        }
    }
}

impl State {
    fn new(failure: Failure) -> Self {
        let page = |content| Page {
            entry: Entry::Own(content),
            is_armed: false,
            is_protected: false,
            leaving: None,
            coming: None,
            device: u32::MAX,
            truth: content,
            nr_waiting: 0,
            nr_wakes: 0,
        };
        Self {
            pages: std::array::from_fn(|index| page(100 * (u32::try_from(index).unwrap() + 1))),
            failure,
            nr_calls: 0,
        }
    }

    fn access(&mut self, index: usize, access: Access) -> Outcome {
        let page = &mut self.pages[index];
        if page.entry == Entry::Hole && !page.is_armed {
            // A page of zeros appears out of nowhere.
            page.entry = Entry::Own(0);
        }
        let found = match page.entry {
            Entry::Own(content) => content,
            Entry::Device => page.device,
            Entry::Hole => {
                page.nr_waiting += 1;
                return Outcome::MustWait;
            }
            Entry::Gap => panic!("page {index} is not mapped"),
        };
        if access == Access::Write && page.is_protected {
            page.nr_waiting += 1;
            return Outcome::MustWait;
        }
        assert_eq!(
            found, page.truth,
            "page {index} shows another value than was written"
        );
        if access == Access::Write {
            page.truth += 1;
            match &mut page.entry {
                Entry::Own(content) => *content += 1,
                Entry::Device | Entry::Hole | Entry::Gap => page.device += 1,
            }
        }
        Outcome::Done
    }

    fn pages(&mut self, span: Span) -> &mut [Page] {
        &mut self.pages[span.start / PAGE..span.end() / PAGE]
    }

    /// Whether this call is the one that fails.
    fn fail(&mut self) -> Result<(), Errno> {
        let nr_before = self.nr_calls;
        self.nr_calls += 1;
        match self.failure.error {
            Some(error) if nr_before == self.failure.nr_calls_before => Err(error),
            _ => Ok(()),
        }
    }

    /// As [`Self::fail`], of a call that replaces a mapping.
    fn fail_to_map(&mut self, span: Span) -> Result<(), Errno> {
        let result = self.fail();
        if result.is_err() && self.failure.leaves_gap {
            for page in self.pages(span) {
                page.entry = Entry::Gap;
                page.is_armed = false;
                page.is_protected = false;
            }
        }
        result
    }

    fn wake(&mut self, span: Span) {
        for page in self.pages(span) {
            page.nr_wakes += 1;
        }
    }

    /// Does pages one by one; where the call fails, it does the first one before.
    fn in_turn(&mut self, span: Span, do_fn: impl Fn(&mut Page) -> Result<(), Errno>) -> Progress {
        let failed = self.fail();
        let most = if failed.is_err() { 1 } else { NR_PAGES };
        let mut done = 0;
        for page in self.pages(span).iter_mut().take(most) {
            if let Err(error) = do_fn(page) {
                return (done, Err(error));
            }
            done += PAGE;
        }
        if done == span.length {
            return (done, Ok(()));
        }
        (done, failed)
    }
}

impl Host for Model {
    fn populate(&self, _span: Span) -> Result<(), Errno> {
        self.call().fail()
    }

    fn map_device(&self, span: Span, _slot: Slot) -> Result<(), Errno> {
        let mut state = self.call();
        state.fail_to_map(span)?;
        for page in state.pages(span) {
            page.entry = Entry::Device;
            page.is_armed = false;
            page.is_protected = false;
        }
        Ok(())
    }

    fn is_mapped(&self, span: Span) -> bool {
        let mut state = self.lock();
        state
            .pages(span)
            .iter()
            .all(|page| page.entry != Entry::Gap)
    }

    fn pause(&self) {
        crate::sync::pause();
    }

    fn give_up(&self) -> ! {
        panic!("gave up: {:?}", self.lock())
    }
}

impl HoleHost for Model {
    fn arm(&self, span: Span) -> Result<(), Errno> {
        let mut state = self.call();
        state.fail()?;
        for page in state.pages(span) {
            page.is_armed = true;
        }
        Ok(())
    }

    fn disarm(&self, span: Span) -> Result<(), Errno> {
        let mut state = self.call();
        for page in state.pages(span) {
            page.is_armed = false;
        }
        Ok(())
    }

    fn make_room(&self, span: Span) {
        for page in self.call().pages(span) {
            page.leaving = None;
        }
    }

    fn take(&self, span: Span) -> Progress {
        self.call().in_turn(span, |page| match page.entry {
            Entry::Own(_) if page.leaving.is_some() => Err(Errno::EXIST),
            Entry::Own(content) => {
                page.leaving = Some(content);
                page.entry = Entry::Hole;
                Ok(())
            }
            Entry::Device | Entry::Hole | Entry::Gap => Err(Errno::NOENT),
        })
    }

    fn put_back(&self, span: Span) -> Progress {
        self.call()
            .in_turn(span, |page| match (page.entry, page.leaving.take()) {
                (Entry::Hole, Some(content)) => {
                    page.entry = Entry::Own(content);
                    Ok(())
                }
                _ => Err(Errno::EXIST),
            })
    }

    fn zero_first(&self, span: Span) -> Result<(), Errno> {
        let mut state = self.call();
        state.pages(span)[0].entry = Entry::Own(0);
        Ok(())
    }

    fn save(&self, span: Span, _slot: Slot) {
        for page in self.call().pages(span) {
            page.device = page.leaving.expect("a page that was taken");
        }
    }

    fn open_hole(&self, span: Span) -> Result<(), Errno> {
        let mut state = self.call();
        state.fail_to_map(span)?;
        for page in state.pages(span) {
            page.entry = Entry::Hole;
            page.is_armed = true;
        }
        Ok(())
    }

    fn fill(&self, span: Span, _slot: Slot) -> Progress {
        let mut state = self.call();
        let (done, result) = state.in_turn(span, |page| match page.entry {
            Entry::Hole if page.is_armed => {
                page.entry = Entry::Own(page.device);
                Ok(())
            }
            _ => Err(Errno::EXIST),
        });
        state.wake(span.head(done));
        self.woken.notify_all();
        (done, result)
    }

    fn wake(&self, span: Span) {
        self.call().wake(span);
        self.woken.notify_all();
    }
}

impl StopHost for Model {
    fn stop(&self, span: Span, _place: Place) -> Result<(), Errno> {
        let mut state = self.call();
        state.fail()?;
        for page in state.pages(span) {
            page.is_protected = true;
        }
        Ok(())
    }

    fn release(&self, span: Span, _place: Place) {
        let mut state = self.call();
        for page in state.pages(span) {
            page.is_protected = false;
        }
        state.wake(span);
        self.woken.notify_all();
    }

    fn resume(&self, span: Span) {
        self.call().wake(span);
        self.woken.notify_all();
    }

    fn copy_out(&self, span: Span, _slot: Slot) {
        for page in self.call().pages(span) {
            match page.entry {
                Entry::Own(content) => page.device = content,
                Entry::Device | Entry::Hole | Entry::Gap => panic!("nothing to copy: {page:?}"),
            }
        }
    }

    fn prepare(&self, span: Span) -> Result<(), Errno> {
        let mut state = self.call();
        state.fail()?;
        for page in state.pages(span) {
            page.coming = Some(0);
        }
        Ok(())
    }

    fn restore(&self, span: Span, _slot: Slot) {
        for page in self.call().pages(span) {
            let fresh = page.coming.as_mut().expect("a fresh page");
            *fresh = page.device;
        }
    }

    fn switch_home(&self, span: Span) -> Result<(), Errno> {
        let mut state = self.call();
        state.fail_to_map(span)?;
        for page in state.pages(span) {
            page.entry = Entry::Own(page.coming.take().expect("a fresh page"));
            page.is_protected = false;
        }
        Ok(())
    }

    fn discard(&self, span: Span) {
        for page in self.call().pages(span) {
            page.coming = None;
        }
    }
}
