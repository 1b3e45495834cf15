//! The threads of a region at level 1.
//!
//! The **listener** reads events. Who moves a mapping goes on only when its event was read, so this
//! thread waits for nobody: no lock, no memory, no output. The **porter** brings private granules home
//! that were touched; it waits for whoever holds them.

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
    sync::{Arc, mpsc},
    thread::{self, JoinHandle},
    time::Duration,
};

use rustix::{
    event::{EventfdFlags, PollFd, PollFlags},
    io::Errno,
    thread::Pid,
};

use crate::{
    inner::Inner,
    kernel::Hole,
    sys::{last_word, signals::BlockedSignals, uffd::Event},
    touch::Touches,
};

const NR_MESSAGES: usize = 32;

/// The running threads; dropping it ends them.
#[derive(Debug)]
pub(crate) struct Threads {
    stop: Arc<OwnedFd>,
    listener: Option<JoinHandle<()>>,
    touches: Arc<Touches>,
    porter: Option<JoinHandle<()>>,
}

impl Threads {
    /// Starts the listener, and the porter where granules come home by touch.
    pub(crate) fn start(inner: &Arc<Inner>, is_private: bool) -> io::Result<Self> {
        let stop = Arc::new(rustix::event::eventfd(0, EventfdFlags::CLOEXEC)?);
        let touches = Arc::new(Touches::new(inner.nr_granules()));
        // New threads inherit the mask: no handler of the program runs on them.
        let _blocked = BlockedSignals::new();
        let (send, receive) = mpsc::channel();
        let listener = {
            let (inner, stop) = (Arc::clone(inner), Arc::clone(&stop));
            let touches = is_private.then(|| Arc::clone(&touches));
            thread::Builder::new()
                .name("cohmem-listen".to_owned())
                .spawn(move || {
                    let Some(hole) = inner.hole() else { return };
                    // The receiver waits for it.
                    match send.send(rustix::thread::gettid()) {
                        Ok(()) | Err(_) => listen(hole, &stop, touches.as_deref()),
                    }
                })?
        };
        let mut threads = Self {
            stop,
            listener: Some(listener),
            touches: Arc::clone(&touches),
            porter: None,
        };
        let thread: Pid = receive.recv().map_err(io::Error::other)?;
        if let Some(hole) = inner.hole() {
            hole.set_listener(thread);
        }
        if is_private {
            let inner = Arc::clone(inner);
            let porter = thread::Builder::new()
                .name("cohmem-porter".to_owned())
                .spawn(move || carry_home(&inner, &touches))?;
            threads.porter = Some(porter);
        }
        Ok(threads)
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.touches.end();
        for thread in [self.porter.take()].into_iter().flatten() {
            join(thread);
        }
        // After the porter: bringing something home may need its answer.
        let told = rustix::io::write(&self.stop, &1_u64.to_ne_bytes());
        debug_assert!(told.is_ok(), "an eventfd takes a small number: {told:?}");
        if let Some(thread) = self.listener.take() {
            join(thread);
        }
    }
}

fn join(thread: JoinHandle<()>) {
    // A panic there was told when it happened.
    match thread.join() {
        Ok(()) | Err(_) => {}
    }
}

fn listen(hole: &Hole, stop: &OwnedFd, touches: Option<&Touches>) {
    let mut messages = [[0; Event::BYTES]; NR_MESSAGES];
    loop {
        let mut files = [
            PollFd::from_borrowed_fd(hole.uffd.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(stop.as_fd(), PollFlags::IN),
        ];
        match rustix::event::poll(&mut files, None) {
            Ok(_) | Err(Errno::INTR | Errno::AGAIN | Errno::NOMEM) => {}
            Err(_) => give_up(),
        }
        if files[1].revents().contains(PollFlags::IN) {
            return;
        }
        let nr_messages = match hole.uffd.read(&mut messages) {
            Ok(nr_messages) => nr_messages,
            Err(Errno::AGAIN | Errno::INTR) => 0,
            Err(_) => give_up(),
        };
        let Some(touches) = touches else { continue };
        for message in messages.iter().take(nr_messages) {
            if let Event::Fault(address) = Event::decode(message)
                && let Some(index) = hole.granule_at(address)
            {
                touches.add(index);
            }
        }
    }
}

fn give_up() -> ! {
    last_word::abort("cohmem-engine: userfaultfd fails; threads that wait for memory would hang\n")
}

fn carry_home(inner: &Inner, touches: &Touches) {
    while touches.wait() {
        while let Some(index) = touches.next() {
            if inner.bring_home(index).is_err() {
                // For want of memory. Whoever touched it waits on.
                touches.add(index);
                thread::sleep(Duration::from_millis(1));
            }
        }
    }
}
