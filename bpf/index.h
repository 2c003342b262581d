/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/* Which listen or server a triple names: one cache line looked at, nearly always. */
#ifndef LB_INDEX_H
#define LB_INDEX_H

#include "hash.h"
#include "maps.h"
#include "parse.h"

#define LB_ABSENT (~0ULL)

/* The parts of lb_way.found. */
static inline __u32 lb_number(__u64 found)
{
	return (__u32)found;
}

static inline __u32 lb_way_flags(__u64 found)
{
	return found >> LB_WAY_FLAGS_SHIFT;
}

/* Of a listen: as in its record. */
static inline __u32 lb_way_ring(__u64 found)
{
	return found >> LB_WAY_RING_SHIFT & ((1U << (LB_WAY_FLAGS_SHIFT - LB_WAY_RING_SHIFT)) - 1);
}

/* Are the flows of this listen remembered? */
static inline int lb_has_memory(__u64 found)
{
	return LB_HAS_FLOWS && lb_way_flags(found) & LB_LISTEN_MEMORY;
}

static inline int lb_is_shared(__u64 found)
{
	return (lb_way_flags(found) & LB_WAY_SHARED) != 0;
}

/*
 * What an index of `buckets` buckets knows of a key; LB_ABSENT: nothing. Nearly every key
 * that is there is the first in its bucket.
 */
#define LB_DEFINE_FIND(name, index, buckets)                                    \
	static inline __u64 name(__u64 key)                                     \
	{                                                                       \
		__u32 first = lb_index_hash(key, buckets);                      \
		const struct lb_bucket *bucket = index(first);                  \
		int probe, i;                                                   \
                                                                                \
		if (lb_likely(bucket && bucket->way[0].key == key))             \
			return bucket->way[0].found;                            \
		_Pragma("nounroll")                                             \
		for (probe = 0; probe < LB_PROBES; probe++) {                   \
			bucket = index(first + probe);                          \
			if (!bucket)                                            \
				return LB_ABSENT;                               \
			_Pragma("unroll")                                       \
			for (i = 0; i < LB_WAYS; i++) {                         \
				if (bucket->way[i].key == key)                  \
					return bucket->way[i].found;            \
				if (bucket->way[i].key == LB_KEY_EMPTY)         \
					return LB_ABSENT;                       \
			}                                                       \
		}                                                               \
		return LB_ABSENT;                                               \
	}

LB_DEFINE_FIND(lb_find_listen, lb_listen_index, LB_LISTEN_BUCKETS)
LB_DEFINE_FIND(lb_find_server, lb_return_index, LB_RETURN_BUCKETS)

#endif
