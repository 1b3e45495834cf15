/* SPDX-License-Identifier: (GPL-2.0 WITH Linux-syscall-note) OR MIT */
/*
 * cohmem: device-owned coherent memory on stock kernels.
 *
 * /dev/cohmem is the control node, /dev/cohmemN one attached device.
 *
 * Rules that hold for every command:
 *  - every field marked (reserved) must be zero, else EINVAL;
 *  - an unknown flag bit is refused with EOPNOTSUPP, an unknown command (which a
 *    structure of another size is, too) with ENOTTY;
 *  - an argument that cannot be read or written is EFAULT;
 *  - what the kernel refuses for a reason not named here is EIO;
 *  - a command that returns an error has changed nothing, unless its text says more.
 */
#ifndef _UAPI_LINUX_COHMEM_H
#define _UAPI_LINUX_COHMEM_H

#include <linux/ioctl.h>
#include <linux/types.h>

#define COHMEM_ABI_VERSION	1
#define COHMEM_IOC_MAGIC	0xBD

/* Bytes of a frame, and of each page that the commands count. */
#define COHMEM_FRAME_BYTES	4096
/* A device starts and ends at a multiple of this many bytes. */
#define COHMEM_RANGE_ALIGN	0x200000
/* Devices that can be attached at a time. */
#define COHMEM_MAX_DEVICES	16
/* Entries that the list of stuck frames holds at most. */
#define COHMEM_MAX_STUCK	4096
/* Users that can have an account with a device at a time; also jobs, and also run instances. */
#define COHMEM_MAX_ACCOUNTS	256
/* Records that HISTORY returns at a time. */
#define COHMEM_MAX_MOVES	4096
/* Entries that the list of quota objects holds at most: jobs and run instances. */
#define COHMEM_MAX_OBJECTS	512
/* Jobs, one in the other, that a frame can be charged to. */
#define COHMEM_MAX_NESTED_JOBS	4
/* Run instances that a user can have with a device at a time. */
#define COHMEM_MAX_USER_RUNS	16
/* Entries of every array of counts by reason. */
#define COHMEM_NR_REASONS	32

/**
 * enum cohmem_reason - why a page stayed where it is
 *
 * Zero never names a reason. Values are stable; new ones are added at the end.
 */
enum cohmem_reason {
	/** @COHMEM_REASON_ALREADY_THERE: the page is where it was asked to go. */
	COHMEM_REASON_ALREADY_THERE	= 1,
	/** @COHMEM_REASON_UNMAPPED: no mapping covers the address. */
	COHMEM_REASON_UNMAPPED		= 2,
	/** @COHMEM_REASON_UNTOUCHED: the process never touched the page. */
	COHMEM_REASON_UNTOUCHED		= 3,
	/** @COHMEM_REASON_SWAPPED: the page is in swap. */
	COHMEM_REASON_SWAPPED		= 4,
	/** @COHMEM_REASON_FILE: file-backed or shared memory; only anonymous memory moves. */
	COHMEM_REASON_FILE		= 5,
	/** @COHMEM_REASON_SPECIAL: a mapping of a device or of the kernel (vdso, I/O, PFN map). */
	COHMEM_REASON_SPECIAL		= 6,
	/** @COHMEM_REASON_HUGETLB: a hugetlbfs page. */
	COHMEM_REASON_HUGETLB		= 7,
	/** @COHMEM_REASON_LARGE_FOLIO: part of a large folio that is mapped page by page. */
	COHMEM_REASON_LARGE_FOLIO	= 8,
	/** @COHMEM_REASON_SHARED: mapped more than once (fork); see COHMEM_MIGRATE_SHARED. */
	COHMEM_REASON_SHARED		= 9,
	/** @COHMEM_REASON_KSM: merged by KSM. */
	COHMEM_REASON_KSM		= 10,
	/** @COHMEM_REASON_PINNED: pinned for I/O (io_uring buffer, RDMA, VFIO, O_DIRECT). */
	COHMEM_REASON_PINNED		= 11,
	/** @COHMEM_REASON_EXTRA_REF: the kernel holds another reference (pipe, network, FUSE). */
	COHMEM_REASON_EXTRA_REF		= 12,
	/** @COHMEM_REASON_LOCKED: the page lock is held. */
	COHMEM_REASON_LOCKED		= 13,
	/** @COHMEM_REASON_RACED: the page changed while it was being moved; try again. */
	COHMEM_REASON_RACED		= 14,
	/** @COHMEM_REASON_EXECUTABLE: an executable mapping; see COHMEM_MIGRATE_EXEC. */
	COHMEM_REASON_EXECUTABLE	= 15,
	/** @COHMEM_REASON_NO_PERMISSION: the mapping allows no access (PROT_NONE). */
	COHMEM_REASON_NO_PERMISSION	= 16,
	/** @COHMEM_REASON_OTHER_DEVICE: the page is on another device. */
	COHMEM_REASON_OTHER_DEVICE	= 17,
	/** @COHMEM_REASON_POISONED: the hardware lost the page's content. */
	COHMEM_REASON_POISONED		= 18,
	/** @COHMEM_REASON_QUOTA: the quota of the user, job or run instance that asked is used up. */
	COHMEM_REASON_QUOTA		= 19,
	/** @COHMEM_REASON_NO_FRAME: the device has no free frame. */
	COHMEM_REASON_NO_FRAME		= 20,
	/** @COHMEM_REASON_NO_MEMORY: too little free system memory. */
	COHMEM_REASON_NO_MEMORY		= 21,
	/** @COHMEM_REASON_USERFAULT: a hole that a userfaultfd handler must fill. */
	COHMEM_REASON_USERFAULT		= 22,
	/** @COHMEM_REASON_KERNEL_HELD: the frame is mapped nowhere, and the kernel holds it. */
	COHMEM_REASON_KERNEL_HELD	= 23,
};

