/* SPDX-License-Identifier: (GPL-2.0 WITH Linux-syscall-note) OR MIT */
/*
 * fastoci_netlink.h - the miss protocol between dm-fastoci and its helper.
 *
 * The generic netlink family is "fastoci", in the initial network namespace.
 * Every command and every dump needs CAP_SYS_ADMIN in the initial user namespace.
 *
 * Helper. There is one helper at a time. REGISTER makes the sending socket the
 * helper and returns a generation. A socket registers only once (-EALREADY). Every
 * later command that changes a state must come from that socket and carry that
 * generation, else it fails with -ESTALE. (GET_SLOTS may clear access bits for anybody:
 * they are hints, and no state depends on them.) The kernel sends events to that socket
 * by unicast. Closing the socket ends the registration. Misses then stay pending,
 * or fail by the policy of their device, and are sent to the next helper. Slots
 * that were reserved are free again.
 *
 * Caches. A cache ends when its last table is removed. Its successor on the same
 * device has the same UUID and another number. The slots that a helper had reserved
 * in the old cache stay reserved for it in the new one, because it may have a write
 * under way. They are free after RETURN, or when the helper's socket is closed. So a
 * helper first ends its writes to a cache that is gone, and then sends a RETURN
 * without SLOTS for the successor.
 *
 * Numbers. The kernel gives each cache, each image and each data space ("space") a
 * u32 number, and does not use it again soon. Chunks and slots have the size that
 * the cache's superblock says, and are counted from 0.
 *
 * Batches. A batch is a CHUNKS attribute: a nest of CHUNK nests. Each has SPACE and
 * CHUNK_NO and, depending on the command, SLOT, CLASS or ERRNO. A batch has at most
 * FASTOCI_MAX_BATCH entries, which are handled in order. The first entry that is
 * refused ends the batch with its error. The entries before it stay in force. The
 * extended ack of the reply points to the entry, or to the batch for EVICT.
 *
 * Commands:
 *   REGISTER  VERSION, FLAGS?         -> GENERATION, VERSION
 *   ALLOC     CACHE, COUNT            -> SLOTS, an array of u32
 *             Reserves free slots, perhaps fewer than COUNT. -ENOSPC if there is
 *             none.
 *   RETURN    CACHE, SLOTS?
 *             Gives reserved slots back. Without SLOTS, gives back all that the
 *             sender has reserved. Also gives back a restored slot whose content
 *             proved wrong.
 *   ACK       CACHE, COUNT
 *             The helper has taken that many entries of MISS.
 *   FILL      CACHE, CHUNKS(SPACE, CHUNK_NO, SLOT)
 *             Publishes chunks. The slot must be reserved by this generation. The
 *             same FILL again succeeds. If the chunk is already present in another
 *             slot, the sender's slot stays reserved for it.
 *   FAIL      CACHE, CHUNKS(SPACE, CHUNK_NO, ERRNO)
 *             Ends the reads that wait. They fail with ERRNO if it is ETIMEDOUT,
 *             ENODATA or EILSEQ, and otherwise with EIO.
 *   EVICT     CACHE, CHUNKS(SPACE, CHUNK_NO), FLAGS?
 *             Unpublishes the chunks at once. When no reader is left, the slot is
 *             free, or reserved by this generation if FLAGS has
 *             FASTOCI_EVICT_RESERVE. An EVICTED event tells so.
 *   RESTORE   CACHE, SPACE_ID, DATA_BYTES, CHUNKS(CHUNK_NO, SLOT)
 *             Puts slots aside for chunks that the helper's database knows: free
 *             slots, or slots that the sender has reserved. A chunk is served from
 *             its first FILL on. Makes the space if there is none. -EEXIST if the
 *             slot or the chunk is taken.
 *   REUSE     CACHE, SLOTS
 *             Takes BAD slots into use again. After a grace period each is
 *             reserved by this generation, and an EVICTED event tells so. Slots
 *             that are not BAD stay as they are.
 *
 * Dumps:
 *   GET_CACHES
 *   GET_IMAGES   adds counters: NR_HITS, NR_MISSED, NR_ERRORS, NR_PARKED, HIT_TIMES,
 *                HIT_NS
 *   GET_SPACES
 *   GET_SLOTS    CACHE, FLAGS?
 *                The slots that are not free. FASTOCI_SLOTS_CLEAR_ACCESSED in FLAGS
 *                clears the access bits that are reported.
 *   GET_PENDING  GENERATION
 *                Only the helper may use it. The dump is empty, but the kernel sends
 *                every pending miss again as MISS events.
 *
 * Events, which have no reply:
 *   MISS        CACHE, CHUNKS(SPACE, CHUNK_NO, CLASS)
 *               The helper acknowledges it by ACK. The kernel sends at most
 *               FASTOCI_MISS_WINDOW entries without an ACK. The MISS of a chunk may
 *               come again while the helper already fetches the chunk.
 *   EVICTED     CACHE, CHUNKS(SPACE, CHUNK_NO, SLOT)
 *   SLOT_BAD    CACHE, CHUNKS(SPACE, CHUNK_NO, SLOT)
 *               The slot cannot be read. The chunk is not present any more, and
 *               nobody gets the slot until REUSE or until the cache goes. If the
 *               chunk was being evicted, no EVICTED follows.
 *   IMAGE_ADDED, IMAGE_REMOVED   IMAGE, CACHE, META_DEV, CACHE_DEV, UUID, IMAGE_ID
 *   CACHE_ADDED, CACHE_REMOVED   CACHE, UUID, CACHE_DEV
 *
 * A MISS that does not fit into the helper's socket is sent later. Other events that
 * are lost (ENOBUFS) are repaired by GET_CACHES, GET_IMAGES and GET_SLOTS. If the kernel
 * has no memory for an EVICTED or a SLOT_BAD, only its log says so.
 */
