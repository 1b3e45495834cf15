// SPDX-License-Identifier: GPL-2.0
//! The commands on a device's limits and accounts.

use cohmem_uapi::{ObjectKind, QUOTA_INHERITED, QUOTA_UNLIMITED, args};

use super::Driver;
use crate::{
    Errno,
    accounts::{Account, Holder, Limit, Maker, Whose},
    device::DeviceId,
    host::{Host, Privilege, SleepLock},
    node::OpenNode,
    request::{AccountsRequest, ObjectsRequest, QuotaRequest},
};

const ACCOUNT_BYTES: usize = size_of::<args::Account>();
const OBJECT_BYTES: usize = size_of::<args::Object>();

impl<H: Host> Driver<H> {
    /// `COHMEM_IOC_SET_QUOTA`.
    ///
    /// **Context:** sleeps, until the batches under way are through.
    ///
    /// # Errors
    ///
    /// As the header says.
    pub fn set_quota(&self, id: DeviceId, args: &args::Quota) -> Result<(), Errno> {
        self.set_limit(id, || QuotaRequest::check(args))
    }

    /// `COHMEM_IOC_SET_JOB`.
    ///
    /// **Context:** as [`Self::set_quota`].
    ///
    /// # Errors
    ///
    /// As the header says.
    pub fn set_job(&self, id: DeviceId, args: &args::Job) -> Result<(), Errno> {
        self.set_limit(id, || QuotaRequest::check_job(args))
    }

    fn set_limit(
        &self,
        id: DeviceId,
        check_fn: impl FnOnce() -> Result<QuotaRequest, Errno>,
    ) -> Result<(), Errno> {
        if !self.host.is_privileged(Privilege::Administrate) {
            return Err(Errno::EPERM);
        }
        let request = check_fn()?;
        let table = self.gate.write();
        let accounts = table.device(id)?.ledger().accounts();
        accounts.set_limit(request.whose, request.limit)
    }

    /// `COHMEM_IOC_SET_RUN`.
    ///
    /// **Context:** as [`Self::set_quota`].
    ///
    /// # Errors
    ///
    /// As the header says.
    pub fn set_run(&self, node: &OpenNode, args: &mut args::Run) -> Result<(), Errno> {
        let limit = QuotaRequest::check_run(args)?;
        let maker = Maker {
            user: self.host.user(),
            process: self.host.calling_process(),
        };
        let table = self.gate.write();
        let accounts = table.device(node.id())?.ledger().accounts();
        let run = match node.run() {
            Some(run) => {
                accounts.set_limit(Whose::One(Holder::Run(run)), limit)?;
                run
            }
            None => accounts.begin_run(maker, limit)?,
        };
        node.set_run(run);
        args.run = run;
        Ok(())
    }

    /// Ends the run instance that a file was, when its last user closes it; the frames stay charged to it.
    ///
    /// **Context:** sleeps, until the batches under way are through.
    pub fn close(&self, node: &OpenNode) {
        let Some(run) = node.run() else {
            return;
        };
        let table = self.gate.write();
        // Without its device there is nothing to end.
        if let Ok(device) = table.device(node.id()) {
            let accounts = device.ledger().accounts();
            // Fails only where an account would have to be made.
            let _ended = accounts.set_limit(Whose::One(Holder::Run(run)), Limit::Inherited);
        }
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
        let list = self.list_accounts(id, request.nr_max, account_bytes)?;
        self.write_list(request.accounts_ptr, &list)?;
        args.nr_accounts = list.nr_entries;
        (args.default_limit, args.default_flags) = match list.default {
            Limit::Frames(nr_frames) => (nr_frames, 0),
            Limit::Unlimited | Limit::Inherited => (0, QUOTA_UNLIMITED),
        };
        Ok(())
    }

