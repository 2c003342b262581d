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
#include "which.h"

/*
 * For sh, a flow's hash with its highest bits from the client's address alone: they pick the
 * slot, and the rest still tells its flows apart.
 */
static inline __u64 lb_of_source(const struct lb_gateway *gw, __u32 source, __u32 dest,
				 __u64 hash)
{
	__u64 client = lb_flow_hash(gw->key, source, dest, 0, 0);

	return (client >> 48 << 48) | (hash & ((1ULL << 48) - 1));
}

/* The hash of a client's flow: its highest bits pick the slot. flags: of the listen. */
static inline __u64 lb_hash_of(const struct lb_gateway *gw, __u32 flags, __u32 source, __u32 dest,
			       __u32 ports, __u64 proto)
{
	__u64 hash = lb_flow_hash(gw->key, source, dest, ports, proto);

	return flags & LB_LISTEN_SOURCE ? lb_of_source(gw, source, dest, hash) : hash;
}

/*
 * Whose is a flow of which this packet is not part: of an ICMP error about it, say. As the
 * next packet of the flow would be treated, but nothing is remembered.
 */
static inline __u32 lb_whose(const struct lb_ctx *c, __u64 found, __u64 hash)
{
	struct lb_place place;
	struct lb_slot slot;
	__u32 stable;

	if (!lb_find_slot(lb_way_ring(found), hash, &slot))
		return 0;
	stable = slot.server;
	lb_keep(slot.old); /* or what it was chosen by is asked, which Linux 6.1 cannot follow */
	if (slot.old)
		stable = slot.old->server & ~LB_OLD_KEPT;
	else if (!lb_has_memory(found))
		return stable;
	lb_flow_find(c->gw, lb_mix(hash), lb_tick(c->gw), &place);
	if (place.way && lb_alive(lb_way_server(place.word)))
		return lb_way_server(place.word);
	return stable;
}

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

/* Is it one whose load is looked at? */
static inline int lb_by_load(const struct lb_listen *listen)
{
	return listen->scheduler == LB_SCHED_LC || listen->scheduler == LB_SCHED_WLC;
}

/* What one more flow would make of a server's load; lc takes each weight as one. */
static inline __u64 lb_load_with(const struct lb_listen *listen, __u32 index, __u32 *weight)
{
	struct lb_server *server = lb_servers(index);
	struct lb_load *load = lb_loads(index);

	*weight = server && listen->scheduler == LB_SCHED_WLC ? server->weight : 1;
	return load && load->open > 0 ? load->open + 1 : 1;
}

/*
 * The less loaded of two places in the sequence (Mitzenmacher, "The Power of Two Choices in
 * Randomized Load Balancing"): that of wlc holds each server as often as it weighs.
 */
static inline __u32 lb_less_loaded(const struct lb_listen *listen, __u32 index, __u64 hash)
{
	struct lb_turns *sequence = LB_LOOKUP(turns, &index);
	__u32 length = listen->turns & (LB_TURNS_HALF - 1), half, first, second, a, b;
	__u64 load_a, load_b;

	if (!sequence || !length)
		return 0;
	half = listen->turns & LB_TURNS_HALF ? 1 : 0;
	first = (__u32)hash % length;
	second = length > 1 ? (first + 1 + (__u32)(hash >> 32) % (length - 1)) % length : first;
	a = sequence->server[half][first & (LB_TURNS - 1)];
	b = sequence->server[half][second & (LB_TURNS - 1)];
	load_a = lb_load_with(listen, a, &first);
	load_b = lb_load_with(listen, b, &second);
	return load_a * second <= load_b * first ? a : b;
}

static inline __u32 lb_most(__u32 index)
{
	struct lb_server *server = lb_servers(index);

	return server ? server->max_connections : 0;
}

/* by: 1 as a flow begins, -1 as it ends. */
static inline void lb_count_load(const struct lb_listen *listen, __u32 server, int by)
{
	struct lb_load *load = lb_loads(server);

	if (load && (lb_by_load(listen) || lb_most(server)))
		__sync_fetch_and_add(&load->open, (__s64)by);
}

