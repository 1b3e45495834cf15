// SPDX-License-Identifier: GPL-2.0
/* The module's description and parameters: macros that fill sections of their own. */
#include <linux/module.h>

static unsigned long spm_addr_dev0;
module_param(spm_addr_dev0, ulong, 0444);
MODULE_PARM_DESC(spm_addr_dev0, "Start of 256 MiB of soft-reserved memory, for /dev/hmm_dmirror2");

static unsigned long spm_addr_dev1;
module_param(spm_addr_dev1, ulong, 0444);
MODULE_PARM_DESC(spm_addr_dev1, "Start of 256 MiB of soft-reserved memory, for /dev/hmm_dmirror3");

/* Declared in Rust. */
unsigned long cohmem_dmirror_start(unsigned int device);
unsigned long cohmem_dmirror_start(unsigned int device)
{
	return device ? spm_addr_dev1 : spm_addr_dev0;
}

MODULE_DESCRIPTION("Test device that mirrors a process, for the kernel's own HMM selftests");
MODULE_AUTHOR("The cohmem developers");
MODULE_LICENSE("GPL");
MODULE_VERSION("0.1.0");