/**
 * struct cohmem_version - argument of COHMEM_IOC_VERSION
 * @abi: (out) COHMEM_ABI_VERSION of the driver
 * @features: (out) none defined yet
 * @reserved: (reserved)
 */
struct cohmem_version {
	__u32 abi;
	__u32 features;
	__u64 reserved[3];
};

/* The struct pages (64 bytes a frame) live on the device itself. */
#define COHMEM_ATTACH_ALTMAP	(1u << 0)

/**
 * struct cohmem_attach - argument of COHMEM_IOC_ATTACH
 * @start: (in) first physical address, a multiple of COHMEM_RANGE_ALIGN
 * @length: (in) bytes, a multiple of COHMEM_RANGE_ALIGN
 * @flags: (in) COHMEM_ATTACH_*
 * @device: (out) number N of the new /dev/cohmemN
 * @nr_frames: (out) frames that can be handed out
 * @reserved: (reserved)
 *
 * Needs CAP_SYS_ADMIN. May sleep for as long as the kernel takes to set up the
 * range's struct pages.
 *
 * Errors: EPERM no CAP_SYS_ADMIN; ENODATA @length is 0; EDOM @start or @length is
 * misaligned; EOVERFLOW the range wraps or ends above the processor's physical
 * addresses; EADDRINUSE it holds System RAM; EADDRNOTAVAIL the firmware did not
 * reserve all of it for special purpose; EBUSY another driver has claimed a part;
 * ENOSPC COHMEM_MAX_DEVICES are attached; ENOMEM no memory, as a rule for struct pages; EAGAIN
 * hibernation is under way.
 */
struct cohmem_attach {
	__u64 start;
	__u64 length;
	__u32 flags;
	__u32 device;
	__u64 nr_frames;
	__u64 reserved[3];
};

/**
 * struct cohmem_stuck - one frame that could not be taken back
 * @phys: (out) physical address of the frame
 * @refs: (out) references that the kernel counts on it
 * @maps: (out) page tables that map it
 * @reason: (out) enum cohmem_reason
 * @reserved: (out) zero
 */
struct cohmem_stuck {
	__u64 phys;
	__u32 refs;
	__u32 maps;
	__u32 reason;
	__u32 reserved;
};

/**
 * struct cohmem_detach - argument of COHMEM_IOC_DETACH and COHMEM_IOC_EVICT
 * @device: (in) DETACH: the device's number; EVICT: 0
 * @flags: (in) none defined yet
 * @timeout_ms: (in) time limit; 0 asks for one try
 * @nr_stuck_max: (in) entries at @stuck_ptr, at most COHMEM_MAX_STUCK
 * @stuck_ptr: (in) array of struct cohmem_stuck, written when the command ends; or 0
 * @nr_evicted: (out) frames whose content went home
 * @nr_stuck: (out) frames that stayed, which may be more than @nr_stuck_max
 * @nr_kept: (out) DETACH: frames of chunks that stay claimed until the next boot,
 *	since mapped poison was found in them
 * @stayed: (out) @nr_stuck by reason
 * @reserved: (reserved)
 *
 * EVICT moves every page of the device home and keeps the device. DETACH does so
 * and gives the range back. DETACH needs CAP_SYS_ADMIN; EVICT needs CAP_SYS_ADMIN
 * as well, since it moves pages of any process.
 *
 * When frames are left at the time limit, DETACH fails with EBUSY and the device
 * works on: pages that went home stay there, each other page is where it was, and
 * the (out) fields tell which.
 *
 * Pages that went home stay there also when the command ends with EINTR, or with
 * EFAULT since @stuck_ptr cannot be written.
 *
 * Errors: EPERM; ENODEV no such device; EINTR a fatal signal; EBUSY frames are left,
 * or another DETACH or EVICT runs; ENOMEM too little system memory to take all
 * content home (refused before anything moves); EMSGSIZE @nr_stuck_max is over the limit.
 */
