// SPDX-License-Identifier: GPL-2.0
/* Part of a module with test hooks only. init_irq_work is inline. */
#include <linux/irq_work.h>

#include "helpers.h"

void cohmem_irq_work_init(struct irq_work *work, void (*call)(struct irq_work *))
{
	init_irq_work(work, call);
}
