/* SPDX-License-Identifier: (GPL-2.0 WITH Linux-syscall-note) OR MIT */
/*
 * fastoci_meta.h - the two on-disk formats that the kernel reads: the
 * assembled meta image and the superblock of a cache device.
 *
 * User space writes both. The kernel treats them as hostile until it has checked
 * them. All integers are little-endian. A "sector" is always 512 bytes. Offsets
 * are in bytes from the start of the device unless the name says otherwise.
 * Checksums are CRC-32C (Castagnoli) with the initial value ~0 and a final
 * inversion. Each field says which bytes it covers.
 *
 * Assembled meta image:
 *
 *   0        superblock, 4096 bytes
 *   ...      blob table        nr_blobs   * 128 bytes    (kernel, broker)
 *   ...      extent keys       nr_extents * 4 bytes      (kernel)
 *   ...      extent payloads   nr_extents * 8 bytes      (kernel)
 *   ...      metadata area     file-system metadata, 512-byte aligned (bios)
 *   ...      helper area       span tables, gzip indexes, chunk digests
 *   ...      JSON part         sources of the blobs      (fetcher only)
 *
 * Each region starts on a 4096-byte boundary, regions do not overlap, and all
 * of them lie within total_bytes, which is at most the size of the device.
 *
 * Extents. keys[i] is the first sector of extent i on the device. Extent i ends
 * where extent i + 1 begins, and the last extent ends at device_sectors. keys[0]
 * is 0, and each key is larger than the one before it, so the table covers the
 * device without a gap or an overlap. A range that has no data is an extent of
 * type ZERO. The keys are stored apart from the payloads, so a lookup touches
 * only 4 bytes per probe.
 */
#ifndef _UAPI_FASTOCI_META_H
#define _UAPI_FASTOCI_META_H

#include <linux/types.h>

#define FASTOCI_META_MAGIC	"FASTOCIm"	/* 8 bytes, no NUL */
#define FASTOCI_META_VERSION	1
#define FASTOCI_META_SB_BYTES	4096
#define FASTOCI_META_ALIGN	4096

#define FASTOCI_CACHE_MAGIC	"FASTOCIc"	/* 8 bytes, no NUL */
#define FASTOCI_CACHE_VERSION	1
#define FASTOCI_CACHE_SB_BYTES	4096

/* Caps, checked before anything is allocated. */
#define FASTOCI_MAX_BLOBS	256
#define FASTOCI_MAX_EXTENTS	(8U << 20)
#define FASTOCI_MAX_DEVICE_SECTORS ((1ULL << 32) - 1)	/* keys are 32 bits */
#define FASTOCI_MAX_DATA_BYTES	(1ULL << 44)	/* 16 TiB per data space */
#define FASTOCI_MAX_IMAGE_CHUNKS (1U << 24)	/* of all data spaces of an image */
#define FASTOCI_MAX_SLOTS	(1U << 28)
#define FASTOCI_MIN_CHUNK_SHIFT	16		/* 64 KiB */
#define FASTOCI_MAX_CHUNK_SHIFT	22		/* 4 MiB */

/* A chunk digest is the SHA-256 of 64 KiB of a data space. The last piece may be shorter. */
#define FASTOCI_DIGEST_SHIFT	16
#define FASTOCI_DIGEST_BYTES	32

/*
 * A reader refuses an image that has an unknown bit in incompat. It ignores unknown
 * bits in compat. An unknown bit in ro_compat forbids writing. Nobody writes to an
 * image, so readers ignore these bits as well.
 */
#define FASTOCI_META_INCOMPAT_KNOWN	0U

/**
 * struct fastoci_meta_region - where a part of the assembled meta image lies
 * @offset: first byte, a multiple of FASTOCI_META_ALIGN
 * @bytes: length; 0 means that the region is absent, and @offset is 0 too
 * @crc: CRC-32C of the region; checked by the kernel for the blob table, the
 *	keys and the payloads, by the helper for the others. The metadata area
 *	has crc 0 and is covered by the sha256 that the broker's database keeps.
 * @reserved: 0
 */
struct fastoci_meta_region {
	__le64 offset;
	__le64 bytes;
	__le32 crc;
	__le32 reserved;
};

