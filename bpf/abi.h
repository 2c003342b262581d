/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/*
 * What the packet program and the control plane share: the values in the maps.
 *
 * lbctl/dataplane/xdp/abi.py is the same in Python; a test compares sizes and offsets.
 * Addresses and ports are in network order. An IPv4 address is w[0]; the rest is zero.
 * Every padding byte is named and zero.
 *
 * How a packet finds its server (no map helper is called on the way):
 *
 *   destination --index--> listen --hash of the flow--> slot of its ring --> server
 *                             `-- schedulers with memory: --> way of the flow cache --^
 *   source      --index--> server --> its listen (the way back)
 */
#ifndef LB_ABI_H
#define LB_ABI_H

#include <linux/types.h>

#define LB_ABI 8		/* raised with every change of layout, and of where a key or a flow lies */

#define LB_PORTS 8		/* interfaces of a gateway */
#define LB_PORT_PLACES 64
#define LB_LISTENS 2048
#define LB_SERVERS 16384	/* of all listens; index 0 is nobody */
#define LB_PAGES 16384		/* of ring slots; page 0 is nobody's */
#define LB_PAGE_BITS 9
#define LB_PAGE_SLOTS (1 << LB_PAGE_BITS)
#define LB_TURNS 1024		/* longest sequence of rr and wrr */
#define LB_LISTEN_BUCKETS 4096
#define LB_RETURN_BUCKETS 32768 /* two keys for each of all servers find room */
#define LB_WAYS 4		/* of an index bucket: one cache line */
#define LB_PROBES 4		/* buckets in a row that a key may lie in */
#define LB_FLOW_WAYS 5		/* of a flow set: one cache line */
#define LB_SWEEP_SETS 32	/* flow sets that one run of the sweep looks at */
#define LB_SWEEP_SLOTS_AT_ONCE 256 /* Linux 6.1's verifier takes no 512 */
#define LB_BUSY_TICKS 2		/* an old slot used in so many ticks is busy */
#define LB_STATES 12		/* room for enum lb_flow_state */

struct lb_addr {
	__u32 w[4];
};

/*
 * Everything about the gateway itself: one value. Its first two cache lines are all that
 * most packets need of it.
 */
struct lb_gateway {
	__u64 key[4];		/* of the flow hash: secret, shared with the peer */
	__u32 ifindex[LB_PORTS]; /* that frames of port[] come in on; 0: none */
	__u64 mac[LB_PORTS];	/* of port[]: six bytes as in a frame, behind its VLAN's number */
	__u32 flow_mask;	/* number of flow sets, less one */
	__u32 tick_shift;	/* jiffies >> tick_shift: about four seconds */
	__u32 tick_ahead;	/* added to that: tests let time pass with it */
	__u32 udp_records;	/* that one listen may hold while its slots change */
	__u16 timeout[LB_STATES]; /* in ticks, by enum lb_flow_state */
	__u8 port_at[LB_PORT_PLACES]; /* port[] by lb_port_place(), as frames and as the FIB name
					 it: no two names share a place */
	__u32 port_multiplier;	/* which that takes care of */
	__u32 naught;		/* 0, which the verifier cannot know: parse.h */
	__u32 device[LB_PORTS];	/* port[] as the FIB names it: ifindex[], or a VLAN on that */
};

/*
 * An index: buckets of four ways, one cache line each. A key lies in the bucket it hashes
 * to or, while that is full, in one of the next. An IPv4 key is the triple itself, with
 * zeros in bits 8 to 15; an IPv6 key is a hash with ones there, and the record that it
 * leads to is compared.
 *
 * A key with port and protocol 0 says that the address is known at all: fragments and cut
 * packets, which show no port, are judged by it. One with port 0 and LB_PROTO_OWN, among the
 * listens, is an address of the gateway's own.
 */
#define LB_PROTO_OWN 255
#define LB_OWN 0xffffffffU	/* the number of such a key */
#define LB_KEY_EMPTY 0ULL
#define LB_KEY_GONE 1ULL	/* was used: a search goes on past it */

/*
 * found: one word, replaced by one store.
 *
 *   | flags (8) | ring (24) | number (32) |
 *
 * number: of a listen or a server. ring and flags of a listen are those of its record, as
 * far as nearly every packet asks for them: few read more of it.
 */
struct lb_way {
	__u64 key;
	__u64 found;
};

#define LB_WAY_RING_SHIFT 32
#define LB_WAY_FLAGS_SHIFT 56
#define LB_WAY_SHARED 1		/* several listens reach this server: look for a record */

