// SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
/*
 * The load balancer's packet program.
 *
 * A packet of one of our listens is handled or dropped under a named verdict, never passed
 * to the stack: it would answer a SYN with RST, or drop a rewritten reply as martian.
 * Everything else is passed untouched.
 *
 * The features that a configuration does not use are left out when it is compiled:
 *   LB_FLOWS   schedulers with memory, or a server that several listens share
 *   LB_DIRECT  prefixes that servers talk to untranslated
 *   LB_IPV6    listens with IPv6 addresses
 * LB_ALL has them all.
 */
#ifdef LB_LOADER_BCC
#include <uapi/linux/bpf.h>
#else
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#endif
#ifdef LB_ALL
#define LB_FLOWS
#define LB_DIRECT
#define LB_IPV6
#endif
#include "abi.h"
#include "context.h"
#include "index.h"
#include "nat.h"
#include "schedule.h"
#include "suspect.h"

/* A verdict that few packets end in: others do not meet even its constant on their way. */
static inline enum lb_verdict lb_rare(enum lb_verdict verdict)
{
	__asm__ volatile("" : "+r"(verdict));
	return verdict;
}

#define LB_AF_INET 2
#define LB_AF_INET6 10

/* --- which packets are ours --------------------------------------------------------- */

static inline int lb_port_index(const struct lb_gateway *gw, __u32 ifindex)
{
	int i;

#pragma unroll
	for (i = 0; i < LB_PORTS; i++)
		if (gw->ifindex[i] == ifindex)
			return i;
	return -1;
}

/* That of a virtual router which is ours on this interface (RFC 9568, 7.3)? */
static inline int lb_mac_is_virtual(const struct lb_port *port, const __u8 *mac)
{
	__u8 vrid = mac[5];

	if (mac[0] || mac[1] || mac[2] != 0x5e || mac[3])
		return 0;
	if (mac[4] == 1)
		return port->vrids4[vrid >> 3] >> (vrid & 7) & 1;
	if (mac[4] == 2)
		return port->vrids6[vrid >> 3] >> (vrid & 7) & 1;
	return 0;
}

/* Is the frame for us? Its first eight bytes are the destination and two to be cut off. */
static inline int lb_mac_is_ours(const struct lb_ctx *c)
{
	const struct lb_eth *eth = c->packet.eth;
	__u32 port = c->port & (LB_PORTS - 1);

	if (*(const __u64 *)eth << 16 == c->gw->mac[port])
		return 1;
	return lb_mac_is_virtual(&c->gw->port[port], (const __u8 *)eth->dest);
}

static inline int lb_is_own4(const struct lb_gateway *gw, __u32 address)
{
	int i;

#pragma unroll
	for (i = 0; i < LB_OWN; i++)
		if (gw->own4[i] == address)
			return 1;
	return 0;
}

#ifdef LB_DIRECT
static inline int lb_is_direct4(__u32 address)
{
	struct lb_prefix4 key = { .bits = 32, .address = address };

	return LB_LOOKUP(direct4, &key) != 0;
}
#endif

static inline int lb_same6(const __u32 *a, const __u32 *b)
{
	return a[0] == b[0] && a[1] == b[1] && a[2] == b[2] && a[3] == b[3];
}

#ifdef LB_IPV6
static inline int lb_is_own6(const struct lb_gateway *gw, const __u32 *address)
{
	int i;

#pragma unroll
	for (i = 0; i < LB_OWN; i++)
		if (lb_same6(gw->own6[i].w, address))
			return 1;
	return 0;
}

#ifdef LB_DIRECT
static inline int lb_is_direct6(const __u32 *address)
{
	struct lb_prefix6 key = { .bits = 128 };

	lb_set6(key.address.w, address);
	return LB_LOOKUP(direct6, &key) != 0;
}
#endif

/* The same for IPv6: the address of what is found is not compared, so it may be another's
 * by chance, which is too rare to matter for packets that show no port. */
