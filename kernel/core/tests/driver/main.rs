// SPDX-License-Identifier: GPL-2.0
//! The driver's logic over a model of the kernel.

#[path = "../fake/mod.rs"]
mod fake;

mod detach;
mod errors;
mod history;
mod objects;
mod poison;
mod quota;
mod random;
mod range;
mod reasons;
mod round_trip;
mod sweep;
mod threads;
mod traps;
