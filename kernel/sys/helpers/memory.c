// SPDX-License-Identifier: GPL-2.0
/* Allocation macros (they carry a tag of their call site) and inline counters. */
#include <linux/gfp.h>
#include <linux/mm.h>
#include <linux/sizes.h>
#include <linux/slab.h>
#include <linux/swap.h>
#include <linux/version.h>
#include <linux/vmalloc.h>

#include "helpers.h"

void *cohmem_kvzalloc(size_t bytes)
{
	/* kmalloc() rounds up to a power of two, which for an array of a word a frame is much. */
	return bytes > SZ_64K ? vzalloc(bytes) : kvzalloc(bytes, GFP_KERNEL);
}

/* Tries hard, but calls no OOM killer and leaves the reserves alone. */
struct page *cohmem_alloc_page(bool is_movable)
{
	const gfp_t gfp = is_movable ? GFP_HIGHUSER_MOVABLE : GFP_HIGHUSER;

	return alloc_page(gfp | __GFP_RETRY_MAYFAIL | __GFP_NOWARN);
}

unsigned long cohmem_alloc_pages_bulk(bool is_movable, unsigned long nr_pages, struct page **pages)
{
	const gfp_t gfp = (is_movable ? GFP_HIGHUSER_MOVABLE : GFP_HIGHUSER) | __GFP_NORETRY |
			  __GFP_NOWARN;

#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 14, 0)
	return alloc_pages_bulk(gfp, nr_pages, pages);
#else
	return alloc_pages_bulk_array(gfp, nr_pages, pages);
#endif
}

void cohmem_put_page(struct page *page)
{
	put_page(page);
}

u64 cohmem_free_swap_pages(void)
{
	/* Negative while a partly used area is being given up (swapoff). */
	return max(get_nr_swap_pages(), 0L);
}

u64 cohmem_total_pages(void)
{
	return totalram_pages();
}