struct cohmem_detach {
	__u32 device;
	__u32 flags;
	__u32 timeout_ms;
	__u32 nr_stuck_max;
	__u64 stuck_ptr;
	__u64 nr_evicted;
	__u64 nr_stuck;
	__u64 nr_kept;
	__u32 stayed[COHMEM_NR_REASONS];
	__u64 reserved[2];
};

/**
 * struct cohmem_list - argument of COHMEM_IOC_LIST
 * @devices: (out) bit N is set when /dev/cohmemN is attached
 * @reserved: (reserved)
 */
struct cohmem_list {
	__u64 devices;
	__u64 reserved[3];
};

/**
 * enum cohmem_state - state of a device
 */
enum cohmem_state {
	/** @COHMEM_STATE_ONLINE: hands out frames. */
	COHMEM_STATE_ONLINE	= 1,
	/** @COHMEM_STATE_DRAINING: is being evicted for detach. */
	COHMEM_STATE_DRAINING	= 2,
	/** @COHMEM_STATE_KEPT: detached, but chunks that held mapped poison stay claimed. */
	COHMEM_STATE_KEPT	= 3,
};

/**
 * struct cohmem_info - argument of COHMEM_IOC_INFO
 * @device: (out) number
 * @state: (out) enum cohmem_state
 * @start: (out) first physical address
 * @length: (out) bytes
 * @nr_frames: (out) frames of the range
 * @nr_free: (out) frames that can be handed out now
 * @nr_allocated: (out) frames handed out
 * @nr_poisoned: (out) frames withdrawn after a hardware error
 * @nr_metadata: (out) frames that hold the struct pages (COHMEM_ATTACH_ALTMAP)
 * @moved_in: (out) pages moved to the device since it was attached
 * @moved_out: (out) pages moved home
 * @filled: (out) holes filled with zeroed frames
 * @freed: (out) frames that came back to the allocator
 * @node: (out) NUMA node whose statistics the pages count in
 * @nr_chunks: (out) pgmaps
 * @reserved: (reserved)
 *
 * The numbers are a snapshot taken one after the other.
 *
 * Errors: ENODEV the device was detached.
 */
struct cohmem_info {
	__u32 device;
	__u32 state;
	__u64 start;
	__u64 length;
	__u64 nr_frames;
	__u64 nr_free;
	__u64 nr_allocated;
	__u64 nr_poisoned;
	__u64 nr_metadata;
	__u64 moved_in;
	__u64 moved_out;
	__u64 filled;
	__u64 freed;
	__u32 node;
	__u32 nr_chunks;
	__u64 reserved[3];
};

/**
 * enum cohmem_direction - where pages go
 */
enum cohmem_direction {
	/** @COHMEM_TO_DEVICE: to this device, from system memory or another device. */
	COHMEM_TO_DEVICE	= 1,
	/** @COHMEM_TO_SYSTEM: home, from this device. */
	COHMEM_TO_SYSTEM	= 2,
};

/* Fill holes of the range with zeroed device frames (TO_DEVICE only). */
#define COHMEM_MIGRATE_FILL	(1u << 0)
/* Move pages that other processes map as well; needs CAP_SYS_NICE. */
#define COHMEM_MIGRATE_SHARED	(1u << 1)
/* Move pages of executable mappings, too. */
#define COHMEM_MIGRATE_EXEC	(1u << 2)

/* proc_fd value for the calling process. */
#define COHMEM_PROC_SELF	(-1)

