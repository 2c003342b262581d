/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/*
 * From bytes to a `lb_packet`. Every read goes through lb_pull(), which checks the bound;
 * a packet that cannot be read says at which step, and the caller gives the verdict.
 *
 * Without maps, so it also compiles with gcc and is called from the unit tests.
 */
#ifndef LB_PARSE_H
#define LB_PARSE_H

#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/in6.h>
#include <linux/ip.h>
#include <linux/types.h>

#include "shape.h"

#define lb_likely(x) __builtin_expect(!!(x), 1)
#define lb_unlikely(x) __builtin_expect(!!(x), 0)
/*
 * What few packets come to. Its constant is then loaded where they part from the others, and
 * not by all of them before.
 */
#define lb_rare(value) ({ __asm__ volatile(""); value; })
#define lb_swap16(x) ((__u16)__builtin_bswap16(x)) /* little endian machines only */
#define lb_swap32(x) ((__u32)__builtin_bswap32(x))

#define LB_IP_PLAIN 0x45 /* the first byte: version 4, no options */
#define LB_IP_MF 0x2000
#define LB_IP_OFFSET 0x1fff

#define LB_TCP_FIN 0x01
#define LB_TCP_SYN 0x02
#define LB_TCP_RST 0x04
#define LB_TCP_ACK 0x10

/* linux/if_ether.h has it packed, and then it is read byte by byte. */
struct lb_eth {
	__u16 dest[3];
	__u16 source[3];
	__u16 proto;
};

struct lb_ip6 {
	__u32 first;		/* version, class, flow */
	__u16 payload;
	__u8 next;
	__u8 hops;
	__u32 saddr[4];
	__u32 daddr[4];
};

/* What most extension headers begin with; length: in eight bytes, the first not counted. */
struct lb_extension {
	__u8 next;
	__u8 length;
	__u8 rest[6];
};

/* IPv6's fragment header (RFC 8200, section 4.5). */
struct lb_fragment6 {
	__u8 next;
	__u8 reserved;
	__u16 offset;		/* in eight bytes, from bit 3 on; bit 0: more follow */
	__u32 id;
};

struct lb_vlan {
	__u16 tci;		/* priority, and in twelve bits the number */
	__u16 proto;
};

/* The twelve bytes of a frame's two MAC addresses, as they are copied. */
struct lb_macs {
	__u32 w[3];
};

struct lb_vlan_frame {
	struct lb_macs macs;
	__u16 proto;
	__u16 tci;
};

struct lb_icmp {
	__u8 type;
	__u8 code;
	__u16 check;
	__u32 rest;
};

struct lb_cursor_at {
	void *at;
	void *end;
};

/* The first bytes of every transport we know. */
struct lb_l4 {
	union {
		struct {
			__u16 source;
			__u16 dest;
		};
		__u32 ports;
	};
};

struct lb_tcp {
	__u16 source;
	__u16 dest;
	__u32 seq;
	__u32 ack;
	__u8 offset;
	__u8 flags;
	__u16 window;
	__u16 check;
	__u16 urgent;
};

struct lb_udp {
	__u16 source;
	__u16 dest;
	__u16 len;
	__u16 check;
};

enum lb_parsed {
	LB_PARSED_OK,		/* TCP or UDP over IPv4, ports known */
	LB_PARSED_OK6,		/* the same over IPv6 */
	LB_PARSED_NOT_IP,
	LB_PARSED_VLAN,
	LB_PARSED_IPV6,
	LB_PARSED_MALFORMED,	/* the IP header itself */
	LB_PARSED_FRAGMENT,	/* not the first: addresses known, ports not */
	LB_PARSED_TRUNCATED,	/* the same */
	LB_PARSED_FRAGMENT6,
	LB_PARSED_TRUNCATED6,
	LB_PARSED_ICMP,
	LB_PARSED_ICMP6,
	LB_PARSED_OTHER_PROTO,
};

/*
 * Where the headers are, and no more: with ten registers it is quicker to read a field again
 * than to keep it.
 */
