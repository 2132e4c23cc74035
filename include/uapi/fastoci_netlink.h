/* SPDX-License-Identifier: (GPL-2.0 WITH Linux-syscall-note) OR MIT */
/*
 * fastoci_netlink.h - the miss protocol between dm-fastoci and its helper.
 *
 * Generic netlink family "fastoci", initial network namespace only. Every
 * command and every dump needs CAP_SYS_ADMIN in the initial user namespace.
 *
 * One helper at a time. REGISTER makes the sending socket the helper and
 * returns a generation; a socket does so once (-EALREADY). All later commands
 * that change a state must come from that socket and carry that generation
 * (else -ESTALE). The kernel sends
 * events by unicast to that socket. Closing the socket ends the registration:
 * misses stay pending (or fail, by the device's policy) and are sent again to
 * the next helper; slots that were reserved return to the free list.
 *
 * A cache goes with its last table, and what the helper had reserved there with
 * it: it must have no write under way to a cache that is gone when it allocates
 * slots of its successor, which has the same UUID and another number. What a
 * helper that was taken over had reserved stays so until its socket is closed,
 * in the successor too.
 *
 * Numbers. A cache, an image and a data space ("space") each have a u32
 * number, given by the kernel and not used again soon. Chunks and slots are
 * counted in units of the cache's chunk size from 0.
 *
 * A batch is a CHUNKS attribute: a nest of CHUNK nests, each with SPACE,
 * CHUNK_NO and, by command, SLOT, CLASS, ERRNO. A batch is handled in order
 * and as a whole is never larger than FASTOCI_MAX_BATCH; the first entry that
 * is refused ends it with its error, earlier entries stay in force, and the
 * reply's extended ack points to the entry (EVICT: to the batch).
 *
 *   REGISTER  VERSION, FLAGS?         -> GENERATION, VERSION
 *   ALLOC     CACHE, COUNT            -> SLOTS  (array of u32, maybe fewer;
 *                                        -ENOSPC if none is free)
 *   RETURN    CACHE, SLOTS               give reserved slots back
 *   ACK       CACHE, COUNT               that many MISS entries were taken
 *   FILL      CACHE, CHUNKS(SPACE, CHUNK_NO, SLOT)
 *             The slot must be reserved by this generation. The same FILL
 *             again succeeds. If the chunk is already present in another
 *             slot, the sender's slot stays reserved and is still its own.
 *   FAIL      CACHE, CHUNKS(SPACE, CHUNK_NO, ERRNO)   positive errno
 *   EVICT     CACHE, CHUNKS(SPACE, CHUNK_NO), FLAGS?
 *             Unpublishes at once. After a grace period, when no reader is
 *             left, the slot is free (with FASTOCI_EVICT_RESERVE: reserved by
 *             this generation) and an EVICTED event tells so.
 *   RESTORE   CACHE, SPACE_ID, DATA_BYTES, CHUNKS(CHUNK_NO, SLOT)
 *             What the helper's database knows. Takes a free slot, or one
 *             that the sender reserved, out of circulation for that chunk;
 *             served from its first FILL on. Makes the space if need be;
 *             -EEXIST where the slot or the chunk is taken. RETURN gives a
 *             restored slot back whose content proved wrong.
 *   GET_CACHES, GET_IMAGES, GET_SPACES, GET_SLOTS, GET_PENDING   dumps
 *             GET_PENDING is the helper's own (GENERATION) and empty itself: it
 *             makes the kernel send every pending miss again as MISS events.
 *             GET_IMAGES adds NR_HITS, NR_MISSED, NR_ERRORS, NR_PARKED, HIT_TIMES, HIT_NS.
 *             GET_SLOTS with FLAGS = FASTOCI_SLOTS_CLEAR_ACCESSED clears
 *             the access bits that it reports.
 *
 * Events (no reply; MISS must be acknowledged by ACK, after at most
 * FASTOCI_MISS_WINDOW entries without one the kernel waits; a chunk's MISS may
 * come again while it is on its way):
 *   MISS        CACHE, CHUNKS(SPACE, CHUNK_NO, CLASS)
 *   EVICTED     CACHE, CHUNKS(SPACE, CHUNK_NO, SLOT)
 *   SLOT_BAD    CACHE, CHUNKS(SPACE, CHUNK_NO, SLOT)
 *               A read of the slot failed: the chunk is not present any more, and
 *               nobody gets the slot until the cache goes. No EVICTED follows.
 *   IMAGE_ADDED, IMAGE_REMOVED   IMAGE, CACHE, META_DEV, CACHE_DEV, IMAGE_ID
 *   CACHE_ADDED, CACHE_REMOVED   CACHE, UUID, CACHE_DEV
 *
 * A MISS that does not fit the helper's socket comes later. Other lost events
 * (ENOBUFS) are repaired by GET_CACHES, GET_IMAGES and GET_SLOTS.
 */
