// SPDX-License-Identifier: GPL-2.0
//! The ioctl commands: which node takes which, and how their arguments travel.

use cohmem_kcore::{DeviceId, Driver, Errno};
use cohmem_ksys::process::{Plain, read_plain, write_plain};
use cohmem_uapi::{args, ioctl};

use crate::{host::Kernel, sys::entry};

/// The node that a command came in on.
#[derive(Clone, Copy)]
pub(crate) enum Node {
    /// `/dev/cohmem`.
    Control,
    /// `/dev/cohmemN`, as it was when it was opened.
    Device(DeviceId),
}

/// When the argument goes back to the caller.
#[derive(Clone, Copy, PartialEq, Eq)]
enum CopyBack {
    OnSuccess,
    Always,
}

/// Runs a command of a node; `arg` is the address of its argument.
pub(crate) fn run(
    driver: &Driver<Kernel>,
    node: Node,
    command: u32,
    arg: u64,
) -> Result<(), Errno> {
    use CopyBack::{Always, OnSuccess};
    match (node, command) {
        (_, ioctl::VERSION) => with_args(arg, OnSuccess, |args| driver.version(args)),
        (Node::Control, ioctl::ATTACH) => with_args(arg, OnSuccess, |args: &mut args::Attach| {
            driver.attach(args)?;
            entry::log_attached(args.device, args.nr_frames, args.start);
            Ok(())
        }),
        (Node::Control, ioctl::DETACH) => with_args(arg, Always, |args: &mut args::Detach| {
            driver.detach(args)?;
            entry::log_detached(args.device, args.nr_evicted, args.nr_kept);
            Ok(())
        }),
        (Node::Control, ioctl::LIST) => with_args(arg, OnSuccess, |args| driver.list(args)),
        (Node::Control, ioctl::RANGE) => with_args(arg, OnSuccess, |args| driver.range(args)),
        (Node::Device(id), ioctl::INFO) => with_args(arg, OnSuccess, |args| driver.info(id, args)),
        (Node::Device(id), ioctl::MIGRATE) => {
            with_args(arg, OnSuccess, |args| driver.migrate(id, args))
        }
        (Node::Device(id), ioctl::QUERY) => {
            with_args(arg, OnSuccess, |args| driver.query(id, args))
        }
        (Node::Device(id), ioctl::HISTORY) => {
            with_args(arg, OnSuccess, |args| driver.history(id, args))
        }
        (Node::Device(id), ioctl::SET_QUOTA) => {
            with_args(arg, OnSuccess, |args: &mut args::Quota| {
                driver.set_quota(id, args)
            })
        }
        (Node::Device(id), ioctl::ACCOUNTS) => {
            with_args(arg, OnSuccess, |args| driver.accounts(id, args))
        }
        (Node::Device(id), ioctl::EVICT) => with_args(arg, Always, |args| driver.evict(id, args)),
        #[cfg(hooks)]
        (Node::Control, _) => crate::hooks::command(command, arg),
        _ => Err(Errno::ENOTTY),
    }
}

/// Copies the argument in once, runs the command on the copy, and copies that out.
///
/// What cannot be copied out is `EFAULT` even though the command was done, as for every ioctl.
fn with_args<A: Plain>(
    address: u64,
    copy_back: CopyBack,
    command_fn: impl FnOnce(&mut A) -> Result<(), Errno>,
) -> Result<(), Errno> {
    let mut args = read_plain::<A>(address)?;
    let result = command_fn(&mut args);
    if result.is_ok() || copy_back == CopyBack::Always {
        write_plain(address, &args)?;
    }
    result
}
