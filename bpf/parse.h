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

#define lb_swap16(x) ((__u16)__builtin_bswap16(x)) /* little endian machines only */
#define lb_swap32(x) ((__u32)__builtin_bswap32(x))

#define LB_IP_MF 0x2000
#define LB_IP_OFFSET 0x1fff

#define LB_TCP_FIN 0x01
#define LB_TCP_SYN 0x02
#define LB_TCP_RST 0x04
#define LB_TCP_ACK 0x10

struct lb_cursor_at {
	void *at;
	void *end;
};

/* The first bytes of every transport we know. */
struct lb_l4 {
	__u16 source;
	__u16 dest;
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

struct lb_packet {
	struct ethhdr *eth;
	struct iphdr *ip;
	struct lb_l4 *l4;
	struct lb_tcp *tcp;	/* set for TCP */
	struct lb_udp *udp;	/* set for UDP */
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

static inline enum lb_parsed lb_parse_l4(struct lb_cursor_at *cursor, __u8 proto,
					 struct lb_packet *packet)
{
	struct lb_cursor_at ports = *cursor;

	if (proto == IPPROTO_TCP) {
		packet->tcp = lb_pull(cursor, sizeof(*packet->tcp));
		if (!packet->tcp)
			return LB_PARSED_TRUNCATED;
	} else if (proto == IPPROTO_UDP) {
		packet->udp = lb_pull(cursor, sizeof(*packet->udp));
		if (!packet->udp)
			return LB_PARSED_TRUNCATED;
	} else {
		return proto == IPPROTO_ICMP ? LB_PARSED_ICMP : LB_PARSED_OTHER_PROTO;
	}
	packet->l4 = lb_pull(&ports, sizeof(*packet->l4));
	return packet->l4 ? LB_PARSED_OK : LB_PARSED_TRUNCATED;
}

/* The bytes that the IP header leaves for the transport must hold its header. */
static inline int lb_l4_fits(__u16 total, __u16 header, __u8 proto)
{
	__u16 need = proto == IPPROTO_TCP ? sizeof(struct lb_tcp) : sizeof(struct lb_udp);

	return total >= header + need;
}

static inline enum lb_parsed lb_parse_ipv4(struct lb_cursor_at *cursor,
					   struct lb_packet *packet)
{
	void *start = cursor->at;
	struct iphdr *ip = lb_pull(cursor, sizeof(*ip));
	__u16 header, total;
	__u8 proto;

	if (!ip || ip->version != 4)
		return LB_PARSED_MALFORMED;
	header = ip->ihl * 4;
	total = lb_swap16(ip->tot_len);
	if (header < sizeof(*ip) || total < header)
		return LB_PARSED_MALFORMED;
	packet->ip = ip;
	proto = ip->protocol;
	if (start + total > cursor->end)
		return LB_PARSED_TRUNCATED;
	if (ip->frag_off & lb_swap16(LB_IP_MF | LB_IP_OFFSET))
		return LB_PARSED_FRAGMENT;
	if (header > sizeof(*ip) && !lb_pull(cursor, (header - sizeof(*ip)) & 0x3f))
		return LB_PARSED_TRUNCATED;
	if ((proto == IPPROTO_TCP || proto == IPPROTO_UDP) && !lb_l4_fits(total, header, proto))
		return LB_PARSED_TRUNCATED;
	return lb_parse_l4(cursor, proto, packet);
}

static inline enum lb_parsed lb_parse(struct lb_cursor_at *cursor, struct lb_packet *packet)
{
	struct ethhdr *eth = lb_pull(cursor, sizeof(*eth));

	if (!eth)
		return LB_PARSED_NOT_IP;
	packet->eth = eth;
	switch (eth->h_proto) {
	case lb_swap16(ETH_P_IP):
		return lb_parse_ipv4(cursor, packet);
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
