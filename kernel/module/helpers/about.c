// SPDX-License-Identifier: GPL-2.0
/* The module's description: macros that fill a section of their own. */
#include <linux/module.h>

MODULE_DESCRIPTION("Device-owned coherent memory: migrates process memory there and back");
MODULE_AUTHOR("The cohmem developers");
MODULE_LICENSE("GPL");
MODULE_VERSION("0.1.0");
