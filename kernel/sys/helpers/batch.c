// SPDX-License-Identifier: GPL-2.0
/* The encoding of the entries of migrate_vma's arrays is inline. */
#include <linux/migrate.h>

#include "helpers.h"

unsigned long cohmem_migrate_pfn(unsigned long pfn)
{
	return migrate_pfn(pfn);
}

struct page *cohmem_migrate_pfn_to_page(unsigned long entry)
{
	return migrate_pfn_to_page(entry);
}

bool cohmem_migrate_is_moving(unsigned long entry)
{
	return entry & MIGRATE_PFN_MIGRATE;
}
