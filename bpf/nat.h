/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/* Rewriting a parsed packet. Nothing here decides anything. */
#ifndef LB_NAT_H
#define LB_NAT_H

#include "abi.h"
#include "csum.h"
#include "parse.h"

static inline void lb_set_macs(struct ethhdr *eth, const __u8 *dest, const __u8 *source)
{
	__builtin_memcpy(eth->h_dest, dest, ETH_ALEN);
	__builtin_memcpy(eth->h_source, source, ETH_ALEN);
}

static inline void lb_lower_ttl(struct iphdr *ip)
{
	ip->check = lb_csum_ttl(ip->check);
	ip->ttl--;
}

/* The checksum of the transport, which covers the addresses too (RFC 9293, 3.1; RFC 768). */
static inline void lb_fix_l4(struct lb_packet *packet, __u16 delta)
{
	if (packet->tcp)
		packet->tcp->check = lb_csum_apply(packet->tcp->check, delta);
	else if (packet->udp)
		packet->udp->check = lb_csum_udp(packet->udp->check, delta);
}

/* Client to server: the destination becomes the server. */
static inline void lb_nat_forward(struct lb_packet *packet, const struct lb_server *server)
{
	lb_set_macs(packet->eth, server->dmac, server->smac);
	lb_lower_ttl(packet->ip);
	packet->ip->daddr = server->addr.w[0];
	packet->ip->check = lb_csum_apply(packet->ip->check, server->l3_delta);
	packet->l4->dest = server->port;
	lb_fix_l4(packet, server->l4_delta);
}

/* Server to client: the source becomes the listen again. */
static inline void lb_nat_return(struct lb_packet *packet, const struct lb_server *server,
				 const struct lb_listen *listen)
{
	lb_lower_ttl(packet->ip);
	packet->ip->saddr = listen->addr.w[0];
	packet->ip->check = lb_csum_apply(packet->ip->check, lb_csum_undo(server->l3_delta));
	packet->l4->source = listen->port;
	lb_fix_l4(packet, lb_csum_undo(server->l4_delta));
}

#endif
