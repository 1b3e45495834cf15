/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Inline functions and macros of the kernel as functions that Rust can call, and structures whose
 * members differ between kernels filled from plain arguments. One forwarding call or macro each:
 * no policy, no loops, no state. The C file of a function is named for the kernel's header area.
 *
 * The functions at the end are the Rust functions that C code calls.
 */
#ifndef COHMEM_HELPERS_H
#define COHMEM_HELPERS_H

#include <linux/refcount.h>
#include <linux/types.h>

struct anon_vma;
struct attribute;
struct attribute_group;
struct cgroup;
struct class;
struct dentry;
struct dev_ext_attribute;
struct dev_pagemap;
struct device;
struct device_attribute;
struct file;
struct file_operations;
struct folio;
struct inode;
struct irq_work;
struct lock_class_key;
struct mm_struct;
struct mmu_interval_notifier;
struct mmu_notifier_range;
struct page;
struct rb_node;
struct resource;
struct rw_semaphore;
struct vm_area_struct;
struct xarray;

/* memory.c: allocation and the state of system memory */
void *cohmem_kvzalloc(size_t bytes);
struct page *cohmem_alloc_page(bool is_movable);
unsigned long cohmem_alloc_pages_bulk(bool is_movable, unsigned long nr_pages,
				      struct page **pages);
void cohmem_put_page(struct page *page);
u64 cohmem_free_swap_pages(void);
u64 cohmem_total_pages(void);

/* page.c: one page */
struct page *cohmem_pfn_to_page(unsigned long pfn);
unsigned long cohmem_page_to_pfn(struct page *page);
struct page *cohmem_page_content(struct page *page);
void cohmem_page_set_content(struct page *page, struct page *content);
void *cohmem_page_address(struct page *page);
struct cohmem_page_facts {
	bool is_zero;
	bool is_anonymous;
	bool is_ksm;
	bool is_large;
	bool is_locked;
	bool is_on_lru;
	bool is_in_swapcache;
	bool is_pinned;
	bool is_poisoned;
	bool is_shared;
	int refs;
	int maps;
};
void cohmem_page_facts(struct page *page, struct cohmem_page_facts *facts);
bool cohmem_page_is_poisoned(struct page *page);
bool cohmem_page_is_mlocked(struct page *page);
bool cohmem_page_is_mapped(struct page *page);
bool cohmem_page_try_get(struct page *page);
bool cohmem_page_try_lock(struct page *page);
void cohmem_page_unlock(struct page *page);
void cohmem_page_clear(struct page *page);
void cohmem_page_set_poisoned(struct page *page);
void cohmem_page_forget_mlock(struct page *page);
void cohmem_page_forget_flags(struct page *page);

/* copy.c: a copy that survives lost memory */
unsigned long cohmem_copy_words_mc(void *to, const void *from, unsigned long nr_words);
bool cohmem_string_moves_are_fast(void);
bool cohmem_string_moves_may_not_recover(void);

/* batch.c: migration entries */
unsigned long cohmem_migrate_pfn(unsigned long pfn);
struct page *cohmem_migrate_pfn_to_page(unsigned long entry);
bool cohmem_migrate_is_moving(unsigned long entry);

/* vma.c: areas and page tables */
unsigned long cohmem_vma_start(const struct vm_area_struct *vma);
unsigned long cohmem_vma_end(const struct vm_area_struct *vma);
bool cohmem_vma_is_hugetlb(struct vm_area_struct *vma);
bool cohmem_vma_is_special(const struct vm_area_struct *vma);
bool cohmem_vma_is_dax(struct vm_area_struct *vma);
bool cohmem_vma_is_shared(const struct vm_area_struct *vma);
bool cohmem_vma_is_executable(const struct vm_area_struct *vma);
bool cohmem_vma_is_readable(const struct vm_area_struct *vma);
bool cohmem_vma_awaits_userfault(struct vm_area_struct *vma);
bool cohmem_vma_is_anonymous(struct vm_area_struct *vma);
unsigned int cohmem_hmm_map_order(unsigned long entry);
enum cohmem_pte_kind {
	COHMEM_PTE_NO_TABLE,
	COHMEM_PTE_POISONED,
	COHMEM_PTE_OTHER,
};
enum cohmem_pte_kind cohmem_pte_kind(struct mm_struct *mm, unsigned long address);
bool cohmem_mm_has_swapped_pages(struct mm_struct *mm);

