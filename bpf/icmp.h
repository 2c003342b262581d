/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/*
 * ICMP errors about our flows. They carry the beginning of the packet that they are about:
 *
 *   to the VIP       about what we sent to a client   -> to the server that sent it
 *   to the client    about what we sent to a server   -> from the VIP
 *
 * In both the address and port of the packet inside become what its sender had written, so
 * that path MTU discovery and the like work through us. Its checksums, and that of the
 * error, are changed by the difference; what is cut off is not missed (RFC 5508, 4.2).
 */
#ifndef LB_ICMP_H
#define LB_ICMP_H

#include "leave.h"
#include "schedule.h"
#include "suspect.h"
#include "which.h"

/* The packet inside. check: of its transport; NULL: cut off. */
struct lb_inner {
	void *ip;
	struct lb_l4 *l4;
	__u16 *check;
	__u64 proto;
};

#define LB_INNER_LEAST 8 /* bytes of transport that an error carries (RFC 792) */
#define LB_INNER_TCP 18	 /* so that its checksum is there */

/* Does the message tell of an error with a packet (RFC 792; RFC 4443, section 2.1)? */
static inline int lb_is_error(__u8 type, int v6)
{
	return v6 ? type >= 1 && type <= 4 : type == 3 || type == 11 || type == 12;
}

/* Does it say that the server cannot be reached? A packet that is too long does not. */
static inline int lb_is_refusal(const struct lb_icmp *icmp, int v6)
{
	return v6 ? icmp->type == 1 : icmp->type == 3 && icmp->code != 4;
}

/*
 * The fragment header of a packet inside that was the first of several, if it has one; 0: it
 * was a later one. naught: as in lb_parse_tag().
 */
static inline int lb_parse_inner_fragment(struct lb_cursor_at *cursor, struct lb_inner *inner,
					  __u32 naught)
{
	const struct lb_fragment6 *header = cursor->at;
	__u64 size = naught;

	if (!lb_pull(cursor, sizeof(*header)))
		return 0;
	if (inner->proto == IPPROTO_FRAGMENT) {
		if (header->offset & lb_swap16(0xfff8))
			return 0;
		inner->proto = header->next;
		size += sizeof(*header);
	}
	lb_keep(size);
	cursor->at = (void *)header + (size & sizeof(*header));
	return 1;
}

static inline int lb_parse_inner_ip(struct lb_cursor_at *cursor, struct lb_inner *inner,
				    __u32 naught, int v6)
{
	struct iphdr *ip = cursor->at;
	struct lb_ip6 *ip6 = cursor->at;

	inner->ip = cursor->at;
	if (v6) {
		if (!lb_pull(cursor, sizeof(*ip6)) || *(__u8 *)ip6 >> 4 != 6)
			return 0;
		inner->proto = ip6->next;
		return lb_parse_inner_fragment(cursor, inner, naught);
	}
	if (!lb_pull(cursor, sizeof(*ip)) || ip->version != 4 || ip->ihl < 5)
		return 0;
	inner->proto = ip->protocol;
	if (ip->frag_off & lb_swap16(LB_IP_OFFSET))
		return 0;
	return lb_pull(cursor, ip->ihl * 4 - sizeof(*ip));
}

/* end: of the error itself. 0: garbage, or no packet of a kind that we translate. */
static inline int lb_parse_inner(struct lb_cursor_at *cursor, const void *end,
				 struct lb_inner *inner, __u32 naught, int v6)
{
	if (!lb_parse_inner_ip(cursor, inner, naught, v6))
		return 0;
	inner->l4 = cursor->at;
	inner->check = 0;
	if (!lb_pull(cursor, LB_INNER_LEAST) || cursor->at > end)
		return 0;
	if (inner->proto == IPPROTO_UDP) {
		inner->check = &((struct lb_udp *)inner->l4)->check;
		return 1;
	}
	if (inner->proto != IPPROTO_TCP)
		return 0;
	if (lb_pull(cursor, LB_INNER_TCP - LB_INNER_LEAST) && cursor->at <= end)
		inner->check = &((struct lb_tcp *)inner->l4)->check;
	return 1;
}

static inline __u32 *lb_inner_source(const struct lb_inner *inner, int v6)
{
	return v6 ? ((struct lb_ip6 *)inner->ip)->saddr : &((struct iphdr *)inner->ip)->saddr;
}

static inline __u32 *lb_inner_dest(const struct lb_inner *inner, int v6)
{
	return v6 ? ((struct lb_ip6 *)inner->ip)->daddr : &((struct iphdr *)inner->ip)->daddr;
}

static inline __u32 lb_changed(__u16 before, __u16 after)
{
	return (__u16)~before + after;
}

/* One end of the packet inside. Returns what that adds to a checksum over all of it. */
static inline __u32 lb_translate_end(const struct lb_inner *inner, __u32 *address, __u16 *port,
				     const struct lb_end *to, int v6)
{
	struct iphdr *ip = inner->ip;
	__u32 delta = to->l4_delta;
	__u16 before, *check = inner->check;

	if (v6) {
		lb_set6(address, to->address);
	} else {
		before = ip->check;
		ip->check = lb_csum_apply(before, to->l3_delta);
		delta += lb_changed(before, ip->check);
		address[0] = to->address[0];
	}
	*port = to->port;
	lb_keep(check); /* and not what it was chosen by: Linux 6.1 would not follow */
	if (check) {
		before = *check;
		if (inner->proto == IPPROTO_UDP)
			*check = lb_csum_udp(before, to->l4_delta);
		else
			*check = lb_csum_apply(before, to->l4_delta);
		delta += lb_changed(before, *check);
	}
	return delta;
}

