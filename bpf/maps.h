/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/* The maps of the packet program and of the sweep. */
#ifndef LB_MAPS_H
#define LB_MAPS_H

#include "abi.h"
#include "dialect.h"
#include "shape.h"

/* How many the maps were made for: the loader reads it from them. Powers of two. */
#ifndef LB_CPUS
#define LB_CPUS 256
#endif
#ifndef LB_FLOW_SETS
#define LB_FLOW_SETS 16384
#endif

#ifndef LB_LOADER_BCC

struct {
	__uint(type, BPF_MAP_TYPE_DEVMAP);
	__uint(max_entries, LB_PORTS);
	__type(key, __u32);
	__type(value, __u32);
} tx_ports SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 1024);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct lb_prefix4);
	__type(value, __u32);
} direct4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 1024);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct lb_prefix6);
	__type(value, __u32);
} direct6 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 65536);
} wanted SEC(".maps");

#endif

/*
 * Records by number, all of them in one map value, so that no lookup is called: a number is
 * cut to the size of its kind, a power of two, and lb_servers(i) is an address.
 */
LB_WHOLE(gateway, struct lb_gateway, 1)
LB_WHOLE(listen_index, struct lb_bucket, LB_LISTEN_BUCKETS)
LB_WHOLE(return_index, struct lb_bucket, LB_RETURN_BUCKETS)
LB_WHOLE(listens, struct lb_listen, LB_LISTENS)
LB_WHOLE(servers, struct lb_server, LB_SERVERS)
LB_WHOLE(cursors, struct lb_cursor, LB_LISTENS)
LB_WHOLE(ring_slots, __u16, LB_PAGES * LB_PAGE_SLOTS)
LB_WHOLE(old_slots, struct lb_old_slot, LB_PAGES * LB_PAGE_SLOTS)
LB_WHOLE(flow_counts, struct lb_flow_count, LB_SERVERS)
LB_WHOLE(loads, struct lb_load, LB_SERVERS)
LB_WHOLE(cpu_blocks, struct lb_cpu_block, LB_CPUS)
LB_WHOLE(flows, struct lb_flow_set, LB_FLOW_SETS)

/* Values of their own. */
LB_MMAPABLE(turns, struct lb_turns, LB_LISTENS);

#endif