#ifndef _UAPI_FASTOCI_NETLINK_H
#define _UAPI_FASTOCI_NETLINK_H

#define FASTOCI_GENL_NAME	"fastoci"
#define FASTOCI_GENL_VERSION	1
/* Version of this protocol, in REGISTER; the kernel takes just this one. */
#define FASTOCI_PROTOCOL_VERSION	2

#define FASTOCI_MAX_BATCH	256
#define FASTOCI_MISS_WINDOW	1024

/*
 * How long hits took, from the look-up to the end of the cache device's read: of
 * the first and of each 64th on a CPU. Entry i counts those of more than
 * 2^(SHIFT + i - 1) and at most 2^(SHIFT + i) ns; the first has no lower bound,
 * the last no upper one.
 */
#define FASTOCI_HIT_TIME_SHIFT	10
#define FASTOCI_NR_HIT_TIMES	24

enum fastoci_cmd {
	FASTOCI_CMD_UNSPEC,
	FASTOCI_CMD_REGISTER,
	FASTOCI_CMD_ALLOC,
	FASTOCI_CMD_RETURN,
	FASTOCI_CMD_ACK,
	FASTOCI_CMD_FILL,
	FASTOCI_CMD_FAIL,
	FASTOCI_CMD_EVICT,
	FASTOCI_CMD_RESTORE,
	FASTOCI_CMD_GET_CACHES,
	FASTOCI_CMD_GET_IMAGES,
	FASTOCI_CMD_GET_SPACES,
	FASTOCI_CMD_GET_SLOTS,
	FASTOCI_CMD_GET_PENDING,
	/* events */
	FASTOCI_CMD_MISS,
	FASTOCI_CMD_EVICTED,
	FASTOCI_CMD_IMAGE_ADDED,
	FASTOCI_CMD_IMAGE_REMOVED,
	FASTOCI_CMD_CACHE_ADDED,
	FASTOCI_CMD_CACHE_REMOVED,
	FASTOCI_CMD_SLOT_BAD,

	__FASTOCI_CMD_MAX
};

#define FASTOCI_CMD_MAX (__FASTOCI_CMD_MAX - 1)