/* Has it as many flows as it may? All ones if so, else 0: a number and no branch (ADR 4). */
static inline __u64 lb_full(__u32 index)
{
	struct lb_server *server = lb_servers(index);
	struct lb_load *load = lb_loads(index);
	__s64 room;

	if (!server || !load)
		return 0;
	room = (__s64)(__u32)(server->max_connections - 1) - load->open; /* 0: no limit */
	room >>= 63;
	lb_keep(room);
	return room;
}

/* The server whose turn it is, by the listen's scheduler. */
static inline __u32 lb_in_turn(const struct lb_listen *listen, __u32 index, __u64 hash,
				const struct lb_slot *slot)
{
	if (LB_HAS_LOADS && lb_by_load(listen))
		return lb_less_loaded(listen, index, hash);
	if (listen->scheduler == LB_SCHED_MH || listen->scheduler == LB_SCHED_SH)
		return slot->server;
	return lb_next_turn(listen, index);
}

/*
 * One that had room when the control plane last looked, and has it still; else 0. They are
 * few and no loop, for the verifier's sake: the sweep gives no turn to who is full.
 */
static inline __u32 lb_spare(const struct lb_listen *listen)
{
	__u64 first = listen->spare[0], second = listen->spare[1];
	__s64 none;

	first &= ~lb_full(first);
	second &= ~lb_full(second);
	none = (__s64)(first - 1) >> 63;
	lb_keep(none);
	return first | (second & none);
}

/* The server of a new flow; 0: none, or those that were asked have no room. */
static inline __u32 lb_schedule(const struct lb_listen *listen, __u32 index, __u64 hash,
				const struct lb_slot *slot)
{
	__u32 chosen = lb_in_turn(listen, index, hash, slot);

	if (LB_HAS_LOADS && lb_full(chosen))
		chosen = lb_spare(listen);
	return chosen;
}

/* The way of a client's own: one for all flows of it to this listen. */
static inline __u64 lb_client_hash(const struct lb_ctx *c, const struct lb_listen *listen,
				   int v6)
{
	const __u32 *source = lb_source(&c->packet, v6);
	__u32 client[4];
	int i;

#pragma unroll
	for (i = 0; i < 4; i++)
		client[i] = v6 || !i ? source[i] & listen->mask.w[i] : 0;
	return lb_mix(~lb_flow_hash(c->gw->key, lb_folded(c->gw, client, v6), c->dest,
				    listen->port, listen->proto));
}

/* Where a client's flows go: to the server of its last one, as long as that takes new ones. */
static inline __u32 lb_persist(const struct lb_ctx *c, const struct lb_listen *listen,
			       __u32 index, __u64 hash, const struct lb_slot *slot, __u32 tick,
			       int v6)
{
	__u64 client = lb_client_hash(c, listen, v6);
	struct lb_place place;
	struct lb_server *server;
	__u32 chosen;

	lb_flow_find(c->gw, client, tick, &place);
	if (place.way && ((tick - (__u32)place.word) & LB_AGE_MASK) <= listen->persistence) {
		chosen = lb_way_server(place.word);
		server = lb_servers(chosen);
		if (server && server->state == LB_SERVER_ALIVE && server->weight &&
		    !(LB_HAS_LOADS && lb_full(chosen))) {
			lb_flow_touch(&place, LB_FLOW_CLIENT, tick);
			return chosen;
		}
	}
	chosen = lb_schedule(listen, index, hash, slot);
	if (place.way)
		lb_flow_drop(&place);
	if (chosen &&
	    !lb_flow_put(c->gw, &place, lb_way_make(client, chosen, LB_FLOW_CLIENT, tick), 0,
			 tick) &&
	    place.word)
		return lb_way_server(place.word);
	return chosen;
}

