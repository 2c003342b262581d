/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/* How a packet leaves: by which port, under which tag, and what is counted. */
#ifndef LB_LEAVE_H
#define LB_LEAVE_H

#include "context.h"
#include "index.h"
#include "nat.h"

#define LB_AF_INET 2
#define LB_AF_INET6 10

/* A frame that had no tag gets one, in front of its type. */
static inline int lb_put_tag(struct lb_ctx *c, __u16 vlan)
{
	struct lb_macs macs = *(struct lb_macs *)c->packet.eth;
	struct lb_vlan_frame *frame;

	if (bpf_xdp_adjust_head(c->xdp, -(int)sizeof(struct lb_vlan)))
		return 0;
	frame = (void *)(long)c->xdp->data;
	if ((void *)(frame + 1) > (void *)(long)c->xdp->data_end)
		return 0;
	frame->macs = macs;
	frame->proto = lb_swap16(ETH_P_8021Q);
	frame->tci = lb_swap16(vlan);
	return 1;
}

/* The type that followed the tag is where it belongs already. */
static inline int lb_take_tag(struct lb_ctx *c)
{
	struct lb_macs macs = *(struct lb_macs *)c->packet.eth;
	struct lb_macs *frame;

	if (bpf_xdp_adjust_head(c->xdp, sizeof(struct lb_vlan)))
		return 0;
	frame = (void *)(long)c->xdp->data;
	if ((void *)(frame + 1) > (void *)(long)c->xdp->data_end)
		return 0;
	*frame = macs;
	return 1;
}

/* Gives the frame the tag of its way out: the packet's pointers mean nothing afterwards. */
static inline int lb_retag(struct lb_ctx *c, __u16 vlan)
{
	struct lb_vlan_frame *frame = (struct lb_vlan_frame *)c->packet.eth;

	if (!c->packet.tagged)
		return !vlan || lb_put_tag(c, vlan);
	if (!vlan)
		return lb_take_tag(c);
	frame->tci = (frame->tci & lb_swap16(0xf000)) | lb_swap16(vlan);
	return 1;
}

/* The last step: the packet is as it should arrive. port: of the gateway's. */
static inline enum lb_verdict lb_leave(struct lb_ctx *c, __u32 port, enum lb_verdict verdict)
{
	int back = port == c->port;

	/* Back by the port it came in on, which has no VLAN if the frame had no tag. */
	if (LB_HAS_VLAN && !(back && !c->packet.tagged)) {
		port &= LB_PORTS - 1;
		back = c->gw->ifindex[port] == c->xdp->ingress_ifindex;
		if (!lb_retag(c, (__u16)c->gw->mac[port]))
			return LB_DROP_BROKEN;
	}
	c->action = back ? XDP_TX : bpf_redirect_map(LB_HANDLE(tx_ports), port, 0);
	return verdict;
}

static inline void lb_count_in(const struct lb_ctx *c, __u32 server, int v6)
{
	struct lb_server_stats *stats = lb_stats(c, server);

	stats->packets_in++;
	stats->bytes_in += lb_length(&c->packet, v6);
}

static inline void lb_count_out(const struct lb_ctx *c, __u32 server, int v6)
{
	struct lb_server_stats *stats = lb_stats(c, server);

	stats->packets_out++;
	stats->bytes_out += lb_length(&c->packet, v6);
}

/* Asks the control plane to find a neighbour. A full buffer loses the wish: it comes back. */
static inline void lb_want(const struct bpf_fib_lookup *fib, int v6)
{
	struct lb_wanted wish = {
		.ifindex = fib->ifindex,
		.family = v6 ? 6 : 4,
	};

	if (v6)
		lb_set6(wish.addr.w, fib->ipv6_dst);
	else
		wish.addr.w[0] = fib->ipv4_dst;
	bpf_ringbuf_output(LB_HANDLE(wanted), &wish, sizeof(wish), 0);
}

/*
 * Finds the way to the packet's destination as the kernel would, and writes its MACs. The
 * packet's source is, or will be, `source`. device: where it leaves.
 */
static inline enum lb_verdict lb_route(struct lb_ctx *c, const __u32 *source, int v6,
				       __u32 *device)
{
	struct bpf_fib_lookup fib = {};

	fib.l4_protocol = c->packet.proto;
	fib.tot_len = lb_length(&c->packet, v6);
	if (v6) {
		fib.family = LB_AF_INET6;
		lb_set6(fib.ipv6_src, source);
		lb_set6(fib.ipv6_dst, c->packet.ip6->daddr);
	} else {
		fib.family = LB_AF_INET;
		fib.ipv4_src = source[0];
		fib.ipv4_dst = c->packet.ip->daddr;
	}
	fib.ifindex = c->gw->device[c->port];
	switch (bpf_fib_lookup(c->xdp, &fib, sizeof(fib), 0)) {
	case BPF_FIB_LKUP_RET_SUCCESS:
		break;
	case BPF_FIB_LKUP_RET_NO_NEIGH:
		lb_want(&fib, v6);
		return LB_DROP_NO_NEIGHBOUR;
	case BPF_FIB_LKUP_RET_FRAG_NEEDED:
		return LB_DROP_TOO_BIG;
	default:
		return LB_DROP_NO_ROUTE;
	}
	lb_copy_mac(c->packet.eth->dest, fib.dmac);
	lb_copy_mac(c->packet.eth->source, fib.smac);
	*device = fib.ifindex;
	return LB_RETURN;
}

/* By one of our ports or, for a client that is elsewhere, by any device that can send. */
static inline enum lb_verdict lb_leave_by(struct lb_ctx *c, __u32 device)
{
	__u32 place = lb_port_place(device, 0, c->gw->port_multiplier);
	__u32 port = c->gw->port_at[place & (LB_PORT_PLACES - 1)] & (LB_PORTS - 1);

	if (lb_likely(c->gw->device[port] == device))
		return lb_leave(c, port, LB_RETURN);
	if (LB_HAS_VLAN && !lb_retag(c, 0))
		return LB_DROP_BROKEN;
	c->action = bpf_redirect(device, 0);
	return LB_RETURN;
}

#endif
