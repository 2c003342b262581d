/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/*
 * Fragments. The first of a datagram shows ports and is treated as any packet; where it went
 * is remembered in the flow cache by addresses and identification, and the others follow it.
 * What comes before its first, or finds no record of it, is dropped.
 */
#ifndef LB_FRAGMENTS_H
#define LB_FRAGMENTS_H

#include "flows.h"
#include "leave.h"
#include "which.h"

#define LB_NOBODY 0 /* in place of a server: the datagram passes */

/*
 * In IPv6 the identification stands for itself (RFC 8200, 4.5): a later fragment tells the
 * protocol of what its first begins with, which may be a header before the transport's.
 */
static inline __u64 lb_datagram_hash(const struct lb_ctx *c, int v6)
{
	__u64 hash = lb_flow_hash(c->gw->key, c->source, c->dest, lb_fragment_id(&c->packet, v6),
				  v6 ? 0 : c->packet.proto);

	return lb_mix(hash ^ LB_ODD_A);
}

/* Has the rest of the datagram, if this is the first of one, go to `server` or come from it. */
static inline void lb_lead(struct lb_ctx *c, __u32 server, int v6)
{
	if (!lb_unlikely(lb_is_fragment(&c->packet, v6)))
		return;
	c->datagram = lb_datagram_hash(c, v6);
	c->datagram_server = server;
}

/* The last step for such a first. */
static inline void lb_remember_datagram(const struct lb_ctx *c)
{
	__u32 tick = lb_tick(c->gw);
	__u64 word = lb_way_make(c->datagram, c->datagram_server, LB_FLOW_FRAGMENT, tick);
	struct lb_place place;

	lb_flow_find(c->gw, c->datagram, tick, &place);
	if (place.way)
		__sync_val_compare_and_swap(place.way, place.word, word);
	else
		lb_flow_put(c->gw, &place, word, 0, tick);
}

static inline enum lb_verdict lb_follow_in(struct lb_ctx *c, const struct lb_server *server,
					   __u32 index, int v6)
{
	if (lb_length(&c->packet, v6) > server->mtu)
		return lb_alive(index) ? LB_DROP_TOO_BIG : LB_DROP_NO_SERVER;
	lb_count_in(c, index, v6);
	lb_set_macs(c->packet.eth, server->dmac);
	lb_nat_dest(&c->packet, server, v6);
	return lb_leave(c, server->out, LB_FORWARD);
}

static inline enum lb_verdict lb_follow_out(struct lb_ctx *c, const struct lb_server *server,
					    const struct lb_listen *listen, __u32 index, int v6)
{
	__u32 device;
	enum lb_verdict verdict = lb_route(c, listen->addr.w, v6, &device);

	if (verdict != LB_RETURN)
		return verdict;
	lb_count_out(c, index, v6);
	lb_nat_source(&c->packet, server, listen, v6);
	return lb_leave_by(c, device);
}

static inline enum lb_verdict lb_follow(struct lb_ctx *c, __u32 index, int v6)
{
	const struct lb_server *server = lb_servers(index);
	const struct lb_listen *listen;

	if (!server)
		return LB_DROP_BROKEN;
	listen = lb_listens(server->listen);
	if (!listen)
		return LB_DROP_BROKEN;
	if (lb_expires(c, v6))
		return LB_DROP_TTL;
	if (LB_HAS_FENCE && lb_may_not_serve(c, listen->addr.w, v6))
		return LB_DROP_FENCED;
	if (v6 ? lb_same6(listen->addr.w, c->packet.ip6->daddr) :
		 listen->addr.w[0] == c->packet.ip->daddr)
		return lb_follow_in(c, server, index, v6);
	return lb_follow_out(c, server, listen, index, v6);
}

/* A fragment that is not the first. The caller asks whether what is dropped is ours. */
static inline enum lb_verdict lb_later(struct lb_ctx *c, int v6)
{
	__u32 tick = lb_tick(c->gw);
	struct lb_place place;

	if (c->packet.proto == (v6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP))
		return LB_PASS_ICMP;
	if (c->packet.proto != IPPROTO_TCP && c->packet.proto != IPPROTO_UDP &&
	    !(v6 && lb_is_extension(c->packet.proto)))
		return LB_PASS_OTHER;
	if (lb_overwrites(&c->packet, v6))
		return LB_DROP_FRAGMENT;
	c->source = lb_folded(c->gw, lb_source(&c->packet, v6), v6);
	c->dest = lb_folded(c->gw, lb_dest(&c->packet, v6), v6);
	lb_flow_find(c->gw, lb_datagram_hash(c, v6), tick, &place);
	if (!place.way || lb_way_state(place.word) != LB_FLOW_FRAGMENT)
		return LB_DROP_FRAG_NO_FIRST;
	if (lb_way_server(place.word) == LB_NOBODY)
		return LB_PASS_OTHER;
	return lb_follow(c, lb_way_server(place.word), v6);
}

#endif
