// SPDX-License-Identifier: GPL-2.0
//! A software device that mirrors a process: the one that the kernel's selftests of device memory open.
//!
//! It has no hardware and no use but to be tested, and to show that [`cohmem_ksys`] carries a whole
//! driver:
//!
//! - [`file`]: an open node: a process's address space, the device's page tables for it, its commands
//! - [`device`]: the memory of one device, and how it is taken home
//! - [`gup`]: `/sys/kernel/debug/gup_test`, where the kernel has none
//! - [`sys`]: the module's parameters
#![no_std]
#![deny(unsafe_code)]
#![deny(elided_lifetimes_in_paths)]

mod abi;
mod device;
mod file;
mod gup;
mod migrate;
#[expect(unsafe_code, reason = "the parameters are C's")]
mod sys;

cohmem_ksys::module!(device::Devices);