enum fastoci_attr {
	FASTOCI_A_UNSPEC,
	FASTOCI_A_VERSION,	/* u32: FASTOCI_PROTOCOL_VERSION */
	FASTOCI_A_GENERATION,	/* u64 */
	FASTOCI_A_FLAGS,	/* u32: FASTOCI_REGISTER_*, _EVICT_*, _SLOTS_* */
	FASTOCI_A_CACHE,	/* u32: cache number */
	FASTOCI_A_IMAGE,	/* u32: image number */
	FASTOCI_A_COUNT,	/* u32 */
	FASTOCI_A_SLOTS,	/* binary: array of host-endian u32 */
	FASTOCI_A_CHUNKS,	/* nest of FASTOCI_A_CHUNK */
	FASTOCI_A_CHUNK,	/* nest of FASTOCI_C_* */
	FASTOCI_A_SPACE,	/* u32: space number */
	FASTOCI_A_SPACE_ID,	/* 32 bytes */
	FASTOCI_A_DATA_BYTES,	/* u64: size of a data space */
	FASTOCI_A_UUID,		/* 16 bytes: of the cache superblock */
	FASTOCI_A_IMAGE_ID,	/* 32 bytes: of the meta superblock */
	FASTOCI_A_META_DEV,	/* u32: major << 20 | minor (the kernel's own dev_t) */
	FASTOCI_A_CACHE_DEV,	/* u32: the same */
	FASTOCI_A_CHUNK_SHIFT,	/* u32 */
	FASTOCI_A_NR_SLOTS,	/* u32 */
	FASTOCI_A_NR_FREE,	/* u32: free slots */
	FASTOCI_A_NR_CHUNKS,	/* u32: chunks of a space */
	FASTOCI_A_NR_PRESENT,	/* u32: chunks of a space that are in the cache */
	FASTOCI_A_NR_PENDING,	/* u32: misses */
	FASTOCI_A_NR_USERS,	/* u32: images that use a space */
	FASTOCI_A_PAD,
	FASTOCI_A_NR_HITS,	/* u64: reads of an image's blobs that were in the cache */
	FASTOCI_A_NR_MISSED,	/* u64: those that were not */
	FASTOCI_A_NR_ERRORS,	/* u64: reads that the image failed */
	FASTOCI_A_NR_PARKED,	/* u32: reads of an image that wait now */
	FASTOCI_A_HIT_TIMES,	/* binary: FASTOCI_NR_HIT_TIMES host-endian u64, see there */
	FASTOCI_A_HIT_NS,	/* u64: sum of the times that are counted there */

	__FASTOCI_A_MAX
};

#define FASTOCI_A_MAX (__FASTOCI_A_MAX - 1)

/* Inside FASTOCI_A_CHUNK. */
enum fastoci_chunk_attr {
	FASTOCI_C_UNSPEC,
	FASTOCI_C_SPACE,	/* u32 */
	FASTOCI_C_CHUNK_NO,	/* u32 */
	FASTOCI_C_SLOT,		/* u32 */
	FASTOCI_C_CLASS,	/* u8: enum fastoci_miss_class */
	FASTOCI_C_ERRNO,	/* u32: positive, 1..4095 */
	FASTOCI_C_STATE,	/* u8: enum fastoci_slot_state (GET_SLOTS) */
	FASTOCI_C_ACCESSED,	/* flag (GET_SLOTS) */
	FASTOCI_C_AGE_MS,	/* u32: since the miss began (GET_PENDING) */

	__FASTOCI_C_MAX
};

#define FASTOCI_C_MAX (__FASTOCI_C_MAX - 1)

/* Who waits for a miss; a larger number is more urgent. */
enum fastoci_miss_class {
	FASTOCI_CLASS_AHEAD = 0,	/* REQ_RAHEAD, behind its first 256 KiB */
	FASTOCI_CLASS_MAYBE = 1,	/* REQ_RAHEAD, may hold a demanded page */
	FASTOCI_CLASS_DEMAND = 2,
	FASTOCI_NR_CLASSES
};

enum fastoci_slot_state {
	FASTOCI_SLOT_FREE = 0,
	FASTOCI_SLOT_RESERVED = 1,	/* by a helper's ALLOC */
	FASTOCI_SLOT_RESTORED = 2,	/* holds a chunk, not served yet */
	FASTOCI_SLOT_PRESENT = 3,	/* served */
	FASTOCI_SLOT_EVICTING = 4,	/* unpublished, grace period runs */
	FASTOCI_SLOT_BAD = 5,		/* a read of it failed: out of service */
};

/* REGISTER: replace a live helper instead of -EBUSY. */
#define FASTOCI_REGISTER_TAKEOVER	(1U << 0)
/* EVICT: the slot ends up reserved by the sender instead of free. */
#define FASTOCI_EVICT_RESERVE		(1U << 0)
/* GET_SLOTS: clear the access bits that are reported. */
#define FASTOCI_SLOTS_CLEAR_ACCESSED	(1U << 0)

#endif /* _UAPI_FASTOCI_NETLINK_H */
