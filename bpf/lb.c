// SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
/*
 * The load balancer's packet program.
 *
 * A packet of one of our listens is handled or dropped under a named verdict, never passed
 * to the stack: it would answer a SYN with RST, or drop a rewritten reply as martian.
 * Everything else is passed untouched.
 *
 * What a configuration does not use is left out when it is compiled: shape.h.
 */
#ifdef LB_LOADER_BCC
#include <uapi/linux/bpf.h>
#else
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#endif
#include "abi.h"
#include "context.h"
#include "which.h"
#include "leave.h"
#include "schedule.h"
#include "fragments.h"
#include "icmp.h"
#include "suspect.h"

/* --- client to server --------------------------------------------------------------- */

/* Does it begin a flow? A scheduler with memory knows; elsewhere a SYN does. */
static inline int lb_begins(const struct lb_ctx *c, __u64 found)
{
	return lb_has_memory(found) ? c->fresh : lb_is_syn(c);
}

/* Counts a packet and sends it to its server. */
static inline enum lb_verdict lb_deliver(struct lb_ctx *c, const struct lb_server *server,
					 __u32 index, __u64 found, int v6)
{
	struct lb_server_stats *stats = lb_stats(c, index);

	stats->packets_in++;
	stats->bytes_in += lb_length(&c->packet, v6);
	lb_lead(c, index, v6);
	lb_nat_forward(&c->packet, server, v6);
	if (lb_begins(c, found))
		stats->connections++;
	return lb_leave(c, server->out, LB_FORWARD);
}

/*
 * UDP that claims to be from a listen: the server's answer would come back here, that to it
 * too, and so on for ever. (Of TCP a RST ends it.)
 */
static inline int lb_is_echo(const struct lb_ctx *c, int v6)
{
	return c->packet.proto == IPPROTO_UDP &&
	       lb_listen_of(lb_source(&c->packet, v6), c->packet.l4->source, IPPROTO_UDP, v6) !=
		       LB_ABSENT;
}

static inline enum lb_verdict lb_forward(struct lb_ctx *c, __u64 found, int v6)
{
	const struct lb_listen *listen;
	const struct lb_server *server;
	__u32 chosen;

	if (lb_unlikely(lb_expires(c, v6)))
		return lb_rare(LB_DROP_TTL);
	if (LB_HAS_FENCE && lb_unlikely(lb_may_not_serve(c, lb_dest(&c->packet, v6), v6)))
		return lb_rare(LB_DROP_FENCED);
	if (lb_unlikely(lb_is_echo(c, v6)))
		return lb_rare(LB_DROP_MARTIAN);
	chosen = lb_choose(c, found, v6);
	server = lb_servers(chosen);
	if (!server)
		return lb_rare(LB_DROP_BROKEN);
	lb_keep(server);
	if (lb_unlikely(lb_length(&c->packet, v6) > server->mtu)) { /* 0, unless it is alive */
		if (LB_HAS_FLOWS && c->held)
			return lb_rare(LB_DROP_UNKNOWN);
		listen = lb_listens(lb_number(found));
		if (LB_HAS_LOADS && !chosen && listen && listen->turns & (LB_TURNS_HALF - 1))
			return lb_rare(LB_DROP_ALL_FULL);
		return lb_rare(lb_alive(chosen) ? LB_DROP_TOO_BIG : LB_DROP_NO_SERVER);
	}
	if (LB_HAS_FLOWS && server->flags & LB_SERVER_RECORD &&
	    !lb_record_return(c, server, chosen, v6))
		return lb_rare(LB_DROP_RETURN_FULL);
	return lb_deliver(c, server, chosen, found, v6);
}

/* --- server to client --------------------------------------------------------------- */

/*
 * The server's FIN or RST ends a remembered flow too, if that is with this server: one that
 * comes back may end flows whose clients have long been sent elsewhere.
 */
