// SPDX-License-Identifier: GPL-2.0
/* Initialisation and the mark of a search are macros. */
#include <linux/xarray.h>

#include "helpers.h"

void cohmem_xa_init(struct xarray *array)
{
	xa_init(array);
}

/* 0, or an error; allocates from what is there, without waiting. */
int cohmem_xa_store(struct xarray *array, unsigned long index, void *entry)
{
	return xa_err(xa_store(array, index, entry, GFP_NOWAIT | __GFP_NOWARN));
}

void *cohmem_xa_find(struct xarray *array, unsigned long *index, unsigned long last)
{
	return xa_find(array, index, last, XA_PRESENT);
}
