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
 *   LB_LARGE   a ring of the large class
 *   LB_DIRECT  prefixes that servers talk to untranslated
 * LB_ALL has them all.
 */
#ifdef LB_LOADER_BCC
#include <uapi/linux/bpf.h>
#else
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#endif
#include "abi.h"
#include "hash.h"
#include "maps.h"
#include "nat.h"
#include "parse.h"
#include "flows.h"

#ifdef LB_ALL
#define LB_FLOWS
#define LB_LARGE
#define LB_DIRECT
#endif

#define LB_AF_INET 2

/* Has the compiler make a pointer once, and not from its parts at every use. */
#define lb_keep(pointer) __asm__ volatile("" : "+r"(pointer))

/* A verdict that few packets end in: others do not meet even its constant on their way. */
static inline enum lb_verdict lb_rare(enum lb_verdict verdict)
{
	__asm__ volatile("" : "+r"(verdict));
	return verdict;
}

/* What one packet brings along through the functions below. */
struct lb_ctx {
	struct xdp_md *xdp;
	const struct lb_gateway *gw;
	struct lb_cpu_block *count;
	struct lb_packet packet;
	int port;		/* which of the gateway's it came in on */
	int fresh;		/* the first packet of a flow, and a scheduler with memory knows */
	int action;		/* XDP_* once the verdict is FORWARD or RETURN */
};

/*
 * The way of a key in an index of `buckets` buckets; NULL if it is not there. Nearly every
 * key that is there is the first in its bucket.
 */
#define LB_DEFINE_FIND(name, index, buckets)                                    \
	static inline const struct lb_way *name(__u64 key)                      \
	{                                                                       \
		__u32 first = lb_index_hash(key, buckets);                      \
		const struct lb_bucket *bucket = index(first);                  \
		int probe, i;                                                   \
                                                                                \
		if (lb_likely(bucket && bucket->way[0].key == key))             \
			return &bucket->way[0];                                 \
		_Pragma("nounroll")                                             \
		for (probe = 0; probe < LB_PROBES; probe++) {                   \
			bucket = index(first + probe);                          \
			if (!bucket)                                            \
				return 0;                                       \
			_Pragma("unroll")                                       \
			for (i = 0; i < LB_WAYS; i++) {                         \
				if (bucket->way[i].key == key)                  \
					return &bucket->way[i];                 \
				if (bucket->way[i].key == LB_KEY_EMPTY)         \
					return 0;                               \
			}                                                       \
		}                                                               \
		return 0;                                                       \
	}

LB_DEFINE_FIND(lb_find_listen, lb_listen_index, LB_LISTEN_BUCKETS)
LB_DEFINE_FIND(lb_find_server, lb_return_index, LB_RETURN_BUCKETS)

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

/* index: of the listen, and of its ring unless that is a large one. */
static inline __u32 lb_ring_server(__u32 index, __u64 hash)
{
	const struct lb_small_ring *small = lb_small_rings(index);

#ifdef LB_LARGE
	const struct lb_listen *listen = lb_listens(index);

	if (listen && listen->ring & LB_RING_LARGE) {
		__u32 ring = listen->ring & ~LB_RING_LARGE;
		const struct lb_large_ring *large = LB_LOOKUP(large_rings, &ring);

		return large ? large->slot[hash >> 48] & ~LB_SLOT_CHANGING : 0;
	}
#endif
	return small ? small->slot[hash >> 51] & ~LB_SLOT_CHANGING : 0;
}

static inline int lb_is_syn(__u8 flags)
{
	return (flags & (LB_TCP_SYN | LB_TCP_ACK | LB_TCP_RST | LB_TCP_FIN)) == LB_TCP_SYN;
}

static inline int lb_alive(__u32 index)
{
	struct lb_server *server = lb_servers(index);

	return server && server->state == LB_SERVER_ALIVE;
}

#ifdef LB_FLOWS
static inline int lb_remembers(const struct lb_listen *listen)
{
	return listen->scheduler == LB_SCHED_RR || listen->scheduler == LB_SCHED_WRR;
}

