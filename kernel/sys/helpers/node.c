// SPDX-License-Identifier: GPL-2.0
/* Members of structures that the configuration changes, and a macro on the newest kernels. */
#include <linux/debugfs.h>
#include <linux/fs.h>
#include <linux/gfp.h>
#include <linux/mm.h>

#include "helpers.h"

void *cohmem_inode_private(const struct inode *inode)
{
	return inode->i_private;
}

struct dentry *cohmem_debugfs_create_file(const char *name, unsigned short mode, void *data,
					  const struct file_operations *operations)
{
	return debugfs_create_file(name, mode, NULL, data, operations);
}

struct page *cohmem_alloc_zeroed_page(void)
{
	return alloc_page(GFP_KERNEL | __GFP_ZERO);
}
