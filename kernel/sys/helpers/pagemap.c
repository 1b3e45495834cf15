// SPDX-License-Identifier: GPL-2.0
/*
 * The operations and members of struct dev_pagemap differ between kernels. The callbacks are here,
 * so that the C compiler checks their types; each calls its Rust function.
 */
#include <linux/align.h>
#include <linux/memremap.h>
#include <linux/mm.h>
#include <linux/version.h>

#include "helpers.h"

#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 19, 0)
static void folio_free(struct folio *folio)
{
	cohmem_frame_freed(folio_page(folio, 0));
}
#else
static void page_free(struct page *page)
{
	cohmem_frame_freed(page);
}
#endif

static int memory_failure_op(struct dev_pagemap *pagemap, unsigned long pfn,
			     unsigned long nr_pages, int flags)
{
	return cohmem_memory_failed(pagemap, pfn, nr_pages);
}

#ifdef CONFIG_DEVICE_PRIVATE
static vm_fault_t migrate_to_ram(struct vm_fault *vmf)
{
	const int error = cohmem_page_touched(vmf->vma, vmf->address, vmf->page);

	return error ? vmf_error(error) : 0;
}
#endif

static const struct dev_pagemap_ops pagemap_ops = {
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 19, 0)
	.folio_free = folio_free,
#else
	.page_free = page_free,
#endif
#ifdef CONFIG_DEVICE_PRIVATE
	.migrate_to_ram = migrate_to_ram,
#endif
	.memory_failure = memory_failure_op,
};

void cohmem_pagemap_fill(struct dev_pagemap *pagemap, bool is_private, u64 phys, u64 bytes,
			 void *owner)
{
	pagemap->type = is_private ? MEMORY_DEVICE_PRIVATE : MEMORY_DEVICE_COHERENT;
	pagemap->ops = &pagemap_ops;
	pagemap->owner = owner;
	pagemap->nr_range = 1;
	pagemap->range.start = phys;
	pagemap->range.end = phys + bytes - 1;
}

/* The first frames of the range hold its struct pages. */
void cohmem_pagemap_set_altmap(struct dev_pagemap *pagemap, u64 nr_metadata)
{
	pagemap->flags |= PGMAP_ALTMAP_VALID;
	pagemap->altmap.base_pfn = PHYS_PFN(pagemap->range.start);
	pagemap->altmap.free = nr_metadata;
}

struct dev_pagemap *cohmem_page_pagemap(struct page *page)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 14, 0)
	return page_pgmap(page);
#else
	return page->pgmap;
#endif
}

/* Returns with the page locked and one reference. */
void cohmem_device_page_init(struct page *page)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 19, 0)
	zone_device_page_init(page, page_pgmap(page), 0);
#else
	zone_device_page_init(page);
#endif
}

/* mm/migrate_device.c: 6.12 skips them, 7.2 splits them first. */
bool cohmem_moves_partly_mapped_folios(void)
{
	return LINUX_VERSION_CODE >= KERNEL_VERSION(7, 2, 0);
}
