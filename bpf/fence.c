// SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
/*
 * The fence on an interface that virtual routers are on: both directions of its clsact hook,
 * which sees what the macvlans above it send and are sent, ARP and neighbour discovery
 * included. What the packet program forwards never comes by here; it asks by itself.
 *
 * Tagged frames are another link's, where the virtual addresses are not.
 */
#ifdef LB_LOADER_BCC
#include <uapi/linux/bpf.h>
#else
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#endif
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/in6.h>
#include "abi.h"
#include "dialect.h"
#include "fence.h"

#define LB_TC_GO_ON (-1) /* TC_ACT_UNSPEC: to other filters, if there are any */
#define LB_TC_DROP 2	 /* TC_ACT_SHOT */
#define LB_SWAP16(x) ((__u16)__builtin_bswap16(x))

/* Where in a frame the addresses are, and those that ARP and ND ask and tell about. */
#define LB_AT_IP_SOURCE 26
#define LB_AT_IP_DEST 30
#define LB_AT_ARP_SENDER 28
#define LB_AT_ARP_TARGET 38
#define LB_AT_IP6_NEXT 20
#define LB_AT_IP6_SOURCE 22
#define LB_AT_IP6_DEST 38
#define LB_AT_ICMP6_TYPE 54
#define LB_AT_ND_TARGET 62
#define LB_ND_SOLICIT 135
#define LB_ND_ADVERT 136

struct lb_look {
	struct __sk_buff *skb;
	const struct lb_fence *fence;
	__u64 now;
};

/* An address of the frame; one that is not there is nobody's. */
static inline int lb_drops(const struct lb_look *look, __u32 at, int v6)
{
	__u32 address[4] = {};

	if (bpf_skb_load_bytes(look->skb, at, address, v6 ? 16 : 4))
		return 0;
	return lb_fenced(look->fence, address, v6, look->skb->ifindex, look->now);
}

/* A solicitation asks for its target by multicast; an advertisement tells of it. */
static inline int lb_drops_nd(const struct lb_look *look, __u8 type)
{
	__u8 next = 0, found = 0;

	bpf_skb_load_bytes(look->skb, LB_AT_IP6_NEXT, &next, 1);
	if (next != IPPROTO_ICMPV6)
		return 0;
	bpf_skb_load_bytes(look->skb, LB_AT_ICMP6_TYPE, &found, 1);
	return found == type && lb_drops(look, LB_AT_ND_TARGET, 1);
}

static inline int lb_drops_frame(const struct lb_look *look, int in)
{
	struct ethhdr eth;
	__u32 router;

	if (bpf_skb_load_bytes(look->skb, 0, &eth, sizeof(eth)))
		return 0;
	router = lb_router_of_mac(look->fence, look->skb->ifindex, in ? eth.h_dest : eth.h_source);
	if (router && lb_lease_past(look->fence, router, look->now))
		return 1;
	switch (eth.h_proto) {
	case LB_SWAP16(ETH_P_IP):
		return lb_drops(look, in ? LB_AT_IP_DEST : LB_AT_IP_SOURCE, 0);
	case LB_SWAP16(ETH_P_ARP):
		return lb_drops(look, in ? LB_AT_ARP_TARGET : LB_AT_ARP_SENDER, 0);
	case LB_SWAP16(ETH_P_IPV6):
		return lb_drops(look, in ? LB_AT_IP6_DEST : LB_AT_IP6_SOURCE, 1) ||
		       lb_drops_nd(look, in ? LB_ND_SOLICIT : LB_ND_ADVERT);
	default:
		return 0;
	}
}

static inline int lb_pass_fence(struct __sk_buff *skb, int in)
{
	struct lb_look look = {
		.skb = skb,
		.fence = lb_leases(0),
		.now = bpf_jiffies64(),
	};

	if (!look.fence || look.fence->clear_until > look.now)
		return LB_TC_GO_ON;
	return lb_drops_frame(&look, in) ? LB_TC_DROP : LB_TC_GO_ON;
}

LB_CLASSIFIER(fence_in)(struct __sk_buff *skb)
{
	return lb_pass_fence(skb, 1);
}

LB_CLASSIFIER(fence_out)(struct __sk_buff *skb)
{
	return lb_pass_fence(skb, 0);
}

/* Never attached: run (BPF_PROG_TEST_RUN) by who needs the time that the fence goes by. */
LB_PROGRAM(fence_clock)(struct xdp_md *xdp)
{
	struct lb_fence *fence = lb_leases(0);

	(void)xdp;
	if (fence)
		fence->now = bpf_jiffies64();
	return XDP_PASS;
}

#ifndef LB_LOADER_BCC
char _license[] SEC("license") = "GPL";
#endif
