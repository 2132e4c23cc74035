/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Checks of the formats, except for the extent table. These are pure functions over
 * bytes that were read. They build in user space as well (tests/fuzz). Each check
 * returns NULL, or a static string that says what is wrong.
 */
#ifndef FASTOCI_METACHECK_H
#define FASTOCI_METACHECK_H

#include <linux/types.h>

#include "fastoci_meta.h"

/* Checks the superblock of a meta device of @dev_bytes, and the places of its regions. */
char *fastoci_meta_check_sb(const struct fastoci_meta_sb *sb, u64 dev_bytes);
char *fastoci_meta_check_blobs(const struct fastoci_meta_blob *blobs, u32 nr);
/* Checks the superblock of a cache device of @dev_bytes. */
char *fastoci_cache_check_sb(const struct fastoci_cache_sb *sb, u64 dev_bytes);
/* CRC-32C as in fastoci_meta.h. */
u32 fastoci_crc(const void *data, size_t bytes);

#endif /* FASTOCI_METACHECK_H */
