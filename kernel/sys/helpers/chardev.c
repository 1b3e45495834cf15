// SPDX-License-Identifier: GPL-2.0
/* Macros around device numbers and error pointers. */
#include <linux/device.h>
#include <linux/magic.h>
#include <linux/err.h>
#include <linux/fs.h>
#include <linux/kdev_t.h>

#include "helpers.h"

unsigned int cohmem_minor(const struct inode *inode)
{
	return iminor(inode);
}

unsigned int cohmem_device_minor(const struct device *device)
{
	return MINOR(device->devt);
}

bool cohmem_file_is_of_procfs(struct file *file)
{
	return file_inode(file)->i_sb->s_magic == PROC_SUPER_MAGIC;
}

bool cohmem_file_is_readable(const struct file *file)
{
	return file->f_mode & FMODE_READ;
}

u32 cohmem_device_number(u32 base, u32 minor)
{
	return MKDEV(MAJOR(base), MINOR(base) + minor);
}

bool cohmem_is_err(const void *pointer)
{
	return IS_ERR(pointer);
}

long cohmem_ptr_err(const void *pointer)
{
	return PTR_ERR(pointer);
}