struct lb_packet {
	struct lb_eth *eth;
	union {
		struct iphdr *ip;
		struct lb_ip6 *ip6;
	};
	struct lb_l4 *l4;	/* of TCP all of its header is there, of UDP as well */
	__u64 proto;		/* TCP or UDP; of a fragment, what it is said to be. Wide, or it is
				   cut to eight bits at every use */
	__u16 type;		/* of what the frame holds, in network order */
	__u16 vlan;		/* number of its VLAN; 0: none */
	__u8 tagged;		/* bytes of its tag */
	__u8 fragment;		/* IPv6: it has a fragment header, which says: */
	__u16 offset;		/* in network order */
	__u32 id;
};

/* Moves past the next `size` bytes, which may then be read; 0 where the packet ends before. */
static inline int lb_pull(struct lb_cursor_at *cursor, __u64 size)
{
	if (lb_unlikely(cursor->at + size > cursor->end))
		return 0;
	cursor->at += size;
	return 1;
}

/* Bytes of the IP packet, as it says. v6 is a constant wherever it is passed. */
static inline __u32 lb_length(const struct lb_packet *packet, int v6)
{
	return v6 ? sizeof(*packet->ip6) + lb_swap16(packet->ip6->payload) :
		    lb_swap16(packet->ip->tot_len);
}

/*
 * Where the IP packet ends, as it says. Linux 6.1's verifier takes a byte swap's result for
 * any number, and adds only a small one to a pointer: the mask, which the compiler finds
 * superfluous, says that it is.
 */
static inline const void *lb_ip_end(const struct lb_packet *packet, int v6)
{
	__u64 length = lb_length(packet, v6);

	__asm__ volatile("%0 &= 0x1ffff" : "+r"(length));
	return (void *)packet->ip + length;
}

/* Is it the first of several? Then what follows has no ports, and is told by the rest. */
static inline int lb_is_fragment(const struct lb_packet *packet, int v6)
{
	if (v6)
		return packet->fragment;
	return packet->ip->frag_off & lb_swap16(LB_IP_MF | LB_IP_OFFSET);
}

static inline __u32 lb_fragment_id(const struct lb_packet *packet, int v6)
{
	return v6 ? packet->id : packet->ip->id;
}

/* A second TCP fragment that begins within the header (RFC 1858, section 3.2). */
static inline int lb_overwrites(const struct lb_packet *packet, int v6)
{
	__u32 offset = v6 ? lb_swap16(packet->offset) >> 3 :
			    lb_swap16(packet->ip->frag_off) & LB_IP_OFFSET;

	return packet->proto == IPPROTO_TCP && offset < 3;
}

static inline __u8 lb_tcp_flags(const struct lb_packet *packet)
{
	return packet->proto == IPPROTO_TCP ? ((struct lb_tcp *)packet->l4)->flags : 0;
}

/*
 * The compiler is not to find out that this is what the packet says anyhow: it is what the
 * verifier sees beside the length that was checked.
 */
static inline __u64 lb_known(__u64 proto)
{
	__asm__ volatile("" : "+r"(proto));
	return proto;
}

/*
 * The transport's header, which must lie before the end of the IP packet as well. A packet
 * whose IP header says more than its length is told apart by the caller.
 */
static inline enum lb_parsed lb_parse_l4(struct lb_cursor_at *cursor, const void *ip_end,
					 __u64 proto, struct lb_packet *packet)
{
	__u64 size;

	packet->l4 = cursor->at;
	if (lb_likely(proto == IPPROTO_TCP)) {
		packet->proto = lb_known(IPPROTO_TCP);
		size = sizeof(struct lb_tcp);
	} else if (lb_likely(proto == IPPROTO_UDP)) {
		packet->proto = lb_known(IPPROTO_UDP);
		size = sizeof(struct lb_udp);
	} else if (proto == IPPROTO_ICMP || proto == IPPROTO_ICMPV6)
		return lb_rare(LB_PARSED_ICMP);
	else
		return lb_rare(LB_PARSED_OTHER_PROTO);
	if (lb_unlikely(!lb_pull(cursor, size) || cursor->at > ip_end))
		return lb_rare(LB_PARSED_TRUNCATED);
	return LB_PARSED_OK;
}

