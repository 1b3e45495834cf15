// SPDX-License-Identifier: GPL-2.0
//! Whom the frames of a device are charged to, and how many each may hold.
//!
//! A frame is charged to the user that asked for it, from before it is taken from the pool until it is
//! back there, whichever process its page lives in meanwhile: fork, `UFFDIO_MOVE` and the end of the
//! process that asked change nothing.
//!
//! Frames come back in hard interrupts, so a charge ends with one subtraction and no lock. Everything
//! else happens under the gate: frames are taken and charged under its read side; accounts are opened
//! and limits are set under its write side, when nobody takes frames. An account that is found to hold
//! nothing then stays so, and its slot can become another user's; and once a limit is set, no frame
//! above it is handed out any more.

use core::{
    ops::Deref,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use cohmem_frames::{FrameIndex, FrameRun};
use cohmem_uapi::MAX_ACCOUNTS;

use crate::Errno;

const NR_SLOTS: usize = MAX_ACCOUNTS as usize;
// Where in the words each table starts. Users: 0 for a slot that nobody has had, else the user's
// number plus 1.
const USERS: usize = 0;
const LIMITS: usize = NR_SLOTS;
const CHARGES: usize = 2 * NR_SLOTS;
const OWNERS: usize = 3 * NR_SLOTS;

/// Bits that name the account of a frame.
const OWNER_BITS: u32 = 16;
const OWNERS_PER_WORD: u64 = (u64::BITS / OWNER_BITS) as u64;
const OWNER_MASK: u64 = (1 << OWNER_BITS) - 1;

const _: () = assert!(NR_SLOTS <= 1 << OWNER_BITS);

/// How many frames a user may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Limit {
    /// As many as the default says; as the default itself: any number.
    Inherited,
    Unlimited,
    Frames(u64),
}

impl Limit {
    /// The value in a table, whose zeros mean [`Limit::Inherited`].
    const fn raw(self) -> u64 {
        match self {
            Self::Inherited => 0,
            Self::Unlimited => 1,
            Self::Frames(nr_frames) => nr_frames.saturating_add(2),
        }
    }

    const fn from_raw(raw: u64) -> Self {
        match raw {
            0 => Self::Inherited,
            1 => Self::Unlimited,
            _ => Self::Frames(raw.saturating_sub(2)),
        }
    }
}

/// Whose limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whose {
    /// Of every user without a limit of their own.
    Default,
    User(u32),
}

/// A slot of the table.
///
/// # Invariants
///
/// The index is below [`NR_SLOTS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AccountIndex(u16);

impl AccountIndex {
    fn new(index: usize) -> Option<Self> {
        let index = u16::try_from(index).ok()?;
        // INVARIANT: checked.
        (usize::from(index) < NR_SLOTS).then_some(Self(index))
    }
}

/// What is known of a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Account {
    pub(crate) user: u32,
    pub(crate) limit: Limit,
    pub(crate) nr_charged: u64,
}

/// The accounts of one device.
///
/// # Invariants
///
/// The charge of an account is the number of frames that were taken for it, are being taken for it, or
/// came back and are about to be subtracted.
#[derive(Debug)]
pub(crate) struct Accounts<W> {
    words: W,
    default: AtomicU64,
    /// The slot at which the search for one to reuse starts: that of a user who came just now is the last
    /// to be taken away again.
    next: AtomicU64,
}

/// Words that the accounts of a device with `nr_frames` frames need, all zeros.
pub(crate) fn words_needed(nr_frames: u64) -> usize {
    let nr_words = usize::try_from(nr_frames.div_ceil(OWNERS_PER_WORD)).unwrap_or(usize::MAX);
    OWNERS.saturating_add(nr_words)
}

impl<W: Deref<Target = [AtomicU64]>> Accounts<W> {
    /// Accounts without a charge or a limit; `words` are as [`words_needed`] says.
    pub(crate) const fn new(words: W) -> Self {
        Self {
            words,
            default: AtomicU64::new(Limit::Inherited.raw()),
            next: AtomicU64::new(0),
        }
    }

    // Ordering of everything here: what the gate does not order is a count that guards no other memory, or
    // a bit field that only the holder of its frame reads and writes.

    /// The account of a user. Under the gate.
    pub(crate) fn find(&self, user: u32) -> Option<AccountIndex> {
        let key = key_of(user);
        let users = self.words.get(USERS..LIMITS)?;
        AccountIndex::new(users.iter().position(|slot| slot.load(Relaxed) == key)?)
    }

    /// The account of a user, made if there is none: `ENOSPC` when every slot has a charge or a limit.
    /// Under the gate's write side.
    pub(crate) fn open(&self, user: u32) -> Result<AccountIndex, Errno> {
        if let Some(account) = self.find(user) {
            return Ok(account);
        }
        let start = usize::try_from(self.next.load(Relaxed)).unwrap_or(0);
        let account = (start..NR_SLOTS)
            .chain(0..start.min(NR_SLOTS))
            .filter_map(AccountIndex::new)
            .find(|&account| self.is_idle(account))
            .ok_or(Errno::ENOSPC)?;
        if let Some(slot) = self.word(USERS, account) {
            slot.store(key_of(user), Relaxed);
        }
        self.next
            .store(u64::from(account.0).saturating_add(1), Relaxed);
        Ok(account)
    }

