// SPDX-License-Identifier: GPL-2.0
/* The protocol of interval notifiers and the encoding of a walk's entries are inline. */
#include <linux/hmm.h>
#include <linux/memremap.h>
#include <linux/mm.h>
#include <linux/mmu_notifier.h>

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

/* NULL for a page of other memory. */
const void *cohmem_coherent_owner(struct page *page)
{
	return is_device_coherent_page(page) ? cohmem_page_pagemap(page)->owner : NULL;
}
