// SPDX-License-Identifier: GPL-2.0
/*
 * `current` and what it leads to are macros; references to address spaces and control groups and user
 * copies are inline.
 */
#include <linux/cgroup.h>
#include <linux/cred.h>
#include <linux/err.h>
#include <linux/mm.h>
#include <linux/mmap_lock.h>
#include <linux/rcupdate.h>
#include <linux/sched.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/uaccess.h>
#include <linux/uidgid.h>
#include <linux/user_namespace.h>

#include "helpers.h"

struct mm_struct *cohmem_current_mm(void)
{
	return current->mm;
}

void cohmem_mmget(struct mm_struct *mm)
{
	mmget(mm);
}

bool cohmem_mmget_not_zero(struct mm_struct *mm)
{
	return mmget_not_zero(mm);
}

int cohmem_mmap_read_lock_killable(struct mm_struct *mm)
{
	return mmap_read_lock_killable(mm);
}

void cohmem_mmap_read_unlock(struct mm_struct *mm)
{
	mmap_read_unlock(mm);
}

u64 cohmem_user_end(void)
{
	return TASK_SIZE_MAX;
}

u32 cohmem_real_user(void)
{
	return from_kuid(&init_user_ns, current_uid());
}

u32 cohmem_current_process(void)
{
	return task_tgid_nr(current);
}

/* Both stay as they are where the kernel does not keep whose an address space is. */
void cohmem_mm_process(struct mm_struct *mm, u32 *number, u64 *began_ns)
{
#ifdef CONFIG_MEMCG
	struct task_struct *owner;

	rcu_read_lock();
	owner = rcu_dereference(mm->owner);
	if (owner) {
		*number = task_tgid_nr(owner);
		*began_ns = owner->group_leader->start_boottime;
	}
	rcu_read_unlock();
#endif
}

#ifdef CONFIG_CGROUPS
struct cgroup *cohmem_own_cgroup(void)
{
	struct cgroup *group;

	rcu_read_lock();
	group = task_dfl_cgroup(current);
	if (!cgroup_tryget(group))
		group = NULL;
	rcu_read_unlock();
	return group;
}

u64 cohmem_cgroup_number_at(struct cgroup *group, int level)
{
	struct cgroup *ancestor = cgroup_ancestor(group, level);

	return ancestor ? cgroup_id(ancestor) : 0;
}

void cohmem_cgroup_put(struct cgroup *group)
{
	cgroup_put(group);
}
#else
struct cgroup *cohmem_own_cgroup(void)
{
	return ERR_PTR(-EOPNOTSUPP);
}

u64 cohmem_cgroup_number_at(struct cgroup *group, int level)
{
	return 0;
}

void cohmem_cgroup_put(struct cgroup *group)
{
}
#endif

bool cohmem_is_killed(void)
{
	return fatal_signal_pending(current);
}

bool cohmem_is_signalled(void)
{
	return signal_pending(current);
}

unsigned long cohmem_copy_from_user(void *to, u64 from, size_t bytes)
{
	return copy_from_user(to, u64_to_user_ptr(from), bytes);
}

unsigned long cohmem_copy_to_user(u64 to, const void *from, size_t bytes)
{
	return copy_to_user(u64_to_user_ptr(to), from, bytes);
}