/* IP options, and what is no IPv4 header at all. */
static inline enum lb_parsed lb_parse_options(struct lb_cursor_at *cursor,
					      const struct iphdr *ip)
{
	__u32 header = ip->ihl * 4;

	if (ip->version != 4 || header < sizeof(*ip))
		return LB_PARSED_MALFORMED;
	return lb_pull(cursor, header - sizeof(*ip)) ? LB_PARSED_OK : LB_PARSED_TRUNCATED;
}

static inline enum lb_parsed lb_later_fragment(struct lb_packet *packet, __u64 proto,
					       enum lb_parsed parsed)
{
	packet->proto = proto;
	return parsed;
}

/* What comes after an IPv4 header's first twenty bytes. */
static inline enum lb_parsed lb_parse_rest(struct lb_cursor_at *cursor, struct lb_packet *packet)
{
	const struct iphdr *ip = packet->ip;
	enum lb_parsed parsed;
	const void *ip_end;

	if (lb_unlikely(*(const __u8 *)ip != LB_IP_PLAIN)) {
		parsed = lb_parse_options(cursor, ip);
		if (parsed != LB_PARSED_OK)
			return lb_rare(parsed);
	}
	ip_end = lb_ip_end(packet, 0);
	if (lb_unlikely(ip_end > cursor->end))
		return lb_rare(LB_PARSED_TRUNCATED);
	if (lb_unlikely(ip->frag_off & lb_swap16(LB_IP_OFFSET)))
		return lb_rare(lb_later_fragment(packet, ip->protocol, LB_PARSED_FRAGMENT));
	return lb_parse_l4(cursor, ip_end, ip->protocol, packet);
}

static inline enum lb_parsed lb_parse_ipv4(struct lb_cursor_at *cursor,
					   struct lb_packet *packet)
{
	enum lb_parsed parsed;

	packet->ip = cursor->at;
	if (!lb_pull(cursor, sizeof(*packet->ip)))
		return lb_rare(LB_PARSED_MALFORMED);
	parsed = lb_parse_rest(cursor, packet);
	if (lb_unlikely(parsed != LB_PARSED_OK) && lb_length(packet, 0) < packet->ip->ihl * 4)
		return LB_PARSED_MALFORMED;
	return parsed;
}

#define LB_EXTENSIONS 4 /* more than anybody sends */
#define LB_EXTENSIONS_END 0x1ff8 /* beyond the longest of these */

static inline int lb_is_extension(__u8 next)
{
	return next == IPPROTO_HOPOPTS || next == IPPROTO_ROUTING || next == IPPROTO_DSTOPTS ||
	       next == IPPROTO_FRAGMENT;
}

static inline void lb_note_fragment(struct lb_packet *packet, const struct lb_fragment6 *header)
{
	packet->fragment = 1;
	packet->offset = header->offset;
	packet->id = header->id;
}

static inline int lb_is_later6(const struct lb_packet *packet)
{
	return (packet->offset & lb_swap16(0xfff8)) != 0;
}

/*
 * Steps over the extension headers (RFC 8200, section 4); -1: they do not end. Wherever that
 * leads, to the verifier it is one place.
 */
static inline int lb_parse_extensions(struct lb_cursor_at *cursor, struct lb_packet *packet,
				      __u8 next)
{
	void *start = cursor->at;
	__u64 skipped;
	int i;

#pragma nounroll
	for (i = 0; i < LB_EXTENSIONS && lb_is_extension(next); i++) {
		struct lb_extension *one = cursor->at;

		if (!lb_pull(cursor, sizeof(*one)))
			return -1;
		if (next == IPPROTO_FRAGMENT)
			lb_note_fragment(packet, (struct lb_fragment6 *)one);
		else if (!lb_pull(cursor, one->length * 8))
			return -1;
		next = one->next;
		if (lb_is_later6(packet))
			break;
	}
	skipped = cursor->at - start;
	__asm__ volatile("%0 &= %1" : "+r"(skipped) : "i"(LB_EXTENSIONS_END));
	cursor->at = start + skipped;
	return lb_is_extension(next) && !lb_is_later6(packet) ? -1 : next;
}