static inline __u32 lb_place_new(const struct lb_ctx *c, const struct lb_listen *listen,
				 __u32 index, __u64 hash, const struct lb_slot *slot, __u32 tick,
				 int v6)
{
	if (LB_HAS_PERSISTENCE && listen->persistence)
		return lb_persist(c, listen, index, hash, slot, tick, v6);
	return lb_schedule(listen, index, hash, slot);
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

/* A packet of a remembered flow: its state, and what the server's load loses by it. */
static inline void lb_advance(const struct lb_listen *listen, struct lb_place *place,
			      __u32 state, __u32 tick)
{
	int moved = lb_flow_touch(place, state, tick);

	if (LB_HAS_LOADS && moved && state == LB_FLOW_CLOSED &&
	    lb_way_state(place->word) != LB_FLOW_CLOSED)
		lb_count_load(listen, lb_way_server(place->word), -1);
}

/* Where the ring puts a flow that a scheduler with memory could not remember. */
static inline __u32 lb_unremembered(const struct lb_ctx *c, const struct lb_slot *slot,
				    __u32 tick)
{
	if (!slot->old || c->packet.proto == IPPROTO_UDP)
		return slot->server;
	return lb_unrecorded(c, slot->old, slot->server, tick);
}

/* The same for a flow that begins, which a server that is full does not get. */
static inline __u32 lb_begun_unremembered(const struct lb_ctx *c, const struct lb_slot *slot,
					  __u32 tick)
{
	__u32 server = lb_unremembered(c, slot, tick);

	return LB_HAS_LOADS && c->packet.proto == IPPROTO_TCP ? server & ~lb_full(server) : server;
}

/*
 * Is it a packet of a connection that had another in this tick, and no more than that? Most
 * are: nothing is to be asked, and nothing to be written, of any of the rest.
 */
static inline int lb_flows_on(const struct lb_ctx *c, __u64 word, __u32 tick)
{
	__u32 usual = LB_FLOW_ESTABLISHED << LB_STATE_SHIFT | (tick & LB_AGE_MASK);

	return ((__u32)word & ((1 << LB_SERVER_SHIFT) - 1)) == usual &&
	       !(lb_tcp_flags(&c->packet) & (LB_TCP_FIN | LB_TCP_SYN | LB_TCP_RST));
}

#define LB_STRANGER (~0U) /* in place of a server: nobody remembers the packet's flow */

/*
 * The server of a flow that is remembered. Else LB_STRANGER, and place->way is not NULL if
 * what is remembered is a younger flow of the same tuple.
 */
static inline __u32 lb_known_flow(const struct lb_ctx *c, __u64 found, struct lb_place *place,
				  __u64 hash, __u32 tick)
{
	const struct lb_listen *listen;
	__u64 number = lb_flow_look(hash, place);
	__u32 server, state;

	if (number >= LB_FLOW_WAYS)
		return LB_STRANGER;
	server = lb_way_server(place->word);
	if (lb_likely(lb_flows_on(c, place->word, tick)) && lb_alive(server))
		return server;
	lb_flow_take(c->gw, tick, number, place);
	if (!place->way)
		return LB_STRANGER;
	state = lb_way_state(place->word);
	if (!lb_alive(server) || (lb_is_syn(c) && state == LB_FLOW_CLOSED)) {
		lb_flow_drop(place);
		return LB_STRANGER;
	}
	if (lb_undeceives(c, place))
		return server;
	if (!lb_continues(c, place))
		return LB_STRANGER;
	listen = lb_listens(lb_number(found));
	if (listen)
		lb_advance(listen, place, lb_state_after(state, lb_tcp_flags(&c->packet)), tick);
	return server;
}

/*
 * Schedulers with memory; hash: not mixed yet. What is in the middle of a flow and not
 * remembered was placed by the ring, and so is what is new and finds no room. Most packets
 * never look at the ring.
 */
static inline __u32 lb_remembered(struct lb_ctx *c, __u64 found, __u64 hash, int v6)
{
	const struct lb_listen *listen;
	__u32 tick = lb_tick(c->gw), server, state;
	__u64 mixed = lb_mix(hash);
	struct lb_place place;
	struct lb_slot slot;
	int syn;

	server = lb_known_flow(c, found, &place, mixed, tick);
	if (lb_likely(server != LB_STRANGER))
		return server;
	listen = lb_listens(lb_number(found));
	if (!listen)
		return 0;
	syn = lb_is_syn(c);
	if (!lb_find_slot(lb_way_ring(found), hash, &slot))
		return 0;
	if (place.way)
		return lb_unremembered(c, &slot, tick);
	/*
	 * A server that does not know the flow would answer RST. While this gateway has just
	 * taken over, silence is better: the client sends again.
	 */
	if (c->packet.proto == IPPROTO_TCP && !syn && listen->flags & LB_LISTEN_HELD) {
		c->held = 1;
		return 0;
	}
	if (c->packet.proto == IPPROTO_TCP && !syn)
		return lb_unremembered(c, &slot, tick);
	if (lb_has_payload(c))
		return lb_begun_unremembered(c, &slot, tick);
	server = lb_place_new(c, listen, lb_number(found), mixed, &slot, tick, v6);
	if (!server)
		return 0;
	state = syn ? LB_FLOW_EMBRYONIC : LB_FLOW_UDP;
	if (!lb_flow_put(c->gw, &place, lb_way_make(mixed, server, state, tick), lb_seq(c), tick)) {
		if (place.word)
			return lb_way_server(place.word);
		server = lb_begun_unremembered(c, &slot, tick);
	} else if (LB_HAS_LOADS) {
		lb_count_load(listen, server, 1);
	}
	c->fresh = 1;
	return server;
}

/*
 * The server of a client's packet; 0: none. found: what the index says of the listen, which
 * is all that mh and sh ask.
 */
static inline __u32 lb_choose(struct lb_ctx *c, __u64 found, int v6)
{
	__u64 hash = lb_flow_hash(c->gw->key, c->source, c->dest, c->packet.l4->ports,
				  c->packet.proto);
	struct lb_slot slot;

	if (lb_unlikely(lb_way_flags(found))) { /* sh, or one with memory */
		if (lb_way_flags(found) & LB_LISTEN_SOURCE)
			hash = lb_of_source(c->gw, c->source, c->dest, hash);
		if (lb_has_memory(found))
			return lb_remembered(c, found, hash, v6);
	}
	if (!lb_find_slot(lb_way_ring(found), hash, &slot))
		return 0;
	if (lb_unlikely(slot.old))
		return lb_changing(c, lb_number(found), lb_mix(hash), slot.server, slot.old);
	return slot.server;
}

/* A hash of its own for the way back of a shared server's flow. */
static inline __u64 lb_return_hash(const struct lb_ctx *c, __u32 client, __u16 client_port,
				   __u64 proto, const struct lb_server *server, int v6)
{
	__u32 ports = (__u32)server->port << 16 | client_port;
	__u32 address = lb_folded(c->gw, server->addr.w, v6);

	return lb_mix(~lb_flow_hash(c->gw->key, client, address, ports, proto));
}

/*
 * How readily a way is given up, two bits a state: another SYN of a shared server's first,
 * then a datagram in pieces, then a SYN that a scheduler remembers. What is more than a SYN
 * is not.
 */
#define LB_GIVEN_UP (3ULL << 2 * LB_FLOW_RETURN_NEW | 2ULL << 2 * LB_FLOW_FRAGMENT | \
		     1ULL << 2 * LB_FLOW_EMBRYONIC)

