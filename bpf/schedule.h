/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/*
 * Which server takes a client's packet. mh and sh ask the ring alone. The others remember
 * each flow in the flow cache, and ask the ring where they cannot: a full cache turns rr
 * into mh, it breaks nothing.
 */
#ifndef LB_SCHEDULE_H
#define LB_SCHEDULE_H

#include "hash.h"
#include "transition.h"

/*
 * A flow's hash: its highest bits pick the slot. For sh these are a hash of the client's
 * address alone, and the rest still tells its flows apart.
 */
static inline __u64 lb_hash(const struct lb_ctx *c, const struct lb_listen *listen)
{
	__u64 hash = lb_flow_hash(c->gw->key, c->source, c->dest, c->packet.l4->ports,
				  c->packet.proto);
	__u64 client;

	if (!lb_unlikely(listen->flags & LB_LISTEN_SOURCE))
		return hash;
	client = lb_flow_hash(c->gw->key, c->source, c->dest, 0, 0);
	return (client >> 48 << 48) | (hash & ((1ULL << 48) - 1));
}

#ifdef LB_FLOWS
/* The next server in turn. The sequence of wrr holds each server as often as it weighs. */
static inline __u32 lb_next_turn(const struct lb_listen *listen, __u32 index)
{
	struct lb_cursor *cursor = lb_cursors(index);
	struct lb_turns *sequence = LB_LOOKUP(turns, &index);
	__u32 length = listen->turns & (LB_TURNS_HALF - 1);
	__u32 half = listen->turns & LB_TURNS_HALF ? 1 : 0;
	__u32 turn;

	if (!cursor || !sequence || !length)
		return 0;
	turn = (__u32)__sync_fetch_and_add(&cursor->next, 1) % length;
	return sequence->server[half][turn & (LB_TURNS - 1)];
}

/* What a client's packet makes of its flow's state. */
static inline __u32 lb_state_after(__u32 state, __u8 flags)
{
	if (state == LB_FLOW_UDP)
		return state;
	if (flags & LB_TCP_RST)
		return LB_FLOW_CLOSED;
	if (state == LB_FLOW_CLOSED)
		return state;
	if (flags & LB_TCP_FIN)
		return state == LB_FLOW_FIN_SERVER ? LB_FLOW_CLOSED : LB_FLOW_FIN_CLIENT;
	if (state == LB_FLOW_EMBRYONIC && !(flags & LB_TCP_SYN))
		return LB_FLOW_ESTABLISHED;
	return state;
}

/* Where the ring puts a flow that a scheduler with memory could not remember. */
static inline __u32 lb_unremembered(const struct lb_ctx *c, const struct lb_slot *slot,
				    __u32 tick)
{
	if (!slot->old || c->packet.proto == IPPROTO_UDP)
		return slot->server;
	return lb_unrecorded(c, slot->old, slot->server, tick);
}

/*
 * Schedulers with memory. What is in the middle of a flow and not remembered was placed by
 * the ring, and so is what is new and finds no room.
 */
static inline __u32 lb_remembered(struct lb_ctx *c, const struct lb_listen *listen, __u32 index,
				  __u64 hash, const struct lb_slot *slot)
{
	__u32 tick = lb_tick(c->gw);
	struct lb_place place;
	__u32 server, state;
	int syn = lb_is_syn(c);

	c->fresh = 0;
	lb_flow_find(c->gw, hash, tick, &place);
	if (place.way) {
		state = lb_way_state(place.word);
		server = lb_way_server(place.word);
		if (!lb_alive(server) || (syn && state == LB_FLOW_CLOSED)) {
			lb_flow_drop(&place);
		} else {
			if (lb_undeceives(c, &place))
				return server;
			if (!lb_continues(c, &place))
				return lb_unremembered(c, slot, tick);
			lb_flow_touch(&place, lb_state_after(state, lb_tcp_flags(&c->packet)),
				      tick);
			return server;
		}
	}
	if (c->packet.proto == IPPROTO_TCP && (!syn || lb_has_payload(c)))
		return lb_unremembered(c, slot, tick);
	c->fresh = 1;
	server = lb_next_turn(listen, index);
	if (!server)
		return 0;
	state = syn ? LB_FLOW_EMBRYONIC : LB_FLOW_UDP;
	if (lb_flow_put(c->gw, &place, lb_way_make(hash, server, state, tick), lb_seq(c), tick))
		return server;
	return lb_unremembered(c, slot, tick);
}
#endif

/* Does the packet begin a flow? A scheduler with memory knows; elsewhere a SYN does. */
static inline int lb_begins(const struct lb_ctx *c)
{
#ifdef LB_FLOWS
	return c->fresh;
#else
	return lb_is_syn(c);
#endif
}

/* The server of a client's packet; 0: none. */
static inline __u32 lb_choose(struct lb_ctx *c, const struct lb_listen *listen, __u32 index)
{
	__u64 hash = lb_hash(c, listen);
	struct lb_slot slot;

	if (!lb_find_slot(listen, hash, &slot))
		return 0;
#ifdef LB_FLOWS
	if (listen->flags & LB_LISTEN_MEMORY)
		return lb_remembered(c, listen, index, lb_mix(hash), &slot);
	c->fresh = lb_is_syn(c);
#endif
	if (lb_unlikely(slot.old))
		return lb_changing(c, index, lb_mix(hash), slot.server, slot.old);
	return slot.server;
}

#ifdef LB_FLOWS
/* A hash of its own for the way back of a shared server's flow. */
static inline __u64 lb_return_hash(const struct lb_ctx *c, __u32 client, __u16 client_port,
				   const struct lb_server *server, int v6)
{
	__u32 ports = (__u32)server->port << 16 | client_port;
	__u32 address = lb_folded(c->gw, server->addr.w, v6);

	return lb_mix(~lb_flow_hash(c->gw->key, client, address, ports, c->packet.proto));
}

/* Notes that this flow's replies are this listen's. 0: no room for a new flow. */
static inline int lb_record_return(const struct lb_ctx *c, const struct lb_server *server,
				   __u32 index, int v6)
{
	__u32 tick = lb_tick(c->gw);
	struct lb_place place;
	__u64 hash, word;

	if (c->packet.proto == IPPROTO_TCP && !lb_is_syn(c))
		return 1;
	hash = lb_return_hash(c, c->source, c->packet.l4->source, server, v6);
	word = lb_way_make(hash, index, LB_FLOW_RETURN, tick);
	lb_flow_find(c->gw, hash, tick, &place);
	if (!place.way)
		return lb_flow_put(c->gw, &place, word, 0, tick);
	__sync_val_compare_and_swap(place.way, place.word, word);
	return 1;
}
#endif

#endif