/**
 * struct cohmem_migrate - argument of COHMEM_IOC_MIGRATE
 * @start: (in) first address, a multiple of COHMEM_FRAME_BYTES
 * @length: (in) bytes, a multiple of COHMEM_FRAME_BYTES
 * @direction: (in) enum cohmem_direction
 * @flags: (in) COHMEM_MIGRATE_*
 * @proc_fd: (in) COHMEM_PROC_SELF, or an open /proc/PID/pagemap or /proc/PID/mem:
 *	the kernel checked the right to see that process when it was opened
 * @pad: (reserved)
 * @reasons_ptr: (in) array of one byte a page, 0 for a page that moved, else its
 *	enum cohmem_reason; or 0. It must not lie in the range itself. It is checked by
 *	zeroing it before anything moves; if it goes away after that, the command ends
 *	with EFAULT and pages that moved have moved.
 * @next: (out) first address not looked at; @start + @length when all was
 * @nr_moved: (out) pages moved
 * @nr_filled: (out) holes filled, not part of @nr_moved
 * @stayed: (out) pages that stayed, by reason
 * @reserved: (reserved)
 *
 * Success does not mean that pages moved: @nr_moved + @nr_filled + the sum of
 * @stayed is the number of pages of @start..@next, each page in one of them. A
 * signal ends the call early with success and @next short of the end, or with
 * EINTR when nothing was done.
 *
 * Each frame that a page comes to is charged to the caller's real user, to the jobs that
 * the calling task is in, and to the run instance that the open file is, until the page
 * has left it again: see struct cohmem_quota, cohmem_job and cohmem_run. Each of them must
 * allow it, else the page stays with COHMEM_REASON_QUOTA.
 *
 * Errors: ENODATA @length is 0; EDOM misaligned; EOVERFLOW the range wraps; ERANGE it
 * ends above the user address space; EADDRNOTAVAIL no mapping lies in it; EILSEQ
 * @direction is unknown; EPERM COHMEM_MIGRATE_SHARED without CAP_SYS_NICE; EBADF @proc_fd
 * is closed; EBADFD it is not a pagemap or mem file of procfs; ESRCH its process is gone;
 * ENODEV the device was detached; EAGAIN it is draining (TO_DEVICE); ENOSPC
 * COHMEM_MAX_ACCOUNTS other users have frames or a limit (TO_DEVICE); EINTR; ENOMEM no
 * memory for the call's own arrays.
 */
struct cohmem_migrate {
	__u64 start;
	__u64 length;
	__u32 direction;
	__u32 flags;
	__s32 proc_fd;
	__u32 pad;
	__u64 reasons_ptr;
	__u64 next;
	__u64 nr_moved;
	__u64 nr_filled;
	__u64 stayed[COHMEM_NR_REASONS];
	__u64 reserved[2];
};

/**
 * enum cohmem_tier - where a page is
 */
enum cohmem_tier {
	/**
	 * @COHMEM_TIER_NONE: no page (unmapped, untouched, swapped, lost), or one that is not
	 * looked at (hugetlbfs, special mappings)
	 */
	COHMEM_TIER_NONE	= 0,
	/** @COHMEM_TIER_SYSTEM: system memory. */
	COHMEM_TIER_SYSTEM	= 1,
	/** @COHMEM_TIER_DEVICE: a device of this driver. */
	COHMEM_TIER_DEVICE	= 2,
	/** @COHMEM_TIER_FOREIGN: memory of another driver. */
	COHMEM_TIER_FOREIGN	= 3,
};

/* One __u16 a page: bits 0-7 reason, 8-9 tier, 10-15 device number. */
#define COHMEM_PAGE_REASON(entry)	((entry) & 0xff)
#define COHMEM_PAGE_TIER(entry)		(((entry) >> 8) & 0x3)
#define COHMEM_PAGE_DEVICE(entry)	(((entry) >> 10) & 0x3f)

/* Tell for each page why it would not move to this device (reason 0: it would). */
#define COHMEM_QUERY_REASONS	(1u << 0)

/**
 * struct cohmem_query - argument of COHMEM_IOC_QUERY
 * @start: (in) as in struct cohmem_migrate
 * @length: (in) as there
 * @proc_fd: (in) as there
 * @flags: (in) COHMEM_QUERY_*
 * @map_ptr: (in) array of one __u16 a page, see COHMEM_PAGE_*; or 0
 * @next: (out) first address not looked at
 * @nr_by_tier: (out) pages by enum cohmem_tier; on any device counts as device
 * @nr_here: (out) pages on this device
 * @reserved: (reserved)
 *
 * Nothing is faulted in, moved or changed. The errors are those of MIGRATE that
 * concern the same fields, and EBUSY: the page tables changed at each of several looks.
 */
struct cohmem_query {
	__u64 start;
	__u64 length;
	__s32 proc_fd;
	__u32 flags;
	__u64 map_ptr;
	__u64 next;
	__u64 nr_by_tier[4];
	__u64 nr_here;
	__u64 reserved[2];
};

/* The limit of every user without one of their own. */
#define COHMEM_QUOTA_DEFAULT	(1u << 0)
/* No limit. */
#define COHMEM_QUOTA_UNLIMITED	(1u << 1)
/* The user has no limit of their own: the default applies. */
#define COHMEM_QUOTA_INHERITED	(1u << 2)

