// SPDX-License-Identifier: GPL-2.0
/*
 * Page flags are inline functions made by macros, and the layout of struct page differs between
 * kernels.
 *
 * The tests take no reference: a page that is freed meanwhile gives a stale answer, never a fault,
 * since struct pages of online memory do not go away.
 */
#include <linux/highmem.h>
#include <linux/ksm.h>
#include <linux/memremap.h>
#include <linux/mm.h>
#include <linux/page-flags.h>
#include <linux/pagemap.h>
#include <linux/version.h>

#include "helpers.h"

struct page *cohmem_pfn_to_page(unsigned long pfn)
{
	return pfn_to_page(pfn);
}

unsigned long cohmem_page_to_pfn(struct page *page)
{
	return page_to_pfn(page);
}

/* The page that holds its content: that of a private page is kept beside it. */
struct page *cohmem_page_content(struct page *page)
{
	return is_device_private_page(page) ? page->zone_device_data : page;
}

void cohmem_page_set_content(struct page *page, struct page *content)
{
	page->zone_device_data = content;
}

void *cohmem_page_address(struct page *page)
{
	return page_address(cohmem_page_content(page));
}

/* All tests at once: one call a page, and no decision. */
void cohmem_page_facts(struct page *page, struct cohmem_page_facts *facts)
{
	struct folio *folio = page_folio(page);

	facts->is_zero = is_zero_pfn(page_to_pfn(page));
	facts->is_anonymous = folio_test_anon(folio);
	facts->is_ksm = folio_test_ksm(folio);
	facts->is_large = folio_test_large(folio);
	facts->is_locked = folio_test_locked(folio);
	facts->is_on_lru = folio_test_lru(folio);
	facts->is_in_swapcache = folio_test_swapcache(folio);
	facts->is_pinned = folio_maybe_dma_pinned(folio);
	facts->is_poisoned = PageHWPoison(page);
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 15, 0)
	facts->is_shared = folio_maybe_mapped_shared(folio);
#else
	facts->is_shared = folio_likely_mapped_shared(folio);
#endif
	facts->refs = folio_ref_count(folio);
	facts->maps = folio_mapcount(folio);
}

bool cohmem_page_is_poisoned(struct page *page)
{
	return PageHWPoison(page);
}

bool cohmem_page_is_mlocked(struct page *page)
{
	return folio_test_mlocked(page_folio(page));
}

bool cohmem_page_is_mapped(struct page *page)
{
	return folio_mapped(page_folio(page));
}

bool cohmem_page_try_get(struct page *page)
{
	return get_page_unless_zero(page);
}

bool cohmem_page_try_lock(struct page *page)
{
	return trylock_page(page);
}

void cohmem_page_unlock(struct page *page)
{
	unlock_page(page);
}

void cohmem_page_clear(struct page *page)
{
	clear_highpage(cohmem_page_content(page));
}

void cohmem_page_set_poisoned(struct page *page)
{
	SetPageHWPoison(page);
}

/* The kernel skips device pages when it takes mlock accounting back. Any context. */
void cohmem_page_forget_mlock(struct page *page)
{
	mod_zone_page_state(page_zone(page), NR_MLOCK, -1);
}

/*
 * Clears every flag that a former owner left; what the page is (reserved, its node and zone) and
 * that it is poisoned stays. Atomic, since the poison flag may be set meanwhile.
 */
void cohmem_page_forget_flags(struct page *page)
{
	const unsigned long keep = BIT(PG_reserved) | BIT(PG_hwpoison);
	const unsigned long clear = (PAGEFLAGS_MASK | LRU_GEN_MASK | LRU_REFS_MASK) & ~keep;

#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 18, 0)
	atomic_long_and(~clear, (atomic_long_t *)&page->flags.f);
#else
	atomic_long_and(~clear, (atomic_long_t *)&page->flags);
#endif
}
