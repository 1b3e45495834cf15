// SPDX-License-Identifier: GPL-2.0
/*
 * The reverse mapping of an anonymous page: its anon_vma, and the areas that are linked to it.
 *
 * What folio_lock_anon_vma_read() of mm/rmap.c does is not exported; kernel/sys/src/rmap.rs
 * takes the same steps with these.
 */
#include <linux/mm.h>
#include <linux/mmap_lock.h>
#include <linux/page-flags.h>
#include <linux/rcupdate.h>
#include <linux/rmap.h>

#include "helpers.h"

#ifdef FOLIO_MAPPING_ANON
#define MAPPING_ANON	FOLIO_MAPPING_ANON
#define MAPPING_FLAGS	FOLIO_MAPPING_FLAGS
#else
#define MAPPING_ANON	PAGE_MAPPING_ANON
#define MAPPING_FLAGS	PAGE_MAPPING_FLAGS
#endif

void cohmem_rcu_read_lock(void)
{
	rcu_read_lock();
}

void cohmem_rcu_read_unlock(void)
{
	rcu_read_unlock();
}

/* Null: not anonymous, or merged by KSM. */
struct anon_vma *cohmem_page_anon_vma(struct page *page)
{
	const unsigned long mapping = (unsigned long)READ_ONCE(page_folio(page)->mapping);

	if ((mapping & MAPPING_FLAGS) != MAPPING_ANON)
		return NULL;
	return (struct anon_vma *)(mapping - MAPPING_ANON);
}

struct rw_semaphore *cohmem_anon_vma_lock_of(struct anon_vma *anon_vma)
{
	return &READ_ONCE(anon_vma->root)->rwsem;
}

/* Under the lock, as the next two. */
struct rb_node *cohmem_anon_vma_first(struct anon_vma *anon_vma)
{
	return rb_first_cached(&anon_vma->rb_root);
}

struct vm_area_struct *cohmem_anon_vma_area(struct rb_node *node)
{
	return rb_entry(node, struct anon_vma_chain, rb)->vma;
}

struct anon_vma *cohmem_vma_anon_vma(struct vm_area_struct *vma)
{
	return vma->anon_vma;
}

struct mm_struct *cohmem_vma_mm(struct vm_area_struct *vma)
{
	return vma->vm_mm;
}

bool cohmem_mmap_read_trylock(struct mm_struct *mm)
{
	return mmap_read_trylock(mm);
}
