// SPDX-License-Identifier: GPL-2.0
/* Macros around locks and the scheduler, reference counts, time, the mask of processors. */
#include <linux/cpu.h>
#include <linux/cpumask.h>
#include <linux/jiffies.h>
#include <linux/ktime.h>
#include <linux/lockdep.h>
#include <linux/refcount.h>
#include <linux/rwsem.h>
#include <linux/sched.h>
#include <linux/workqueue.h>

#include "helpers.h"

void cohmem_rwsem_init(struct rw_semaphore *semaphore, const char *name, struct lock_class_key *key)
{
	__init_rwsem(semaphore, name, key);
}

void cohmem_register_lock_class(struct lock_class_key *key)
{
	lockdep_register_key(key);
}

void cohmem_unregister_lock_class(struct lock_class_key *key)
{
	lockdep_unregister_key(key);
}

void cohmem_refcount_set(refcount_t *count, int value)
{
	refcount_set(count, value);
}

void cohmem_refcount_inc(refcount_t *count)
{
	refcount_inc(count);
}

bool cohmem_refcount_dec_and_test(refcount_t *count)
{
	return refcount_dec_and_test(count);
}

void cohmem_relax(void)
{
	cond_resched();
}

long cohmem_ms_to_jiffies(u64 milliseconds)
{
	return msecs_to_jiffies(min_t(u64, milliseconds, UINT_MAX));
}

u64 cohmem_now_ms(void)
{
	return ktime_to_ms(ktime_get());
}

u64 cohmem_now_ns(void)
{
	return ktime_get_ns();
}

unsigned int cohmem_next_online_cpu(int cpu)
{
	return cpumask_next(cpu, cpu_online_mask);
}

unsigned int cohmem_nr_cpus(void)
{
	return nr_cpu_ids;
}

/* -ENODEV if the processor went offline; keeps it online meanwhile. */
long cohmem_call_on_cpu(int cpu, long (*call)(void *), void *arg)
{
	long result = -ENODEV;

	cpus_read_lock();
	if (cpu_online(cpu))
		result = work_on_cpu(cpu, call, arg);
	cpus_read_unlock();
	return result;
}