/* The next server in turn. The sequence of wrr holds each server as often as it weighs. */
static inline __u32 lb_next_turn(const struct lb_listen *listen, __u32 index)
{
	struct lb_cursor *cursor = lb_cursors(index);
	struct lb_turns *sequence = LB_LOOKUP(turns, &index);
	__u32 length = listen->turns & (LB_TURNS_HALF - 1);
	__u32 half = listen->turns & LB_TURNS_HALF ? 1 : 0;
	__u32 turn;

	if (!cursor || !sequence || !length)
		return 0;
	turn = (__u32)__sync_fetch_and_add(&cursor->next, 1) % length;
	return sequence->server[half][turn & (LB_TURNS - 1)];
}

/* What a client's packet makes of its flow's state. */
static inline __u32 lb_state_after(__u32 state, __u8 flags)
{
	if (state == LB_FLOW_UDP)
		return state;
	if (flags & LB_TCP_RST)
		return LB_FLOW_CLOSED;
	if (state == LB_FLOW_CLOSED)
		return state;
	if (flags & LB_TCP_FIN)
		return state == LB_FLOW_FIN_SERVER ? LB_FLOW_CLOSED : LB_FLOW_FIN_CLIENT;
	if (state == LB_FLOW_EMBRYONIC && !(flags & LB_TCP_SYN))
		return LB_FLOW_ESTABLISHED;
	return state;
}

/*
 * Does a packet leave its flow's word as it is? So do most: those in the middle of a flow
 * that was marked as used in this tick already.
 */
static inline int lb_settled(__u64 word, __u8 proto, __u8 flags, __u32 tick)
{
	__u32 state = proto == IPPROTO_TCP ? LB_FLOW_ESTABLISHED : LB_FLOW_UDP;
	__u64 mask = LB_AGE_MASK | LB_STATE_MASK << LB_STATE_SHIFT;

	return (word & mask) == (state << LB_STATE_SHIFT | tick) &&
	       !(flags & (LB_TCP_SYN | LB_TCP_FIN | LB_TCP_RST));
}

/*
 * Schedulers with memory. A flow that finds no room, and a packet in the middle of a flow
 * that nobody remembers, go where the ring says: a full cache turns rr into mh, it breaks
 * nothing.
 */
static inline __u32 lb_remembered(struct lb_ctx *c, const struct lb_listen *listen,
				  __u32 index, __u64 slot)
{
	__u64 hash = lb_flow_hash(c->gw->key, slot, listen->addr.w[0], c->packet.proto);
	__u8 flags = lb_tcp_flags(&c->packet);
	__u32 tick = lb_tick(c->gw);
	struct lb_place place;
	__u32 server, state;

	lb_flow_find(hash, &place);
	server = lb_way_server(place.word);
	if (lb_likely(place.way && lb_settled(place.word, c->packet.proto, flags, tick) &&
		      lb_alive(server)))
		return server;
	if (lb_flow_lives(c->gw, &place, tick)) {
		state = lb_way_state(place.word);
		if (lb_alive(server) && !(lb_is_syn(flags) && state == LB_FLOW_CLOSED)) {
			lb_flow_touch(&place, lb_state_after(state, flags), tick);
			return server;
		}
		/* A dead server's flow, or a new one in the place of one that ended. */
		__sync_val_compare_and_swap(place.way, place.word, 0);
	}
	if (c->packet.proto == IPPROTO_TCP && !lb_is_syn(flags))
		return lb_ring_server(index, slot);
	c->fresh = 1;
	server = lb_next_turn(listen, index);
	state = c->packet.proto == IPPROTO_TCP ? LB_FLOW_EMBRYONIC : LB_FLOW_UDP;
	if (server && lb_flow_put(c->gw, &place, lb_way_make(hash, server, state, tick), tick))
		return server;
	return lb_ring_server(index, slot);
}

/* A hash of its own for the way back of a shared server's flow. */
static inline __u64 lb_return_hash(const struct lb_gateway *gw, __u32 client,
				   __u16 client_port, const struct lb_server *server, __u8 proto)
{
	__u64 slot = lb_slot_hash(gw->key, client, (__u32)server->port << 16 | client_port);

	return lb_flow_hash(gw->key, ~slot, server->addr.w[0], proto);
}

