/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The path of a read. On a hit, map() takes no lock, allocates nothing and does not
 * sleep. map() cuts a bio to one extent and to one run of contiguous slots. The rest
 * arrives as a new bio.
 */
#ifndef FASTOCI_IO_H
#define FASTOCI_IO_H

#include "image.h"

int fastoci_io_init(void);
void fastoci_io_exit(void);

/* Call it before the first read. */
void fastoci_io_setup(struct fastoci_image *image);
/* Call it after the last read. Waits for the work items of the image. */
void fastoci_io_stop(struct fastoci_image *image);

/* For struct target_type. ti->private is the image. Per-bio data is struct fastoci_bio. */
int fastoci_map(struct dm_target *ti, struct bio *bio);
int fastoci_end_io(struct dm_target *ti, struct bio *bio, blk_status_t *error);

#endif /* FASTOCI_IO_H */
