// SPDX-License-Identifier: GPL-2.0
/* Tests of areas and the steps down page tables are inline, and differ between kernels. */
#include <linux/dax.h>
#include <linux/fs.h>
#include <linux/hmm.h>
#include <linux/hugetlb.h>
#include <linux/mm.h>
#include <linux/pgtable.h>
#include <linux/userfaultfd_k.h>
#include <linux/version.h>

#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 19, 0)
#include <linux/leafops.h>
#else
#include <linux/swapops.h>
#endif

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

/* Interrupts off: the tables stay, as for the fast walk of get_user_pages. */
static bool read_pte(struct mm_struct *mm, unsigned long address, pte_t *pte)
{
	pgd_t *pgdp = pgd_offset(mm, address);
	pgd_t pgd = READ_ONCE(*pgdp);
	p4d_t *p4dp, p4d;
	pud_t *pudp, pud;
	pmd_t pmd;

	if (pgd_none(pgd))
		return false;
	p4dp = p4d_offset_lockless(pgdp, pgd, address);
	p4d = READ_ONCE(*p4dp);
	if (!p4d_present(p4d))
		return false;
	pudp = pud_offset_lockless(p4dp, p4d, address);
	pud = READ_ONCE(*pudp);
	if (!pud_present(pud) || pud_leaf(pud))
		return false;
	pmd = READ_ONCE(*pmd_offset_lockless(pudp, pud, address));
	if (!pmd_present(pmd) || pmd_leaf(pmd))
		return false;
	*pte = ptep_get_lockless(pte_offset_kernel(&pmd, address));
	return true;
}

static bool is_poisoned(pte_t pte)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 19, 0)
	return softleaf_is_hwpoison(softleaf_from_pte(pte));
#else
	return is_swap_pte(pte) && is_hwpoison_entry(pte_to_swp_entry(pte));
#endif
}

enum cohmem_pte_kind cohmem_pte_kind(struct mm_struct *mm, unsigned long address)
{
	unsigned long flags;
	bool has_table;
	pte_t pte;

	local_irq_save(flags);
	has_table = read_pte(mm, address, &pte);
	local_irq_restore(flags);
	if (!has_table)
		return COHMEM_PTE_NO_TABLE;
	return is_poisoned(pte) ? COHMEM_PTE_POISONED : COHMEM_PTE_OTHER;
}

bool cohmem_mm_has_swapped_pages(struct mm_struct *mm)
{
	/* The cheap number leaves out what each processor has counted of late: a few pages. */
	return get_mm_counter(mm, MM_SWAPENTS) || get_mm_counter_sum(mm, MM_SWAPENTS);
}
