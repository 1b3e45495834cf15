// SPDX-License-Identifier: GPL-2.0
/* The encoding of an error in a notifier's answer is inline. */
#include <linux/notifier.h>

#include "helpers.h"

int cohmem_notify_error(int error)
{
	return notifier_from_errno(error);
}