struct lb_bucket {
	struct lb_way way[LB_WAYS];
};

enum lb_scheduler {
	LB_SCHED_MH = 1,
	LB_SCHED_SH,
	LB_SCHED_RR,
	LB_SCHED_WRR,
	LB_SCHED_LC,
	LB_SCHED_WLC,
};

enum lb_mode {
	LB_MODE_NAT = 1,
	LB_MODE_FULLNAT,
	LB_MODE_DR,
	LB_MODE_TUN,
};

#define LB_LISTEN_ONESHOT 1	/* UDP without flows */
#define LB_LISTEN_GONE 2	/* not in the index any more, but servers still name it */
#define LB_LISTEN_MEMORY 4	/* its flows are remembered, each in a way of the flow cache */
#define LB_LISTEN_SOURCE 8	/* the client's address alone picks the slot */
#define LB_LISTEN_HELD 16	/* with memory: TCP that nobody remembers waits, see schedule.h */
#define LB_LISTEN_IN_WAY (LB_LISTEN_MEMORY | LB_LISTEN_SOURCE)

/*
 * ring: the first page and, from bit 16 on, by how much a flow's hash is shifted to the
 * right to give the slot: a ring of 2^n slots takes the hash's n highest bits, so that the
 * slots of a ring that grows split evenly.
 */
#define LB_RING_SHIFT 16
#define LB_RING_PAGE 0xffffu
#define LB_TURNS_HALF 0x10000u	/* the second half of the buffer is in use */

/* ring and turns are each replaced by one store; packets are told of ring by the index. */
struct lb_listen {
	struct lb_addr addr;
	__u16 port;
	__u8 proto;
	__u8 family;		/* 4, 6; 0: free */
	__u8 scheduler;
	__u8 flags;		/* LB_LISTEN_* */
	__u16 pad0;
	__u32 ring;		/* first page, and shift */
	__u32 turns;		/* length of the sequence of new flows, and LB_TURNS_HALF */
	__u16 persistence;	/* ticks that a client is remembered for; 0: none */
	__u16 seconds;		/* the same, as it was asked for */
	struct lb_addr mask;	/* of the client's address: who shares it is one client */
	__u16 spare[2];		/* servers that had the most room, for when one is full */
	__u8 pad1[8];
};

enum lb_server_state {
	LB_SERVER_FREE = 0,
	LB_SERVER_ALIVE,
	LB_SERVER_DEAD,		/* named by a ring or a flow still: the index is not reused */
};

#define LB_SERVER_RECORD 1	/* an older listen owns its replies: record this one's flows */

/* A server behind one listen: all that a packet to or from it needs, one cache line. */
struct lb_server {
	struct lb_addr addr;
	__u8 dmac[6];		/* next hop */
	__u8 smac[6];
	__u16 port;
	__u16 listen;
	__u16 out;		/* index in gateway.port and in the device map */
	__u16 mtu;		/* of the way to it; 0 unless it is alive */
	__u16 l3_delta;		/* checksum of listen address -> server address */
	__u16 l4_delta;		/* the same with the ports */
	__u8 state;
	__u8 mode;
	__u16 flags;		/* LB_SERVER_* */
	__u32 max_connections;	/* flows at a time, of schedulers with memory; 0: no limit */
	__u16 weight;
	__u8 family;
	__u8 pad[13];
};

/*
 * A slot of a ring: the server's index, and LB_SLOT_CHANGING while the slot has an old
 * server as well (the transition rule: transition.h).
 */
#define LB_SLOT_CHANGING 0x8000

/*
 * The other half of a slot that changes, read only then. server: the one whose unrecorded
 * flows stay with it; LB_OLD_KEPT: the last sweep saw a record that names neither it nor
 * the slot's. used: the tick of the last unrecorded packet (UDP: of the change).
 */
#define LB_OLD_KEPT 0x8000

struct lb_old_slot {
	__u16 server;
	__u16 used;
};

/* New flows in turn: one half is in use while the other is written. */
struct lb_turns {
	__u16 server[2][LB_TURNS];
};

/* One cache line each, so that counting new flows disturbs nobody else. */
struct lb_cursor {
	__u64 next;
	__u64 udp_records;	/* of flows that stay with an old server */
	__u64 pad[6];
};

