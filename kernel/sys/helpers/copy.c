// SPDX-License-Identifier: GPL-2.0
/* A string move with an entry in the exception table; features of the processor. */
#include <asm/asm.h>
#include <asm/cpu_device_id.h>
#include <asm/cpufeature.h>

#include "helpers.h"

/* Words that were not copied, because reading the source raised a machine check. */
unsigned long cohmem_copy_words_mc(void *to, const void *from, unsigned long nr_words)
{
	asm volatile("1:	rep movsq\n"
		     "2:\n"
		     _ASM_EXTABLE_TYPE(1b, 2b, EX_TYPE_DEFAULT_MCE_SAFE)
		     : "+c" (nr_words), "+D" (to), "+S" (from)
		     :
		     : "memory");
	return nr_words;
}

bool cohmem_string_moves_are_fast(void)
{
	return boot_cpu_has(X86_FEATURE_ERMS);
}

/*
 * The servers whose string moves the kernel avoids where they recover from machine checks at all:
 * those that the quirks in arch/x86/kernel/quirks.c look for (copy_mc_fragile).
 */
bool cohmem_string_moves_may_not_recover(void)
{
	static const struct x86_cpu_id servers[] = {
		X86_MATCH_VFM(INTEL_IVYBRIDGE_X, NULL),
		X86_MATCH_VFM(INTEL_HASWELL_X, NULL),
		X86_MATCH_VFM(INTEL_BROADWELL_X, NULL),
		X86_MATCH_VFM(INTEL_SKYLAKE_X, NULL),
		{}
	};

	return x86_match_cpu(servers) != NULL;
}