static inline void lb_server_ends(const struct lb_ctx *c, const struct lb_listen *listen,
				  __u32 server, int v6)
{
	__u32 tick = lb_tick(c->gw);
	struct lb_place place;
	__u32 state;
	__u64 hash;

	hash = lb_mix(lb_hash_of(c->gw, listen->flags, c->dest, lb_folded(c->gw, listen->addr.w, v6),
				 (__u32)listen->port << 16 | c->packet.l4->dest,
				 c->packet.proto));
	lb_flow_find(c->gw, hash, tick, &place);
	if (!place.way || lb_way_server(place.word) != server)
		return;
	state = lb_way_state(place.word);
	if (lb_tcp_flags(&c->packet) & LB_TCP_RST || state == LB_FLOW_FIN_CLIENT)
		state = LB_FLOW_CLOSED;
	else if (state != LB_FLOW_CLOSED)
		state = LB_FLOW_FIN_SERVER;
	lb_advance(listen, &place, state, tick);
}

static inline enum lb_verdict lb_return(struct lb_ctx *c, __u64 found, int v6)
{
	enum lb_verdict verdict = lb_untranslated(c, v6);
	__u32 device;
	struct lb_listen *listen;
	struct lb_server *server;
	__u32 index;

	if (verdict) {
		lb_lead(c, LB_NOBODY, v6);
		return verdict;
	}
	if (lb_expires(c, v6))
		return LB_DROP_TTL;
	index = lb_replying(c, found, c->packet.l4->dest, c->packet.proto, v6);
	server = lb_servers(index);
	if (!server)
		return LB_DROP_BROKEN;
	listen = lb_listens(server->listen);
	if (!listen)
		return LB_DROP_BROKEN;
	if (LB_HAS_FENCE && lb_may_not_serve(c, listen->addr.w, v6))
		return LB_DROP_FENCED;
	verdict = lb_route(c, listen->addr.w, v6, &device);
	if (verdict != LB_RETURN)
		return verdict;
	if (LB_HAS_FLOWS && lb_tcp_flags(&c->packet) & (LB_TCP_FIN | LB_TCP_RST) &&
	    listen->flags & LB_LISTEN_MEMORY)
		lb_server_ends(c, listen, index, v6);
	if (lb_unlikely(lb_refuses(c)))
		lb_suspect(c, index);
	lb_count_out(c, index, v6);
	lb_lead(c, index, v6);
	lb_nat_return(&c->packet, server, listen, v6);
	return lb_leave_by(c, device);
}

/* --- every packet ------------------------------------------------------------------- */

static inline enum lb_verdict lb_transport(struct lb_ctx *c, int v6)
{
	const struct lb_l4 *l4 = c->packet.l4;
	__u64 found;

	c->source = lb_folded(c->gw, lb_source(&c->packet, v6), v6);
	c->dest = lb_folded(c->gw, lb_dest(&c->packet, v6), v6);
	found = lb_listen_of(lb_dest(&c->packet, v6), l4->dest, c->packet.proto, v6);
	if (found != LB_ABSENT)
		return lb_forward(c, found, v6);
	found = lb_server_of(lb_source(&c->packet, v6), l4->source, c->packet.proto, v6);
	if (found != LB_ABSENT)
		return lb_return(c, found, v6);
	/* Not ours; what comes after, if it is from a server or to a VIP, passes as well. */
	lb_lead(c, LB_NOBODY, v6);
	return LB_PASS_OTHER;
}

/*
 * A frame that is not to the MAC of a port. LB_FORWARD: it is to a virtual router's, and so
 * for us all the same.
 */
static inline enum lb_verdict lb_foreign(const struct lb_ctx *c)
{
	int known = lb_by_port(c) && lb_in_vlan(c);
	enum lb_verdict whose = LB_PASS_FOREIGN_MAC;

	if (LB_HAS_FENCE && known)
		whose = lb_virtual_mac(c);
	if (whose != LB_PASS_FOREIGN_MAC)
		return whose;
	if (!lb_may_hold_ip(c->packet.eth))
		return LB_PASS_NOT_IP;
	if (LB_HAS_VLAN && c->packet.tagged && !known)
		return LB_PASS_VLAN;
	return known ? LB_PASS_FOREIGN_MAC : LB_PASS_OTHER;
}