/**
 * struct cohmem_quota - argument of COHMEM_IOC_SET_QUOTA
 * @user: (in) user number in the initial user namespace; 0 with COHMEM_QUOTA_DEFAULT
 * @flags: (in) COHMEM_QUOTA_*; INHERITED goes with no other flag
 * @limit: (in) frames that the user may hold, 0 allowed; 0 with UNLIMITED and INHERITED
 * @reserved: (reserved)
 *
 * Sets how many frames of this device a user may hold. Each frame is charged to the
 * real user of the process that asked for it, until it is freed: whichever process its
 * page lives in meanwhile, also when the one that asked is gone. A user at the limit
 * gets no further frame, and pages stay with COHMEM_REASON_QUOTA. When the command
 * returns, no frame above the new limit is handed out any more; those that the user
 * holds already stay. At first nobody has a limit; limits end with the attachment.
 *
 * Needs CAP_SYS_ADMIN. Waits for the batches that are under way.
 *
 * Errors: EPERM no CAP_SYS_ADMIN; EINVAL a field that must be 0 is not, or the flags
 * exclude each other; ERANGE @user is (__u32)-1, or @limit is more than 2^52; ENOSPC
 * COHMEM_MAX_ACCOUNTS other users have frames or a limit; ENODEV the device was detached.
 */
struct cohmem_quota {
	__u32 user;
	__u32 flags;
	__u64 limit;
	__u64 reserved[2];
};

/**
 * struct cohmem_account - what one user holds of a device
 * @user: (out) user number in the initial user namespace
 * @flags: (out) 0, COHMEM_QUOTA_UNLIMITED or COHMEM_QUOTA_INHERITED
 * @limit: (out) frames that the user may hold; 0 with a flag
 * @charged: (out) frames charged to the user; more than the limit when that was set later
 */
struct cohmem_account {
	__u32 user;
	__u32 flags;
	__u64 limit;
	__u64 charged;
};

/**
 * struct cohmem_accounts - argument of COHMEM_IOC_ACCOUNTS
 * @flags: (in) none defined yet
 * @nr_max: (in) entries at @accounts_ptr, at most COHMEM_MAX_ACCOUNTS
 * @accounts_ptr: (in) array of struct cohmem_account; or 0
 * @nr_accounts: (out) users with frames or a limit, which may be more than @nr_max
 * @default_flags: (out) 0 or COHMEM_QUOTA_UNLIMITED
 * @default_limit: (out) frames that a user without a limit of their own may hold; 0 with
 *	COHMEM_QUOTA_UNLIMITED
 * @reserved: (reserved)
 *
 * Lists who holds this device's frames. While pages move, a charge counts frames that
 * are being taken as well, so each is a snapshot.
 *
 * Errors: ENODEV the device was detached; EMSGSIZE @nr_max is over the limit; ENOMEM no
 * memory for the call's own array.
 */
struct cohmem_accounts {
	__u32 flags;
	__u32 nr_max;
	__u64 accounts_ptr;
	__u32 nr_accounts;
	__u32 default_flags;
	__u64 default_limit;
	__u64 reserved[2];
};

/**
 * enum cohmem_holder - who has a part of the soft-reserved memory
 */
enum cohmem_holder {
	/** @COHMEM_HOLDER_NOBODY: nobody. */
	COHMEM_HOLDER_NOBODY		= 1,
	/** @COHMEM_HOLDER_DEVICE: a device of this driver, attached or kept. */
	COHMEM_HOLDER_DEVICE		= 2,
	/** @COHMEM_HOLDER_SYSTEM_RAM: the kernel, as System RAM (kmem). */
	COHMEM_HOLDER_SYSTEM_RAM	= 3,
	/** @COHMEM_HOLDER_OTHER: another driver, by a claim; /proc/iomem names it. */
	COHMEM_HOLDER_OTHER		= 4,
};

/**
 * struct cohmem_range - argument of COHMEM_IOC_RANGE
 * @from: (in) first physical address to look at
 * @start: (out) first soft-reserved address at or above @from
 * @length: (out) bytes up to the end of the range or to where another claim begins or ends
 * @holder: (out) enum cohmem_holder
 * @device: (out) with COHMEM_HOLDER_DEVICE the device's number; else 0
 * @reserved: (reserved)
 *
 * Tells where the firmware's soft-reserved memory is, part by part; @start + @length is
 * the @from of the next part, which may have the same holder. Kernels from 6.19 on do
 * not show such memory in /proc/iomem. Each answer is a snapshot.
 *
 * Needs CAP_SYS_ADMIN, as physical addresses do.
 *
 * Errors: EPERM no CAP_SYS_ADMIN; ENODATA there is no such memory at or above @from.
 */
