// SPDX-License-Identifier: GPL-2.0
//! The ioctl commands: which node takes which, and how their arguments travel.

use cohmem_kcore::{Driver, Errno, OpenNode};
use cohmem_ksys::process::{Plain, read_plain, write_plain};
use cohmem_uapi::{args, ioctl};

use crate::{host::Kernel, sys::entry};

/// The node that a command came in on.
#[derive(Clone, Copy)]
pub(crate) enum Node<'a> {
    /// `/dev/cohmem`.
    Control,
    /// `/dev/cohmemN`, as it was when it was opened.
    Device(&'a OpenNode),
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
    node: Node<'_>,
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
        (Node::Device(node), ioctl::INFO) => {
            with_args(arg, OnSuccess, |args| driver.info(node.id(), args))
        }
        (Node::Device(node), ioctl::MIGRATE) => {
            with_args(arg, OnSuccess, |args| driver.migrate(node, args))
        }
        (Node::Device(node), ioctl::HISTORY) => {
            with_args(arg, OnSuccess, |args| driver.history(node.id(), args))
        }
        (Node::Device(node), ioctl::QUERY) => {
            with_args(arg, OnSuccess, |args| driver.query(node.id(), args))
        }
        (Node::Device(node), ioctl::SET_QUOTA) => {
            with_args(arg, OnSuccess, |args: &mut args::Quota| {
                driver.set_quota(node.id(), args)
            })
        }
        (Node::Device(node), ioctl::ACCOUNTS) => {
            with_args(arg, OnSuccess, |args| driver.accounts(node.id(), args))
        }
        (Node::Device(node), ioctl::SET_JOB) => {
            with_args(arg, OnSuccess, |args: &mut args::Job| {
                driver.set_job(node.id(), args)
            })
        }
        (Node::Device(node), ioctl::SET_RUN) => {
            with_args(arg, OnSuccess, |args| driver.set_run(node, args))
        }
        (Node::Device(node), ioctl::OBJECTS) => {
            with_args(arg, OnSuccess, |args| driver.objects(node.id(), args))
        }
        (Node::Device(node), ioctl::EVICT) => {
            with_args(arg, Always, |args| driver.evict(node.id(), args))
        }
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