    /// Nothing is charged to it, and it has no limit of its own.
    fn is_idle(&self, account: AccountIndex) -> bool {
        self.charged(account) == 0 && self.limit(account) == Limit::Inherited
    }

    /// Sets a limit. Under the gate's write side.
    pub(crate) fn set_limit(&self, whose: Whose, limit: Limit) -> Result<(), Errno> {
        match whose {
            Whose::Default => self.default.store(limit.raw(), Relaxed),
            Whose::User(user) => {
                let account = match limit {
                    // Nothing to take away from a user without an account.
                    Limit::Inherited => self.find(user),
                    Limit::Unlimited | Limit::Frames(_) => Some(self.open(user)?),
                };
                if let Some(slot) = account.and_then(|account| self.word(LIMITS, account)) {
                    slot.store(limit.raw(), Relaxed);
                }
            }
        }
        Ok(())
    }

    /// The limit of users without one of their own.
    pub(crate) fn default_limit(&self) -> Limit {
        Limit::from_raw(self.default.load(Relaxed))
    }

    /// The users with a charge or a limit. Under the gate.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Account> {
        (0..NR_SLOTS).filter_map(|index| {
            let account = AccountIndex::new(index)?;
            let key = self.word(USERS, account)?.load(Relaxed);
            let told = Account {
                user: u32::try_from(key.checked_sub(1)?).ok()?,
                limit: self.limit(account),
                nr_charged: self.charged(account),
            };
            (told.nr_charged != 0 || told.limit != Limit::Inherited).then_some(told)
        })
    }

    /// Charges up to `max` frames, as many as the limit leaves; returns how many. Under the gate.
    pub(crate) fn charge(&self, account: AccountIndex, max: u64) -> u64 {
        let limit = match (self.limit(account), self.default_limit()) {
            (Limit::Frames(limit), _) | (Limit::Inherited, Limit::Frames(limit)) => limit,
            (Limit::Unlimited, _) | (Limit::Inherited, _) => u64::MAX,
        };
        let Some(charge) = self.word(CHARGES, account) else {
            return 0;
        };
        let mut nr_granted = 0;
        // An error says that nothing was granted, which the count does as well.
        let _unchanged = charge.fetch_update(Relaxed, Relaxed, |nr_charged| {
            nr_granted = limit.saturating_sub(nr_charged).min(max);
            (nr_granted != 0).then(|| nr_charged.saturating_add(nr_granted))
        });
        nr_granted
    }

    /// Takes back a charge of `nr_frames`.
    ///
    /// **Context:** any, hard interrupts included; never waits.
    pub(crate) fn uncharge(&self, account: AccountIndex, nr_frames: u64) {
        if let Some(charge) = self.word(CHARGES, account) {
            charge.fetch_sub(nr_frames, Relaxed);
        }
    }

    /// Notes whose the frames of `run` are, which the caller holds.
    pub(crate) fn assign(&self, run: FrameRun, account: AccountIndex) {
        for frame in run.iter() {
            let Some((word, shift)) = self.owner_word(frame) else {
                return;
            };
            let owner = u64::from(account.0);
            let before = (word.load(Relaxed) >> shift) & OWNER_MASK;
            // The other frames of the word may change meanwhile, this one not.
            if before != owner {
                word.fetch_xor((before ^ owner) << shift, Relaxed);
            }
        }
    }

    /// Whose a frame is that somebody holds.
    ///
    /// **Context:** any, hard interrupts included; never waits.
    pub(crate) fn owner_of(&self, frame: FrameIndex) -> Option<AccountIndex> {
        let (word, shift) = self.owner_word(frame)?;
        let owner = (word.load(Relaxed) >> shift) & OWNER_MASK;
        AccountIndex::new(usize::try_from(owner).ok()?)
    }

    fn owner_word(&self, frame: FrameIndex) -> Option<(&AtomicU64, u32)> {
        let index = usize::try_from(frame.get() / OWNERS_PER_WORD).ok()?;
        let place = u32::try_from(frame.get() % OWNERS_PER_WORD).ok()?;
        let word = self.words.get(OWNERS.checked_add(index)?)?;
        Some((word, place.checked_mul(OWNER_BITS)?))
    }

    fn limit(&self, account: AccountIndex) -> Limit {
        Limit::from_raw(
            self.word(LIMITS, account)
                .map_or(0, |limit| limit.load(Relaxed)),
        )
    }

    fn charged(&self, account: AccountIndex) -> u64 {
        self.word(CHARGES, account)
            .map_or(0, |charge| charge.load(Relaxed))
    }

    fn word(&self, table: usize, account: AccountIndex) -> Option<&AtomicU64> {
        self.words.get(table.saturating_add(usize::from(account.0)))
    }
}

fn key_of(user: u32) -> u64 {
    u64::from(user).saturating_add(1)
}