    /// `COHMEM_IOC_OBJECTS`.
    ///
    /// **Context:** sleeps.
    ///
    /// # Errors
    ///
    /// As the header says.
    pub fn objects(&self, id: DeviceId, args: &mut args::Objects) -> Result<(), Errno> {
        let request = ObjectsRequest::check(args)?;
        let list = self.list_accounts(id, request.nr_max, object_bytes)?;
        self.write_list(request.objects_ptr, &list)?;
        args.nr_objects = list.nr_entries;
        Ok(())
    }

    /// The bytes of up to `nr_max` entries that `entry_fn` makes of accounts.
    fn list_accounts<const N: usize>(
        &self,
        id: DeviceId,
        nr_max: usize,
        entry_fn: impl Fn(&Account) -> Option<[u8; N]>,
    ) -> Result<List<H::Buffer<u8>>, Errno> {
        let len = nr_max.saturating_mul(N).max(1);
        let mut bytes = self.host.new_buffer(len, 0u8)?;
        let table = self.gate.read();
        let accounts = table.device(id)?.ledger().accounts();
        let mut places = bytes.chunks_exact_mut(N);
        let mut nr_entries = 0u32;
        let mut used = 0usize;
        for entry in accounts.iter().filter_map(|account| entry_fn(&account)) {
            nr_entries = nr_entries.saturating_add(1);
            if let Some(place) = places.next() {
                place.copy_from_slice(&entry);
                used = used.saturating_add(N);
            }
        }
        Ok(List {
            bytes,
            used,
            nr_entries,
            default: accounts.default_limit(),
        })
    }

    fn write_list(&self, address: u64, list: &List<H::Buffer<u8>>) -> Result<(), Errno> {
        if list.used == 0 {
            return Ok(());
        }
        let used = list.bytes.get(..list.used).unwrap_or_default();
        self.host.write_user(address, used)
    }
}

/// Entries for the caller.
struct List<B> {
    bytes: B,
    /// Bytes of the entries that are in.
    used: usize,
    /// Entries that there are.
    nr_entries: u32,
    default: Limit,
}

/// The bytes of `struct cohmem_account`, of a user.
fn account_bytes(account: &Account) -> Option<[u8; ACCOUNT_BYTES]> {
    let Holder::User(user) = account.holder else {
        return None;
    };
    let (limit, flags) = raw_limit(account.limit);
    let words = [user, flags].into_iter().flat_map(u32::to_ne_bytes);
    let counts = [limit, account.nr_charged]
        .into_iter()
        .flat_map(u64::to_ne_bytes);
    Some(collect(words.chain(counts)))
}

/// The bytes of `struct cohmem_object`, of a job or a run instance.
fn object_bytes(account: &Account) -> Option<[u8; OBJECT_BYTES]> {
    let (kind, number) = match account.holder {
        Holder::User(_) => return None,
        Holder::Job(job) => (ObjectKind::Job, job),
        Holder::Run(run) => (ObjectKind::Run, run),
    };
    let (limit, flags) = raw_limit(account.limit);
    let words = [kind as u32, flags].into_iter().flat_map(u32::to_ne_bytes);
    let counts = [number, limit, account.nr_charged]
        .into_iter()
        .flat_map(u64::to_ne_bytes);
    let maker = [account.maker.user, account.maker.process]
        .into_iter()
        .flat_map(u32::to_ne_bytes);
    Some(collect(words.chain(counts).chain(maker)))
}

const fn raw_limit(limit: Limit) -> (u64, u32) {
    match limit {
        Limit::Frames(nr_frames) => (nr_frames, 0),
        Limit::Unlimited => (0, QUOTA_UNLIMITED),
        Limit::Inherited => (0, QUOTA_INHERITED),
    }
}

fn collect<const N: usize>(bytes: impl Iterator<Item = u8>) -> [u8; N] {
    let mut entry = [0; N];
    for (byte, value) in entry.iter_mut().zip(bytes) {
        *byte = value;
    }
    entry
}

const _: () = assert!(ACCOUNT_BYTES == 24 && OBJECT_BYTES == 40);
