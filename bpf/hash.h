/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/* The two hashes: of a flow (keyed, so that no client chooses its slot) and of an index. */
#ifndef LB_HASH_H
#define LB_HASH_H

#include <linux/types.h>

#include "shape.h"

/*
 * Two words of an address at once. In a packet and in a map they may lie anywhere, as far as
 * the verifier is concerned: x86 and arm64 load them. On the stack they may not.
 */
typedef __u64 __attribute__((may_alias)) lb_pair;

#define LB_ODD_A 0x9e3779b97f4a7c15ULL
#define LB_ODD_B 0xbf58476d1ce4e5b9ULL

/*
 * A flow as a number whose upper half is well mixed: ring slots are taken from its top.
 * key: four secret random numbers. ports: both, as they lie in the packet.
 *
 * Pair-multiply-shift (Thorup, "High Speed Hashing for Integers and Strings"): whoever
 * chooses two flows without knowing the key, they share their upper 32 bits no more often
 * than by chance. The two multiplications do not wait for each other.
 */
static inline __u64 lb_flow_hash(const __u64 *key, __u32 source, __u32 dest, __u32 ports,
				 __u64 proto)
{
	return (key[0] + source) * (key[1] + dest) + (key[2] + ports) * (key[3] + proto);
}

/*
 * The same with both halves mixed, for those who take bits from its bottom too: a flow's
 * way has its tag from the top, where the ring's slot is from as well, and its set from
 * the bottom. Gateways of a pair tell each other flows by it: lbctl/ha/words.py, VERSION.
 */
static inline __u64 lb_mix(__u64 x)
{
	return x ^ (x ^ x >> 32) * LB_ODD_B >> 32;
}

/* An IPv6 address as 32 bits: two share them no more often than by chance. */
static inline __u32 lb_fold6(const __u64 *key, const __u32 *w)
{
	return ((key[0] + w[0]) * (key[1] + w[1]) + (key[2] + w[2]) * (key[3] + w[3])) >> 32;
}

/* Where gateway.port_at tells which port this interface, or VLAN on it, is. */
static inline __u32 lb_port_place(__u32 ifindex, __u16 vlan, __u32 multiplier)
{
	return ((ifindex ^ (__u32)vlan << 16) * multiplier) >> 26;
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
static inline __u64 lb_key4(__u32 address, __u16 port, __u64 proto)
{
	return (__u64)address << 32 | (__u64)port << 16 | proto;
}

/* That of an IPv6 triple: a hash, so the record that it leads to has to be compared. */
static inline __u64 lb_key6(const __u32 *w, __u16 port, __u64 proto)
{
	const lb_pair *pair = (const lb_pair *)w;
	__u64 x = pair[0] * LB_ODD_A;

	x = (x ^ (x >> 32) ^ pair[1]) * LB_ODD_B;
	x = (x ^ (x >> 32) ^ ((__u64)port << 16 | proto)) * LB_ODD_A;
	return x | 0xff00;
}

#endif
