// SPDX-License-Identifier: GPL-2.0
/* Resource and node macros; where the firmware's reservations are kept differs between kernels. */
#include <linux/err.h>
#include <linux/ioport.h>
#include <linux/memory_hotplug.h>
#include <linux/mm.h>
#include <linux/nodemask.h>
#include <linux/topology.h>
#include <linux/version.h>
#include <asm/processor.h>

#include "helpers.h"

u64 cohmem_phys_end(void)
{
	return 1ULL << boot_cpu_data.x86_phys_bits;
}

u64 cohmem_pluggable_end(void)
{
	return mhp_get_pluggable_range(true).end;
}

bool cohmem_overlaps_ram(u64 phys, u64 bytes)
{
	return region_intersects(phys, bytes, IORESOURCE_SYSTEM_RAM, IORES_DESC_NONE) !=
	       REGION_DISJOINT;
}

/* Calls `visit` for the soft-reserved parts of start..=end, by ascending address. */
int cohmem_walk_soft_reserved(u64 start, u64 end, void *arg,
			      int (*visit)(struct resource *, void *))
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 19, 0)
	return walk_soft_reserve_res(start, end, arg, visit);
#else
	return walk_iomem_res_desc(IORES_DESC_SOFT_RESERVED, IORESOURCE_MEM, start, end, arg,
				   visit);
#endif
}

/* Calls `visit` for what somebody has claimed of start..=end, by ascending address. */
int cohmem_walk_claims(u64 start, u64 end, void *arg, int (*visit)(struct resource *, void *))
{
	return walk_iomem_res_desc(IORES_DESC_NONE, IORESOURCE_MEM | IORESOURCE_BUSY, start, end,
				   arg, visit);
}

u64 cohmem_resource_start(const struct resource *resource)
{
	return resource->start;
}

u64 cohmem_resource_end(const struct resource *resource)
{
	return resource->end;
}

bool cohmem_request_range(u64 phys, u64 bytes)
{
	return request_mem_region(phys, bytes, "cohmem");
}

/* Addresses that nothing answers at, which is what private memory has. */
int cohmem_request_free_addresses(u64 bytes, u64 *phys)
{
#ifdef CONFIG_DEVICE_PRIVATE
	struct resource *resource = request_free_mem_region(&iomem_resource, bytes, "cohmem");

	if (IS_ERR(resource))
		return PTR_ERR(resource);
	*phys = resource->start;
	return 0;
#else
	return -EOPNOTSUPP;
#endif
}

void cohmem_release_range(u64 phys, u64 bytes)
{
	release_mem_region(phys, bytes);
}

int cohmem_first_node(void)
{
	return first_online_node;
}

int cohmem_next_node(int node)
{
	return next_online_node(node);
}

bool cohmem_node_is_online(int node)
{
	return node_online(node);
}

int cohmem_node_distance(int from, int to)
{
	return node_distance(from, to);
}
