// SPDX-License-Identifier: GPL-2.0
//! The tracepoints, by which perf, bpftrace and the kernel's own tracing see the history as it is written.

use cohmem_uapi::{Event, args};

/// Tells those who trace of a record of a device, if there are any. Any context.
pub(crate) fn trace(device: u32, told: &args::Move) {
    let traced = bindings::cohmem_traced {
        start: told.start,
        frame: told.frame,
        device,
        nr_pages: told.nr_pages,
        process: told.process,
        by: told.by,
        event: told.event,
        cause: told.cause,
        reason: told.reason,
        other: told.other,
    };
    match Event::from_raw(told.event) {
        Some(Event::Stayed | Event::Stuck) => {
            // SAFETY: the argument outlives the call, which copies it; any context.
            unsafe { bindings::cohmem_trace_stayed(&raw const traced) };
        }
        _ => {
            // SAFETY: as above.
            unsafe { bindings::cohmem_trace_moved(&raw const traced) };
        }
    }
}
