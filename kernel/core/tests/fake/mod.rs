// SPDX-License-Identifier: GPL-2.0
//! A model of the kernel under the driver's logic: pages, page tables, processes, pgmaps, locks.
//!
//! - [`FakeHost`]: the machine; implements `Host`, and offers tests what processes, the kernel and the
//!   hardware do behind the driver's back
//! - [`World`](world::World): the state, behind one mutex that stands for the kernel's spinlocks
//! - [`Faults`](faults::Faults): which call fails; [`Moment`]: where a test may interfere
//! - [`Rig`]: a driver on a machine, with calls that check what every answer must fulfil
//!
//! The content of a page is one number, its stamp. What the kernel does not promise, the model does not
//! do: a fresh page holds garbage, a device page with one foreign reference is collected, a page that
//! KSM merged is collected, entries of poisoned pages outlive the page. What would be a bug of the
//! driver is a panic: a frame handed out twice, an allocation or a lock while a batch is in flight, a
//! write to user memory under a lock, a chunk dropped with frames in use.

mod batch;
mod behind;
mod chunk;
mod faults;
mod held;
mod host;
mod machine;
mod page;
mod process;
mod rig;
mod sound;
mod space;
mod world;

pub(crate) use faults::Fallible;
pub(crate) use host::ASKER;
pub(crate) use machine::{FakeHost, Moment, USER};
pub(crate) use page::{Home, Kind, Page};
pub(crate) use process::{Entry, Pid, Seen, VmaSpec};
pub(crate) use rig::{BASE, PAGE, Rig, SOFT_START, addr, anonymous};
pub(crate) use world::RangeKind;
