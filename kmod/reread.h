/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Reads of the cache device that fail.
 *
 *   bio: read -> failed -> tried again -> hit | parked | ended
 *
 * A bio may cover a run of slots, and its error names none of them. So a bio
 * that failed is read again chunk by chunk, in steps. Each step is the bio
 * itself, cut to what one chunk has of it. So a step needs no memory and obeys
 * every rule that holds for a released read (missq.h). A step that fails names
 * its slot.
 *
 * A slot is tried again every 100 ms until retry_ms are over, since many failures
 * pass: a path that fails over, a device that is reset. Then:
 *
 *   an error of the medium,		the slot is retired after its second failure
 *   of protection data
 *   EIO, an error of the target,	the slot is retired at the end of retry_ms
 *   a conflict of reservations
 *   an error of a transport,		the reader gets the error, and the slot stays
 *   a timeout, too few resources	in service
 *
 * No error is only a slot's: a drive that is locked reports errors of the medium, one that
 * is not ready yet errors of the target. So before a slot is retired the superblock is
 * read. If that fails, the device as a whole does: this is as an error of a transport.
 *
 * When a slot is retired, its readers go on as misses do, with another slot. A bio
 * whose chunk failed in four slots ends with the error, so that no bio goes round for
 * ever.
 */
#ifndef FASTOCI_REREAD_H
#define FASTOCI_REREAD_H

#include "image.h"

enum fastoci_reread {
	FASTOCI_TRY_AGAIN,	/* the same slot */
	FASTOCI_RETIRE,		/* the slot, if the superblock can be read */
	FASTOCI_GIVE_UP,	/* the reader gets the error */
};

/*
 * What to do after a read of a slot failed with @status. @nr_tries: how often it has failed,
 * this time included. @time_is_over: retry_ms have passed.
 */
enum fastoci_reread fastoci_reread_verdict(blk_status_t status, u32 nr_tries, bool time_is_over);

void fastoci_reread_setup(struct fastoci_image *image);
/*
 * A read of the cache device, which is in its read section, ended with @status. Returns
 * true if the read goes on: reread_work then has it, and the caller must not touch it.
 * False: the read is over. Any context.
 */
bool fastoci_read_again(struct fastoci_bio *fb, const struct bio *bio, blk_status_t status);

#endif /* FASTOCI_REREAD_H */