static inline enum lb_verdict lb_portless6(const struct lb_gateway *gw, const struct lb_ip6 *ip,
					   enum lb_verdict ours)
{
	if (lb_find_listen(lb_key6(ip->daddr, 0, 0)))
		return ours;
	if (lb_find_server(lb_key6(ip->saddr, 0, 0)) && !lb_is_own6(gw, ip->daddr))
		return ours;
	return LB_PASS_OTHER;
}
#endif

/* A packet that shows no port: ours if its address is. */
static inline enum lb_verdict lb_portless(const struct lb_gateway *gw, const struct iphdr *ip,
					  enum lb_verdict ours)
{
	if (lb_find_listen(lb_key4(ip->daddr, 0, 0)))
		return ours;
	if (lb_find_server(lb_key4(ip->saddr, 0, 0)) && !lb_is_own4(gw, ip->daddr))
		return ours;
	return LB_PASS_OTHER;
}

/* --- client to server --------------------------------------------------------------- */

static inline int lb_out(const struct lb_ctx *c, __u32 port)
{
	if (port == (__u32)c->port)
		return XDP_TX;
	return bpf_redirect_map(LB_HANDLE(tx_ports), port, 0);
}

static inline struct lb_server_stats *lb_stats(const struct lb_ctx *c, __u32 server)
{
	return &c->count->server[server & (LB_SERVERS - 1)];
}

/* Counts a packet and sends it to its server. */
static inline enum lb_verdict lb_deliver(struct lb_ctx *c, const struct lb_server *server,
					 __u32 index, int v6)
{
	struct lb_server_stats *stats = lb_stats(c, index);

	stats->packets_in++;
	stats->bytes_in += lb_length(&c->packet, v6);
	lb_nat_forward(&c->packet, server, v6);
	if (lb_begins(c))
		stats->connections++;
	c->action = lb_out(c, server->out);
	return LB_FORWARD;
}

/* v6 is a constant where these are called: IPv4 and IPv6 are two programs, in effect. */
static inline int lb_expires(const struct lb_ctx *c, int v6)
{
	return (v6 ? c->packet.ip6->hops : c->packet.ip->ttl) <= 1;
}

static inline enum lb_verdict lb_forward(struct lb_ctx *c, __u32 index, int v6)
{
	const struct lb_listen *listen = lb_listens(index);
	const struct lb_server *server;
	__u32 chosen;

	if (!listen)
		return lb_rare(LB_DROP_BROKEN);
	if (lb_unlikely(lb_expires(c, v6)))
		return lb_rare(LB_DROP_TTL);
	chosen = lb_choose(c, listen, index);
	server = lb_servers(chosen);
	if (!server)
		return lb_rare(LB_DROP_BROKEN);
	lb_keep(server);
	if (lb_unlikely(lb_length(&c->packet, v6) > server->mtu)) /* 0, unless it is alive */
		return lb_rare(lb_alive(chosen) ? LB_DROP_TOO_BIG : LB_DROP_NO_SERVER);
#ifdef LB_FLOWS
	if (server->flags & LB_SERVER_RECORD && !lb_record_return(c, server, chosen, v6))
		return lb_rare(LB_DROP_RETURN_FULL);
#endif
	return lb_deliver(c, server, chosen, v6);
}

/* --- server to client --------------------------------------------------------------- */

#ifdef LB_FLOWS
/* Several listens reach this server: the one whose flow was recorded, or else the oldest. */
static inline __u32 lb_shared_server(const struct lb_ctx *c, __u32 oldest, int v6)
{
	struct lb_server *server = lb_servers(oldest);
	__u32 tick = lb_tick(c->gw);
	struct lb_place place;

	if (!server)
		return oldest;
	lb_flow_find(c->gw, lb_return_hash(c, c->dest, c->packet.l4->dest, server, v6), tick,
		     &place);
	if (!place.way || !lb_alive(lb_way_server(place.word)))
		return oldest;
	lb_flow_touch(&place, LB_FLOW_RETURN, tick);
	return lb_way_server(place.word);
}

