// SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
/*
 * Makes packets (BPF_PROG_TEST_RUN with live frames) and counts those that arrive.
 *
 * A frame that comes back to the generator holds what others wrote into it, so all of it is
 * written anew each time. A flow is an address of 198.18.0.0/16 and a port of the client.
 */
#include <uapi/linux/bpf.h>

#define FRAME 64

struct template {
	u8 frame[FRAME];	/* the client's port, and the low half of its address, zero */
	u32 next;		/* number of the next packet */
	u32 mask;		/* how many flows, less one: a power of two, or 2^32 */
	u32 ifindex;		/* where they leave */
	u32 l4_check;		/* where that checksum is: 40 UDP, 50 TCP */
};

BPF_ARRAY(templates, struct template, 1);
BPF_PERCPU_ARRAY(arrived, u64, 1);

static inline u16 check_of(u16 old, u32 words)
{
	u32 sum = (u16)~old + (words & 0xffff) + (words >> 16);

	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return (u16)~sum;
}

int generate(struct xdp_md *xdp)
{
	void *data = (void *)(long)xdp->data, *end = (void *)(long)xdp->data_end;
	u32 zero = 0, flow;
	struct template *t = templates.lookup(&zero);
	u16 address, port;

	if (!t || data + FRAME > end)
		return XDP_ABORTED;
	flow = (t->next++ * 0x9e3779b1) & t->mask;
	address = flow;
	port = (flow >> 16) ^ (u16)(flow * 40503);
	__builtin_memcpy(data, t->frame, FRAME);
	*(u16 *)(data + 24) = check_of(*(u16 *)(t->frame + 24), address);
	*(u16 *)(data + 28) = address;
	*(u16 *)(data + 34) = port;
	if (t->l4_check == 50)
		*(u16 *)(data + 50) = check_of(*(u16 *)(t->frame + 50), (u32)address + port);
	else
		*(u16 *)(data + 40) = check_of(*(u16 *)(t->frame + 40), (u32)address + port);
	return bpf_redirect(t->ifindex, 0);
}

/* Counts packets of generated flows and drops them; all else goes on. */
int sink(struct xdp_md *xdp)
{
	void *data = (void *)(long)xdp->data, *end = (void *)(long)xdp->data_end;
	u32 zero = 0;
	u64 *count = arrived.lookup(&zero);

	if (!count || data + 38 > end || *(u16 *)(data + 12) != 0x0008)
		return XDP_PASS;
	if (*(u8 *)(data + 26) != 198 || (*(u8 *)(data + 27) & 0xfe) != 18)
		return XDP_PASS;
	(*count)++;
	return XDP_DROP;
}