/*
 * A way of the flow cache: one word, published by one compare-and-swap.
 *
 *   63        30 29       15 14     11 10       0
 *   | tag (34) | server (15) | state (4) | age (11) |
 *
 * tag: the highest bits of the keyed hash; the lowest pick the set. age: the tick of the
 * last packet, written only when it changes. Zero is an empty way.
 */
#define LB_AGE_BITS 11
#define LB_AGE_MASK ((1ULL << LB_AGE_BITS) - 1)
#define LB_STATE_SHIFT 11
#define LB_STATE_MASK 15ULL
#define LB_SERVER_SHIFT 15
#define LB_SERVER_MASK 0x7fffULL
#define LB_TAG_SHIFT 30

enum lb_flow_state {
	LB_FLOW_EMPTY = 0,
	LB_FLOW_EMBRYONIC,	/* a SYN was seen */
	LB_FLOW_ESTABLISHED,
	LB_FLOW_FIN_CLIENT,	/* the client has nothing more to send */
	LB_FLOW_FIN_SERVER,
	LB_FLOW_CLOSED,
	LB_FLOW_UDP,
	LB_FLOW_RETURN,		/* which listen a shared server's replies belong to */
	LB_FLOW_FRAGMENT,	/* where the rest of a datagram goes */
	LB_FLOW_CLIENT,		/* persistence: where a client's next flow goes */
	LB_FLOW_RETURN_NEW,	/* LB_FLOW_RETURN of a SYN: nothing has followed it yet */
};

/* isn: the client's initial sequence number, of embryonic ways and of LB_FLOW_RETURN_NEW. */
struct lb_flow_set {
	__u64 way[LB_FLOW_WAYS];
	__u32 isn[LB_FLOW_WAYS];
	__u32 pad;
};

/* What the sweep is asked to do, as the packet that it is run on. */
enum lb_sweep_kind {
	LB_SWEEP_FLOWS,		/* LB_SWEEP_SETS sets from `first` on */
	LB_SWEEP_DROP,		/* the same, without counting: drops what nobody needs */
	LB_SWEEP_SLOTS,		/* LB_SWEEP_SLOTS_AT_ONCE slots; answers how many still change,
				   and from bit 16 on how many were settled */
	LB_SWEEP_TICK,		/* answers the tick */
};

/* first: number of a set, or of a slot counted from the first page on. */
struct lb_sweep_job {
	__u32 kind;
	__u32 first;
	__u32 idle;		/* ticks after which a slot's old server is finished */
	__u32 pad;
};

/*
 * What the sweep found for a server: its live flows by state; slots that it is the old
 * server of, how many of those had an unrecorded packet in the last ten seconds or so, and
 * the tick of the last.
 */
struct lb_flow_count {
	__u32 in_state[LB_STATES];
	__u32 old_slots;
	__u32 busy_slots;
	__u32 last_old;
	__u32 pad;
};

/* Flows of lc and wlc: counted as they come and go, and set right by each sweep. */
struct lb_load {
	__s64 open;
};

/* in: from clients to the server; out: back. One cache line. */
struct lb_server_stats {
	__u64 packets_in;
	__u64 bytes_in;
	__u64 packets_out;
	__u64 bytes_out;
	__u64 connections;
	__u64 refused;		/* RST in answer to a SYN, ICMP unreachable (suspect.h) */
	__u64 hinted;		/* jiffies: when that was last told */
	__u64 pad;
};

#define LB_VERDICT_ROOM 64	/* more than there are: later verdicts fit without a new map */

/* All that one CPU counts. */
struct lb_cpu_block {
	__u64 verdict[LB_VERDICT_ROOM];
	struct lb_server_stats server[LB_SERVERS];
};

/*
 * A neighbour that a packet wanted and that the kernel does not know; or, of the family
 * LB_WANTED_CHECK, a server (`ifindex` is its number) whose packets speak against it.
 */
#define LB_WANTED_CHECK 0

struct lb_wanted {
	struct lb_addr addr;
	__u32 ifindex;
	__u32 family;
};

/* The key of the prefixes that servers talk to untranslated. */
struct lb_prefix4 {
	__u32 bits;
	__u32 address;
};

struct lb_prefix6 {
	__u32 bits;
	struct lb_addr address;
};

/*
 * The fence (fence.h), written by the VRRP process. A virtual router has a number from 1 on
 * and a lease: the jiffies until which this gateway may answer for it; 0 in Backup.
 */
#define LB_ROUTERS 64
#define LB_FENCE_KEYS 4096

