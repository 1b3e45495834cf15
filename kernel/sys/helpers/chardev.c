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

/* Some members of these two are in unions on newer kernels. */
void cohmem_attribute_fill(struct dev_ext_attribute *attribute, const char *name, umode_t mode,
			   ssize_t (*show)(struct device *, struct device_attribute *, char *),
			   void *var)
{
	attribute->attr.attr.name = name;
	attribute->attr.attr.mode = mode;
	attribute->attr.show = show;
	attribute->var = var;
}

void cohmem_attribute_group_fill(struct attribute_group *group, struct attribute **list)
{
	group->attrs = list;
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