struct cohmem_range {
	__u64 from;
	__u64 start;
	__u64 length;
	__u32 holder;
	__u32 device;
	__u64 reserved[2];
};

/**
 * enum cohmem_event - what became of the pages of one record of a device's history
 */
enum cohmem_event {
	/** @COHMEM_EVENT_ARRIVED: they moved to this device. */
	COHMEM_EVENT_ARRIVED	= 1,
	/** @COHMEM_EVENT_FILLED: holes were filled with zeroed frames of this device. */
	COHMEM_EVENT_FILLED	= 2,
	/** @COHMEM_EVENT_LEFT: they moved away from this device. */
	COHMEM_EVENT_LEFT	= 3,
	/** @COHMEM_EVENT_LOST: the hardware lost their content. */
	COHMEM_EVENT_LOST	= 4,
	/** @COHMEM_EVENT_STAYED: they were to come to this device, and did not. */
	COHMEM_EVENT_STAYED	= 5,
	/** @COHMEM_EVENT_STUCK: they were to leave this device, and did not. */
	COHMEM_EVENT_STUCK	= 6,
};

/**
 * enum cohmem_cause - what for
 */
enum cohmem_cause {
	/** @COHMEM_CAUSE_MIGRATE: COHMEM_IOC_MIGRATE. */
	COHMEM_CAUSE_MIGRATE	= 1,
	/** @COHMEM_CAUSE_EVICT: COHMEM_IOC_EVICT. */
	COHMEM_CAUSE_EVICT	= 2,
	/** @COHMEM_CAUSE_DETACH: COHMEM_IOC_DETACH. */
	COHMEM_CAUSE_DETACH	= 3,
	/** @COHMEM_CAUSE_HIBERNATE: the machine was to hibernate. */
	COHMEM_CAUSE_HIBERNATE	= 4,
	/** @COHMEM_CAUSE_FAILURE: the hardware reported an error. */
	COHMEM_CAUSE_FAILURE	= 5,
};

/* The frame is not told, or there is none. */
#define COHMEM_NO_FRAME		0xffffffffffffffff
/* The pages came from, or went to, system memory; or they stayed. */
#define COHMEM_NO_DEVICE	0xff

/**
 * struct cohmem_move - a run of pages that met the same fate in one step
 * @sequence: (out) counts the records of the device, from 0
 * @time_ns: (out) when, on CLOCK_MONOTONIC
 * @start: (out) address of the first page; 0 when @process is 0
 * @frame: (out) frame of the first page on this device, counted from the start of the
 *	device; the others' follow. COHMEM_NO_FRAME for pages that stayed, and for a
 *	caller without CAP_SYS_ADMIN, since it tells physical addresses
 * @nr_pages: (out) pages
 * @process: (out) the process whose pages they are, a thread group's number in the
 *	initial PID namespace; 0 when that is not known
 * @by: (out) the process that asked for it, as @process
 * @event: (out) enum cohmem_event
 * @cause: (out) enum cohmem_cause
 * @reason: (out) enum cohmem_reason of pages that stayed, else 0
 * @other: (out) ARRIVED, LEFT: number of the other device, or COHMEM_NO_DEVICE
 *
 * Where pages leave by their frames (EVICT, DETACH, FAILURE), @process and @start are
 * those that the frames came to, also if fork or mremap brought them elsewhere since.
 */
struct cohmem_move {
	__u64 sequence;
	__u64 time_ns;
	__u64 start;
	__u64 frame;
	__u32 nr_pages;
	__u32 process;
	__u32 by;
	__u8 event;
	__u8 cause;
	__u8 reason;
	__u8 other;
};

/* The records of all processes; needs CAP_SYS_ADMIN. */
#define COHMEM_HISTORY_ALL	(1u << 0)
/* The pages that stayed, whose records have a sequence of their own, not those that moved. */
#define COHMEM_HISTORY_STAYED	(1u << 1)