/* by VRID: the router whose virtual MAC that is on an interface; 0: nobody's. */
struct lb_fence_port {
	__u32 ifindex;		/* 0: free */
	__u32 pad;
	__u8 router4[256];	/* 00-00-5E-00-01-{VRID} */
	__u8 router6[256];	/* 00-00-5E-00-02-{VRID} */
};

struct lb_fence {
	__u64 now;		/* the jiffies, when `fence_clock` last ran */
	__u64 clear_until;	/* no lease is past before that */
	__u64 until[LB_ROUTERS];
	struct lb_fence_port port[LB_PORTS];
};

/* A virtual address; the number of its router is what it leads to. */
struct lb_fence_key {
	struct lb_addr addr;
	__u32 ifindex;		/* of link-local ones, which are somebody else's elsewhere */
	__u32 family;		/* 4, 6 */
};

/* What is loaded, written by the loader. */
struct lb_meta {
	__u32 abi;
	__u32 unsettled;	/* a change was begun and not ended: rings may lag behind */
	__u8 shape[32];		/* SHA-256 of the program's text and its features */
};

/* Each packet ends in exactly one verdict; each has a counter with this name. */
#define LB_VERDICTS(X)                                                        \
	X(FORWARD, "forward")		     /* client -> server */           \
	X(RETURN, "return")		     /* server -> client */           \
	X(PASS_OTHER, "pass_other")	     /* none of our business */       \
	X(PASS_FOREIGN_MAC, "pass_foreign_mac") /* a flooded frame */         \
	X(PASS_NOT_IP, "pass_not_ip")	     /* ARP, LLDP, ... */             \
	X(PASS_VLAN, "pass_vlan")	     /* tagged: not with a tag of ours */ \
	X(PASS_OWN, "pass_own")		     /* a server to the gateway */    \
	X(PASS_DIRECT, "pass_direct")	     /* a server to a direct prefix */ \
	X(PASS_ICMP, "pass_icmp")	     /* echo to a VIP; an error about no flow of ours */ \
	X(PASS_MALFORMED, "pass_malformed")  /* no IP header worth the name */ \
	X(DROP_FRAGMENT, "drop_fragment")    /* would overwrite a TCP header */ \
	X(DROP_FRAG_NO_FIRST, "drop_frag_no_first") /* its first was not seen */ \
	X(DROP_TRUNCATED, "drop_truncated")  /* shorter than it says */       \
	X(DROP_TTL, "drop_ttl")		     /* would expire here */          \
	X(DROP_NO_SERVER, "drop_no_server")  /* the listen has none */        \
	X(DROP_TOO_BIG, "drop_too_big")	     /* for the way out */            \
	X(DROP_NO_NEIGHBOUR, "drop_no_neighbour") /* asked for */             \
	X(DROP_NO_ROUTE, "drop_no_route")    /* back to the client */         \
	X(DROP_RETURN_FULL, "drop_return_full") /* no room for a record */    \
	X(DROP_BROKEN, "drop_broken")	     /* maps that contradict themselves */ \
	X(DROP_UNKNOWN, "drop_unknown")	     /* of a flow that the last Active may have had */ \
	X(DROP_FENCED, "drop_fenced")	     /* of a virtual router that is not ours now */ \
	X(DROP_ALL_FULL, "drop_all_full")    /* servers with their most connections */ \
	X(DROP_MARTIAN, "drop_martian")	     /* UDP from a listen: its answer would never end */

#define LB_VERDICT_ENUM(name, text) LB_##name,
enum lb_verdict { LB_VERDICTS(LB_VERDICT_ENUM) LB_VERDICT_COUNT };

/* A record is a cache line; and no array's stride may differ from its value's size. */
_Static_assert(sizeof(struct lb_bucket) == 64, "a bucket is one cache line");
_Static_assert(sizeof(struct lb_listen) == 64, "a listen is one cache line");
_Static_assert(sizeof(struct lb_server) == 64, "a server is one cache line");
_Static_assert(LB_SERVERS <= LB_SLOT_CHANGING, "a slot's server leaves room for its flag");
_Static_assert(sizeof(struct lb_flow_set) == 64, "a flow set is one cache line");
_Static_assert(sizeof(struct lb_server_stats) == 64, "counters are one cache line");
_Static_assert(__builtin_offsetof(struct lb_server, dmac) % 8 == 0, "copied by words");
_Static_assert(__builtin_offsetof(struct lb_gateway, flow_mask) == 128, "two cache lines");
_Static_assert(sizeof(struct lb_gateway) % 8 == 0, "array values are rounded up to 8");

#endif
