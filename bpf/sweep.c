// SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
/*
 * Ages the flow cache and counts what lives in it, a stretch of sets at a run.
 *
 * Never attached: the control plane runs it (BPF_PROG_TEST_RUN) with the number of the
 * first set as the packet, because only a compare-and-swap can take a dead way away
 * without losing one that is touched in the same moment.
 */
#ifdef LB_LOADER_BCC
#include <uapi/linux/bpf.h>
#else
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#endif
#include "abi.h"
#include "maps.h"
#include "flows.h"

static inline void lb_count(__u32 server, __u32 state)
{
	struct lb_flow_count *count = LB_LOOKUP(flow_counts, &server);

	if (count)
		count->in_state[state]++;
}

static inline void lb_sweep_way(const struct lb_gateway *gw, __u64 *way, __u32 tick)
{
	__u64 word = *way;
	__u32 index = lb_way_server(word);
	struct lb_server *server;

	if (!word)
		return;
	server = lb_servers(index);
	if (server && server->state == LB_SERVER_ALIVE && !lb_way_expired(gw, word, tick))
		lb_count(index, lb_way_state(word));
	else
		__sync_val_compare_and_swap(way, word, 0);
}

LB_PROGRAM(lb_sweep)(struct xdp_md *xdp)
{
	__u32 *first = (void *)(long)xdp->data;
	struct lb_gateway *gw;
	__u32 i, w, tick, start;

	gw = lb_gateway(0);
	if (!gw || (void *)(first + 1) > (void *)(long)xdp->data_end)
		return 0;
	start = *first;
	tick = lb_tick(gw);
	for (i = 0; i < LB_SWEEP_SETS; i++) {
		struct lb_flow_set *set = lb_flows(start + i);

		if (!set || start + i >= LB_FLOW_SETS)
			break;
#pragma unroll
		for (w = 0; w < LB_FLOW_WAYS; w++)
			lb_sweep_way(gw, &set->way[w], tick);
	}
	return tick + 1; /* not an action: the answer to who ran it */
}

#ifndef LB_LOADER_BCC
char _license[] SEC("license") = "GPL";
#endif
