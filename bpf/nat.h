/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/* Rewriting a parsed packet. Nothing here decides anything. */
#ifndef LB_NAT_H
#define LB_NAT_H

#include "abi.h"
#include "csum.h"
#include "hash.h"
#include "parse.h"

/* macs: dmac and smac, twelve bytes at a multiple of eight. */
static inline void lb_set_macs(struct lb_eth *eth, const void *macs)
{
	*(lb_pair *)eth = *(const lb_pair *)macs;
	*((__u32 *)eth + 2) = *((const __u32 *)macs + 2);
}

static inline void lb_copy_mac(__u16 *to, const void *from)
{
	const __u16 *words = from;

	to[0] = words[0];
	to[1] = words[1];
	to[2] = words[2];
}

/* delta: of the addresses. */
static inline void lb_fix_ip(struct iphdr *ip, __u32 delta)
{
	ip->check = lb_csum_apply(ip->check, delta + LB_CSUM_TTL);
	ip->ttl--;
}

/* The checksum of the transport, which covers the addresses too (RFC 9293, 3.1; RFC 768). */
static inline void lb_fix_l4(struct lb_packet *packet, __u16 delta)
{
	if (packet->proto == IPPROTO_TCP) {
		struct lb_tcp *tcp = (struct lb_tcp *)packet->l4;

		tcp->check = lb_csum_apply(tcp->check, delta);
	} else {
		struct lb_udp *udp = (struct lb_udp *)packet->l4;

		udp->check = lb_csum_udp(udp->check, delta);
	}
}

static inline void lb_set6(__u32 *to, const __u32 *from)
{
	to[0] = from[0];
	to[1] = from[1];
	to[2] = from[2];
	to[3] = from[3];
}

/* An address, port and the deltas that they bring: what one end of a packet becomes. */
struct lb_end {
	const __u32 *address;
	__u16 port;
	__u16 l3_delta;
	__u16 l4_delta;
};

/* The destination's address becomes the server's. */
static inline void lb_nat_dest(struct lb_packet *packet, const struct lb_server *server, int v6)
{
	if (v6) {
		packet->ip6->hops--;
		lb_set6(packet->ip6->daddr, server->addr.w);
	} else {
		lb_fix_ip(packet->ip, server->l3_delta);
		packet->ip->daddr = server->addr.w[0];
	}
}

/* delta: what that adds to a checksum over the source. */
static inline void lb_set_source(struct lb_packet *packet, const __u32 *address, __u32 delta,
				 int v6)
{
	if (v6) {
		packet->ip6->hops--;
		lb_set6(packet->ip6->saddr, address);
	} else {
		lb_fix_ip(packet->ip, delta);
		packet->ip->saddr = address[0];
	}
}

/* The source's address becomes the listen's again. */
static inline void lb_nat_source(struct lb_packet *packet, const struct lb_server *server,
				 const struct lb_listen *listen, int v6)
{
	lb_set_source(packet, listen->addr.w, lb_csum_undo(server->l3_delta), v6);
}

/* Client to server. */
static inline void lb_nat_forward(struct lb_packet *packet, const struct lb_server *server,
				  int v6)
{
	lb_set_macs(packet->eth, server->dmac);
	lb_nat_dest(packet, server, v6);
	packet->l4->dest = server->port;
	lb_fix_l4(packet, server->l4_delta);
}

/* Server to client. */
static inline void lb_nat_return(struct lb_packet *packet, const struct lb_server *server,
				 const struct lb_listen *listen, int v6)
{
	lb_nat_source(packet, server, listen, v6);
	packet->l4->source = listen->port;
	lb_fix_l4(packet, lb_csum_undo(server->l4_delta));
}

#endif
