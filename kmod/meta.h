/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Reads the two on-disk formats and checks everything in them before the first bio.
 * After fastoci_meta_load() every extent is in bounds. The functions with @error
 * sleep. They return 0, or a negative errno and in *@error the reason, a static string.
 */
#ifndef FASTOCI_META_H
#define FASTOCI_META_H

#include <linux/blk_types.h>

#include "extent.h"
#include "fastoci_meta.h"

struct fastoci_meta {
	struct fastoci_extents extents;
	struct fastoci_meta_blob *blobs; /* vmalloc */
	u32 nr_blobs;
	u64 device_sectors;
	u8 image_id[32];
};

int fastoci_meta_load(struct block_device *bdev, struct fastoci_meta *meta, char **error);
void fastoci_meta_free(struct fastoci_meta *meta);
void fastoci_extents_free(struct fastoci_extents *t);
int fastoci_cache_sb_load(struct block_device *bdev, struct fastoci_cache_sb *sb, char **error);

#endif /* FASTOCI_META_H */