/* process.c: the calling task and its address space */
struct mm_struct *cohmem_current_mm(void);
void cohmem_mmget(struct mm_struct *mm);
bool cohmem_mmget_not_zero(struct mm_struct *mm);
int cohmem_mmap_read_lock_killable(struct mm_struct *mm);
void cohmem_mmap_read_unlock(struct mm_struct *mm);
u64 cohmem_user_end(void);
u32 cohmem_real_user(void);
u32 cohmem_current_process(void);
void cohmem_mm_process(struct mm_struct *mm, u32 *number, u64 *began_ns);
struct cgroup *cohmem_own_cgroup(void);
u64 cohmem_cgroup_number_at(struct cgroup *group, int level);
void cohmem_cgroup_put(struct cgroup *group);
bool cohmem_is_killed(void);
bool cohmem_is_signalled(void);
unsigned long cohmem_copy_from_user(void *to, u64 from, size_t bytes);
unsigned long cohmem_copy_to_user(u64 to, const void *from, size_t bytes);

/* pagemap.c: device memory */
void cohmem_pagemap_fill(struct dev_pagemap *pagemap, bool is_private, u64 phys, u64 bytes,
			 void *owner);
void cohmem_pagemap_set_altmap(struct dev_pagemap *pagemap, u64 nr_metadata);
struct dev_pagemap *cohmem_page_pagemap(struct page *page);
void cohmem_device_page_init(struct page *page);
bool cohmem_moves_partly_mapped_folios(void);

/* range.c: physical ranges and nodes */
u64 cohmem_phys_end(void);
u64 cohmem_pluggable_end(void);
bool cohmem_overlaps_ram(u64 phys, u64 bytes);
int cohmem_walk_soft_reserved(u64 start, u64 end, void *arg,
			      int (*visit)(struct resource *, void *));
int cohmem_walk_claims(u64 start, u64 end, void *arg, int (*visit)(struct resource *, void *));
u64 cohmem_resource_start(const struct resource *resource);
u64 cohmem_resource_end(const struct resource *resource);
bool cohmem_request_range(u64 phys, u64 bytes);
int cohmem_request_free_addresses(u64 bytes, u64 *phys);
void cohmem_release_range(u64 phys, u64 bytes);
int cohmem_first_node(void);
int cohmem_next_node(int node);
bool cohmem_node_is_online(int node);
int cohmem_node_distance(int from, int to);

/* rmap.c: who maps an anonymous page */
void cohmem_rcu_read_lock(void);
void cohmem_rcu_read_unlock(void);
struct anon_vma *cohmem_page_anon_vma(struct page *page);
struct rw_semaphore *cohmem_anon_vma_lock_of(struct anon_vma *anon_vma);
struct rb_node *cohmem_anon_vma_first(struct anon_vma *anon_vma);
struct vm_area_struct *cohmem_anon_vma_area(struct rb_node *node);
struct anon_vma *cohmem_vma_anon_vma(struct vm_area_struct *vma);
struct mm_struct *cohmem_vma_mm(struct vm_area_struct *vma);
bool cohmem_mmap_read_trylock(struct mm_struct *mm);