/*
 * Where a set is full: in place of what a flood fills sets with, each of which lives for a
 * moment only. Of several that would do, the hash picks one. Without a branch, for the
 * verifier's sake: the highest of five numbers, each with its way's in its lowest three bits.
 */
static inline int lb_displace_return(struct lb_place *place, __u64 word, __u32 isn)
{
	__u64 best = 0, old;
	__u32 number;
	int i;

	if (!place->set)
		return 0;
#pragma unroll
	for (i = 0; i < LB_FLOW_WAYS; i++) {
		__u64 rank = LB_GIVEN_UP >> 2 * lb_way_state(place->set->way[i]) & 3;
		__u64 one = rank << 9 | (word >> (LB_TAG_SHIFT + 6 * i) & 63) << 3 | i;
		__s64 higher = (__s64)(best - one) >> 63;

		lb_keep(higher);
		best ^= (best ^ one) & higher;
	}
	number = best & 7;
	if (best < 1 << 9 || number >= LB_FLOW_WAYS)
		return 0;
	old = place->set->way[number];
	if (!(LB_GIVEN_UP >> 2 * lb_way_state(old) & 3) ||
	    __sync_val_compare_and_swap(&place->set->way[number], old, word) != old)
		return 0;
	place->set->isn[number] = isn;
	return 1;
}

