/* SPDX-License-Identifier: GPL-2.0 */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM fastoci

#if !defined(FASTOCI_TRACE_H) || defined(TRACE_HEADER_MULTI_READ)
#define FASTOCI_TRACE_H

#include <linux/bio.h>
#include <linux/tracepoint.h>

#include "fastoci_meta.h"
#include "helper.h"

/* map() has cut a read and sent it on. type is that of the extent (fastoci_meta.h). */
TRACE_EVENT(fastoci_map,
	TP_PROTO(u32 image, u32 sector, struct bio *bio, u32 type,
		 bool hit),
	TP_ARGS(image, sector, bio, type, hit),
	TP_STRUCT__entry(
		__field(u32, image)
		__field(u32, sector)
		__field(u32, nr_sectors)
		__field(u32, type)
		__field(bool, hit)
	),
	TP_fast_assign(
		__entry->image = image;
		__entry->sector = sector;
		__entry->nr_sectors = bio_sectors(bio);
		__entry->type = type;
		__entry->hit = hit;
	),
	TP_printk("image=%u sector=%u nr_sectors=%u %s", __entry->image, __entry->sector,
		  __entry->nr_sectors,
		  __entry->type == FASTOCI_EXTENT_ZERO ? "zero" :
		  __entry->type == FASTOCI_EXTENT_META ? "meta" : __entry->hit ? "hit" : "miss")
);

/* A chunk is asked for, or asked for again with a higher class. */
TRACE_EVENT(fastoci_miss,
	TP_PROTO(u32 cache, const struct fastoci_chunk_key *key),
	TP_ARGS(cache, key),
	TP_STRUCT__entry(
		__field(u32, cache)
		__field(u32, space)
		__field(u32, chunk)
		__field(u8, class)
	),
	TP_fast_assign(
		__entry->cache = cache;
		__entry->space = key->space;
		__entry->chunk = key->chunk_no;
		__entry->class = key->class;
	),
	TP_printk("cache=%u space=%u chunk=%u class=%u", __entry->cache, __entry->space,
		  __entry->chunk, __entry->class)
);

/* A miss ended. latency_ns is the time since the miss was made. */
DECLARE_EVENT_CLASS(fastoci_end,
	TP_PROTO(u32 cache, const struct fastoci_chunk_key *key,
		 u64 latency_ns),
	TP_ARGS(cache, key, latency_ns),
	TP_STRUCT__entry(
		__field(u32, cache)
		__field(u32, space)
		__field(u32, chunk)
		__field(u64, latency_ns)
	),
	TP_fast_assign(
		__entry->cache = cache;
		__entry->space = key->space;
		__entry->chunk = key->chunk_no;
		__entry->latency_ns = latency_ns;
	),
	TP_printk("cache=%u space=%u chunk=%u latency_ns=%llu", __entry->cache, __entry->space,
		  __entry->chunk, __entry->latency_ns)
);

DEFINE_EVENT(fastoci_end, fastoci_fill,
	TP_PROTO(u32 cache, const struct fastoci_chunk_key *key,
		 u64 latency_ns),
	TP_ARGS(cache, key, latency_ns)
);

DEFINE_EVENT(fastoci_end, fastoci_fail,
	TP_PROTO(u32 cache, const struct fastoci_chunk_key *key,
		 u64 latency_ns),
	TP_ARGS(cache, key, latency_ns)
);

#endif /* FASTOCI_TRACE_H */

#undef TRACE_INCLUDE_PATH
#define TRACE_INCLUDE_PATH .
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_FILE trace
#include <trace/define_trace.h>
