/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/* The two hashes: of a flow (keyed, so that no client chooses its slot) and of an index. */
#ifndef LB_HASH_H
#define LB_HASH_H

#include <linux/types.h>

#define LB_ODD_A 0x9e3779b97f4a7c15ULL
#define LB_ODD_B 0xbf58476d1ce4e5b9ULL
#define LB_ODD_C 0x94d049bb133111ebULL

/* splitmix64's finalizer: every input bit reaches every output bit. */
static inline __u64 lb_mix(__u64 x)
{
	x = (x ^ (x >> 30)) * LB_ODD_B;
	x = (x ^ (x >> 27)) * LB_ODD_C;
	return x ^ (x >> 31);
}

/*
 * A flow as a number. addresses: source << 32 | destination; ports: source port << 32 |
 * destination port << 16 | protocol. The key goes in before each multiplication.
 */
static inline __u64 lb_flow_hash(__u64 key0, __u64 key1, __u64 addresses, __u64 ports)
{
	__u64 x = (addresses ^ key0) * LB_ODD_A;

	x ^= x >> 32;
	return lb_mix(x + (ports ^ key1));
}

/* The first bucket of an index key; `buckets` is a power of two. */
static inline __u32 lb_index_hash(__u64 key, __u32 buckets)
{
	return (__u32)((key * LB_ODD_A) >> 40) & (buckets - 1);
}

/* The index key of an IPv4 triple. Network order in, so the same on every machine. */
static inline __u64 lb_key4(__u32 address, __u16 port, __u8 proto)
{
	return (__u64)address << 32 | (__u64)port << 16 | (__u64)proto << 8 | 4;
}

#endif
