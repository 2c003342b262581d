/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/* Which listen or server a triple names: one cache line looked at, nearly always. */
#ifndef LB_INDEX_H
#define LB_INDEX_H

#include "hash.h"
#include "maps.h"

enum lb_index { LB_INDEX_LISTENS, LB_INDEX_RETURNS };

static inline struct lb_bucket *lb_bucket(enum lb_index index, __u32 i)
{
	if (index == LB_INDEX_LISTENS)
		return LB_LOOKUP(listen_index, &i);
	return LB_LOOKUP(return_index, &i);
}

static inline const struct lb_way *lb_find(enum lb_index index, __u64 key)
{
	__u32 buckets = index == LB_INDEX_LISTENS ? LB_LISTEN_BUCKETS : LB_RETURN_BUCKETS;
	__u32 first = lb_index_hash(key, buckets);
	int probe, i;

#pragma unroll
	for (probe = 0; probe < LB_PROBES; probe++) {
		struct lb_bucket *bucket = lb_bucket(index, (first + probe) & (buckets - 1));

		if (!bucket)
			return 0;
#pragma unroll
		for (i = 0; i < LB_WAYS; i++) {
			if (bucket->way[i].key == key)
				return &bucket->way[i];
			if (bucket->way[i].key == LB_KEY_EMPTY)
				return 0;
		}
	}
	return 0;
}

#endif
