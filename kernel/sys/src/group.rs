// SPDX-License-Identifier: GPL-2.0
//! Control groups: which the caller is in.

use core::ptr::NonNull;

use cohmem_kcore::host::ControlGroup;

use crate::{check_pointer, debug_by_name};

/// A control group of the unified hierarchy; none where the kernel has no control groups.
///
/// # Invariants
///
/// The value owns a reference to the group.
pub struct Group {
    group: Option<NonNull<bindings::cgroup>>,
}

impl Group {
    /// The one that the calling task is in now.
    pub fn of_caller() -> Self {
        loop {
            // SAFETY: process context: there is a current task.
            let Ok(group) = check_pointer(unsafe { bindings::cohmem_own_cgroup() }) else {
                return Self { group: None };
            };
            // Null for one that the task just left and that is gone: the next look finds another.
            if let Some(group) = NonNull::new(group) {
                // INVARIANT: the reference was just taken.
                return Self { group: Some(group) };
            }
        }
    }
}

impl ControlGroup for Group {
    fn number_at(&self, level: u32) -> Option<u64> {
        let group = self.group?;
        let level = i32::try_from(level).ok()?;
        // SAFETY: by the type invariants the group lives, and with it those above it.
        let number = unsafe { bindings::cohmem_cgroup_number_at(group.as_ptr(), level) };
        (number != 0).then_some(number)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.group {
            // SAFETY: by the type invariants the reference is ours to give up.
            unsafe { bindings::cohmem_cgroup_put(group.as_ptr()) };
        }
    }
}

debug_by_name! {
    [] Group, "Group";
}
