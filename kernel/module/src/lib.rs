// SPDX-License-Identifier: GPL-2.0
//! The cohmem kernel module.
//!
//! What the driver decides is in `cohmem_kcore`; this crate gives it a kernel to decide over:
//!
//! - [`host`]: [`cohmem_kcore::host::Host`] over the safe types of [`cohmem_ksys`]
//! - [`commands`]: the ioctl commands; [`attributes`]: the values in sysfs
//! - [`sys`]: every unsafe line of the module itself, behind safe types
//! - `hooks`: what tests may do to the driver; only under `cfg(hooks)`, never shipped
#![no_std]
#![deny(unsafe_code)]
#![deny(elided_lifetimes_in_paths)]

mod attributes;
mod commands;
#[cfg(hooks)]
mod hooks;
mod host;
#[expect(
    unsafe_code,
    reason = "the one place where the module meets the kernel"
)]
mod sys;
