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
#include <linux/ip.h>
#include <linux/types.h>

#define lb_likely(x) __builtin_expect(!!(x), 1)
#define lb_unlikely(x) __builtin_expect(!!(x), 0)
#define lb_swap16(x) ((__u16)__builtin_bswap16(x)) /* little endian machines only */

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
	LB_PARSED_OK,		/* TCP or UDP, ports known */
	LB_PARSED_NOT_IP,
	LB_PARSED_VLAN,
	LB_PARSED_IPV6,
	LB_PARSED_MALFORMED,	/* the IP header itself */
	LB_PARSED_FRAGMENT,	/* addresses known, ports not */
	LB_PARSED_TRUNCATED,	/* the same */
	LB_PARSED_ICMP,
	LB_PARSED_OTHER_PROTO,
};

/*
 * Where the headers are, and no more: on a machine of ten registers it is quicker to read a
 * field again than to keep it.
 */
struct lb_packet {
	struct lb_eth *eth;
	struct iphdr *ip;
	struct lb_l4 *l4;	/* of TCP all of its header is there, of UDP as well */
	__u8 proto;		/* TCP or UDP */
};

/* Moves past the next `size` bytes, which may then be read; 0 where the packet ends before. */
static inline int lb_pull(struct lb_cursor_at *cursor, __u64 size)
{
	if (lb_unlikely(cursor->at + size > cursor->end))
		return 0;
	cursor->at += size;
	return 1;
}

static inline __u16 lb_length(const struct lb_packet *packet)
{
	return lb_swap16(packet->ip->tot_len);
}

static inline __u8 lb_tcp_flags(const struct lb_packet *packet)
{
	return packet->proto == IPPROTO_TCP ? ((struct lb_tcp *)packet->l4)->flags : 0;
}

/* An IP header that is longer than its packet, or a packet that ends before its transport. */
static inline enum lb_parsed lb_too_short(const struct lb_packet *packet)
{
	return lb_length(packet) < packet->ip->ihl * 4 ? LB_PARSED_MALFORMED : LB_PARSED_TRUNCATED;
}

/* The transport's header, which must lie before the end of the IP packet as well. */
static inline enum lb_parsed lb_parse_l4(struct lb_cursor_at *cursor, const void *ip_end,
					 struct lb_packet *packet)
{
	__u64 size;

	packet->proto = packet->ip->protocol;
	packet->l4 = cursor->at;
	if (lb_likely(packet->proto == IPPROTO_TCP))
		size = sizeof(struct lb_tcp);
	else if (lb_likely(packet->proto == IPPROTO_UDP))
		size = sizeof(struct lb_udp);
	else
		return packet->proto == IPPROTO_ICMP ? LB_PARSED_ICMP : LB_PARSED_OTHER_PROTO;
	if (lb_unlikely(!lb_pull(cursor, size) || cursor->at > ip_end))
		return lb_too_short(packet);
	return LB_PARSED_OK;
}

/* IP options, and what is no IPv4 header at all. */
static inline enum lb_parsed lb_parse_options(struct lb_cursor_at *cursor,
					      const struct lb_packet *packet)
{
	__u32 header = packet->ip->ihl * 4;

	if (packet->ip->version != 4 || header < sizeof(*packet->ip) ||
	    lb_length(packet) < header)
		return LB_PARSED_MALFORMED;
	return lb_pull(cursor, header - sizeof(*packet->ip)) ? LB_PARSED_OK : LB_PARSED_TRUNCATED;
}

static inline enum lb_parsed lb_parse_ipv4(struct lb_cursor_at *cursor,
					   struct lb_packet *packet)
{
	struct iphdr *ip = cursor->at;
	const void *ip_end;

	if (!lb_pull(cursor, sizeof(*ip)))
		return LB_PARSED_MALFORMED;
	packet->ip = ip;
	if (lb_unlikely(*(const __u8 *)ip != LB_IP_PLAIN)) {
		enum lb_parsed parsed = lb_parse_options(cursor, packet);

		if (parsed != LB_PARSED_OK)
			return parsed;
	}
	ip_end = (void *)ip + lb_length(packet);
	if (lb_unlikely(ip_end > cursor->end))
		return LB_PARSED_TRUNCATED;
	if (lb_unlikely(ip->frag_off & lb_swap16(LB_IP_MF | LB_IP_OFFSET)))
		return ip_end < cursor->at ? LB_PARSED_MALFORMED : LB_PARSED_FRAGMENT;
	return lb_parse_l4(cursor, ip_end, packet);
}

/* The frame's own header, which says whose it is. */
static inline int lb_parse_eth(struct lb_cursor_at *cursor, struct lb_packet *packet)
{
	packet->eth = cursor->at;
	return lb_pull(cursor, sizeof(*packet->eth));
}

static inline int lb_may_hold_ip(const struct lb_eth *eth)
{
	return eth->proto == lb_swap16(ETH_P_IP) || eth->proto == lb_swap16(ETH_P_IPV6) ||
	       eth->proto == lb_swap16(ETH_P_8021Q) || eth->proto == lb_swap16(ETH_P_8021AD);
}

/* What follows it. */
static inline enum lb_parsed lb_parse(struct lb_cursor_at *cursor, struct lb_packet *packet)
{
	if (lb_likely(packet->eth->proto == lb_swap16(ETH_P_IP)))
		return lb_parse_ipv4(cursor, packet);
	switch (packet->eth->proto) {
	case lb_swap16(ETH_P_IPV6):
		return LB_PARSED_IPV6;
	case lb_swap16(ETH_P_8021Q):
	case lb_swap16(ETH_P_8021AD):
		return LB_PARSED_VLAN;
	default:
		return LB_PARSED_NOT_IP;
	}
}

#endif