/* The server's FIN or RST ends a remembered flow too. */
static inline void lb_server_ends(const struct lb_ctx *c, const struct lb_listen *listen,
				  int v6)
{
	__u32 tick = lb_tick(c->gw);
	struct lb_place place;
	__u32 state;
	__u64 hash;

	hash = lb_mix(lb_flow_hash(c->gw->key, c->dest, lb_folded(c->gw, listen->addr.w, v6),
				   (__u32)listen->port << 16 | c->packet.l4->dest,
				   c->packet.proto));
	lb_flow_find(c->gw, hash, tick, &place);
	if (!place.way)
		return;
	state = lb_way_state(place.word);
	if (lb_tcp_flags(&c->packet) & LB_TCP_RST || state == LB_FLOW_FIN_CLIENT)
		state = LB_FLOW_CLOSED;
	else if (state != LB_FLOW_CLOSED)
		state = LB_FLOW_FIN_SERVER;
	lb_flow_touch(&place, state, tick);
}
#endif

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

/* Sends the packet, whose source is the listen now, the way the kernel would. */
static inline enum lb_verdict lb_route(struct lb_ctx *c, const __u32 *source, int v6)
{
	struct bpf_fib_lookup fib = {};
	int port;

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
	fib.ifindex = c->xdp->ingress_ifindex;
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
	port = lb_port_index(c->gw, fib.ifindex);
	c->action = port < 0 ? bpf_redirect(fib.ifindex, 0) : lb_out(c, port);
	return LB_RETURN;
}

static inline int lb_is_own(const struct lb_ctx *c, int v6)
{
#ifdef LB_IPV6
	if (v6)
		return lb_is_own6(c->gw, c->packet.ip6->daddr);
#endif
	return !v6 && lb_is_own4(c->gw, c->packet.ip->daddr);
}

#ifdef LB_DIRECT
static inline int lb_is_direct(const struct lb_ctx *c, int v6)
{
#ifdef LB_IPV6
	if (v6)
		return lb_is_direct6(c->packet.ip6->daddr);
#endif
	return !v6 && lb_is_direct4(c->packet.ip->daddr);
}
#endif

static inline enum lb_verdict lb_return(struct lb_ctx *c, const struct lb_way *way, int v6)
{
	struct lb_server_stats *stats;
	struct lb_listen *listen;
	struct lb_server *server;
	enum lb_verdict verdict;
	__u32 index = way->value;

	if (lb_is_own(c, v6))
		return LB_PASS_OWN;
#ifdef LB_DIRECT
	if (lb_is_direct(c, v6))
		return LB_PASS_DIRECT;
#endif
	if (lb_expires(c, v6))
		return LB_DROP_TTL;
#ifdef LB_FLOWS
	if (way->flags & LB_WAY_SHARED)
		index = lb_shared_server(c, index, v6);
#endif
	server = lb_servers(index);
	if (!server)
		return LB_DROP_BROKEN;
	listen = lb_listens(server->listen);
	if (!listen)
		return LB_DROP_BROKEN;
	verdict = lb_route(c, listen->addr.w, v6);
	if (verdict != LB_RETURN)
		return verdict;
#ifdef LB_FLOWS
	if (lb_tcp_flags(&c->packet) & (LB_TCP_FIN | LB_TCP_RST) &&
	    listen->flags & LB_LISTEN_MEMORY)
		lb_server_ends(c, listen, v6);
#endif
	if (lb_unlikely(lb_refuses(c)))
		lb_suspect(c, index);
	stats = lb_stats(c, index);
	stats->packets_out++;
	stats->bytes_out += lb_length(&c->packet, v6);
	lb_nat_return(&c->packet, server, listen, v6);
	return LB_RETURN;
}

/* --- every packet ------------------------------------------------------------------- */

