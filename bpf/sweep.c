// SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
/*
 * Ages the flow cache, counts what lives in it and settles slots, a stretch at a run.
 *
 * Never attached: the control plane runs it (BPF_PROG_TEST_RUN) with a struct lb_sweep_job
 * as the packet, because only a compare-and-swap can take a dead way away without losing
 * one that is touched in the same moment. First all flows, then all slots that change: a
 * slot is settled when its old server is finished and no record names a third one.
 */
#ifdef LB_LOADER_BCC
#include <uapi/linux/bpf.h>
#else
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#endif
#include "abi.h"
#include "maps.h"
#include "transition.h"

/*
 * A record in a slot that does not change: nobody looks for it. mark: the slot is told of
 * records that it has to be kept for.
 */
static inline int lb_superfluous(const struct lb_server *server, __u64 word, int mark)
{
	__u32 state = lb_way_state(word), number = server->listen;
	struct lb_listen *listen = lb_listens(number);
	struct lb_slot slot;

	if (state == LB_FLOW_RETURN || state == LB_FLOW_RETURN_NEW || state == LB_FLOW_FRAGMENT ||
	    state == LB_FLOW_CLIENT)
		return 0;
	if (!listen || listen->flags & LB_LISTEN_MEMORY || !lb_find_slot(listen->ring, word, &slot))
		return 0;
	if (!slot.old)
		return 1;
	if (mark && slot.server != lb_way_server(word))
		slot.old->server |= LB_OLD_KEPT;
	return 0;
}

/* Is the way still of use? A datagram that passes has no server. */
static inline int lb_is_wanted(const struct lb_gateway *gw, const struct lb_server *server,
			       __u64 word, __u32 tick, int counting)
{
	__u32 state = lb_way_state(word), age = (tick - (__u32)word) & LB_AGE_MASK;
	const struct lb_listen *listen;

	if (!server || state >= LB_STATES || lb_way_expired(gw, word, tick))
		return 0;
	if (state == LB_FLOW_FRAGMENT && !lb_way_server(word))
		return 1;
	if (server->state != LB_SERVER_ALIVE)
		return 0;
	listen = lb_listens(server->listen);
	if (state == LB_FLOW_CLIENT)
		return listen && age <= listen->persistence;
	return !lb_superfluous(server, word, counting);
}

static inline void lb_sweep_way(const struct lb_gateway *gw, __u64 *way, __u32 tick,
				int counting)
{
	__u64 word = *way;
	__u32 index = lb_way_server(word), state = lb_way_state(word);
	struct lb_flow_count *count;
	struct lb_server *server;

	if (!word)
		return;
	server = lb_servers(index);
	count = lb_flow_counts(index);
	if (lb_is_wanted(gw, server, word, tick, counting) && count)
		count->in_state[state] += counting;
	else
		__sync_val_compare_and_swap(way, word, 0);
}

static inline void lb_sweep_flows(const struct lb_gateway *gw, __u32 first, int counting)
{
	__u32 i, w, tick = lb_tick(gw);

	for (i = 0; i < LB_SWEEP_SETS; i++) {
		struct lb_flow_set *set = lb_flows(first + i);

		if (!set || first + i >= LB_FLOW_SETS)
			break;
#pragma unroll
		for (w = 0; w < LB_FLOW_WAYS; w++)
			lb_sweep_way(gw, &set->way[w], tick, counting);
	}
}

/* The old server is there still: for whom, and when it was last used. */
static inline void lb_count_old(__u32 server, __u32 used, __u32 tick)
{
	struct lb_flow_count *count = lb_flow_counts(server);

	if (!count)
		return;
	count->old_slots++;
	if (tick - used <= LB_BUSY_TICKS)
		count->busy_slots++;
	if (count->old_slots == 1 || tick - used < tick - count->last_old)
		count->last_old = used;
}

/* 1: the slot goes on changing. */
static inline int lb_sweep_slot(__u16 *slot, struct lb_old_slot *old, __u32 tick, __u32 idle)
{
	__u32 owner = *slot & ~LB_SLOT_CHANGING, stable = old->server & ~LB_OLD_KEPT;
	__u32 kept = old->server & LB_OLD_KEPT, age = (__u16)(tick - old->used);

	if (age > idle)
		stable = owner;
	old->server = stable;
	if (stable == owner && !kept) {
		*slot = owner;
		return 0;
	}
	if (stable != owner)
		lb_count_old(stable, tick - age, tick);
	return 1;
}

static inline int lb_sweep_slots(const struct lb_gateway *gw, const struct lb_sweep_job *job)
{
	__u32 i, tick = lb_tick(gw), changing = 0, settled = 0;

	for (i = 0; i < LB_SWEEP_SLOTS_AT_ONCE; i++) {
		__u16 *slot = lb_ring_slots(job->first + i);
		struct lb_old_slot *old = lb_old_slots(job->first + i);

		if (!slot || !old || !(*slot & LB_SLOT_CHANGING))
			continue;
		if (lb_sweep_slot(slot, old, tick, job->idle))
			changing++;
		else
			settled++;
	}
	return changing | settled << 16;
}

LB_PROGRAM(lb_sweep)(struct xdp_md *xdp)
{
	struct lb_sweep_job *job = (void *)(long)xdp->data;
	struct lb_gateway *gw;

	gw = lb_gateway(0);
	if (!gw || (void *)(job + 1) > (void *)(long)xdp->data_end)
		return 0;
	if (job->kind == LB_SWEEP_SLOTS)
		return lb_sweep_slots(gw, job);
	if (job->kind == LB_SWEEP_FLOWS || job->kind == LB_SWEEP_DROP)
		lb_sweep_flows(gw, job->first, job->kind == LB_SWEEP_FLOWS);
	return lb_tick(gw); /* not an action: the answer to who ran it */
}

#ifndef LB_LOADER_BCC
char _license[] SEC("license") = "GPL";
#endif
