//! Limits on what a user may hold of a device, and who holds what.

use cohmem_uapi::{
    FRAME_BYTES, MAX_ACCOUNTS, QUOTA_DEFAULT, QUOTA_INHERITED, QUOTA_UNLIMITED, args,
};

use crate::{
    backend::driver::DeviceNode,
    error::{Cause, Result},
    units::ByteCount,
};

/// Whose limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// Of every user without a limit of their own, root as well.
    Default,
    /// Of the user with this number.
    User(u32),
}

/// How much a user may hold of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// What the default says; as the default itself, any amount.
    Inherited,
    /// Any amount.
    Unlimited,
    /// So many bytes, a multiple of [`FRAME_BYTES`]; 0 is allowed.
    Bytes(ByteCount),
}

impl Limit {
    pub(crate) fn from_raw(flags: u32, nr_frames: u64) -> Self {
        if flags & QUOTA_INHERITED != 0 {
            Self::Inherited
        } else if flags & QUOTA_UNLIMITED != 0 {
            Self::Unlimited
        } else {
            Self::Bytes(ByteCount::of_frames(nr_frames))
        }
    }
}

/// What one user holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Account {
    /// User number.
    pub user: u32,
    /// The user's own limit.
    pub limit: Limit,
    /// What is charged to the user: every frame that the user's programs asked for and that is not freed
    /// yet, whichever process its page lives in. More than the limit when that was set later.
    pub charged: ByteCount,
}

/// The accounts of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Accounts {
    /// The limit of users without one of their own: never [`Limit::Inherited`].
    pub default: Limit,
    /// The users with a charge or a limit of their own, by number.
    pub users: Vec<Account>,
}

impl Accounts {
    /// The limit that holds for an account: its own, or the default.
    #[must_use]
    pub const fn limit_of(&self, account: &Account) -> Limit {
        match account.limit {
            Limit::Inherited => self.default,
            own => own,
        }
    }
}

pub(crate) fn set(node: &DeviceNode, whose: Whose, limit: Limit) -> Result<()> {
    node.set_quota(&quota(whose, limit)?)
}

fn quota(whose: Whose, limit: Limit) -> Result<args::Quota> {
    let (user, whose_flag) = match whose {
        Whose::Default => (0, QUOTA_DEFAULT),
        Whose::User(user) => (user, 0),
    };
    let (nr_frames, limit_flag) = match (limit, whose) {
        (Limit::Bytes(bytes), _) if !bytes.get().is_multiple_of(FRAME_BYTES) => {
            return Err(Cause::BadLimit { bytes: bytes.get() }.into());
        }
        (Limit::Bytes(bytes), _) => (bytes.frames(), 0),
        (Limit::Unlimited, _) | (Limit::Inherited, Whose::Default) => (0, QUOTA_UNLIMITED),
        (Limit::Inherited, Whose::User(_)) => (0, QUOTA_INHERITED),
    };
    Ok(args::Quota {
        user,
        flags: whose_flag | limit_flag,
        limit: nr_frames,
        ..args::Quota::default()
    })
}

pub(crate) fn accounts(node: &DeviceNode) -> Result<Accounts> {
    let mut list = vec![args::Account::default(); MAX_ACCOUNTS as usize];
    let answer = node.accounts(&mut list)?;
    list.truncate(usize::try_from(answer.nr_accounts).unwrap_or(usize::MAX));
    Ok(read(&answer, &list))
}

fn read(answer: &args::Accounts, list: &[args::Account]) -> Accounts {
    let mut users: Vec<_> = list
        .iter()
        .map(|raw| Account {
            user: raw.user,
            limit: Limit::from_raw(raw.flags, raw.limit),
            charged: ByteCount::of_frames(raw.charged),
        })
        .collect();
    users.sort_by_key(|account| account.user);
    Accounts {
        default: Limit::from_raw(answer.default_flags, answer.default_limit),
        users,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[test]
    fn limits_become_frames_and_flags() {
        let bytes = |bytes| Limit::Bytes(ByteCount::new(bytes));
        for (whose, limit, expected) in [
            (Whose::User(7), bytes(8192), (7, 0, 2)),
            (Whose::User(7), bytes(0), (7, 0, 0)),
            (Whose::User(7), Limit::Unlimited, (7, QUOTA_UNLIMITED, 0)),
            (Whose::User(7), Limit::Inherited, (7, QUOTA_INHERITED, 0)),
            (Whose::Default, bytes(4096), (0, QUOTA_DEFAULT, 1)),
            (
                Whose::Default,
                Limit::Inherited,
                (0, QUOTA_DEFAULT | QUOTA_UNLIMITED, 0),
            ),
        ] {
            let raw = quota(whose, limit).unwrap();
            assert_eq!((raw.user, raw.flags, raw.limit), expected, "{limit:?}");
        }
        let error = quota(Whose::User(7), bytes(4097)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Misaligned);
        assert!(error.to_string().contains("4097"), "{error}");
    }

    #[test]
    fn accounts_are_told_by_number_with_the_limit_that_holds() {
        let raw = |user, flags, limit, charged| args::Account {
            user,
            flags,
            limit,
            charged,
        };
        let answer = args::Accounts {
            nr_accounts: 3,
            default_limit: 5,
            ..args::Accounts::default()
        };
        let accounts = read(
            &answer,
            &[
                raw(9, QUOTA_INHERITED, 0, 2),
                raw(0, QUOTA_UNLIMITED, 0, 1),
                raw(3, 0, 4, 0),
            ],
        );
        let told: Vec<_> = accounts
            .users
            .iter()
            .map(|account| (account.user, accounts.limit_of(account)))
            .collect();
        let frames = |nr_frames| Limit::Bytes(ByteCount::of_frames(nr_frames));
        assert_eq!(
            told,
            [(0, Limit::Unlimited), (3, frames(4)), (9, frames(5))]
        );
        assert_eq!(accounts.users[2].charged, ByteCount::new(8192));
    }
}
