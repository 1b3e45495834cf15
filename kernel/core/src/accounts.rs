// SPDX-License-Identifier: GPL-2.0
//! Whom the frames of a device are charged to, and how many each may hold.
//!
//! A frame is charged to the user that asked for it, and to every object that user asked under: the jobs
//! (control groups with a limit) that the asking task was in, and the run instance whose file it used. It
//! is so from before it is taken from the pool until it is back there, whichever process its page lives in
//! meanwhile: fork, `UFFDIO_MOVE`, the end of the process that asked and of its job change nothing.
//!
//! Frames come back in hard interrupts, so a charge ends with one subtraction for each that pays, and no
//! lock. Everything else happens under the gate: frames are taken and charged under its read side;
//! accounts are opened and limits are set under its write side, when nobody takes frames. An account that
//! is found to hold nothing then stays so, and its slot can become another's; and once a limit is set, no
//! frame above it is handed out any more.

use core::{
    ops::{Deref, Range},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use cohmem_frames::{FrameIndex, FrameRun};
use cohmem_uapi::{MAX_ACCOUNTS, MAX_USER_RUNS};

use crate::{
    Errno,
    host::{ControlGroup, Host},
    payers::{AccountIndex, Payers},
};

/// Accounts of each kind.
const NR_OF_KIND: usize = MAX_ACCOUNTS as usize;
const USERS: Range<usize> = 0..NR_OF_KIND;
const JOBS: Range<usize> = NR_OF_KIND..2 * NR_OF_KIND;
const RUNS: Range<usize> = 2 * NR_OF_KIND..NR_SLOTS;
pub(crate) const NR_SLOTS: usize = 3 * NR_OF_KIND;

// Where in the words each table starts. Keys: 0 for a slot that nobody has had, see `Holder::key`.
const KEYS: usize = 0;
const LIMITS: usize = NR_SLOTS;
const CHARGES: usize = 2 * NR_SLOTS;
const MAKERS: usize = 3 * NR_SLOTS;
/// From here on, who pays for each frame.
const BILLS: usize = 4 * NR_SLOTS;

/// Job numbers, and those of run instances, are below this.
pub(crate) const MAX_OBJECT: u64 = (1 << 62) - 1;
const JOB_BIT: u64 = 1 << 62;
const RUN_BIT: u64 = 1 << 63;

/// How many frames somebody may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Limit {
    /// As many as the default says; as the default itself: any number. Of a job or a run instance: it is
    /// none, or none any more.
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

/// Who can hold frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Holder {
    User(u32),
    /// A control group and those below it, by its number in the unified hierarchy.
    Job(u64),
    /// What comes through one open file.
    Run(u64),
}

impl Holder {
    /// The value in the table of keys, never 0: numbers of objects are from 1 to [`MAX_OBJECT`].
    fn key(self) -> u64 {
        match self {
            Self::User(user) => u64::from(user).saturating_add(1),
            Self::Job(job) => job | JOB_BIT,
            Self::Run(run) => run | RUN_BIT,
        }
    }

    fn from_key(key: u64) -> Option<Self> {
        if key & RUN_BIT != 0 {
            Some(Self::Run(key & MAX_OBJECT))
        } else if key & JOB_BIT != 0 {
            Some(Self::Job(key & MAX_OBJECT))
        } else {
            u32::try_from(key.checked_sub(1)?).ok().map(Self::User)
        }
    }

    const fn slots(self) -> Range<usize> {
        match self {
            Self::User(_) => USERS,
            Self::Job(_) => JOBS,
            Self::Run(_) => RUNS,
        }
    }
}

/// Whose limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whose {
    /// Of every user without a limit of their own.
    Default,
    One(Holder),
}

/// Who made a run instance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Maker {
    pub(crate) user: u32,
    pub(crate) process: u32,
}

impl Maker {
    fn raw(self) -> u64 {
        (u64::from(self.process) << u32::BITS) | u64::from(self.user)
    }

    fn from_raw(raw: u64) -> Self {
        Self {
            user: u32::try_from(raw & u64::from(u32::MAX)).unwrap_or_default(),
            process: u32::try_from(raw >> u32::BITS).unwrap_or_default(),
        }
    }
}

/// Who asks for frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Asker {
    pub(crate) user: u32,
    /// The run instance that the open file is.
    pub(crate) run: Option<u64>,
}

/// Why nobody can pay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unpaid {
    /// The user has no account yet.
    NoAccount,
    /// There are more than a frame can be charged to: the asker is in too many jobs.
    TooMany,
}

/// What is known of an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Account {
    pub(crate) holder: Holder,
    pub(crate) limit: Limit,
    pub(crate) nr_charged: u64,
    /// Of a run instance.
    pub(crate) maker: Maker,
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
    /// Jobs that are, since most devices have none.
    nr_jobs: AtomicU64,
    /// Run instances that were.
    nr_runs: AtomicU64,
    /// Where the search for a slot to reuse starts, from the first of its kind: that of one who came just
    /// now is the last to be taken away again.
    next: AtomicU64,
}