/*
 * Notes that this flow's replies are this listen's. 0: no room for a new flow. A SYN alone is
 * noted for some seconds; the client's next packet, or the server's, for as long as the flow.
 */
static inline int lb_record_return(const struct lb_ctx *c, const struct lb_server *server,
				   __u32 index, int v6)
{
	__u32 tick = lb_tick(c->gw), seq = lb_seq(c), state = LB_FLOW_RETURN;
	int tcp = c->packet.proto == IPPROTO_TCP, syn = lb_is_syn(c);
	struct lb_place place;
	__u64 hash, word;

	hash = lb_return_hash(c, c->source, c->packet.l4->source, c->packet.proto, server, v6);
	lb_flow_find(c->gw, hash, tick, &place);
	if (tcp && !syn) {
		if (place.way && lb_way_state(place.word) == LB_FLOW_RETURN_NEW &&
		    lb_way_server(place.word) == index && lb_follows(seq, place.isn))
			lb_flow_touch(&place, LB_FLOW_RETURN, tick);
		return 1;
	}
	if (place.way && lb_way_server(place.word) == index &&
	    (lb_way_state(place.word) != LB_FLOW_RETURN_NEW || seq == place.isn)) {
		lb_flow_touch(&place, lb_way_state(place.word), tick);
		return 1;
	}
	if (place.way)
		lb_flow_drop(&place);
	if (tcp)
		state = LB_FLOW_RETURN_NEW;
	word = lb_way_make(hash, index, state, tick);
	return lb_flow_put(c->gw, &place, word, seq, tick) || place.word ||
	       lb_displace_return(&place, word, seq);
}

/* Of a connection that is more than a SYN and what answers it? An ICMP error never is. */
static inline int lb_talks(const struct lb_ctx *c)
{
	return c->packet.proto == IPPROTO_TCP &&
	       !(lb_tcp_flags(&c->packet) & (LB_TCP_SYN | LB_TCP_RST));
}

/* Several listens reach this server: the one whose flow was recorded, or else the oldest. */
static inline __u32 lb_shared_server(const struct lb_ctx *c, __u32 oldest, __u16 client_port,
				     __u64 proto, int v6)
{
	struct lb_server *server = lb_servers(oldest);
	__u32 tick = lb_tick(c->gw), state;
	struct lb_place place;

	if (!server)
		return oldest;
	lb_flow_find(c->gw, lb_return_hash(c, c->dest, client_port, proto, server, v6), tick,
		     &place);
	if (!place.way || !lb_alive(lb_way_server(place.word)))
		return oldest;
	state = lb_way_state(place.word);
	if (proto != IPPROTO_TCP || lb_talks(c))
		state = LB_FLOW_RETURN;
	lb_flow_touch(&place, state, tick);
	return lb_way_server(place.word);
}

/* As which server of ours it answers the client at c->dest. */
static inline __u32 lb_replying(const struct lb_ctx *c, __u64 found, __u16 client_port,
				__u64 proto, int v6)
{
	if (LB_HAS_FLOWS && lb_is_shared(found))
		return lb_shared_server(c, lb_number(found), client_port, proto, v6);
	return lb_number(found);
}

#endif
