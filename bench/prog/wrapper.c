// SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
/*
 * Runs in front of every program that is measured.
 *
 * BPF_PROG_TEST_RUN with `repeat` hands a program the packet that its last run rewrote. So
 * this puts the packet back as it was, makes it the next flow's, and calls the program.
 * Its own cost is measured with a program behind it that does nothing, and subtracted.
 *
 * A flow is an address and a port of the client: 2^16 addresses of 198.18.0.0/16, and
 * ports. Checksums of the packet are right for each flow.
 */
#include <uapi/linux/bpf.h>

#define FRAME 64
#define LONG_FRAME 80	/* of IPv6, and of ICMP errors */

struct template {
	u8 frame[LONG_FRAME];	/* with the client's port, and the low half of its address, zero */
	u32 next;		/* number of the next packet */
	u32 mask;		/* how many flows, less one: a power of two, or 2^32 */
	u32 candidate;		/* which program */
	u32 reply;		/* the client is the destination */
	u32 l4_check;		/* where that checksum is: 40 UDP, 50 TCP */
	u32 services;		/* 2^n, less one: how many addresses from the frame's on are hit */
};

BPF_ARRAY(templates, struct template, 1);
BPF_PROG_ARRAY(candidates, 64);

/* Into checksum `old` for a sum of words that were zero. 0 would mean none in UDP. */
static inline u16 check_of(u16 old, u32 words)
{
	u32 sum = (u16)~old + (words & 0xffff) + (words >> 16);

	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return (u16)~sum;
}

/*
 * The packet's fields are written with the widths that programs read them with, or wider:
 * a load that spans two stores would stall, as no load from a network card's memory does.
 */
int wrapper(struct xdp_md *xdp)
{
	void *data = (void *)(long)xdp->data, *end = (void *)(long)xdp->data_end;
	u32 zero = 0, flow, ports;
	struct template *t = templates.lookup(&zero);
	u16 address, port;
	u64 addresses;
	u8 *from;

	if (!t || data + FRAME > end)
		return XDP_ABORTED;
	from = t->frame;
	flow = (t->next++ * 0x9e3779b1) & t->mask;
	address = flow;
	port = (flow >> 16) ^ (u16)(flow * 40503);
	addresses = *(u64 *)(from + 26) | (u64)address << (t->reply ? 48 : 16);
	ports = *(u32 *)(from + 34) | (u32)port << (t->reply ? 16 : 0);
	*(u64 *)(data + 0) = *(u64 *)(from + 0);
	*(u64 *)(data + 8) = *(u64 *)(from + 8);
	*(u64 *)(data + 16) = *(u64 *)(from + 16);
	*(u16 *)(data + 24) = check_of(*(u16 *)(from + 24), address);
	*(u64 *)(data + 26) = addresses;
	*(u32 *)(data + 34) = ports;
	*(u64 *)(data + 38) = *(u64 *)(from + 38);
	*(u64 *)(data + 46) = *(u64 *)(from + 46);
	*(u64 *)(data + 54) = *(u64 *)(from + 54);
	if (t->l4_check == 50)
		*(u16 *)(data + 50) = check_of(*(u16 *)(from + 50), (u32)address + port);
	else
		*(u16 *)(data + 40) = check_of(*(u16 *)(from + 40), (u32)address + port);
	candidates.call(xdp, t->candidate);
	return XDP_ABORTED;
}

/* The same for IPv6 over TCP; for an ICMP error, if there is one flow only. */
int wrapper6(struct xdp_md *xdp)
{
	void *data = (void *)(long)xdp->data, *end = (void *)(long)xdp->data_end;
	u32 zero = 0, flow;
	struct template *t = templates.lookup(&zero);
	u16 address, port;
	u8 *from;

	if (!t || data + LONG_FRAME > end)
		return XDP_ABORTED;
	from = t->frame;
	flow = (t->next++ * 0x9e3779b1) & t->mask;
	address = flow;
	port = (flow >> 16) ^ (u16)(flow * 40503);
	*(u64 *)(data + 6) = *(u64 *)(from + 6);
	*(u64 *)(data + 0) = *(u64 *)(from + 0);
	*(u64 *)(data + 14) = *(u64 *)(from + 14);
	*(u64 *)(data + 22) = *(u64 *)(from + 22);
	*(u64 *)(data + 30) = *(u64 *)(from + 30) | (u64)address << 48;
	*(u64 *)(data + 38) = *(u64 *)(from + 38);
	*(u64 *)(data + 46) = *(u64 *)(from + 46);
	*(u32 *)(data + 54) = *(u32 *)(from + 54) | port;
	*(u64 *)(data + 58) = *(u64 *)(from + 58);
	*(u32 *)(data + 66) = *(u32 *)(from + 66);
	*(u16 *)(data + 70) = t->mask ? check_of(*(u16 *)(from + 70), (u32)address + port) :
					*(u16 *)(from + 70);
	*(u64 *)(data + 72) = *(u64 *)(from + 72);
	candidates.call(xdp, t->candidate);
	return XDP_ABORTED;
}

/* The first, with flows spread evenly over services: neighbouring addresses, port and all. */
int wrapper_spread(struct xdp_md *xdp)
{
	void *data = (void *)(long)xdp->data, *end = (void *)(long)xdp->data_end;
	u32 zero = 0, flow, service;
	struct template *t = templates.lookup(&zero);
	u16 address, port, low;
	u8 *from;

	if (!t || data + FRAME > end)
		return XDP_ABORTED;
	from = t->frame;
	flow = (t->next++ * 0x9e3779b1) & t->mask;
	address = flow;
	port = (flow >> 16) ^ (u16)(flow * 40503);
	service = (flow * 0x85ebca6b >> 16) & t->services;
	low = __builtin_bswap16(service);
	*(u64 *)(data + 0) = *(u64 *)(from + 0);
	*(u64 *)(data + 8) = *(u64 *)(from + 8);
	*(u64 *)(data + 16) = *(u64 *)(from + 16);
	*(u16 *)(data + 24) = check_of(*(u16 *)(from + 24), (u32)address + low);
	*(u64 *)(data + 26) = *(u64 *)(from + 26) | (u64)address << 16 | (u64)low << 48;
	*(u32 *)(data + 34) = *(u32 *)(from + 34) | port;
	*(u64 *)(data + 38) = *(u64 *)(from + 38);
	*(u64 *)(data + 46) = *(u64 *)(from + 46);
	*(u64 *)(data + 54) = *(u64 *)(from + 54);
	*(u16 *)(data + 50) = check_of(*(u16 *)(from + 50), (u32)address + port + low);
	candidates.call(xdp, t->candidate);
	return XDP_ABORTED;
}

/* The calibration. */
int nothing(struct xdp_md *xdp)
{
	return XDP_TX;
}