/// Words that the accounts of a device with `nr_frames` frames need, all zeros.
pub(crate) fn words_needed(nr_frames: u64) -> usize {
    let nr_words = usize::try_from(nr_frames).unwrap_or(usize::MAX);
    BILLS.saturating_add(nr_words)
}

impl<W: Deref<Target = [AtomicU64]>> Accounts<W> {
    /// Accounts without a charge or a limit; `words` are as [`words_needed`] says.
    pub(crate) const fn new(words: W) -> Self {
        Self {
            words,
            default: AtomicU64::new(Limit::Inherited.raw()),
            nr_jobs: AtomicU64::new(0),
            nr_runs: AtomicU64::new(0),
            next: AtomicU64::new(0),
        }
    }

    // Ordering of everything here: what the gate does not order is a count that guards no other memory, or
    // a word that only the holder of its frame reads and writes.

    /// The account of a holder. Under the gate.
    pub(crate) fn find(&self, holder: Holder) -> Option<AccountIndex> {
        let key = holder.key();
        let slots = holder.slots();
        let keys = self.words.get(KEYS..LIMITS)?.get(slots.clone())?;
        let place = keys.iter().position(|slot| slot.load(Relaxed) == key)?;
        AccountIndex::new(slots.start.checked_add(place)?)
    }

