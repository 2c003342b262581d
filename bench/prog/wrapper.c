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

struct template {
	u8 frame[FRAME];	/* with the client's port, and the low half of its address, zero */
	u32 next;		/* number of the next packet */
	u32 mask;		/* how many flows, less one: a power of two, or 2^32 */
	u32 candidate;		/* which program */
	u32 reply;		/* the client is the destination */
	u32 l4_check;		/* where that checksum is: 40 UDP, 50 TCP */
	u32 pad;
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

/* The calibration. */
int nothing(struct xdp_md *xdp)
{
	return XDP_TX;
}