/* sync.c: locks, counts, time, processors */
void cohmem_rwsem_init(struct rw_semaphore *semaphore, const char *name, struct lock_class_key *key);
void cohmem_register_lock_class(struct lock_class_key *key);
void cohmem_unregister_lock_class(struct lock_class_key *key);
void cohmem_refcount_set(refcount_t *count, int value);
void cohmem_refcount_inc(refcount_t *count);
bool cohmem_refcount_dec_and_test(refcount_t *count);
void cohmem_relax(void);
long cohmem_ms_to_jiffies(u64 milliseconds);
u64 cohmem_now_ms(void);
u64 cohmem_now_ns(void);
unsigned int cohmem_next_online_cpu(int cpu);
unsigned int cohmem_nr_cpus(void);
long cohmem_call_on_cpu(int cpu, long (*call)(void *), void *arg);

/* power.c: what a notifier returns */
int cohmem_notify_error(int error);

/* chardev.c: device numbers, errors as pointers */
unsigned int cohmem_minor(const struct inode *inode);
unsigned int cohmem_device_minor(const struct device *device);
bool cohmem_file_is_of_procfs(struct file *file);
bool cohmem_file_is_readable(const struct file *file);
void cohmem_attribute_fill(struct dev_ext_attribute *attribute, const char *name, umode_t mode,
			   ssize_t (*show)(struct device *, struct device_attribute *, char *),
			   void *var);
void cohmem_attribute_group_fill(struct attribute_group *group, struct attribute **list);
u32 cohmem_device_number(u32 base, u32 minor);
bool cohmem_is_err(const void *pointer);
long cohmem_ptr_err(const void *pointer);

/* mirror.c: mirrored address spaces */
void cohmem_interval_set_seq(struct mmu_interval_notifier *notifier, unsigned long seq);
bool cohmem_interval_must_retry(struct mmu_interval_notifier *notifier, unsigned long seq);
bool cohmem_notifier_may_block(const struct mmu_notifier_range *range);
struct page *cohmem_hmm_page(unsigned long entry);
bool cohmem_page_is_zero(const struct page *page);
const void *cohmem_device_owner(struct page *page);
bool cohmem_page_is_private(struct page *page);
bool cohmem_notifier_is_exclusive_for(const struct mmu_notifier_range *range, const void *owner);
struct page *cohmem_make_exclusive(struct mm_struct *mm, unsigned long address, void *owner);

/* xarray.c: sparse arrays */
void cohmem_xa_init(struct xarray *array);
int cohmem_xa_store(struct xarray *array, unsigned long index, void *entry);
void *cohmem_xa_find(struct xarray *array, unsigned long *index, unsigned long last);

/* node.c: files of a driver */
void *cohmem_inode_private(const struct inode *inode);
struct dentry *cohmem_debugfs_create_file(const char *name, unsigned short mode, void *data,
					  const struct file_operations *operations);
struct page *cohmem_alloc_zeroed_page(void);

/* trace.c, in the driver only: tracepoints */
struct cohmem_traced {
	u64 start;
	u64 frame;
	u32 device;
	u32 nr_pages;
	u32 process;
	u32 by;
	u8 event;
	u8 cause;
	u8 reason;
	u8 other;
};
void cohmem_trace_moved(const struct cohmem_traced *traced);
void cohmem_trace_stayed(const struct cohmem_traced *traced);

/* hooks.c, in a module with test hooks only */
bool cohmem_page_is_orphan(struct page *page);
void cohmem_irq_work_init(struct irq_work *work, void (*call)(struct irq_work *));

/* module.c */
void cohmem_bug(void) __attribute__((noreturn));
void cohmem_warn(void);

/* Called by C, defined in Rust. */
int cohmem_module_init(void);
void cohmem_module_exit(void);
void cohmem_frame_freed(struct page *page);
int cohmem_memory_failed(struct dev_pagemap *pagemap, unsigned long pfn, unsigned long nr_pages);
int cohmem_page_touched(struct vm_area_struct *vma, unsigned long address, struct page *page);

#endif /* COHMEM_HELPERS_H */
