/* SPDX-License-Identifier: GPL-2.0 */
/* The tracepoints of the driver: one record of a device's history each. */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM cohmem

#if !defined(COHMEM_TRACEPOINTS_H) || defined(TRACE_HEADER_MULTI_READ)
#define COHMEM_TRACEPOINTS_H

#include <linux/tracepoint.h>

#include "helpers.h"

DECLARE_EVENT_CLASS(cohmem_run,
	TP_PROTO(const struct cohmem_traced *traced),
	TP_ARGS(traced),
	TP_STRUCT__entry(
		__field(u64, start)
		__field(u64, frame)
		__field(u32, device)
		__field(u32, nr_pages)
		__field(u32, process)
		__field(u32, by)
		__field(u8, event)
		__field(u8, cause)
		__field(u8, reason)
		__field(u8, other)
	),
	TP_fast_assign(
		__entry->start = traced->start;
		__entry->frame = traced->frame;
		__entry->device = traced->device;
		__entry->nr_pages = traced->nr_pages;
		__entry->process = traced->process;
		__entry->by = traced->by;
		__entry->event = traced->event;
		__entry->cause = traced->cause;
		__entry->reason = traced->reason;
		__entry->other = traced->other;
	),
	TP_printk("device=%u process=%u start=%#llx nr_pages=%u frame=%lld event=%s cause=%s reason=%u other=%u by=%u",
		  __entry->device, __entry->process, __entry->start, __entry->nr_pages,
		  (s64)__entry->frame,
		  __print_symbolic(__entry->event,
				   { 1, "arrived" }, { 2, "filled" }, { 3, "left" },
				   { 4, "lost" }, { 5, "stayed" }, { 6, "stuck" }),
		  __print_symbolic(__entry->cause,
				   { 1, "migrate" }, { 2, "evict" }, { 3, "detach" },
				   { 4, "hibernate" }, { 5, "failure" }),
		  __entry->reason, __entry->other, __entry->by)
);

DEFINE_EVENT(cohmem_run, moved,
	TP_PROTO(const struct cohmem_traced *traced),
	TP_ARGS(traced)
);

DEFINE_EVENT(cohmem_run, stayed,
	TP_PROTO(const struct cohmem_traced *traced),
	TP_ARGS(traced)
);

#endif

#undef TRACE_INCLUDE_PATH
#define TRACE_INCLUDE_PATH .
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_FILE tracepoints
#include <trace/define_trace.h>