/**
 * struct cohmem_history - argument of COHMEM_IOC_HISTORY
 * @start: (in) first address, a multiple of COHMEM_FRAME_BYTES; 0 if @length is
 * @length: (in) bytes, a multiple of COHMEM_FRAME_BYTES; 0 for all addresses
 * @proc_fd: (in) as in struct cohmem_migrate; COHMEM_PROC_SELF with COHMEM_HISTORY_ALL
 * @flags: (in) COHMEM_HISTORY_*
 * @since: (in) first sequence number to look at
 * @moves_ptr: (in) array of struct cohmem_move; or 0
 * @nr_max: (in) entries at @moves_ptr, at most COHMEM_MAX_MOVES
 * @nr_moves: (out) entries written
 * @next: (out) first sequence number not looked at
 * @nr_lost: (out) records from @since on that were overwritten before they were read
 * @now_ns: (out) the time on the records' clock
 * @reserved: (reserved)
 *
 * Reads the device's history: records of one process's pages that overlap the range, the
 * oldest first. The driver keeps at least 256 records of pages that moved and 128 of
 * pages that stayed, more on larger devices, and overwrites the oldest. Of pages that
 * stayed there are records only when the reason may pass: not when they are there
 * already, or the mapping or a hole or swap is what keeps them.
 *
 * A process is known by its number and the time it began, so that a later one of the same
 * number has no part in its history. What it did before an execve(2) is part of it, and
 * what its parent did before fork(2) is not. On a kernel without CONFIG_MEMCG no process
 * is known, and only COHMEM_HISTORY_ALL finds records.
 *
 * Errors: EPERM COHMEM_HISTORY_ALL without CAP_SYS_ADMIN; EINVAL a field that must have
 * one value has another; EDOM misaligned; EOVERFLOW the range wraps; ERANGE it ends above
 * the user address space; EMSGSIZE @nr_max is over the limit; EBADF, EBADFD, ESRCH as for
 * MIGRATE; ENODEV the device was detached; EINTR; ENOMEM no memory for the call's own array.
 */
struct cohmem_history {
	__u64 start;
	__u64 length;
	__s32 proc_fd;
	__u32 flags;
	__u64 since;
	__u64 moves_ptr;
	__u32 nr_max;
	__u32 nr_moves;
	__u64 next;
	__u64 nr_lost;
	__u64 now_ns;
	__u64 reserved[2];
};

/**
 * struct cohmem_job - argument of COHMEM_IOC_SET_JOB
 * @job: (in) number of a control group of the unified hierarchy (cgroup v2): the inode
 *	number of its directory
 * @limit: (in) frames that the job may hold, 0 allowed; 0 with a flag
 * @flags: (in) 0, COHMEM_QUOTA_UNLIMITED to count only, or COHMEM_QUOTA_INHERITED: the
 *	group is no job any more
 * @pad: (reserved)
 * @reserved: (reserved)
 *
 * Makes a control group with all those below it a job, or changes its limit. From then on
 * each frame that a task in it asks for is charged to the job, until it is freed: also
 * when the task is in another group by then, or the group is gone. A job at the limit gets
 * no further frame, and pages stay with COHMEM_REASON_QUOTA. When the command returns, no
 * frame above the new limit is handed out any more; those that it holds already stay.
 * Frames from before it was a job are not counted. Jobs may lie in one another; a task in
 * more than COHMEM_MAX_NESTED_JOBS of them gets no frame. Whether there is such a group is
 * not asked: its number is never another's until the next boot. Jobs end with the
 * attachment.
 *
 * Needs CAP_SYS_ADMIN. Waits for the batches that are under way.
 *
 * Errors: EPERM no CAP_SYS_ADMIN; EINVAL a field that must be 0 is not, or the flags
 * exclude each other; ERANGE @job is 0 or more than 2^62 - 1, or @limit is more than 2^52;
 * ENOSPC there are COHMEM_MAX_ACCOUNTS other jobs; ENODEV the device was detached.
 */
struct cohmem_job {
	__u64 job;
	__u64 limit;
	__u32 flags;
	__u32 pad;
	__u64 reserved[2];
};

/**
 * struct cohmem_run - argument of COHMEM_IOC_SET_RUN
 * @run: (out) number of the run instance, never another's while the device is attached
 * @limit: (in) frames that it may hold, 0 allowed; 0 with UNLIMITED
 * @flags: (in) 0 or COHMEM_QUOTA_UNLIMITED
 * @pad: (reserved)
 * @reserved: (reserved)
 *
 * Makes this open file a run instance, or changes its limit: each frame that is asked for
 * through it from then on, by whoever has a descriptor of it, is charged to the instance
 * until it is freed. At the limit pages stay with COHMEM_REASON_QUOTA, and what it holds
 * already stays. The instance ends when the last descriptor is closed; it is listed until
 * its last frame is freed.
 *
 * Needs no privilege: it bounds only what comes through a file of the caller's. Waits for
 * the batches that are under way.
 *
 * Errors: EINVAL a field that must be 0 is not; ERANGE @limit is more than 2^52; EDQUOT the
 * caller's user has COHMEM_MAX_USER_RUNS of them, those that ended and hold frames
 * included; ENOSPC there are COHMEM_MAX_ACCOUNTS of them; ENODEV the device was detached.
 */