/**
 * struct fastoci_meta_sb - superblock of an assembled meta image
 * @magic: FASTOCI_META_MAGIC
 * @version: FASTOCI_META_VERSION
 * @sb_bytes: FASTOCI_META_SB_BYTES
 * @compat: feature mask, see above
 * @ro_compat: feature mask
 * @incompat: feature mask
 * @crc: CRC-32C over the 4096 bytes with this field zero
 * @image_id: sha256 of the manifest that the image was assembled from
 * @device_sectors: size of the mapped device, 1..FASTOCI_MAX_DEVICE_SECTORS
 * @total_bytes: end of the last region
 * @nr_blobs: entries of the blob table, 0..FASTOCI_MAX_BLOBS
 * @nr_extents: 1..FASTOCI_MAX_EXTENTS
 * @blobs: struct fastoci_meta_blob[nr_blobs]
 * @keys: __le32[nr_extents]
 * @payloads: __le64[nr_extents]
 * @metadata: file-system metadata; extents of type META point into it
 * @helper: opaque to the kernel
 * @json: opaque to the kernel and to the broker
 * @reserved: 0
 */
struct fastoci_meta_sb {
	__u8 magic[8];
	__le32 version;
	__le32 sb_bytes;
	__le32 compat;
	__le32 ro_compat;
	__le32 incompat;
	__le32 crc;
	__u8 image_id[32];
	__le64 device_sectors;
	__le64 total_bytes;
	__le32 nr_blobs;
	__le32 nr_extents;
	struct fastoci_meta_region blobs;
	struct fastoci_meta_region keys;
	struct fastoci_meta_region payloads;
	struct fastoci_meta_region metadata;
	struct fastoci_meta_region helper;
	struct fastoci_meta_region json;
	__u8 reserved[4096 - 232];
};

/* How a blob's bytes become its data space. */
enum fastoci_codec {
	FASTOCI_CODEC_RAW = 0,		/* tar: data space == blob */
	FASTOCI_CODEC_GZIP = 1,		/* tar+gzip: data space == tar stream */
	FASTOCI_CODEC_ZFILE = 2,	/* overlaybd: data space == LSMT file */
	FASTOCI_CODEC_ZSTD = 3,		/* tar+zstd: data space == tar stream */
};

/**
 * struct fastoci_meta_blob - one entry of the blob table
 * @data_space_id: sha256 over the 32 bytes of @blob_digest, le64 @data_bytes,
 *	le32 @codec and the sha256 of the chunk-digest list. If there are no
 *	digests, the sha256 of the meta layer takes the place of that of the
 *	list. The data space is then private to that meta layer.
 * @blob_digest: sha256 of the blob as the registry holds it
 * @data_bytes: size of the data space, 1..FASTOCI_MAX_DATA_BYTES
 * @blob_bytes: size of the blob
 * @codec: enum fastoci_codec
 * @nr_spans: entries of the span table, 0 for RAW
 * @spans_offset: where the span table begins in the helper area: struct
 *	fastoci_meta_span[nr_spans]
 * @index_offset: where the codec's index begins in the helper area, for example
 *	gzip.meta
 * @index_bytes: length of the codec's index
 * @digests_offset: where the chunk digests begin in the helper area: 32 bytes for
 *	each 64 KiB of the data space
 * @nr_digests: 0, or @data_bytes / 64 KiB rounded up
 * @flags: 0
 *
 * The kernel reads @data_space_id and @data_bytes only.
 */
struct fastoci_meta_blob {
	__u8 data_space_id[32];
	__u8 blob_digest[32];
	__le64 data_bytes;
	__le64 blob_bytes;
	__le32 codec;
	__le32 nr_spans;
	__le64 spans_offset;
	__le64 index_offset;
	__le64 index_bytes;
	__le64 digests_offset;
	__le32 nr_digests;
	__le32 flags;
};

/**
 * struct fastoci_meta_span - where decoding may begin
 * @data_offset: first byte of the span in the data space. It is 0 for the first
 *	span and grows from span to span. The last span ends at data_bytes.
 * @blob_offset: first byte of the blob that decoding this span needs. If a gzip
 *	checkpoint lies within a byte, it is that byte. It never decreases from
 *	span to span.
 */
