/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/* The two hashes: of a flow (keyed, so that no client chooses its slot) and of an index. */
#ifndef LB_HASH_H
#define LB_HASH_H

#include <linux/types.h>

#define LB_ODD_A 0x9e3779b97f4a7c15ULL
#define LB_ODD_B 0xbf58476d1ce4e5b9ULL

/*
 * A flow of one listen as a number whose upper half is well mixed: slots of the listen's
 * ring are taken from its top. key: secret random numbers. ports: both, as they lie in the
 * packet.
 *
 * Pair-multiply-shift (Thorup, "High Speed Hashing for Integers and Strings"): whoever
 * chooses two flows without knowing the key, they share their upper 32 bits no more often
 * than by chance.
 */
static inline __u64 lb_slot_hash(const __u64 *key, __u32 client, __u32 ports)
{
	return (key[0] + client) * (key[1] + ports);
}

/*
 * A flow of any listen: slot is its lb_slot_hash(). One pair more, and both halves mixed,
 * for the flow cache, which takes bits from the bottom too.
 */
static inline __u64 lb_flow_hash(const __u64 *key, __u64 slot, __u32 address, __u8 proto)
{
	__u64 x = slot + (key[2] + address) * (key[3] + proto);

	x = (x ^ (x >> 32)) * LB_ODD_B;
	return x ^ (x >> 29);
}

/*
 * The first bucket of an index key; `buckets` is a power of two. From the top of the
 * product, the only bits that all of the key reaches: neighbouring addresses differ at its
 * upper end.
 */
static inline __u32 lb_index_hash(__u64 key, __u32 buckets)
{
	return (__u32)(key * LB_ODD_A >> (64 - __builtin_ctz(buckets)));
}

/* The index key of an IPv4 triple. Network order in, so the same on every machine. */
static inline __u64 lb_key4(__u32 address, __u16 port, __u8 proto)
{
	return (__u64)address << 32 | (__u64)port << 16 | proto;
}

#endif
