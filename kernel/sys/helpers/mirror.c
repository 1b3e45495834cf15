// SPDX-License-Identifier: GPL-2.0
/*
 * The protocol of interval notifiers and the encoding of a walk's entries are inline; exclusive access
 * is another function on each kernel.
 */
#include <linux/err.h>
#include <linux/hmm.h>
#include <linux/memremap.h>
#include <linux/mm.h>
#include <linux/mmu_notifier.h>
#include <linux/rmap.h>
#include <linux/version.h>

#include "helpers.h"

void cohmem_interval_set_seq(struct mmu_interval_notifier *notifier, unsigned long seq)
{
	mmu_interval_set_seq(notifier, seq);
}

bool cohmem_interval_must_retry(struct mmu_interval_notifier *notifier, unsigned long seq)
{
	return mmu_interval_read_retry(notifier, seq);
}

bool cohmem_notifier_may_block(const struct mmu_notifier_range *range)
{
	return mmu_notifier_range_blockable(range);
}

struct page *cohmem_hmm_page(unsigned long entry)
{
	return hmm_pfn_to_page(entry);
}

bool cohmem_page_is_zero(const struct page *page)
{
	return is_zero_pfn(page_to_pfn(page));
}

/* NULL for a page that is no device's. */
const void *cohmem_device_owner(struct page *page)
{
	return is_device_coherent_page(page) || is_device_private_page(page) ?
		       cohmem_page_pagemap(page)->owner :
		       NULL;
}

bool cohmem_page_is_private(struct page *page)
{
	return is_device_private_page(page);
}

bool cohmem_notifier_is_exclusive_for(const struct mmu_notifier_range *range, const void *owner)
{
	return range->event == MMU_NOTIFY_EXCLUSIVE && range->owner == owner;
}

/* Returns the page, locked and with a reference, or an error as a pointer. */
struct page *cohmem_make_exclusive(struct mm_struct *mm, unsigned long address, void *owner)
{
#if !defined(CONFIG_DEVICE_PRIVATE)
	return ERR_PTR(-EOPNOTSUPP);
#elif LINUX_VERSION_CODE >= KERNEL_VERSION(6, 15, 0)
	struct folio *folio;

	return make_device_exclusive(mm, address, owner, &folio);
#else
	struct page *page = NULL;
	const int nr = make_device_exclusive_range(mm, address, address + PAGE_SIZE, &page, owner);

	if (nr < 0)
		return ERR_PTR(nr);
	return page ?: ERR_PTR(-EBUSY);
#endif
}
