// SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
/*
 * The textbook's map operations, each alone, on the same maps: what follows is put behind
 * textbook.c. A key is built from the packet, as there.
 */
static inline int read_ports(struct xdp_md *xdp, struct iphdr **ip, struct udphdr **ports)
{
	void *data = (void *)(long)xdp->data, *end = (void *)(long)xdp->data_end;

	*ip = data + ETH_HLEN;
	*ports = (void *)(*ip + 1);
	return (void *)(*ports + 1) <= end;
}

static inline void flow_of(struct iphdr *ip, struct udphdr *ports, struct flow_key *key)
{
	key->source = ip->saddr;
	key->dest = ip->daddr;
	key->source_port = ports->source;
	key->dest_port = ports->dest;
	key->proto = ip->protocol;
}

int op_vip(struct xdp_md *xdp)
{
	struct vip_key key = {};
	struct udphdr *ports;
	struct iphdr *ip;

	if (!read_ports(xdp, &ip, &ports))
		return XDP_ABORTED;
	key.address = ip->daddr;
	key.port = ports->dest;
	key.proto = ip->protocol;
	return vips.lookup(&key) ? XDP_TX : XDP_DROP;
}

int op_flow(struct xdp_md *xdp)
{
	struct flow_key key = {};
	struct udphdr *ports;
	struct iphdr *ip;

	if (!read_ports(xdp, &ip, &ports))
		return XDP_ABORTED;
	flow_of(ip, ports, &key);
	return flows.lookup(&key) ? XDP_TX : XDP_DROP;
}

int op_insert(struct xdp_md *xdp)
{
	struct flow_key key = {};
	struct udphdr *ports;
	struct iphdr *ip;
	u32 chosen;

	if (!read_ports(xdp, &ip, &ports))
		return XDP_ABORTED;
	flow_of(ip, ports, &key);
	chosen = ports->source & (BACKENDS - 1);
	flows.update(&key, &chosen);
	return XDP_TX;
}

int op_backend(struct xdp_md *xdp)
{
	struct backend *backend;
	struct udphdr *ports;
	struct iphdr *ip;
	u32 chosen;

	if (!read_ports(xdp, &ip, &ports))
		return XDP_ABORTED;
	chosen = ports->source & 3;
	backend = backends.lookup(&chosen);
	return backend && backend->address ? XDP_TX : XDP_DROP;
}

int op_vip_stats(struct xdp_md *xdp)
{
	struct udphdr *ports;
	struct count *count;
	struct iphdr *ip;
	u32 number = 0;

	if (!read_ports(xdp, &ip, &ports))
		return XDP_ABORTED;
	count = vip_stats.lookup(&number);
	if (!count)
		return XDP_DROP;
	add(count, ntohs(ip->tot_len));
	return XDP_TX;
}

int op_backend_stats(struct xdp_md *xdp)
{
	struct udphdr *ports;
	struct count *count;
	struct iphdr *ip;
	u32 chosen;

	if (!read_ports(xdp, &ip, &ports))
		return XDP_ABORTED;
	chosen = ports->source & 3;
	count = backend_stats.lookup(&chosen);
	if (!count)
		return XDP_DROP;
	add(count, ntohs(ip->tot_len));
	return XDP_TX;
}

/*
 * All of them, in the textbook's order, and nothing else: their sum, as far as it can be
 * measured. Adding up what each costs alone would subtract the wrapper five times, and lose
 * what it hides five times.
 */
int op_all(struct xdp_md *xdp)
{
	struct flow_key flow_key = {};
	struct vip_key vip_key = {};
	struct backend *backend;
	struct udphdr *ports;
	struct count *count;
	struct iphdr *ip;
	struct vip *vip;
	u32 *chosen;

	if (!read_ports(xdp, &ip, &ports))
		return XDP_ABORTED;
	vip_key.address = ip->daddr;
	vip_key.port = ports->dest;
	vip_key.proto = ip->protocol;
	vip = vips.lookup(&vip_key);
	if (!vip)
		return XDP_DROP;
	flow_of(ip, ports, &flow_key);
	chosen = flows.lookup(&flow_key);
	if (!chosen)
		return XDP_DROP;
	backend = backends.lookup(chosen);
	if (!backend || !backend->address)
		return XDP_DROP;
	count = vip_stats.lookup(&vip->number);
	if (count)
		add(count, ntohs(ip->tot_len));
	count = backend_stats.lookup(chosen);
	if (count)
		add(count, ntohs(ip->tot_len));
	return XDP_TX;
}
