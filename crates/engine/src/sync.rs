//! The atomics in use: std's and the kernel's futex, or the model checker's under `--cfg loom`. The only
//! import point of what the hand-over is made of.

#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicU8, AtomicU64, Ordering};
#[cfg(not(loom))]
pub(crate) use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

#[cfg(not(loom))]
pub(crate) use crate::sys::futex::Futex;

/// Lets other threads run, in a loop that waits for one.
pub(crate) fn pause() {
    #[cfg(loom)]
    loom::thread::yield_now();
    #[cfg(not(loom))]
    std::thread::yield_now();
}

#[cfg(loom)]
pub(crate) use model::Futex;

#[cfg(loom)]
mod model {
    use loom::sync::{
        Condvar, Mutex,
        atomic::{AtomicU32, Ordering},
    };

    /// A word that threads can wait on, as the kernel's: the comparison and the start of the wait are
    /// one step to who wakes.
    #[derive(Debug)]
    pub(crate) struct Futex {
        word: AtomicU32,
        queue: Mutex<()>,
        changed: Condvar,
    }

    impl Futex {
        pub(crate) fn new(value: u32) -> Self {
            Self {
                word: AtomicU32::new(value),
                queue: Mutex::new(()),
                changed: Condvar::new(),
            }
        }

        pub(crate) fn load(&self, order: Ordering) -> u32 {
            self.word.load(order)
        }

        pub(crate) fn compare_exchange(
            &self,
            old: u32,
            new: u32,
            success: Ordering,
            failure: Ordering,
        ) -> Result<u32, u32> {
            self.word.compare_exchange(old, new, success, failure)
        }

        pub(crate) fn wait(&self, expected: u32) {
            let queue = self.queue.lock().unwrap();
            if self.word.load(Ordering::SeqCst) == expected {
                drop(self.changed.wait(queue).unwrap());
            }
        }

        pub(crate) fn wake_all(&self) {
            let _queue = self.queue.lock().unwrap();
            self.changed.notify_all();
        }
    }
}
