// SPDX-License-Identifier: GPL-2.0
//! The module's own meeting with the kernel: its entry points, its nodes, its files in sysfs. What other
//! drivers need as well is in `cohmem_ksys`.

pub(crate) mod chardev;
pub(crate) mod entry;
pub(crate) mod power;
pub(crate) mod sysfs;
pub(crate) mod trace;
