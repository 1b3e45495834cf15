// SPDX-License-Identifier: GPL-2.0
/* The module's description: macros that fill a section of their own. */
#include <linux/module.h>

MODULE_DESCRIPTION("Example of a driver: adds up numbers in the memory of a process");
MODULE_AUTHOR("The cohmem developers");
MODULE_LICENSE("GPL");
MODULE_VERSION("0.1.0");
