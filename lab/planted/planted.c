// SPDX-License-Identifier: GPL-2.0
/*
 * Does wrong on request, so that the lab can show that it notices: write a bug's name to
 * /sys/module/planted/parameters/bug. Only for the lab: most of these end the machine.
 */
#include <linux/debug_locks.h>
#include <linux/delay.h>
#include <linux/device.h>
#include <linux/mm.h>
#include <linux/mman.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/refcount.h>
#include <linux/sched.h>
#include <linux/slab.h>

static ssize_t allocated_show(struct device *dev, struct device_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "5\n");
}
static DEVICE_ATTR_RO(allocated);

static struct class *leaky_class;
static struct device *leaky_device;

/* Looks like a device of the driver's that has frames out. */
static int plant_leak(void)
{
	leaky_class = class_create("cohmem");
	if (IS_ERR(leaky_class))
		return PTR_ERR(leaky_class);
	leaky_device = device_create(leaky_class, NULL, 0, NULL, "cohmem0");
	if (IS_ERR(leaky_device))
		return PTR_ERR(leaky_device);
	return device_create_file(leaky_device, &dev_attr_allocated);
}

static void spin_forever(void *unused)
{
	for (;;)
		cpu_relax();
}

static DEFINE_MUTEX(first);
static DEFINE_MUTEX(second);

/* Two orders of two locks: no deadlock yet. */
static void lock_in_circles(void)
{
	mutex_lock(&first);
	mutex_lock(&second);
	mutex_unlock(&second);
	mutex_unlock(&first);
	mutex_lock(&second);
	mutex_lock(&first);
	mutex_unlock(&first);
	mutex_unlock(&second);
}

static int map_again(pte_t *pte, unsigned long address, void *data)
{
	struct page *page = data;

	set_pte_at(current->mm, address, pte, mk_pte(page, PAGE_SHARED));
	return 0;
}

/* A page of the caller's stack gets a second, writable mapping, of which its rmap knows nothing. */
static int share_private_page(void)
{
	unsigned long address = current->mm->start_stack & PAGE_MASK;
	struct page *page;
	int ret = get_user_pages_fast(address, 1, FOLL_WRITE, &page);

	if (ret != 1)
		return ret < 0 ? ret : -EFAULT;
	address = vm_mmap(NULL, 0, PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, 0);
	if (IS_ERR_VALUE(address))
		return (int)address;
	return apply_to_page_range(current->mm, address, PAGE_SIZE, map_again, page);
}

static int plant(const char *value, const struct kernel_param *param)
{
	refcount_t count = REFCOUNT_INIT(1);
	void *object;

	if (sysfs_streq(value, "warn")) {
		WARN(1, "planted\n");
	} else if (sysfs_streq(value, "refcount")) {
		refcount_dec(&count);
	} else if (sysfs_streq(value, "bug")) {
		BUG();
	} else if (sysfs_streq(value, "oops")) {
		WRITE_ONCE(*(int *)8, 1);
	} else if (sysfs_streq(value, "panic")) {
		panic("planted");
	} else if (sysfs_streq(value, "double-free")) {
		object = kmalloc(64, GFP_KERNEL);
		kfree(object);
		kfree(object);
	} else if (sysfs_streq(value, "sleep-in-atomic")) {
		preempt_disable();
		schedule_timeout_uninterruptible(1);
		preempt_enable();
	} else if (sysfs_streq(value, "soft-lockup")) {
		preempt_disable();
		spin_forever(NULL);
	} else if (sysfs_streq(value, "stuck")) {
		/* With interrupts off everywhere no detector of a stock kernel runs. */
		on_each_cpu(spin_forever, NULL, 0);
	} else if (sysfs_streq(value, "uninterruptible")) {
		for (;;)
			schedule_timeout_uninterruptible(HZ);
	} else if (sysfs_streq(value, "hung-task")) {
		set_current_state(TASK_UNINTERRUPTIBLE);
		schedule();
	} else if (sysfs_streq(value, "taint")) {
		add_taint(TAINT_BAD_PAGE, LOCKDEP_STILL_OK);
	} else if (sysfs_streq(value, "log")) {
		pr_info("BUG: planted\n");
	} else if (sysfs_streq(value, "lockdep-log")) {
		/* What the lock validator of a debug kernel would print. */
		pr_info("WARNING: possible circular locking dependency detected\n");
	} else if (sysfs_streq(value, "lockdep")) {
		lock_in_circles();
	} else if (sysfs_streq(value, "lockdep-off")) {
		/* As after a complaint whose text was lost. */
		debug_locks_off();
	} else if (sysfs_streq(value, "kasan")) {
		object = kmalloc(64, GFP_KERNEL);
		READ_ONCE(((char *)object)[64]);
		kfree(object);
	} else if (sysfs_streq(value, "might-sleep")) {
		preempt_disable();
		might_sleep();
		preempt_enable();
	} else if (sysfs_streq(value, "page-table")) {
		return share_private_page();
	} else if (sysfs_streq(value, "kmemleak")) {
		object = kmalloc(64, GFP_KERNEL);
		OPTIMIZER_HIDE_VAR(object);
	} else if (sysfs_streq(value, "leak")) {
		return plant_leak();
	} else if (!sysfs_streq(value, "none")) {
		return -EINVAL;
	}
	return 0;
}

static const struct kernel_param_ops plant_ops = { .set = plant };
module_param_cb(bug, &plant_ops, NULL, 0200);
MODULE_PARM_DESC(bug, "what to do wrong");

MODULE_DESCRIPTION("Planted bugs for the lab's self-check");
MODULE_LICENSE("GPL");
