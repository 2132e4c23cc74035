/* SPDX-License-Identifier: GPL-2.0 */
#ifndef FUZZ_LINUX_CRC32C_H
#define FUZZ_LINUX_CRC32C_H

#include <linux/types.h>

/* Bit by bit: slow, and plainly right. */
static inline u32 crc32c(u32 crc, const void *data, size_t bytes)
{
	const u8 *p = data;
	int i;

	while (bytes--) {
		crc ^= *p++;
		for (i = 0; i < 8; i++)
			crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78 : 0);
	}
	return crc;
}

#endif