    /// The account of a holder, made if there is none: `ENOSPC` when every slot of the kind has a charge
    /// or a limit. Under the gate's write side.
    pub(crate) fn open(&self, holder: Holder) -> Result<AccountIndex, Errno> {
        if let Some(account) = self.find(holder) {
            return Ok(account);
        }
        let slots = holder.slots();
        let next = usize::try_from(self.next.load(Relaxed)).unwrap_or(0);
        let start = slots.start.saturating_add(next).min(slots.end);
        let account = (start..slots.end)
            .chain(slots.start..start)
            .filter_map(AccountIndex::new)
            .find(|&account| self.is_idle(account))
            .ok_or(Errno::ENOSPC)?;
        if let Some(slot) = self.word(KEYS, account) {
            slot.store(holder.key(), Relaxed);
        }
        let place = account.get().saturating_sub(slots.start);
        let next = u64::try_from(place).unwrap_or(0).saturating_add(1);
        self.next.store(next, Relaxed);
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
            Whose::One(holder) => {
                let account = match limit {
                    // Nothing to take away from one without an account.
                    Limit::Inherited => self.find(holder),
                    Limit::Unlimited | Limit::Frames(_) => Some(self.open(holder)?),
                };
                if let Some(slot) = account.and_then(|account| self.word(LIMITS, account)) {
                    slot.store(limit.raw(), Relaxed);
                }
                self.count_jobs();
            }
        }
        Ok(())
    }

    fn count_jobs(&self) {
        let accounts = JOBS.filter_map(AccountIndex::new);
        let jobs = accounts.filter(|&account| self.limit(account) != Limit::Inherited);
        self.nr_jobs
            .store(u64::try_from(jobs.count()).unwrap_or(u64::MAX), Relaxed);
    }

    /// Makes a run instance, and tells its number: `EDQUOT` when its maker's user has too many, those that
    /// have ended and still hold frames included; `ENOSPC`. Under the gate's write side.
    pub(crate) fn begin_run(&self, maker: Maker, limit: Limit) -> Result<u64, Errno> {
        let accounts = RUNS.filter_map(AccountIndex::new);
        let same_user = accounts
            .filter(|&account| !self.is_idle(account) && self.maker(account).user == maker.user);
        if same_user.count() >= usize::try_from(MAX_USER_RUNS).unwrap_or(0) {
            return Err(Errno::EDQUOT);
        }
        let run = self.nr_runs.load(Relaxed).saturating_add(1);
        let account = self.open(Holder::Run(run))?;
        self.nr_runs.store(run, Relaxed);
        if let Some(slot) = self.word(MAKERS, account) {
            slot.store(maker.raw(), Relaxed);
        }
        self.set_limit(Whose::One(Holder::Run(run)), limit)?;
        Ok(run)
    }

    /// The limit of users without one of their own.
    pub(crate) fn default_limit(&self) -> Limit {
        Limit::from_raw(self.default.load(Relaxed))
    }

    /// Those with a charge or a limit. Under the gate.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Account> {
        (0..NR_SLOTS).filter_map(|index| {
            let account = AccountIndex::new(index)?;
            let told = Account {
                holder: Holder::from_key(self.word(KEYS, account)?.load(Relaxed))?,
                limit: self.limit(account),
                nr_charged: self.charged(account),
                maker: self.maker(account),
            };
            (told.nr_charged != 0 || told.limit != Limit::Inherited).then_some(told)
        })
    }

    /// All that pay for what `asker` is given now, jobs by the control groups of the calling task. Under
    /// the gate.
    pub(crate) fn payers<H: Host>(&self, host: &H, asker: Asker) -> Result<Payers, Unpaid> {
        let user = self.find(Holder::User(asker.user));
        let mut payers = Payers::one(user.ok_or(Unpaid::NoAccount)?);
        if let Some(run) = asker.run {
            // It is there for as long as its file is open, and this is the second of several.
            let run = self.find(Holder::Run(run)).ok_or(Unpaid::TooMany)?;
            payers = payers.and(run).ok_or(Unpaid::TooMany)?;
        }
        if self.nr_jobs.load(Relaxed) == 0 {
            return Ok(payers);
        }
        let group = host.control_group();
        for job in (0..).map_while(|level| group.number_at(level)) {
            let account = self.find(Holder::Job(job));
            // One that is none any more only waits for its frames.
            if let Some(job) = account.filter(|&job| self.limit(job) != Limit::Inherited) {
                payers = payers.and(job).ok_or(Unpaid::TooMany)?;
            }
        }
        Ok(payers)
    }

    /// Charges up to `max` frames to each of `payers`, as many as all their limits leave; returns how many.
    /// Under the gate.
    pub(crate) fn charge(&self, payers: Payers, max: u64) -> u64 {
        // Asked before anything is charged: else what one of them has no room for would be missing to
        // others meanwhile.
        let room = payers.iter().map(|account| self.room(account));
        let mut nr_granted = room.fold(max, u64::min);
        for (index, account) in payers.iter().enumerate() {
            let nr_here = self.charge_one(account, nr_granted);
            for earlier in payers.iter().take(index) {
                self.uncharge_one(earlier, nr_granted.saturating_sub(nr_here));
            }
            nr_granted = nr_here;
        }
        nr_granted
    }

    fn charge_one(&self, account: AccountIndex, max: u64) -> u64 {
        let limit = self.frames_allowed(account);
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

    fn room(&self, account: AccountIndex) -> u64 {
        self.frames_allowed(account)
            .saturating_sub(self.charged(account))
    }

    fn frames_allowed(&self, account: AccountIndex) -> u64 {
        match (self.limit(account), self.default_limit()) {
            (Limit::Frames(nr_frames), _) => nr_frames,
            (Limit::Inherited, Limit::Frames(nr_frames)) if USERS.contains(&account.get()) => {
                nr_frames
            }
            (Limit::Unlimited | Limit::Inherited, _) => u64::MAX,
        }
    }

    /// Takes back a charge of `nr_frames` from each of `payers`.
    ///
    /// **Context:** any, hard interrupts included; never waits.
    pub(crate) fn uncharge(&self, payers: Payers, nr_frames: u64) {
        for account in payers.iter() {
            self.uncharge_one(account, nr_frames);
        }
    }

    fn uncharge_one(&self, account: AccountIndex, nr_frames: u64) {
        if let Some(charge) = self.word(CHARGES, account) {
            charge.fetch_sub(nr_frames, Relaxed);
        }
    }

    /// Notes who pays for the frames of `run`, which the caller holds.
    pub(crate) fn assign(&self, run: FrameRun, payers: Payers) {
        for frame in run.iter() {
            if let Some(bill) = self.bill(frame) {
                bill.store(payers.raw(), Relaxed);
            }
        }
    }

    /// Who pays for a frame that somebody holds.
    ///
    /// **Context:** any, hard interrupts included; never waits.
    pub(crate) fn payers_of(&self, frame: FrameIndex) -> Option<Payers> {
        Some(Payers::from_raw(self.bill(frame)?.load(Relaxed)))
    }

    fn bill(&self, frame: FrameIndex) -> Option<&AtomicU64> {
        let index = usize::try_from(frame.get()).ok()?;
        self.words.get(BILLS.checked_add(index)?)
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

    fn maker(&self, account: AccountIndex) -> Maker {
        Maker::from_raw(
            self.word(MAKERS, account)
                .map_or(0, |maker| maker.load(Relaxed)),
        )
    }

    fn word(&self, table: usize, account: AccountIndex) -> Option<&AtomicU64> {
        self.words.get(table.saturating_add(account.get()))
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::vec::Vec;

    use super::*;

    #[test]
    fn what_one_of_the_payers_does_not_allow_is_taken_back_from_the_others() {
        let words: Vec<_> = (0..words_needed(1)).map(|_| AtomicU64::new(0)).collect();
        let accounts = Accounts::new(words);
        let user = accounts.open(Holder::User(7)).unwrap();
        let job = accounts.open(Holder::Job(7)).unwrap();
        accounts
            .set_limit(Whose::One(Holder::Job(7)), Limit::Frames(10))
            .unwrap();
        // The room that both see first is gone when the second is charged, as when others race to it.
        let payers = Payers::one(user).and(job).unwrap().and(job).unwrap();
        assert_eq!(accounts.charge(payers, 12), 0);
        assert_eq!((accounts.charged(user), accounts.charged(job)), (0, 0));
        let payers = Payers::one(user).and(job).unwrap();
        assert_eq!(accounts.charge(payers, 12), 10);
        assert_eq!((accounts.charged(user), accounts.charged(job)), (10, 10));
        accounts.uncharge(payers, 4);
        assert_eq!((accounts.charged(user), accounts.charged(job)), (6, 6));
    }
}