struct fastoci_meta_span {
	__le64 data_offset;
	__le64 blob_offset;
};

/*
 * Extent payload: bits 63-62 type, 61-48 blob number, 47-0 sector.
 * META: the sector is one of the meta device, within the metadata area.
 * BLOB: the sector is one of that blob's data space. The last sector of a data
 * space may be partial. The bytes after its end read as zeros.
 * ZERO: all other bits are 0.
 */
#define FASTOCI_EXTENT_ZERO	0ULL
#define FASTOCI_EXTENT_META	1ULL
#define FASTOCI_EXTENT_BLOB	2ULL
#define FASTOCI_EXTENT_TYPE_SHIFT	62
#define FASTOCI_EXTENT_BLOB_SHIFT	48
#define FASTOCI_EXTENT_BLOB_MASK	0x3fffULL
#define FASTOCI_EXTENT_SECTOR_MASK	((1ULL << 48) - 1)

/**
 * struct fastoci_cache_sb - superblock of a cache device, sector 0
 * @magic: FASTOCI_CACHE_MAGIC
 * @version: FASTOCI_CACHE_VERSION
 * @sb_bytes: FASTOCI_CACHE_SB_BYTES
 * @compat: feature mask; unknown bits are ignored
 * @ro_compat: feature mask; no bit is known. The helper, which writes to the cache,
 *	refuses unknown bits. The kernel only reads, and ignores them.
 * @incompat: feature mask; no bit is known, and all readers refuse unknown bits
 * @crc: CRC-32C over the 4096 bytes with this field zero
 * @uuid: identity of the cache. While a cache is in use, the kernel refuses another
 *	device that has the same uuid.
 * @chunk_shift: log2 of the chunk size in bytes,
 *	FASTOCI_MIN_CHUNK_SHIFT..FASTOCI_MAX_CHUNK_SHIFT
 * @nr_slots: 1..FASTOCI_MAX_SLOTS
 * @slots_offset: byte offset of slot 0, a multiple of the chunk size, not 0
 * @reserved: 0
 */
struct fastoci_cache_sb {
	__u8 magic[8];
	__le32 version;
	__le32 sb_bytes;
	__le32 compat;
	__le32 ro_compat;
	__le32 incompat;
	__le32 crc;
	__u8 uuid[16];
	__le32 chunk_shift;
	__le32 nr_slots;
	__le64 slots_offset;
	__u8 reserved[4096 - 64];
};

#ifdef __cplusplus
#define FASTOCI_ASSERT(cond) static_assert(cond, #cond)
#else
#define FASTOCI_ASSERT(cond) _Static_assert(cond, #cond)
#endif
FASTOCI_ASSERT(sizeof(struct fastoci_meta_region) == 24);
FASTOCI_ASSERT(sizeof(struct fastoci_meta_sb) == FASTOCI_META_SB_BYTES);
FASTOCI_ASSERT(__builtin_offsetof(struct fastoci_meta_sb, crc) == 28);
FASTOCI_ASSERT(__builtin_offsetof(struct fastoci_meta_sb, image_id) == 32);
FASTOCI_ASSERT(__builtin_offsetof(struct fastoci_meta_sb, blobs) == 88);
FASTOCI_ASSERT(__builtin_offsetof(struct fastoci_meta_sb, reserved) == 232);
FASTOCI_ASSERT(sizeof(struct fastoci_meta_blob) == 128);
FASTOCI_ASSERT(__builtin_offsetof(struct fastoci_meta_blob, codec) == 80);
FASTOCI_ASSERT(__builtin_offsetof(struct fastoci_meta_blob, nr_digests) == 120);
FASTOCI_ASSERT(sizeof(struct fastoci_meta_span) == 16);
FASTOCI_ASSERT(sizeof(struct fastoci_cache_sb) == FASTOCI_CACHE_SB_BYTES);
FASTOCI_ASSERT(__builtin_offsetof(struct fastoci_cache_sb, uuid) == 32);
FASTOCI_ASSERT(__builtin_offsetof(struct fastoci_cache_sb, slots_offset) == 56);

#endif /* _UAPI_FASTOCI_META_H */