static inline enum lb_parsed lb_parse_ipv6(struct lb_cursor_at *cursor,
					   struct lb_packet *packet)
{
	struct lb_ip6 *ip = cursor->at;
	enum lb_parsed parsed;
	const void *ip_end;
	int next;

	if (!lb_pull(cursor, sizeof(*ip)) || (*(__u8 *)ip >> 4) != 6)
		return LB_PARSED_MALFORMED;
	packet->ip6 = ip;
	packet->fragment = packet->offset = 0;
	next = ip->next;
	ip_end = lb_ip_end(packet, 1);
	if (ip_end > cursor->end)
		return LB_PARSED_TRUNCATED6;
	if (lb_unlikely(next != IPPROTO_TCP && lb_is_extension(next))) {
		next = lb_parse_extensions(cursor, packet, next);
		if (next < 0 || cursor->at > ip_end)
			return LB_PARSED_TRUNCATED6;
		if (lb_is_later6(packet))
			return lb_later_fragment(packet, next, LB_PARSED_FRAGMENT6);
	}
	parsed = lb_parse_l4(cursor, ip_end, next, packet);
	if (lb_likely(parsed == LB_PARSED_OK))
		return LB_PARSED_OK6;
	return parsed == LB_PARSED_TRUNCATED ? LB_PARSED_TRUNCATED6 :
	       parsed == LB_PARSED_ICMP	     ? LB_PARSED_ICMP6 :
					       parsed;
}

/* The frame's own header, which says whose it is; and room for a tag, which IP fills as well. */
static inline int lb_parse_eth(struct lb_cursor_at *cursor, struct lb_packet *packet)
{
	packet->eth = cursor->at;
	if (!lb_pull(cursor, sizeof(*packet->eth) + (LB_HAS_VLAN ? sizeof(struct lb_vlan) : 0)))
		return 0;
	cursor->at = packet->eth + 1;
	return 1;
}

static inline int lb_may_hold_ip(const struct lb_eth *eth)
{
	return eth->proto == lb_swap16(ETH_P_IP) || eth->proto == lb_swap16(ETH_P_IPV6) ||
	       eth->proto == lb_swap16(ETH_P_8021Q) || eth->proto == lb_swap16(ETH_P_8021AD);
}

/*
 * The tag, if there is one. vlan: 0 for none, and for a tag that only tells the priority
 * (IEEE 802.1Q, 9.6).
 *
 * naught: 0, but to the verifier any number, or it would follow each packet twice from here
 * on: once with a tag and once without. So to it both leave the same behind. To the processor
 * it is a branch, which it guesses, while a mask would have it wait for the frame's type.
 */
static inline void lb_parse_tag(struct lb_cursor_at *cursor, struct lb_packet *packet,
				__u32 naught)
{
	const struct lb_vlan *tag = cursor->at;
	__u64 size = naught, vlan = naught;

	packet->type = packet->eth->proto;
	packet->vlan = packet->tagged = 0;
	if (!LB_HAS_VLAN)
		return;
	if (lb_unlikely(packet->type == lb_swap16(ETH_P_8021Q))) {
		size += sizeof(*tag);
		vlan = lb_swap16(tag->tci);
		packet->type = tag->proto;
	}
	__asm__ volatile("" : "+r"(size), "+r"(vlan));
	packet->tagged = size & sizeof(*tag);
	packet->vlan = vlan & 0xfff;
	cursor->at = (void *)tag + packet->tagged;
}

/* What follows it. */
static inline enum lb_parsed lb_parse(struct lb_cursor_at *cursor, struct lb_packet *packet)
{
	if (lb_likely(packet->type == lb_swap16(ETH_P_IP)))
		return lb_parse_ipv4(cursor, packet);
	if (lb_likely(packet->type == lb_swap16(ETH_P_IPV6)))
		return LB_HAS_IPV6 ? lb_parse_ipv6(cursor, packet) : lb_rare(LB_PARSED_IPV6);
	switch (packet->type) {
	case lb_swap16(ETH_P_8021Q):
	case lb_swap16(ETH_P_8021AD):
		return lb_rare(LB_PARSED_VLAN);
	default:
		return lb_rare(LB_PARSED_NOT_IP);
	}
}

#endif
