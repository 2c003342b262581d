/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/*
 * Rings, and the transition rule: how a slot changes its server without breaking a flow.
 *
 * A slot that changes has two servers: its own, C, and an old one, S, that lives. Flows
 * that are older than the change stay with S, and new ones go to C. They are told apart by
 * the records of the new ones, which are written as they begin:
 *
 *   - a packet whose flow has a record follows it. Until a packet of the flow has continued
 *     the SYN (from the first window after it: ADR 5), only such do: others belong to an
 *     older flow of the same tuple, and a forged SYN cannot move that, but for one in
 *     65,536. A RST without ACK reaches the record's server as well, and confirms nothing:
 *     so a client answers a server that takes its SYN for one of a flow it still knows
 *     (RFC 9293, 3.5, figure 9), and unless that server hears it, the client's next SYN
 *     fails like the first;
 *   - a SYN without a record goes to C and is recorded. Where there is no room it goes to
 *     S: a full table slows a drain, it breaks nothing;
 *   - a SYN with payload (Fast Open) goes to S and is not recorded;
 *   - all else belongs to a flow older than the change and goes to S.
 *
 * UDP has no SYN: until the control plane finds that the change is as long ago as a flow
 * may idle, an unrecorded packet goes to S and its flow is recorded with it.
 *
 * S is the slot's own server once it is finished (sweep.c): new flows are then no longer
 * recorded, and the slot stays flagged only for records that name a third one.
 */
#ifndef LB_TRANSITION_H
#define LB_TRANSITION_H

#include "context.h"
#include "flows.h"

/*
 * What a client may send before it has heard from the server again: the window in a SYN-ACK
 * is not scaled (RFC 7323, 2.2).
 */
#define LB_FIRST_WINDOW 65536

/* May this be what a client sends after its SYN, though packets before it were lost? */
static inline int lb_follows(__u32 seq, __u32 isn)
{
	return (__u32)(seq - isn - 1) < LB_FIRST_WINDOW;
}

/* Does the packet belong to the flow in this way, or to an older one of its tuple? */
static inline int lb_continues(const struct lb_ctx *c, const struct lb_place *place)
{
	if (lb_way_state(place->word) != LB_FLOW_EMBRYONIC)
		return 1;
	return lb_is_syn(c) ? lb_seq(c) == place->isn : lb_follows(lb_seq(c), place->isn);
}

/* The client's answer to a server that took its SYN for an older flow's. */
static inline int lb_undeceives(const struct lb_ctx *c, const struct lb_place *place)
{
	return lb_way_state(place->word) == LB_FLOW_EMBRYONIC && lb_is_lone_reset(c);
}

static inline void lb_stamp(struct lb_old_slot *old, __u32 tick)
{
	if (old->used != (__u16)tick)
		old->used = tick;
}

/* An unrecorded packet of a flow, or of none that anybody knows. */
static inline __u32 lb_unrecorded(const struct lb_ctx *c, struct lb_old_slot *old, __u32 owner,
				  __u32 tick)
{
	__u32 stable = old->server & ~LB_OLD_KEPT;

	if (!lb_is_syn(c) || stable != owner)
		lb_stamp(old, tick);
	return stable;
}

static inline __u32 lb_changing_udp(const struct lb_ctx *c, struct lb_place *place, __u32 listen,
				    __u64 hash, __u32 owner, __u32 stable, __u32 tick)
{
	struct lb_cursor *cursor = lb_cursors(listen);

	if (stable == owner || !cursor || cursor->udp_records >= c->gw->udp_records)
		return owner;
	if (!lb_flow_put(c->gw, place, lb_way_make(hash, stable, LB_FLOW_UDP, tick), 0, tick))
		return place->word ? lb_way_server(place->word) : owner;
	__sync_fetch_and_add(&cursor->udp_records, 1); /* the sweep sets it right */
	return stable;
}

/* The server of a flow whose slot changes and that no scheduler remembers. */
static inline __u32 lb_changing(const struct lb_ctx *c, __u32 listen, __u64 hash, __u32 owner,
				struct lb_old_slot *old)
{
	__u32 tick = lb_tick(c->gw), stable = old->server & ~LB_OLD_KEPT;
	__u32 state = lb_is_syn(c) ? LB_FLOW_EMBRYONIC : LB_FLOW_ESTABLISHED;
	struct lb_place place;

	lb_flow_find(c->gw, hash, tick, &place);
	if (place.way && !lb_alive(lb_way_server(place.word)))
		lb_flow_drop(&place);
	if (place.way && lb_undeceives(c, &place))
		return lb_way_server(place.word);
	if (place.way && lb_continues(c, &place)) {
		if (lb_way_state(place.word) != LB_FLOW_EMBRYONIC)
			state = lb_way_state(place.word);
		lb_flow_touch(&place, state, tick);
		return lb_way_server(place.word);
	}
	if (c->packet.proto == IPPROTO_UDP)
		return lb_changing_udp(c, &place, listen, hash, owner, stable, tick);
	if (!place.way && lb_is_syn(c) && !owner)
		return 0; /* all drain: nobody takes what is new */
	if (!place.way && lb_is_syn(c) && stable != owner && !lb_has_payload(c)) {
		if (lb_flow_put(c->gw, &place, lb_way_make(hash, owner, LB_FLOW_EMBRYONIC, tick),
				lb_seq(c), tick))
			return owner;
		if (place.word)
			return lb_way_server(place.word);
	}
	return lb_unrecorded(c, old, owner, tick);
}

/* A slot as a packet finds it. old: NULL where the slot does not change. */
struct lb_slot {
	__u32 server;
	struct lb_old_slot *old;
};

/* Finds a flow's slot in a ring: lb_listen.ring. 0: there is none. */
static inline int lb_find_slot(__u32 ring, __u64 hash, struct lb_slot *slot)
{
	__u32 number = ((ring & LB_RING_PAGE) << LB_PAGE_BITS) +
		       (__u32)(hash >> (ring >> LB_RING_SHIFT & 63));
	const __u16 *found = lb_ring_slots(number);

	if (!found)
		return 0;
	slot->old = 0;
	slot->server = *found;
	if (lb_unlikely(slot->server & LB_SLOT_CHANGING)) {
		slot->server &= ~LB_SLOT_CHANGING;
		slot->old = lb_old_slots(number);
	}
	return 1;
}

#endif