/* Notes that this flow's replies are this listen's. 0: no room for a new flow. */
static inline int lb_record_return(const struct lb_ctx *c, const struct lb_server *server,
				   __u32 index)
{
	__u32 tick = lb_tick(c->gw);
	struct lb_place place;
	__u64 hash, word;

	if (c->packet.proto == IPPROTO_TCP && !lb_is_syn(lb_tcp_flags(&c->packet)))
		return 1;
	hash = lb_return_hash(c->gw, c->packet.ip->saddr, c->packet.l4->source, server, c->packet.proto);
	word = lb_way_make(hash, index, LB_FLOW_RETURN, tick);
	lb_flow_find(hash, &place);
	if (!lb_flow_lives(c->gw, &place, tick))
		return lb_flow_put(c->gw, &place, word, tick);
	__sync_val_compare_and_swap(place.way, place.word, word);
	return 1;
}
#endif

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

/*
 * The server of this packet's flow; 0 for none. A scheduler with memory knows which packet
 * begins a flow; for the others it is a SYN.
 */
static inline __u32 lb_choose(struct lb_ctx *c, __u32 index)
{
	__u64 slot = lb_slot_hash(c->gw->key, c->packet.ip->saddr, c->packet.l4->ports);

#ifdef LB_FLOWS
	const struct lb_listen *listen = lb_listens(index);

	if (listen && lb_remembers(listen)) {
		c->fresh = 0;
		return lb_remembered(c, listen, index, slot);
	}
	c->fresh = lb_is_syn(lb_tcp_flags(&c->packet));
#endif
	return lb_ring_server(index, slot);
}

static inline int lb_begins(const struct lb_ctx *c)
{
#ifdef LB_FLOWS
	return c->fresh;
#else
	return lb_is_syn(lb_tcp_flags(&c->packet));
#endif
}

/* Translates a packet, counts it and sends it to its server. */
static inline enum lb_verdict lb_deliver(struct lb_ctx *c, const struct lb_server *server,
					 __u32 index)
{
	struct lb_server_stats *stats = lb_stats(c, index);

	stats->packets_in++;
	stats->bytes_in += lb_length(&c->packet);
	lb_nat_forward(&c->packet, server);
	if (lb_begins(c))
		stats->connections++;
	c->action = lb_out(c, server->out);
	return LB_FORWARD;
}

static inline enum lb_verdict lb_forward(struct lb_ctx *c, __u32 index)
{
	const struct lb_server *server;
	__u32 chosen;

	if (lb_unlikely(c->packet.ip->ttl <= 1))
		return lb_rare(LB_DROP_TTL);
	chosen = lb_choose(c, index);
	server = lb_servers(chosen);
	if (!server)
		return lb_rare(LB_DROP_BROKEN);
	lb_keep(server);
	if (lb_unlikely(lb_length(&c->packet) > server->mtu)) /* 0 of those that are not alive */
		return lb_rare(lb_alive(chosen) ? LB_DROP_TOO_BIG : LB_DROP_NO_SERVER);
#ifdef LB_FLOWS
	if (server->flags & LB_SERVER_RECORD && !lb_record_return(c, server, chosen))
		return lb_rare(LB_DROP_RETURN_FULL);
#endif
	return lb_deliver(c, server, chosen);
}

/* --- server to client --------------------------------------------------------------- */

#ifdef LB_FLOWS
/* Several listens reach this server: the one whose flow was recorded, or else the oldest. */
static inline __u32 lb_shared_server(const struct lb_ctx *c, __u32 oldest)
{
	struct lb_server *server = lb_servers(oldest);
	__u32 tick = lb_tick(c->gw);
	struct lb_place place;

	if (!server)
		return oldest;
	lb_flow_find(lb_return_hash(c->gw, c->packet.ip->daddr, c->packet.l4->dest, server,
				    c->packet.proto),
		     &place);
	if (!lb_flow_lives(c->gw, &place, tick) || !lb_alive(lb_way_server(place.word)))
		return oldest;
	lb_flow_touch(&place, LB_FLOW_RETURN, tick);
	return lb_way_server(place.word);
}

