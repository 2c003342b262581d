/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/*
 * The maps, and the only lines that know who compiles: bcc in the loader, where the maps
 * exist already (pinned) and come as file descriptors LB_FD_<map>; or plain clang, ahead
 * of time, where libbpf makes them from their definitions.
 */
#ifndef LB_MAPS_H
#define LB_MAPS_H

#include "abi.h"

#ifdef LB_LOADER_BCC

#define LB_MMAPABLE(name, value_type, entries)
#define LB_PERCPU(name, value_type, entries)
#define LB_HANDLE(name) ((void *)bpf_pseudo_fd(1, LB_FD_##name))
#define LB_LOOKUP(name, key) bpf_map_lookup_elem_(bpf_pseudo_fd(1, LB_FD_##name), key)
#define LB_PROGRAM(name) int name

#else

#define LB_DEFINE(name, kind, value_type, entries, flags_set) \
	struct {                                              \
		__uint(type, kind);                           \
		__type(key, __u32);                           \
		__type(value, value_type);                    \
		__uint(max_entries, entries);                 \
		__uint(map_flags, flags_set);                 \
	} name SEC(".maps")
#define LB_MMAPABLE(name, value_type, entries) \
	LB_DEFINE(name, BPF_MAP_TYPE_ARRAY, value_type, entries, BPF_F_MMAPABLE)
#define LB_PERCPU(name, value_type, entries) \
	LB_DEFINE(name, BPF_MAP_TYPE_PERCPU_ARRAY, value_type, entries, 0)
#define LB_HANDLE(name) ((void *)&name)
#define LB_LOOKUP(name, key) bpf_map_lookup_elem(&name, key)
#define LB_PROGRAM(name) SEC("xdp") int name

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
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 65536);
} wanted SEC(".maps");

#endif

LB_MMAPABLE(gateway, struct lb_gateway, 1);
LB_MMAPABLE(listen_index, struct lb_bucket, LB_LISTEN_BUCKETS);
LB_MMAPABLE(return_index, struct lb_bucket, LB_RETURN_BUCKETS);
LB_MMAPABLE(listens, struct lb_listen, LB_LISTENS);
LB_MMAPABLE(servers, struct lb_server, LB_SERVERS);
LB_MMAPABLE(ring_pages, struct lb_ring_page, LB_PAGES);
LB_MMAPABLE(old_pages, struct lb_old_page, LB_PAGES);
LB_MMAPABLE(turns, struct lb_turns, LB_LISTENS);
LB_MMAPABLE(cursors, struct lb_cursor, LB_LISTENS);
LB_MMAPABLE(flows, struct lb_flow_set, 1); /* as many as configured: gateway.flow_mask */
LB_MMAPABLE(flow_counts, struct lb_flow_count, LB_SERVERS);
LB_MMAPABLE(loads, struct lb_load, LB_SERVERS);
LB_PERCPU(server_stats, struct lb_server_stats, LB_SERVERS);
LB_PERCPU(verdicts, __u64, LB_VERDICT_ROOM);

#endif
