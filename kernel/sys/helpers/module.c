// SPDX-License-Identifier: GPL-2.0
/* A module's entry points and complaints: macros that fill sections of their own. */
#include <linux/bug.h>
#include <linux/module.h>

#include "helpers.h"

void cohmem_bug(void)
{
	BUG();
}

void cohmem_warn(void)
{
	WARN_ON_ONCE(1);
}

static int __init module_entry(void)
{
	return cohmem_module_init();
}
module_init(module_entry);

static void __exit module_leave(void)
{
	cohmem_module_exit();
}
module_exit(module_leave);
