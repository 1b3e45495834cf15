// SPDX-License-Identifier: GPL-2.0
//! The commands on a device's limits and accounts.

use cohmem_uapi::{QUOTA_INHERITED, QUOTA_UNLIMITED, args};

use super::Driver;
use crate::{
    Errno,
    accounts::{Account, Limit},
    device::DeviceId,
    host::{Host, Privilege, SleepLock},
    request::{AccountsRequest, QuotaRequest},
};

const ENTRY_BYTES: usize = size_of::<args::Account>();

impl<H: Host> Driver<H> {
    /// `COHMEM_IOC_SET_QUOTA`.
    ///
    /// **Context:** sleeps, until the batches under way are through.
    ///
    /// # Errors
    ///
    /// As the header says.
    pub fn set_quota(&self, id: DeviceId, args: &args::Quota) -> Result<(), Errno> {
        if !self.host.is_privileged(Privilege::Administrate) {
            return Err(Errno::EPERM);
        }
        let request = QuotaRequest::check(args)?;
        let table = self.gate.write();
        let accounts = table.device(id)?.ledger().accounts();
        accounts.set_limit(request.whose, request.limit)
    }

    /// `COHMEM_IOC_ACCOUNTS`.
    ///
    /// **Context:** sleeps.
    ///
    /// # Errors
    ///
    /// As the header says.
    pub fn accounts(&self, id: DeviceId, args: &mut args::Accounts) -> Result<(), Errno> {
        let request = AccountsRequest::check(args)?;
        let mut bytes = self
            .host
            .new_buffer(request.nr_max.saturating_mul(ENTRY_BYTES).max(1), 0u8)?;
        let mut nr_accounts = 0u32;
        let default = {
            let table = self.gate.read();
            let accounts = table.device(id)?.ledger().accounts();
            let mut entries = bytes.chunks_exact_mut(ENTRY_BYTES);
            for account in accounts.iter() {
                nr_accounts = nr_accounts.saturating_add(1);
                if let Some(entry) = entries.next() {
                    write_entry(entry, &account);
                }
            }
            accounts.default_limit()
        };
        let nr_listed = usize::try_from(nr_accounts).unwrap_or(request.nr_max);
        let listed = nr_listed.min(request.nr_max).saturating_mul(ENTRY_BYTES);
        if listed != 0 {
            let listed = bytes.get(..listed).unwrap_or_default();
            self.host.write_user(request.accounts_ptr, listed)?;
        }
        args.nr_accounts = nr_accounts;
        (args.default_limit, args.default_flags) = match default {
            Limit::Frames(nr_frames) => (nr_frames, 0),
            Limit::Unlimited | Limit::Inherited => (0, QUOTA_UNLIMITED),
        };
        Ok(())
    }
}

/// The bytes of `struct cohmem_account`.
fn write_entry(entry: &mut [u8], account: &Account) {
    let (limit, flags) = match account.limit {
        Limit::Frames(nr_frames) => (nr_frames, 0),
        Limit::Unlimited => (0, QUOTA_UNLIMITED),
        Limit::Inherited => (0, QUOTA_INHERITED),
    };
    let words = [account.user, flags].into_iter().flat_map(u32::to_ne_bytes);
    let counts = [limit, account.nr_charged]
        .into_iter()
        .flat_map(u64::to_ne_bytes);
    for (byte, value) in entry.iter_mut().zip(words.chain(counts)) {
        *byte = value;
    }
}

const _: () = assert!(ENTRY_BYTES == 24);
