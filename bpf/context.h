/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/* What one packet brings along through the functions of the program. */
#ifndef LB_CONTEXT_H
#define LB_CONTEXT_H

#include "maps.h"
#include "parse.h"

#define lb_unlikely(x) __builtin_expect(!!(x), 0)

struct lb_ctx {
	struct xdp_md *xdp;
	const struct lb_gateway *gw;
	struct lb_packet packet;
	__u64 addresses;	/* as lb_flow_hash() wants them */
	__u64 ports;
	__u8 proto;
	__u8 tcp_flags;		/* 0 for UDP */
	__u8 fresh;		/* begins a flow, as far as anybody can tell */
	__u16 length;		/* of the IP packet */
	int action;		/* XDP_* once the verdict is FORWARD or RETURN */
};

static inline int lb_is_syn(const struct lb_ctx *c)
{
	return (c->tcp_flags & (LB_TCP_SYN | LB_TCP_ACK | LB_TCP_RST | LB_TCP_FIN)) == LB_TCP_SYN;
}

static inline __u32 lb_seq(const struct lb_ctx *c)
{
	return c->packet.tcp ? lb_swap32(c->packet.tcp->seq) : 0;
}

/* Bytes after the TCP header, as the headers say. */
static inline int lb_has_payload(const struct lb_ctx *c)
{
	__u32 headers;

	if (!c->packet.tcp)
		return 0;
	headers = c->packet.ip->ihl * 4 + (c->packet.tcp->offset >> 4) * 4;
	return c->length > headers;
}

static inline int lb_alive(__u32 index)
{
	struct lb_server *server = LB_LOOKUP(servers, &index);

	return server && server->state == LB_SERVER_ALIVE;
}

#endif
