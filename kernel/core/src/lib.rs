// SPDX-License-Identifier: GPL-2.0
//! The logic of the cohmem driver.
//!
//! Everything the driver decides is here: what a device is, which pages may move, in which order and
//! under which checks, and how a device is taken back. What the kernel does is behind the traits of
//! [`host`]; the module implements them over the kernel, the tests over a model.
//!
//! - [`Driver`]: the devices and the commands on them
//! - [`ledger`]: who owns which frame; the only part that interrupt handlers enter
//! - [`poison`]: frames that the hardware lost
//!
//! Lock order: the address space → the gate (one lock over the table of devices: batches read it, attach
//! and detach write it) → page locks. A device's struct pages are touched only under the gate, or
//! while one of its frames is held.
#![no_std]
#![forbid(unsafe_code)]
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::float_arithmetic,
    clippy::large_stack_frames
)]

#[cfg(test)]
extern crate std;

mod accounts;
mod classify;
mod device;
mod drain;
mod driver;
mod errno;
mod history;
pub mod host;
pub mod ledger;
mod migrate;
mod node;
mod pass;
mod payers;
pub mod poison;
mod query;
mod request;
mod tell;
mod window;

pub use device::{Attribute, DeviceId};
pub use driver::Driver;
pub use errno::Errno;
pub use history::ProcessId;
pub use node::OpenNode;