/* The server's FIN or RST ends a remembered flow too. */
static inline void lb_server_ends(const struct lb_ctx *c, const struct lb_listen *listen)
{
	__u32 tick = lb_tick(c->gw);
	struct lb_place place;
	__u32 state;
	__u64 hash;

	hash = lb_slot_hash(c->gw->key, c->packet.ip->daddr,
			    (__u32)listen->port << 16 | c->packet.l4->dest);
	hash = lb_flow_hash(c->gw->key, hash, listen->addr.w[0], c->packet.proto);
	lb_flow_find(hash, &place);
	if (!lb_flow_lives(c->gw, &place, tick))
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
static inline void lb_want(__u32 address, __u32 ifindex)
{
	struct lb_wanted wish = {
		.addr = { .w = { address } },
		.ifindex = ifindex,
		.family = 4,
	};

	bpf_ringbuf_output(LB_HANDLE(wanted), &wish, sizeof(wish), 0);
}

/* Sends the packet, whose source is the listen now, the way the kernel would. */
static inline enum lb_verdict lb_route(struct lb_ctx *c, __u32 source)
{
	struct iphdr *ip = c->packet.ip;
	struct bpf_fib_lookup fib = {};
	int port;

	fib.family = LB_AF_INET;
	fib.l4_protocol = c->packet.proto;
	fib.tot_len = lb_length(&c->packet);
	fib.ipv4_src = source;
	fib.ipv4_dst = ip->daddr;
	fib.ifindex = c->xdp->ingress_ifindex;
	switch (bpf_fib_lookup(c->xdp, &fib, sizeof(fib), 0)) {
	case BPF_FIB_LKUP_RET_SUCCESS:
		break;
	case BPF_FIB_LKUP_RET_NO_NEIGH:
		lb_want(fib.ipv4_dst, fib.ifindex);
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

static inline enum lb_verdict lb_return(struct lb_ctx *c, const struct lb_way *way)
{
	struct lb_server_stats *stats;
	struct lb_listen *listen;
	struct lb_server *server;
	enum lb_verdict verdict;
	__u32 index = way->value;

	if (lb_is_own4(c->gw, c->packet.ip->daddr))
		return LB_PASS_OWN;
#ifdef LB_DIRECT
	if (lb_is_direct4(c->packet.ip->daddr))
		return LB_PASS_DIRECT;
#endif
	if (c->packet.ip->ttl <= 1)
		return LB_DROP_TTL;
#ifdef LB_FLOWS
	if (way->flags & LB_WAY_SHARED)
		index = lb_shared_server(c, index);
#endif
	server = lb_servers(index);
	if (!server)
		return LB_DROP_BROKEN;
	listen = lb_listens(server->listen);
	if (!listen)
		return LB_DROP_BROKEN;
	verdict = lb_route(c, listen->addr.w[0]);
	if (verdict != LB_RETURN)
		return verdict;
#ifdef LB_FLOWS
	if (lb_tcp_flags(&c->packet) & (LB_TCP_FIN | LB_TCP_RST) && lb_remembers(listen))
		lb_server_ends(c, listen);
#endif
	stats = lb_stats(c, index);
	stats->packets_out++;
	stats->bytes_out += lb_length(&c->packet);
	lb_nat_return(&c->packet, server, listen);
	return LB_RETURN;
}

/* --- every packet ------------------------------------------------------------------- */

static inline enum lb_verdict lb_transport(struct lb_ctx *c)
{
	const struct iphdr *ip = c->packet.ip;
	const struct lb_l4 *l4 = c->packet.l4;
	const struct lb_way *way;

	way = lb_find_listen(lb_key4(ip->daddr, l4->dest, c->packet.proto));
	if (way)
		return lb_forward(c, way->value);
	way = lb_find_server(lb_key4(ip->saddr, l4->source, c->packet.proto));
	if (way)
		return lb_return(c, way);
	return LB_PASS_OTHER;
}

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
	return lb_likely(parsed == LB_PARSED_OK) ? lb_transport(c) : lb_unusual(c, parsed);
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
