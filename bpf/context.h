/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/* What one packet brings along through the functions of the program. */
#ifndef LB_CONTEXT_H
#define LB_CONTEXT_H

#include "hash.h"
#include "maps.h"
#include "parse.h"

/* Has the compiler make a pointer once, and not from its parts at every use. */
#define lb_keep(pointer) __asm__ volatile("" : "+r"(pointer))

struct lb_ctx {
	struct xdp_md *xdp;
	const struct lb_gateway *gw;
	struct lb_cpu_block *count;
	struct lb_packet packet;
	__u32 source;		/* addresses; an IPv6 one is folded */
	__u32 dest;
	__u32 port;		/* which of the gateway's it came in on */
	int fresh;		/* a scheduler with memory: it begins a flow */
	int held;		/* nobody remembers its flow, and it is too early to say so */
	__u32 datagram_server;	/* what the rest of a datagram follows, or comes from */
	__u64 datagram;		/* hash of the datagram that it is the first of; 0: none */
	int action;		/* XDP_* once the verdict is FORWARD or RETURN */
};

static inline struct lb_server_stats *lb_stats(const struct lb_ctx *c, __u32 server)
{
	return &c->count->server[server & (LB_SERVERS - 1)];
}

static inline int lb_is_syn(const struct lb_ctx *c)
{
	return (lb_tcp_flags(&c->packet) & (LB_TCP_SYN | LB_TCP_ACK | LB_TCP_RST | LB_TCP_FIN)) ==
	       LB_TCP_SYN;
}

/* A RST that acknowledges nothing. */
static inline int lb_is_lone_reset(const struct lb_ctx *c)
{
	return (lb_tcp_flags(&c->packet) & (LB_TCP_SYN | LB_TCP_ACK | LB_TCP_RST | LB_TCP_FIN)) ==
	       LB_TCP_RST;
}

static inline __u32 lb_seq(const struct lb_ctx *c)
{
	const struct lb_tcp *tcp = (const struct lb_tcp *)c->packet.l4;

	return c->packet.proto == IPPROTO_TCP ? lb_swap32(tcp->seq) : 0;
}

/* Bytes after the TCP header, as the headers say. */
static inline int lb_has_payload(const struct lb_ctx *c)
{
	const struct lb_tcp *tcp = (const struct lb_tcp *)c->packet.l4;
	__u32 before = (void *)c->packet.l4 - (void *)c->packet.ip;

	if (c->packet.proto != IPPROTO_TCP)
		return 0;
	return lb_length(&c->packet, *(__u8 *)c->packet.ip >> 4 == 6) >
	       before + (tcp->offset >> 4) * 4;
}

/* An address as the flow hash takes it. */
static inline __u32 lb_folded(const struct lb_gateway *gw, const __u32 *w, int v6)
{
	return v6 ? lb_fold6(gw->key, w) : w[0];
}

static inline int lb_expires(const struct lb_ctx *c, int v6)
{
	return (v6 ? c->packet.ip6->hops : c->packet.ip->ttl) <= 1;
}

static inline int lb_alive(__u32 index)
{
	struct lb_server *server = lb_servers(index);

	return server && server->state == LB_SERVER_ALIVE;
}

#endif
