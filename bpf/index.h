/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/* Which listen or server a triple names: one cache line looked at, nearly always. */
#ifndef LB_INDEX_H
#define LB_INDEX_H

#include "hash.h"
#include "maps.h"
#include "parse.h"

/*
 * The way of a key in an index of `buckets` buckets; NULL if it is not there. Nearly every
 * key that is there is the first in its bucket.
 */
#define LB_DEFINE_FIND(name, index, buckets)                                    \
	static inline const struct lb_way *name(__u64 key)                      \
	{                                                                       \
		__u32 first = lb_index_hash(key, buckets);                      \
		const struct lb_bucket *bucket = index(first);                  \
		int probe, i;                                                   \
                                                                                \
		if (lb_likely(bucket && bucket->way[0].key == key))             \
			return &bucket->way[0];                                 \
		_Pragma("nounroll")                                             \
		for (probe = 0; probe < LB_PROBES; probe++) {                   \
			bucket = index(first + probe);                          \
			if (!bucket)                                            \
				return 0;                                       \
			_Pragma("unroll")                                       \
			for (i = 0; i < LB_WAYS; i++) {                         \
				if (bucket->way[i].key == key)                  \
					return &bucket->way[i];                 \
				if (bucket->way[i].key == LB_KEY_EMPTY)         \
					return 0;                               \
			}                                                       \
		}                                                               \
		return 0;                                                       \
	}

LB_DEFINE_FIND(lb_find_listen, lb_listen_index, LB_LISTEN_BUCKETS)
LB_DEFINE_FIND(lb_find_server, lb_return_index, LB_RETURN_BUCKETS)

#endif