struct cohmem_run {
	__u64 run;
	__u64 limit;
	__u32 flags;
	__u32 pad;
	__u64 reserved[2];
};

/**
 * enum cohmem_object_kind - what a quota object is
 */
enum cohmem_object_kind {
	/** @COHMEM_OBJECT_JOB: a control group with those below it. */
	COHMEM_OBJECT_JOB	= 1,
	/** @COHMEM_OBJECT_RUN: what comes through one open file. */
	COHMEM_OBJECT_RUN	= 2,
};

/**
 * struct cohmem_object - what one job or run instance holds of a device
 * @kind: (out) enum cohmem_object_kind
 * @flags: (out) 0, COHMEM_QUOTA_UNLIMITED, or COHMEM_QUOTA_INHERITED: it has ended, and
 *	is listed for the frames that it holds
 * @number: (out) number of the control group or of the run instance
 * @limit: (out) frames that it may hold; 0 with a flag
 * @charged: (out) frames charged to it; more than the limit when that was set later
 * @user: (out) real user who made the run instance; 0 for a job
 * @process: (out) process that made the run instance, by its number in the initial
 *	process namespace; 0 for a job
 */
struct cohmem_object {
	__u32 kind;
	__u32 flags;
	__u64 number;
	__u64 limit;
	__u64 charged;
	__u32 user;
	__u32 process;
};

/**
 * struct cohmem_objects - argument of COHMEM_IOC_OBJECTS
 * @flags: (in) none defined yet
 * @nr_max: (in) entries at @objects_ptr, at most COHMEM_MAX_OBJECTS
 * @objects_ptr: (in) array of struct cohmem_object; or 0
 * @nr_objects: (out) jobs and run instances that are, or hold frames; may be more than
 *	@nr_max
 * @pad: (reserved)
 * @reserved: (reserved)
 *
 * Lists the quota objects other than users, which COHMEM_IOC_ACCOUNTS lists. Each charge is
 * a snapshot, as there.
 *
 * Errors: ENODEV the device was detached; EMSGSIZE @nr_max is over the limit; ENOMEM no
 * memory for the call's own array.
 */
struct cohmem_objects {
	__u32 flags;
	__u32 nr_max;
	__u64 objects_ptr;
	__u32 nr_objects;
	__u32 pad;
	__u64 reserved[2];
};

/* On both nodes. */
#define COHMEM_IOC_VERSION	_IOWR(COHMEM_IOC_MAGIC, 0x00, struct cohmem_version)
/* On the control node. */
#define COHMEM_IOC_ATTACH	_IOWR(COHMEM_IOC_MAGIC, 0x01, struct cohmem_attach)
#define COHMEM_IOC_DETACH	_IOWR(COHMEM_IOC_MAGIC, 0x02, struct cohmem_detach)
#define COHMEM_IOC_LIST		_IOWR(COHMEM_IOC_MAGIC, 0x03, struct cohmem_list)
#define COHMEM_IOC_RANGE	_IOWR(COHMEM_IOC_MAGIC, 0x04, struct cohmem_range)
/* On a device node. */
#define COHMEM_IOC_INFO		_IOWR(COHMEM_IOC_MAGIC, 0x10, struct cohmem_info)
#define COHMEM_IOC_MIGRATE	_IOWR(COHMEM_IOC_MAGIC, 0x11, struct cohmem_migrate)
#define COHMEM_IOC_QUERY	_IOWR(COHMEM_IOC_MAGIC, 0x12, struct cohmem_query)
#define COHMEM_IOC_EVICT	_IOWR(COHMEM_IOC_MAGIC, 0x13, struct cohmem_detach)
#define COHMEM_IOC_HISTORY	_IOWR(COHMEM_IOC_MAGIC, 0x14, struct cohmem_history)
#define COHMEM_IOC_SET_QUOTA	_IOWR(COHMEM_IOC_MAGIC, 0x20, struct cohmem_quota)
#define COHMEM_IOC_ACCOUNTS	_IOWR(COHMEM_IOC_MAGIC, 0x21, struct cohmem_accounts)
#define COHMEM_IOC_SET_JOB	_IOWR(COHMEM_IOC_MAGIC, 0x22, struct cohmem_job)
#define COHMEM_IOC_SET_RUN	_IOWR(COHMEM_IOC_MAGIC, 0x23, struct cohmem_run)
#define COHMEM_IOC_OBJECTS	_IOWR(COHMEM_IOC_MAGIC, 0x24, struct cohmem_objects)

#endif /* _UAPI_LINUX_COHMEM_H */
