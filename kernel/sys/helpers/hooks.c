// SPDX-License-Identifier: GPL-2.0
/* Part of a module with test hooks only. init_irq_work is inline. */
#include <linux/irq_work.h>
#include <linux/rcupdate.h>
#include <linux/rmap.h>

#include "helpers.h"

void cohmem_irq_work_init(struct irq_work *work, void (*call)(struct irq_work *))
{
	init_irq_work(work, call);
}

/* An anon_vma that was freed has no reference, until it is used again. */
bool cohmem_page_is_orphan(struct page *page)
{
	struct anon_vma *anon_vma;
	bool is_orphan;

	rcu_read_lock();
	anon_vma = cohmem_page_anon_vma(page);
	is_orphan = anon_vma && !atomic_read(&anon_vma->refcount);
	rcu_read_unlock();
	return is_orphan;
}