static inline enum lb_verdict lb_transport(struct lb_ctx *c)
{
	const struct iphdr *ip = c->packet.ip;
	const struct lb_l4 *l4 = c->packet.l4;
	const struct lb_way *way;

	c->source = ip->saddr;
	c->dest = ip->daddr;
	way = lb_find_listen(lb_key4(ip->daddr, l4->dest, c->packet.proto));
	if (way)
		return lb_forward(c, way->value, 0);
	way = lb_find_server(lb_key4(ip->saddr, l4->source, c->packet.proto));
	if (way)
		return lb_return(c, way, 0);
	return LB_PASS_OTHER;
}

#ifdef LB_IPV6
static inline enum lb_verdict lb_transport6(struct lb_ctx *c)
{
	const struct lb_ip6 *ip = c->packet.ip6;
	const struct lb_l4 *l4 = c->packet.l4;
	const struct lb_listen *listen;
	const struct lb_server *server;
	const struct lb_way *way;

	c->source = lb_fold6(c->gw->key, ip->saddr);
	c->dest = lb_fold6(c->gw->key, ip->daddr);
	way = lb_find_listen(lb_key6(ip->daddr, l4->dest, c->packet.proto));
	if (way) {
		listen = lb_listens(way->value);
		if (listen && lb_same6(listen->addr.w, ip->daddr) && listen->port == l4->dest)
			return lb_forward(c, way->value, 1);
	}
	way = lb_find_server(lb_key6(ip->saddr, l4->source, c->packet.proto));
	if (way) {
		server = lb_servers(way->value);
		if (server && lb_same6(server->addr.w, ip->saddr) && server->port == l4->source)
			return lb_return(c, way, 1);
	}
	return LB_PASS_OTHER;
}
#endif

/* A frame for another machine, or on an interface that is none of the gateway's. */
static inline enum lb_verdict lb_foreign(const struct lb_ctx *c)
{
	if (!lb_may_hold_ip(c->packet.eth))
		return LB_PASS_NOT_IP;
	return c->port < 0 ? LB_PASS_OTHER : LB_PASS_FOREIGN_MAC;
}

/* A packet that shows no ports, or none of ours. */
static inline enum lb_verdict lb_unusual(const struct lb_ctx *c, enum lb_parsed parsed)
{
	switch (parsed) {
#ifdef LB_IPV6
	case LB_PARSED_FRAGMENT6:
		return lb_portless6(c->gw, c->packet.ip6, LB_DROP_FRAGMENT);
	case LB_PARSED_TRUNCATED6:
		return lb_portless6(c->gw, c->packet.ip6, LB_DROP_TRUNCATED);
#endif
	case LB_PARSED_NOT_IP:
		return LB_PASS_NOT_IP;
	case LB_PARSED_VLAN:
		return LB_PASS_VLAN;
	case LB_PARSED_MALFORMED:
		return LB_PASS_MALFORMED;
	case LB_PARSED_FRAGMENT:
		return lb_portless(c->gw, c->packet.ip, LB_DROP_FRAGMENT);
	case LB_PARSED_TRUNCATED:
		return lb_portless(c->gw, c->packet.ip, LB_DROP_TRUNCATED);
	case LB_PARSED_ICMP:
		return LB_PASS_ICMP;
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

	if (!lb_parse_eth(&cursor, &c->packet))
		return lb_rare(LB_PASS_NOT_IP);
	c->port = lb_port_index(c->gw, c->xdp->ingress_ifindex);
	if (c->port < 0 || !lb_mac_is_ours(c))
		return lb_foreign(c);
	parsed = lb_parse(&cursor, &c->packet);
	if (lb_likely(parsed == LB_PARSED_OK))
		return lb_transport(c);
#ifdef LB_IPV6
	if (lb_likely(parsed == LB_PARSED_OK6))
		return lb_transport6(c);
#endif
	return lb_rare(lb_unusual(c, parsed));
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
	c.count->verdict[verdict & (LB_VERDICT_ROOM - 1)]++;
	return lb_action(&c, verdict);
}

#ifndef LB_LOADER_BCC
char _license[] SEC("license") = "GPL";
#endif
