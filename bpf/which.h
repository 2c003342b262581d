/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/* Whose a packet is: the gateway's interfaces and addresses, listens, servers. */
#ifndef LB_WHICH_H
#define LB_WHICH_H

#include "context.h"
#include "fence.h"
#include "index.h"
#include "nat.h"

/* v6 is a constant wherever it is passed: IPv4 and IPv6 are two programs, in effect. */

/* Finds the port that the frame came in on, if it is one of the gateway's: lb_by_port(). */
static inline void lb_find_port(struct lb_ctx *c)
{
	__u32 place = lb_port_place(c->xdp->ingress_ifindex, c->packet.vlan,
				    c->gw->port_multiplier);

	c->port = c->gw->port_at[place & (LB_PORT_PLACES - 1)] & (LB_PORTS - 1);
}

/* Did it come in on the port's interface? And in its VLAN? A MAC that is ours tells that too. */
static inline int lb_by_port(const struct lb_ctx *c)
{
	return c->gw->ifindex[c->port] == c->xdp->ingress_ifindex;
}

static inline int lb_in_vlan(const struct lb_ctx *c)
{
	return !LB_HAS_VLAN || (__u16)c->gw->mac[c->port] == c->packet.vlan;
}

/* Is the frame for us? Its first eight bytes are the destination and two to be cut off. */
static inline int lb_mac_is_ours(const struct lb_ctx *c)
{
	const struct lb_eth *eth = c->packet.eth;

	return (*(const __u64 *)eth << 16 | c->packet.vlan) == c->gw->mac[c->port];
}

/* Another way to be ours: the MAC of a virtual router that is ours now. */
static inline enum lb_verdict lb_virtual_mac(const struct lb_ctx *c)
{
	const struct lb_fence *fence = lb_leases(0);
	__u32 router = 0;

	if (fence)
		router = lb_router_of_mac(fence, c->gw->device[c->port & (LB_PORTS - 1)],
					  (const __u8 *)c->packet.eth->dest);
	if (!router)
		return LB_PASS_FOREIGN_MAC;
	return lb_lease_past(fence, router, bpf_jiffies64()) ? LB_DROP_FENCED : LB_FORWARD;
}

/* May we not serve this VIP? Asked for each packet; few get past the first comparison. */
static inline int lb_may_not_serve(const struct lb_ctx *c, const __u32 *vip, int v6)
{
	const struct lb_fence *fence = lb_leases(0);
	__u64 now = bpf_jiffies64();

	if (!fence || lb_likely(fence->clear_until > now))
		return 0;
	return lb_fenced(fence, vip, v6, c->xdp->ingress_ifindex, now);
}

static inline __u64 lb_key(const __u32 *address, __u16 port, __u64 proto, int v6)
{
	return v6 ? lb_key6(address, port, proto) : lb_key4(address[0], port, proto);
}

static inline int lb_same6(const __u32 *a, const __u32 *b)
{
	const lb_pair *one = (const lb_pair *)a, *other = (const lb_pair *)b;

	return one[0] == other[0] && one[1] == other[1];
}

/* The listen of a triple; LB_ABSENT: there is none. An IPv6 key is but a hash. */
static inline __u64 lb_listen_of(const __u32 *address, __u16 port, __u64 proto, int v6)
{
	__u64 found = lb_find_listen(lb_key(address, port, proto, v6));
	const struct lb_listen *listen;

	if (!v6 || found == LB_ABSENT)
		return found;
	listen = lb_listens(lb_number(found));
	if (listen && lb_same6(listen->addr.w, address) && listen->port == port)
		return found;
	return LB_ABSENT;
}

static inline __u64 lb_server_of(const __u32 *address, __u16 port, __u64 proto, int v6)
{
	__u64 found = lb_find_server(lb_key(address, port, proto, v6));
	const struct lb_server *server;

	if (!v6 || found == LB_ABSENT)
		return found;
	server = lb_servers(lb_number(found));
	if (server && lb_same6(server->addr.w, address) && server->port == port)
		return found;
	return LB_ABSENT;
}

static inline const __u32 *lb_source(const struct lb_packet *packet, int v6)
{
	return v6 ? packet->ip6->saddr : &packet->ip->saddr;
}

static inline const __u32 *lb_dest(const struct lb_packet *packet, int v6)
{
	return v6 ? packet->ip6->daddr : &packet->ip->daddr;
}

/* To an address of the gateway's own? */
static inline int lb_is_own(const struct lb_ctx *c, int v6)
{
	return lb_find_listen(lb_key(lb_dest(&c->packet, v6), 0, LB_PROTO_OWN, v6)) != LB_ABSENT;
}

static inline int lb_is_direct(const struct lb_ctx *c, int v6)
{
	struct lb_prefix4 key4 = { .bits = 32 };
	struct lb_prefix6 key6 = { .bits = 128 };

	if (v6) {
		lb_set6(key6.address.w, c->packet.ip6->daddr);
		return LB_LOOKUP(direct6, &key6) != 0;
	}
	key4.address = c->packet.ip->daddr;
	return LB_LOOKUP(direct4, &key4) != 0;
}

/* Does what comes from a server stay as it is? Then the verdict that says why, else 0. */
static inline int lb_untranslated(const struct lb_ctx *c, int v6)
{
	if (lb_is_own(c, v6))
		return LB_PASS_OWN;
	if (LB_HAS_DIRECT && lb_is_direct(c, v6))
		return LB_PASS_DIRECT;
	return 0;
}

/*
 * A packet that shows no port: ours if its address is. Of IPv6, the address of what is found
 * is not compared, so it may be another's by chance, which is too rare to matter here.
 */
static inline enum lb_verdict lb_portless(const struct lb_ctx *c, int v6,
					  enum lb_verdict ours)
{
	enum lb_verdict stays;

	if (lb_find_listen(lb_key(lb_dest(&c->packet, v6), 0, 0, v6)) != LB_ABSENT)
		return ours;
	if (lb_find_server(lb_key(lb_source(&c->packet, v6), 0, 0, v6)) == LB_ABSENT)
		return LB_PASS_OTHER;
	stays = lb_untranslated(c, v6);
	return stays ? stays : ours;
}

#endif
