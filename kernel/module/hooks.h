/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What tests may do to a module that was built with hooks (`cargo xtask kmod --hooks`). Not an ABI:
 * it changes with the tests. All commands are for the control node and need CAP_SYS_ADMIN.
 *
 * A hook acts on the next work of any process: use them in a guest with one test at a time, and end
 * each test with COHMEM_HOOK_RESET.
 */
#ifndef COHMEM_HOOKS_H
#define COHMEM_HOOKS_H

#include <linux/ioctl.h>
#include <linux/types.h>

#define COHMEM_HOOK_MAGIC	0xBD

/* Where the driver's work can be delayed; see cohmem_kcore::host::Point. */
enum cohmem_hook_point {
	COHMEM_HOOK_ALLOCATING	= 0,
	COHMEM_HOOK_COLLECTED	= 1,
	COHMEM_HOOK_FILLED	= 2,
	COHMEM_HOOK_COMMITTED	= 3,
};

/* What can be made to fail. */
enum cohmem_hook_what {
	/* A refill of the stock of system pages adds nothing. */
	COHMEM_HOOK_REFILL	= 0,
	/* A page's content is unreadable. */
	COHMEM_HOOK_COPY	= 1,
	/* Memory for the driver's own buffers, arrays and boxes: ENOMEM. */
	COHMEM_HOOK_MEMORY	= 2,
	/* Registering a chunk: ENOMEM. */
	COHMEM_HOOK_REGISTER	= 3,
	/* Creating a device node: ENOMEM. */
	COHMEM_HOOK_PUBLISH	= 4,
};

/*
 * HOLD: takes a plain reference (FOLL_GET) to the page that the caller maps at @address, as a
 * driver does that never heard of FOLL_PIN. One page at a time: EBUSY. EFAULT: no such page.
 */
struct cohmem_hook_hold {
	__u64 address;
};

/*
 * LATE_WRITE: once the held page was copied as the source of a migration, writes @value at @offset
 * (a multiple of 8 below 4096, else EINVAL) to the held page and gives the reference up. ENODEV:
 * no page is held.
 */
struct cohmem_hook_late_write {
	__u64 offset;
	__u64 value;
};

/* DELAY: sleeps @milliseconds whenever the driver reaches @point; 0 ends it. */
struct cohmem_hook_delay {
	__u32 point;
	__u32 milliseconds;
};

/* FAIL: lets @nr_skipped go well, and then fails @count. */
struct cohmem_hook_fail {
	__u32 what;
	__u32 nr_skipped;
	__u32 count;
	__u32 pad;
};

/* FIRED: (out) how often each hook acted since the last reset. */
struct cohmem_hook_fired {
	__u64 nr_late_writes;
	__u64 nr_irq_frees;
	__u64 nr_delays;
	__u64 nr_failures;
	/* 1 while a page is held. */
	__u64 is_holding;
	/* Pages that were copied while nothing kept their reverse mapping. */
	__u64 nr_orphans;
};

#define COHMEM_HOOK_HOLD	_IOWR(COHMEM_HOOK_MAGIC, 0x60, struct cohmem_hook_hold)
#define COHMEM_HOOK_LATE_WRITE	_IOWR(COHMEM_HOOK_MAGIC, 0x61, struct cohmem_hook_late_write)
/* RELEASE: gives the held page's reference up now. ENODEV: no page is held. */
#define COHMEM_HOOK_RELEASE	_IO(COHMEM_HOOK_MAGIC, 0x62)
#define COHMEM_HOOK_DELAY	_IOWR(COHMEM_HOOK_MAGIC, 0x63, struct cohmem_hook_delay)
#define COHMEM_HOOK_FAIL	_IOWR(COHMEM_HOOK_MAGIC, 0x64, struct cohmem_hook_fail)
/*
 * IRQ_FREE: the next time that frames are taken from a ledger, the held page's reference is given up
 * by a hard interrupt on that processor. Unmap the page first, and it is the last one. ENODEV: no
 * page is held.
 */
#define COHMEM_HOOK_IRQ_FREE	_IO(COHMEM_HOOK_MAGIC, 0x65)
#define COHMEM_HOOK_FIRED	_IOWR(COHMEM_HOOK_MAGIC, 0x66, struct cohmem_hook_fired)
/* RESET: gives up a held page, ends all delays and failures, zeroes the counts. */
#define COHMEM_HOOK_RESET	_IO(COHMEM_HOOK_MAGIC, 0x67)

#endif /* COHMEM_HOOKS_H */
