/* SPDX-License-Identifier: GPL-2.0 */
#ifndef FUZZ_LINUX_STRING_H
#define FUZZ_LINUX_STRING_H

#include <linux/types.h>
#include <string.h>

/* The first byte that is not @c, or NULL. */
static inline const void *memchr_inv(const void *p, int c, size_t n)
{
	const u8 *b = p;

	for (; n; n--, b++)
		if (*b != (u8)c)
			return b;
	return NULL;
}

#endif