#ifndef _UAPI_FASTOCI_NETLINK_H
#define _UAPI_FASTOCI_NETLINK_H

#define FASTOCI_GENL_NAME	"fastoci"
#define FASTOCI_GENL_VERSION	1
/* Version of this protocol, for REGISTER. The kernel takes no other. */
#define FASTOCI_PROTOCOL_VERSION	3

#define FASTOCI_MAX_BATCH	256
#define FASTOCI_MISS_WINDOW	1024

/*
 * How long hits took, from the look-up to the end of the read of the cache device.
 * On each CPU, the first hit and every 64th after it are timed. Entry i counts hits
 * that took more than 2^(SHIFT + i - 1) ns and at most 2^(SHIFT + i) ns. The first
 * entry has no lower bound, and the last one no upper bound.
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
	/* a command of protocol version 3 */
	FASTOCI_CMD_REUSE,

	__FASTOCI_CMD_MAX
};

#define FASTOCI_CMD_MAX (__FASTOCI_CMD_MAX - 1)

enum fastoci_attr {
	FASTOCI_A_UNSPEC,
	FASTOCI_A_VERSION,	/* u32: FASTOCI_PROTOCOL_VERSION */
	FASTOCI_A_GENERATION,	/* u64 */
	FASTOCI_A_FLAGS,	/* u32: FASTOCI_REGISTER_*, _EVICT_* or _SLOTS_*, no others */
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
	FASTOCI_A_NR_MISSED,	/* u64: reads of an image's blobs that were not in the cache */
	FASTOCI_A_NR_ERRORS,	/* u64: reads that the image failed */
	FASTOCI_A_NR_PARKED,	/* u32: reads of an image that wait now */
	FASTOCI_A_HIT_TIMES,	/* binary: array of FASTOCI_NR_HIT_TIMES host-endian u64 */
	FASTOCI_A_HIT_NS,	/* u64: sum of the times that HIT_TIMES counts */
	FASTOCI_A_NR_BAD,	/* u32: slots that are BAD */

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
	FASTOCI_C_AGE_MS,	/* not used */

	__FASTOCI_C_MAX
};

#define FASTOCI_C_MAX (__FASTOCI_C_MAX - 1)

/* Who waits for a miss; a larger number is more urgent. */
enum fastoci_miss_class {
	FASTOCI_CLASS_AHEAD = 0,	/* REQ_RAHEAD, after the first 256 KiB of the bio */
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
	FASTOCI_SLOT_BAD = 5,		/* it cannot be read: out of service */
};

/* REGISTER: replace a live helper instead of -EBUSY. */
#define FASTOCI_REGISTER_TAKEOVER	(1U << 0)
/* EVICT: the slot ends up reserved by the sender instead of free. */
#define FASTOCI_EVICT_RESERVE		(1U << 0)
/* GET_SLOTS: clear the access bits that are reported. */
#define FASTOCI_SLOTS_CLEAR_ACCESSED	(1U << 0)

#endif /* _UAPI_FASTOCI_NETLINK_H */
