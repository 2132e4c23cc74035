/* SPDX-License-Identifier: GPL-2.0 */
/* Finds the slot of a read, for map() and for reads that come back. */
#ifndef FASTOCI_LOOKUP_H
#define FASTOCI_LOOKUP_H

#include "compat.h"
#include "image.h"

/*
 * If the chunk of @bio's first sector is present, remaps @bio to the cache device,
 * enters the read section that end_io leaves, and returns true. @may_split is true
 * inside map(), where a bio may be cut. A read that comes back lies within one chunk.
 * Any context in which map() may run.
 */
bool fastoci_try_hit(struct fastoci_bio *fb, struct bio *bio, bool may_split);

/*
 * For a read that is not inside map(). With the verdict BLK_STS_OK, looks it up and
 * submits or parks it; otherwise ends it. The read is no longer the caller's. Process
 * context.
 */
void fastoci_look_up_again(struct fastoci_bio *fb);

static inline void fastoci_leave_section(struct fastoci_bio *fb)
{
	fastoci_srcu_leave(fb->image->srcu, fb->srcu_idx);
	fb->srcu_idx = -1;
}

/* Counts a read that fails, and raises an event. Any context. */
static inline void fastoci_count_error(struct fastoci_image *image)
{
	this_cpu_inc(image->stats->errors);
	fastoci_waiters_event(&image->waiters);
}

#endif /* FASTOCI_LOOKUP_H */
