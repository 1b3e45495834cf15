// SPDX-License-Identifier: GPL-2.0
/* Tracepoints are macros: a branch that is patched in while somebody traces. */
#include "helpers.h"

#define CREATE_TRACE_POINTS
#include "tracepoints.h"

void cohmem_trace_moved(const struct cohmem_traced *traced)
{
	trace_moved(traced);
}

void cohmem_trace_stayed(const struct cohmem_traced *traced)
{
	trace_stayed(traced);
}
