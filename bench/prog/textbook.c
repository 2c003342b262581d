// SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
/*
 * A textbook NAT load balancer: the reference, which stays as it is.
 *
 * As one would write it from the documentation of BPF: the VIP in a hash, flows in an LRU
 * hash by their 5-tuple, the checksums changed and not recomputed, a statistic for the VIP
 * and one for the backend. It does nothing that lbctl's program needs beside (no MAC check,
 * no fragments, no VLAN, no way back), and nothing slowly: that its cost is at most 1.25
 * times the sum of its map operations is measured with it.
 */
#include <uapi/linux/bpf.h>
#include <uapi/linux/if_ether.h>
#include <uapi/linux/in.h>
#include <uapi/linux/ip.h>
#include <uapi/linux/tcp.h>
#include <uapi/linux/udp.h>

#define BACKENDS 16

struct vip_key {
	__be32 address;
	__be16 port;
	u8 proto;
	u8 pad;
};

struct vip {
	u32 number;
	u32 first;		/* of its backends */
	u32 count;
};

struct flow_key {
	__be32 source;
	__be32 dest;
	__be16 source_port;
	__be16 dest_port;
	u32 proto;
};

struct backend {
	__be32 address;
	__be16 port;
	__be16 macs[6];		/* the next hop's and ours */
};

struct count {
	u64 packets;
	u64 bytes;
};

BPF_HASH(vips, struct vip_key, struct vip, 2048);
BPF_TABLE("lru_hash", struct flow_key, u32, flows, 131072);
BPF_ARRAY(backends, struct backend, BACKENDS);
BPF_PERCPU_ARRAY(vip_stats, struct count, 2048);
BPF_PERCPU_ARRAY(backend_stats, struct count, BACKENDS);
BPF_PERCPU_ARRAY(misses, u64, 1);	/* written on a miss only, so it costs a hit nothing */

static inline void add(struct count *count, u16 bytes)
{
	count->packets++;
	count->bytes += bytes;
}

/* HC' = ~(~HC + ~m + m') of RFC 1624, for an address and one more word. */
static inline u16 replace(u16 check, u32 from, u32 to, u16 more_from, u16 more_to)
{
	u32 sum = (u16)~check + (u16)~from + (u16)(~from >> 16) + (u16)to + (to >> 16) +
		  (u16)~more_from + more_to;

	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return (u16)~sum;
}

/* A new flow: a backend by hash, remembered. */
static inline u32 choose(struct vip *vip, struct flow_key *key)
{
	u32 hash = (key->source ^ key->source_port * 0x9e3779b1) * 0x85ebca6b;
	u32 chosen = vip->first + (hash >> 16) % vip->count;
	int zero = 0;
	u64 *missed = misses.lookup(&zero);

	if (missed)
		(*missed)++;
	flows.update(key, &chosen);
	return chosen;
}

int textbook(struct xdp_md *xdp)
{
	void *data = (void *)(long)xdp->data, *end = (void *)(long)xdp->data_end;
	struct ethhdr *eth = data;
	struct iphdr *ip = data + sizeof(*eth);
	struct udphdr *ports = (void *)(ip + 1);	/* TCP's are in the same place */
	struct vip_key vip_key = {};
	struct flow_key flow_key = {};
	struct backend *backend;
	struct count *count;
	struct vip *vip;
	u32 chosen, *known;
	u16 *check, *macs = data;
	int i;

	if ((void *)(ports + 1) > end || eth->h_proto != htons(ETH_P_IP) || ip->ihl != 5)
		return XDP_PASS;
	if (ip->protocol == IPPROTO_TCP) {
		struct tcphdr *tcp = (void *)(ip + 1);

		if ((void *)(tcp + 1) > end)
			return XDP_PASS;
		check = &tcp->check;
	} else if (ip->protocol == IPPROTO_UDP) {
		check = &ports->check;
	} else {
		return XDP_PASS;
	}

	vip_key.address = ip->daddr;
	vip_key.port = ports->dest;
	vip_key.proto = ip->protocol;
	vip = vips.lookup(&vip_key);
	if (!vip || ip->ttl <= 1)
		return XDP_PASS;

	flow_key.source = ip->saddr;
	flow_key.dest = ip->daddr;
	flow_key.source_port = ports->source;
	flow_key.dest_port = ports->dest;
	flow_key.proto = ip->protocol;
	known = flows.lookup(&flow_key);
	chosen = known ? *known : choose(vip, &flow_key);
	backend = backends.lookup(&chosen);
	if (!backend)
		return XDP_DROP;

	count = vip_stats.lookup(&vip->number);
	if (count)
		add(count, ntohs(ip->tot_len));
	count = backend_stats.lookup(&chosen);
	if (count)
		add(count, ntohs(ip->tot_len));

	*check = replace(*check, ip->daddr, backend->address, ports->dest, backend->port);
	/* A TTL one lower: it is the first byte of its word. */
	ip->check = replace(ip->check, ip->daddr, backend->address, 0x0001, 0x0000);
	ip->ttl--;
	ip->daddr = backend->address;
	ports->dest = backend->port;
	for (i = 0; i < 6; i++)
		macs[i] = backend->macs[i];
	return XDP_TX;
}
