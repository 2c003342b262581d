/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/*
 * The flow cache: sets of five one-word ways, one cache line a set.
 *
 * It holds what schedulers with memory remember and, for the others, the records of flows
 * that began while their slot was changing (transition.h): a flow has one way at most.
 *
 * A way is published by one compare-and-swap, so two CPUs can race on a set: the loser of
 * a way looks for the next. Nothing that lives is evicted: a flow that finds no room is
 * told so, and its caller places it without memory. A way dies by age, which is compared
 * here and swept up by sweep.c.
 */
#ifndef LB_FLOWS_H
#define LB_FLOWS_H

#include "maps.h"

/* Where a flow's way was found, or may be put. */
struct lb_place {
	struct lb_flow_set *set;
	__u64 *way;		/* NULL: the flow is not there */
	__u64 word;		/* what the way held */
	__u32 isn;		/* of an embryonic one */
};

static inline __u64 lb_way_make(__u64 hash, __u32 server, __u32 state, __u32 tick)
{
	return (hash >> LB_TAG_SHIFT << LB_TAG_SHIFT) | (__u64)server << LB_SERVER_SHIFT |
	       (__u64)state << LB_STATE_SHIFT | (tick & LB_AGE_MASK);
}

static inline __u32 lb_way_server(__u64 word)
{
	return (word >> LB_SERVER_SHIFT) & LB_SERVER_MASK;
}

static inline __u32 lb_way_state(__u64 word)
{
	return (word >> LB_STATE_SHIFT) & LB_STATE_MASK;
}

/* The time: about four seconds each, and all 32 bits of it. */
static inline __u32 lb_tick(const struct lb_gateway *gw)
{
	return (__u32)(bpf_jiffies64() >> (gw->tick_shift & 63)) + gw->tick_ahead;
}

static inline int lb_way_expired(const struct lb_gateway *gw, __u64 word, __u32 tick)
{
	__u32 age = (tick - (__u32)word) & LB_AGE_MASK, state = lb_way_state(word);

	return state >= LB_STATES || age > gw->timeout[state];
}

/*
 * The number of the first way with the flow's tag; LB_FLOW_WAYS: none has it. Without a
 * branch: which way it is cannot be predicted, and five pointers would be five programs to
 * the verifier. x is below 2^34, so -x is negative unless x is zero; the compiler must see
 * neither that nor the mask made of it, or it makes branches of them again.
 */
static inline __u64 lb_way_number(const struct lb_flow_set *set, __u64 hash)
{
	__u64 number = 0;
	int i;

#pragma unroll
	for (i = LB_FLOW_WAYS - 1; i >= 0; i--) {
		__s64 x = (set->way[i] ^ hash) >> LB_TAG_SHIFT;

		__asm__("%0 = -%0\n\t%0 s>>= 63" : "+r"(x));
		number = (number + 1) & x;
	}
	return number;
}

/*
 * Reads the way with the flow's tag, whatever it holds; LB_FLOW_WAYS: there is none. The set
 * is picked by the hash's low bits, the tag is its high bits.
 */
static inline __u64 lb_flow_look(__u64 hash, struct lb_place *place)
{
	struct lb_flow_set *set = lb_flows((__u32)hash);
	__u64 number;

	place->set = set;
	place->way = 0;
	if (!set)
		return LB_FLOW_WAYS;
	number = lb_way_number(set, hash);
	if (number >= LB_FLOW_WAYS)
		return LB_FLOW_WAYS;
	place->word = set->way[number];
	return (place->word ^ hash) >> LB_TAG_SHIFT ? LB_FLOW_WAYS : number;
}

/* Takes what was read for the flow, unless it is dead. */
static inline void lb_flow_take(const struct lb_gateway *gw, __u32 tick, __u64 number,
				struct lb_place *place)
{
	if (!lb_way_state(place->word) || lb_way_expired(gw, place->word, tick))
		return;
	place->way = &place->set->way[number];
	place->isn = place->set->isn[number];
}

/* Finds the flow. */
static inline void lb_flow_find(const struct lb_gateway *gw, __u64 hash, __u32 tick,
				struct lb_place *place)
{
	__u64 number = lb_flow_look(hash, place);

	if (number < LB_FLOW_WAYS)
		lb_flow_take(gw, tick, number, place);
}

/*
 * Puts a new flow into an empty or dead way; 0 where there is none, or where another CPU has
 * put it a moment ago: place->word is then what that wrote, and otherwise 0. Who reads an isn
 * before it is written takes the packet for one of an older flow.
 */
static inline int lb_flow_put(const struct lb_gateway *gw, struct lb_place *place, __u64 word,
			      __u32 isn, __u32 tick)
{
	int i;

	place->word = 0;
	if (!place->set)
		return 0;
#pragma nounroll
	for (i = 0; i < LB_FLOW_WAYS; i++) {
		__u64 *way = &place->set->way[i];
		__u64 old = *way;

		if (!old || lb_way_expired(gw, old, tick)) {
			__u64 seen = __sync_val_compare_and_swap(way, old, word);

			if (seen == old) {
				place->set->isn[i] = isn;
				return 1;
			}
			old = seen;
		}
		if (!((old ^ word) >> LB_TAG_SHIFT)) {
			place->word = old;
			return 0;
		}
	}
	return 0;
}

/* Takes the flow out, unless it was used or replaced in this moment. */
static inline void lb_flow_drop(struct lb_place *place)
{
	__sync_val_compare_and_swap(place->way, place->word, 0);
	place->way = 0;
}

/*
 * Marks a use. One store every few seconds per flow: only a new tick or state is written.
 * A race that is lost to another CPU's tick is run once more, so that no FIN is forgotten.
 * 1: it was this that changed the way.
 */
static inline int lb_flow_touch(struct lb_place *place, __u32 state, __u32 tick)
{
	__u64 mask = LB_AGE_MASK | LB_STATE_MASK << LB_STATE_SHIFT;
	__u64 fresh = (__u64)state << LB_STATE_SHIFT | (tick & LB_AGE_MASK);
	__u64 word = (place->word & ~mask) | fresh;
	__u64 seen;

	if (word == place->word)
		return 0;
	seen = __sync_val_compare_and_swap(place->way, place->word, word);
	if (seen == place->word)
		return 1;
	return (seen & ~mask) == (word & ~mask) && lb_way_state(seen) != state &&
	       __sync_val_compare_and_swap(place->way, seen, word) == seen;
}

#endif
