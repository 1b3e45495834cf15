// SPDX-License-Identifier: GPL-2.0
/* Tests of areas are inline, and the members of their structures depend on the configuration. */
#include <linux/dax.h>
#include <linux/fs.h>
#include <linux/hmm.h>
#include <linux/hugetlb.h>
#include <linux/mm.h>
#include <linux/userfaultfd_k.h>

#include "helpers.h"

unsigned long cohmem_vma_start(const struct vm_area_struct *vma)
{
	return vma->vm_start;
}

unsigned long cohmem_vma_end(const struct vm_area_struct *vma)
{
	return vma->vm_end;
}

bool cohmem_vma_is_hugetlb(struct vm_area_struct *vma)
{
	return is_vm_hugetlb_page(vma);
}

bool cohmem_vma_is_special(const struct vm_area_struct *vma)
{
	return vma->vm_flags & VM_SPECIAL;
}

bool cohmem_vma_is_dax(struct vm_area_struct *vma)
{
	return vma_is_dax(vma);
}

bool cohmem_vma_is_shared(const struct vm_area_struct *vma)
{
	return vma->vm_flags & VM_SHARED;
}

bool cohmem_vma_is_executable(const struct vm_area_struct *vma)
{
	return vma->vm_flags & VM_EXEC;
}

bool cohmem_vma_is_readable(const struct vm_area_struct *vma)
{
	return vma->vm_flags & VM_READ;
}

bool cohmem_vma_awaits_userfault(struct vm_area_struct *vma)
{
	/* With write protection as well: a filled hole would be writable, and its writes not be told. */
	return userfaultfd_missing(vma) || userfaultfd_wp(vma);
}

bool cohmem_vma_is_anonymous(struct vm_area_struct *vma)
{
	return vma_is_anonymous(vma);
}

unsigned int cohmem_hmm_map_order(unsigned long entry)
{
	return hmm_pfn_to_map_order(entry);
}

bool cohmem_mm_has_swapped_pages(struct mm_struct *mm)
{
	/* The cheap number leaves out what each processor has counted of late: a few pages. */
	return get_mm_counter(mm, MM_SWAPENTS) || get_mm_counter_sum(mm, MM_SWAPENTS);
}
