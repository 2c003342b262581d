/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/*
 * The fence: a gateway that may not answer for a virtual router now must neither take nor
 * send anything of it, whether or not a process of ours runs.
 *
 * The VRRP process renews a router's lease before each advert, for as long as its peer waits
 * for the next one. Once the lease is past the peer takes over, and what is for the router's
 * MAC or addresses is dropped here, as is what comes from them.
 */
#ifndef LB_FENCE_H
#define LB_FENCE_H

#include "abi.h"
#include "dialect.h"

LB_WHOLE(leases, struct lb_fence, 1)

#ifndef LB_LOADER_BCC
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, LB_FENCE_KEYS);
	__type(key, struct lb_fence_key);
	__type(value, __u32);
} fence_keys SEC(".maps");
#endif

static inline int lb_lease_past(const struct lb_fence *fence, __u32 router, __u64 now)
{
	return fence->until[router & (LB_ROUTERS - 1)] <= now;
}

/* The router whose virtual MAC (RFC 9568, 7.3) this is on an interface; 0: nobody's. */
static inline __u32 lb_router_of_mac(const struct lb_fence *fence, __u32 ifindex,
				     const __u8 *mac)
{
	int i;

	if (mac[0] || mac[1] || mac[2] != 0x5e || mac[3] || mac[4] < 1 || mac[4] > 2)
		return 0;
	for (i = 0; i < LB_PORTS; i++)
		if (fence->port[i].ifindex == ifindex)
			return mac[4] == 1 ? fence->port[i].router4[mac[5]] :
					     fence->port[i].router6[mac[5]];
	return 0;
}

/* Whether an address is a virtual one whose lease is past. */
static inline int lb_fenced(const struct lb_fence *fence, const __u32 *address, int v6,
			    __u32 ifindex, __u64 now)
{
	struct lb_fence_key key = {
		.addr.w[0] = address[0],
		.family = v6 ? 6 : 4,
	};
	const __u32 *router;

	if (v6) {
		key.addr.w[1] = address[1];
		key.addr.w[2] = address[2];
		key.addr.w[3] = address[3];
		if ((address[0] & 0xc0ff) == 0x80fe) /* fe80::/10 */
			key.ifindex = ifindex;
	}
	router = LB_LOOKUP(fence_keys, &key);
	return router && lb_lease_past(fence, *router, now);
}

#endif