/* To the VIP: the server sent the packet inside. */
static inline enum lb_verdict lb_error_in(struct lb_ctx *c, struct lb_icmp *icmp,
					  const struct lb_inner *inner, __u64 found, int v6)
{
	const struct lb_listen *listen = lb_listens(lb_number(found));
	__u32 chosen, delta, ports = (__u32)inner->l4->source << 16 | inner->l4->dest;
	__u32 client, vip;
	const struct lb_server *server;
	struct lb_end end;

	if (!listen)
		return LB_DROP_BROKEN;
	if (LB_HAS_FENCE && lb_may_not_serve(c, listen->addr.w, v6))
		return LB_DROP_FENCED;
	client = lb_folded(c->gw, lb_inner_dest(inner, v6), v6);
	vip = lb_folded(c->gw, lb_inner_source(inner, v6), v6);
	chosen = lb_whose(c, found,
			  lb_hash_of(c->gw, lb_way_flags(found), client, vip, ports,
				     inner->proto));
	server = lb_servers(chosen);
	if (!server)
		return LB_DROP_BROKEN;
	if (lb_length(&c->packet, v6) > server->mtu)
		return lb_alive(chosen) ? LB_DROP_TOO_BIG : LB_DROP_NO_SERVER;
	end.address = server->addr.w;
	end.port = server->port;
	end.l3_delta = server->l3_delta;
	end.l4_delta = server->l4_delta;
	delta = lb_translate_end(inner, lb_inner_source(inner, v6), &inner->l4->source, &end, v6);
	icmp->check = lb_csum_apply(icmp->check, delta + (v6 ? server->l3_delta : 0));
	lb_count_in(c, chosen, v6);
	lb_set_macs(c->packet.eth, server->dmac);
	lb_nat_dest(&c->packet, server, v6);
	return lb_leave(c, server->out, LB_FORWARD);
}

/* What a checksum over the packet's source gains when that becomes `to`. */
static inline __u32 lb_source_delta(const struct lb_packet *packet, const __u32 *to, int v6)
{
	const __u32 *from = lb_source(packet, v6);
	__u32 delta = 0;
	int i;

#pragma unroll
	for (i = 0; i < 4; i++)
		if (v6 || !i)
			delta += lb_changed(from[i], to[i]) +
				 lb_changed(from[i] >> 16, to[i] >> 16);
	return delta;
}

/* From a server, or a router on the way to it, to the client who sent the packet inside. */
static inline enum lb_verdict lb_error_out(struct lb_ctx *c, struct lb_icmp *icmp,
					   const struct lb_inner *inner, __u64 found, int v6)
{
	const struct lb_server *server;
	const struct lb_listen *listen;
	__u32 delta, outer, index;
	__u32 device;
	enum lb_verdict verdict;
	struct lb_end end;

	c->dest = lb_folded(c->gw, lb_dest(&c->packet, v6), v6);
	index = lb_replying(c, found, inner->l4->source, inner->proto, v6);
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
	end.address = listen->addr.w;
	end.port = listen->port;
	end.l3_delta = lb_csum_undo(server->l3_delta);
	end.l4_delta = lb_csum_undo(server->l4_delta);
	delta = lb_translate_end(inner, lb_inner_dest(inner, v6), &inner->l4->dest, &end, v6);
	outer = lb_source_delta(&c->packet, listen->addr.w, v6);
	icmp->check = lb_csum_apply(icmp->check, delta + (v6 ? outer : 0));
	if (lb_is_refusal(icmp, v6))
		lb_suspect(c, index);
	lb_count_out(c, index, v6);
	lb_set_source(&c->packet, listen->addr.w, outer, v6);
	return lb_leave_by(c, device);
}

static inline int lb_same(const __u32 *a, const __u32 *b, int v6)
{
	return v6 ? lb_same6(a, b) : a[0] == b[0];
}

/* cursor: at the ICMP header. */
static inline enum lb_verdict lb_icmp(struct lb_ctx *c, struct lb_cursor_at *cursor, int v6)
{
	const void *end = lb_ip_end(&c->packet, v6);
	struct lb_icmp *icmp = cursor->at;
	struct lb_inner inner;
	enum lb_verdict stays;
	__u64 found;

	if (!lb_pull(cursor, sizeof(*icmp)) || !lb_is_error(icmp->type, v6) ||
	    lb_is_fragment(&c->packet, v6) ||
	    !lb_parse_inner(cursor, end, &inner, c->gw->naught, v6))
		return LB_PASS_ICMP;
	/* It goes to who sent the packet that it is about. */
	if (!lb_same(lb_dest(&c->packet, v6), lb_inner_source(&inner, v6), v6))
		return LB_PASS_ICMP;
	found = lb_listen_of(lb_inner_source(&inner, v6), inner.l4->source, inner.proto, v6);
	if (found != LB_ABSENT)
		return lb_expires(c, v6) ? LB_DROP_TTL :
					   lb_error_in(c, icmp, &inner, found, v6);
	found = lb_server_of(lb_inner_dest(&inner, v6), inner.l4->dest, inner.proto, v6);
	if (found == LB_ABSENT)
		return LB_PASS_ICMP;
	stays = lb_untranslated(c, v6);
	if (stays)
		return stays;
	return lb_expires(c, v6) ? LB_DROP_TTL : lb_error_out(c, icmp, &inner, found, v6);
}

#endif