/* A packet that shows no ports: dropped only if it is ours. */
static inline enum lb_verdict lb_mute(struct lb_ctx *c, int truncated, int v6)
{
	enum lb_verdict verdict = truncated ? LB_DROP_TRUNCATED : lb_later(c, v6);

	switch (verdict) {
	case LB_DROP_TRUNCATED:
	case LB_DROP_FRAGMENT:
	case LB_DROP_FRAG_NO_FIRST:
		return lb_portless(c, v6, verdict);
	default:
		return verdict;
	}
}

/* No TCP and no UDP, or not all of a header. */
static inline enum lb_verdict lb_unusual(struct lb_ctx *c, struct lb_cursor_at *cursor,
					 enum lb_parsed parsed)
{
	switch (parsed) {
	case LB_PARSED_FRAGMENT6:
	case LB_PARSED_TRUNCATED6:
		return lb_mute(c, parsed == LB_PARSED_TRUNCATED6, 1);
	case LB_PARSED_ICMP6:
		return lb_icmp(c, cursor, 1);
	case LB_PARSED_NOT_IP:
		return LB_PASS_NOT_IP;
	case LB_PARSED_VLAN:
		return LB_PASS_VLAN;
	case LB_PARSED_MALFORMED:
		return LB_PASS_MALFORMED;
	case LB_PARSED_FRAGMENT:
	case LB_PARSED_TRUNCATED:
		return lb_mute(c, parsed == LB_PARSED_TRUNCATED, 0);
	case LB_PARSED_ICMP:
		return lb_icmp(c, cursor, 0);
	default:
		return LB_PASS_OTHER;
	}
}

static inline enum lb_verdict lb_judge(struct lb_ctx *c)
{
	struct lb_cursor_at cursor = {
		.at = (void *)(long)c->xdp->data,
		.end = (void *)(long)c->xdp->data_end,
	};
	enum lb_parsed parsed;
	enum lb_verdict foreign;

	if (!lb_parse_eth(&cursor, &c->packet))
		return lb_rare(LB_PASS_NOT_IP);
	lb_parse_tag(&cursor, &c->packet, c->gw->naught);
	lb_find_port(c);
	if (lb_unlikely(!lb_by_port(c) || !lb_mac_is_ours(c))) {
		foreign = lb_foreign(c);
		if (foreign != LB_FORWARD)
			return lb_rare(foreign);
	}
	parsed = lb_parse(&cursor, &c->packet);
	if (lb_likely(parsed == LB_PARSED_OK))
		return lb_transport(c, 0);
	if (LB_HAS_IPV6 && lb_likely(parsed == LB_PARSED_OK6))
		return lb_transport(c, 1);
	return lb_rare(lb_unusual(c, &cursor, parsed));
}

static inline int lb_action(const struct lb_ctx *c, enum lb_verdict verdict)
{
	if (verdict == LB_FORWARD || verdict == LB_RETURN)
		return c->action;
	return verdict < LB_DROP_FRAGMENT ? XDP_PASS : XDP_DROP;
}

LB_PROGRAM(lb)(struct xdp_md *xdp)
{
	struct lb_ctx c = {
		.xdp = xdp,
		.gw = lb_gateway(0),
		.count = lb_cpu_blocks(bpf_get_smp_processor_id()),
	};
	enum lb_verdict verdict;

	if (!c.gw || !c.count)
		return XDP_PASS;
	lb_keep(c.count);
	verdict = lb_judge(&c);
	if (lb_unlikely(c.datagram != 0))
		lb_remember_datagram(&c);
	c.count->verdict[verdict & (LB_VERDICT_ROOM - 1)]++;
	return lb_action(&c, verdict);
}

#ifndef LB_LOADER_BCC
char _license[] SEC("license") = "GPL";
#endif
