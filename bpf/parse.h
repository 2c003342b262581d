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
	LB_PARSED_FRAGMENT,	/* addresses known, ports not */
	LB_PARSED_TRUNCATED,	/* the same */
	LB_PARSED_FRAGMENT6,
	LB_PARSED_TRUNCATED6,
	LB_PARSED_ICMP,
	LB_PARSED_OTHER_PROTO,
};

struct lb_packet {
	struct lb_eth *eth;
	struct iphdr *ip;
	struct lb_ip6 *ip6;	/* the one or the other */
	struct lb_l4 *l4;
	__u16 *check;		/* the transport's checksum */
	__u16 length;		/* of the IP packet */
	__u16 header;		/* of IP, with what extends it */
	__u8 proto;		/* TCP or UDP */
	__u8 tcp_flags;		/* 0 for UDP */
};

/* The next `size` bytes, or NULL where the packet ends before. */
static inline void *lb_pull(struct lb_cursor_at *cursor, __u64 size)
{
	void *start = cursor->at;

	if (start + size > cursor->end)
		return 0;
	cursor->at = start + size;
	return start;
}

/* room: the bytes that the IP header leaves for the transport, which must hold its header. */
static inline enum lb_parsed lb_parse_l4(struct lb_cursor_at *cursor, __u32 room, __u8 proto,
					 struct lb_packet *packet)
{
	if (proto == IPPROTO_TCP) {
		struct lb_tcp *tcp = lb_pull(cursor, sizeof(*tcp));

		if (!tcp || room < sizeof(*tcp))
			return LB_PARSED_TRUNCATED;
		packet->proto = IPPROTO_TCP;
		packet->l4 = (struct lb_l4 *)tcp;
		packet->check = &tcp->check;
		packet->tcp_flags = tcp->flags;
	} else if (proto == IPPROTO_UDP) {
		struct lb_udp *udp = lb_pull(cursor, sizeof(*udp));

		if (!udp || room < sizeof(*udp))
			return LB_PARSED_TRUNCATED;
		packet->proto = IPPROTO_UDP;
		packet->l4 = (struct lb_l4 *)udp;
		packet->check = &udp->check;
		packet->tcp_flags = 0;
	} else {
		return proto == IPPROTO_ICMP || proto == IPPROTO_ICMPV6 ? LB_PARSED_ICMP :
									  LB_PARSED_OTHER_PROTO;
	}
	return LB_PARSED_OK;
}

/* How long the IP header is; 0 if it is none. */
static inline __u32 lb_ip_header(const struct iphdr *ip)
{
	const __u8 *first = (const __u8 *)ip;

	if (*first == LB_IP_PLAIN)
		return sizeof(*ip);
	return ip->version == 4 && ip->ihl > 5 ? ip->ihl * 4 : 0;
}

static inline enum lb_parsed lb_parse_ipv4(struct lb_cursor_at *cursor,
					   struct lb_packet *packet)
{
	void *start = cursor->at;
	struct iphdr *ip = lb_pull(cursor, sizeof(*ip));
	__u32 header, total;

	if (!ip)
		return LB_PARSED_MALFORMED;
	header = lb_ip_header(ip);
	total = lb_swap16(ip->tot_len);
	if (!header || total < header)
		return LB_PARSED_MALFORMED;
	packet->ip = ip;
	packet->length = total;
	if (start + total > cursor->end)
		return LB_PARSED_TRUNCATED;
	if (ip->frag_off & lb_swap16(LB_IP_MF | LB_IP_OFFSET))
		return LB_PARSED_FRAGMENT;
	if (header > sizeof(*ip) && !lb_pull(cursor, (header - sizeof(*ip)) & 0x3f))
		return LB_PARSED_TRUNCATED;
	packet->header = header;
	return lb_parse_l4(cursor, total - header, ip->protocol, packet);
}

#ifdef LB_IPV6
#define LB_EXTENSIONS 4 /* more than anybody sends */

static inline int lb_is_extension(__u8 next)
{
	return next == IPPROTO_HOPOPTS || next == IPPROTO_ROUTING || next == IPPROTO_DSTOPTS;
}

/* Steps over the extension headers (RFC 8200, section 4); -1: they do not end. */
static inline int lb_parse_extensions(struct lb_cursor_at *cursor, struct lb_packet *packet)
{
	__u8 next = packet->ip6->next;
	int i;

	packet->header = sizeof(*packet->ip6);
	for (i = 0; i < LB_EXTENSIONS && lb_is_extension(next); i++) {
		struct lb_extension *one = lb_pull(cursor, sizeof(*one));
		__u32 more;

		if (!one)
			return -1;
		next = one->next;
		more = one->length * 8;
		if (!lb_pull(cursor, more))
			return -1;
		packet->header += sizeof(*one) + more;
	}
	return lb_is_extension(next) ? -1 : next;
}

static inline enum lb_parsed lb_parse_ipv6(struct lb_cursor_at *cursor,
					   struct lb_packet *packet)
{
	void *start = cursor->at;
	struct lb_ip6 *ip = lb_pull(cursor, sizeof(*ip));
	enum lb_parsed parsed;
	__u32 total;
	int next;

	if (!ip || (*(__u8 *)ip >> 4) != 6)
		return LB_PARSED_MALFORMED;
	packet->ip6 = ip;
	total = sizeof(*ip) + lb_swap16(ip->payload);
	packet->length = total;
	if (total > 0xffff || start + total > cursor->end)
		return LB_PARSED_TRUNCATED6;
	next = lb_parse_extensions(cursor, packet);
	if (next < 0 || packet->header > total)
		return LB_PARSED_TRUNCATED6;
	if (next == IPPROTO_FRAGMENT)
		return LB_PARSED_FRAGMENT6;
	parsed = lb_parse_l4(cursor, total - packet->header, next, packet);
	if (parsed == LB_PARSED_OK)
		return LB_PARSED_OK6;
	return parsed == LB_PARSED_TRUNCATED ? LB_PARSED_TRUNCATED6 : parsed;
}
#endif

/* The frame's own header, which says whose it is. */
static inline int lb_parse_eth(struct lb_cursor_at *cursor, struct lb_packet *packet)
{
	packet->eth = lb_pull(cursor, sizeof(*packet->eth));
	return packet->eth != 0;
}

static inline int lb_may_hold_ip(const struct lb_eth *eth)
{
	return eth->proto == lb_swap16(ETH_P_IP) || eth->proto == lb_swap16(ETH_P_IPV6) ||
	       eth->proto == lb_swap16(ETH_P_8021Q) || eth->proto == lb_swap16(ETH_P_8021AD);
}

/* What follows it. */
static inline enum lb_parsed lb_parse(struct lb_cursor_at *cursor, struct lb_packet *packet)
{
	switch (packet->eth->proto) {
	case lb_swap16(ETH_P_IP):
		return lb_parse_ipv4(cursor, packet);
	case lb_swap16(ETH_P_IPV6):
#ifdef LB_IPV6
		return lb_parse_ipv6(cursor, packet);
#else
		return LB_PARSED_IPV6;
#endif
	case lb_swap16(ETH_P_8021Q):
	case lb_swap16(ETH_P_8021AD):
		return LB_PARSED_VLAN;
	default:
		return LB_PARSED_NOT_IP;
	}
}

#endif
