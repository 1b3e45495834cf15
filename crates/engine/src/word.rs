//! The word of a granule: where it is, who holds it, who waits.

use crate::sync::{Futex, Ordering};

const LOCKED: u32 = 1 << 0;
const WAITED: u32 = 1 << 1;
const ON_DEVICE: u32 = 1 << 2;
const PIN: u32 = 1 << 3;

/// Where a granule's content is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    System,
    Device,
}

/// Whether pins keep a granule from being locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pins {
    Heeded,
    /// For the way home of a private granule: nothing of it is mapped, so nothing of it is pinned.
    Ignored,
}

/// Why a granule was not locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Held {
    Locked,
    Pinned,
}

/// One granule's state.
///
/// Bit 0: locked by who moves it. Bit 1: somebody waits for the lock. Bit 2: on the device. From bit 3
/// on: the number of pin guards. Who holds the lock alone changes bit 2, and no guard is added while it
/// is held.
#[derive(Debug)]
pub(crate) struct Word(Futex);

impl Word {
    pub(crate) fn new(place: Place) -> Self {
        Self(Futex::new(bits_of(place)))
    }

    /// Where the granule is; while it is locked, where it was.
    pub(crate) fn place(&self) -> Place {
        place_of(self.0.load(Ordering::Acquire))
    }

    /// Where the granule is, once whoever moves it has let go of it.
    pub(crate) fn place_at_rest(&self) -> Place {
        loop {
            let word = self.0.load(Ordering::Acquire);
            if word & LOCKED == 0 {
                return place_of(word);
            }
            self.wait_until_unlocked();
        }
    }

    pub(crate) fn is_locked(&self) -> bool {
        self.0.load(Ordering::Acquire) & LOCKED != 0
    }

    #[cfg(all(test, not(loom)))]
    pub(crate) fn is_waited_for(&self) -> bool {
        self.0.load(Ordering::Relaxed) & WAITED != 0
    }

    #[cfg(all(test, not(loom)))]
    pub(crate) fn nr_pins(&self) -> u32 {
        self.0.load(Ordering::Relaxed) / PIN
    }

    pub(crate) fn try_lock(&self, pins: Pins) -> Result<Place, Held> {
        let mut word = self.0.load(Ordering::Relaxed);
        loop {
            if word & LOCKED != 0 {
                return Err(Held::Locked);
            }
            if word >= PIN && pins == Pins::Heeded {
                return Err(Held::Pinned);
            }
            // Acquire: pairs with the release in `unlock`, and in `unpin`: what was done under the
            // guard comes before the move.
            match self
                .0
                .compare_exchange(word, word | LOCKED, Ordering::Acquire, Ordering::Relaxed)
            {
                Ok(_) => return Ok(place_of(word)),
                Err(now) => word = now,
            }
        }
    }

    /// Waits while somebody else holds it; `None` if it is pinned.
    pub(crate) fn lock(&self, pins: Pins) -> Option<Place> {
        loop {
            match self.try_lock(pins) {
                Ok(place) => return Some(place),
                Err(Held::Pinned) => return None,
                Err(Held::Locked) => self.wait_until_unlocked(),
            }
        }
    }

    /// Lets go of a granule that is now at `place`, and wakes who waits.
    pub(crate) fn unlock(&self, place: Place) {
        let mut word = self.0.load(Ordering::Relaxed);
        loop {
            let next = word & !(LOCKED | WAITED | ON_DEVICE) | bits_of(place);
            // Release: pairs with the acquire in `try_lock`, `place` and `wait_until_unlocked`.
            match self
                .0
                .compare_exchange(word, next, Ordering::Release, Ordering::Relaxed)
            {
                Ok(_) => break,
                Err(now) => word = now,
            }
        }
        if word & WAITED != 0 {
            self.0.wake_all();
        }
    }

    /// Returns when the granule was seen unlocked. Safe in a signal handler: atomics and one system
    /// call.
    pub(crate) fn wait_until_unlocked(&self) {
        let mut word = self.0.load(Ordering::Acquire);
        while word & LOCKED != 0 {
            if word & WAITED == 0 {
                let marked = word | WAITED;
                if let Err(now) =
                    self.0
                        .compare_exchange(word, marked, Ordering::Acquire, Ordering::Acquire)
                {
                    word = now;
                    continue;
                }
                word = marked;
            }
            self.0.wait(word);
            word = self.0.load(Ordering::Acquire);
        }
    }

    /// Adds a guard, after whoever holds the granule has let go of it; says where it is.
    pub(crate) fn pin(&self) -> Place {
        loop {
            let word = self.0.load(Ordering::Relaxed);
            if word & LOCKED != 0 {
                self.wait_until_unlocked();
                continue;
            }
            // Acquire: as in `try_lock`.
            if self
                .0
                .compare_exchange(word, word + PIN, Ordering::Acquire, Ordering::Relaxed)
                .is_ok()
            {
                return place_of(word);
            }
        }
    }

    /// Takes a guard away that [`Self::pin`] added.
    pub(crate) fn unpin(&self) {
        let mut word = self.0.load(Ordering::Relaxed);
        loop {
            debug_assert!(word >= PIN, "a guard was added");
            // Release: pairs with the acquire in `try_lock`.
            match self.0.compare_exchange(
                word,
                word.saturating_sub(PIN),
                Ordering::Release,
                Ordering::Relaxed,
            ) {
                Ok(_) => return,
                Err(now) => word = now,
            }
        }
    }
}

const fn bits_of(place: Place) -> u32 {
    match place {
        Place::System => 0,
        Place::Device => ON_DEVICE,
    }
}

const fn place_of(word: u32) -> Place {
    if word & ON_DEVICE == 0 {
        Place::System
    } else {
        Place::Device
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
