/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/*
 * The only lines that know who compiles: bcc in the loader, where the maps exist already
 * (pinned) and come as file descriptors LB_FD_<map>; or plain clang, ahead of time, where
 * libbpf makes them from their definitions.
 */
#ifndef LB_DIALECT_H
#define LB_DIALECT_H

#ifdef LB_LOADER_BCC

#define LB_WHOLE(name, value_type, entries)                                             \
	static inline value_type *lb_##name(__u32 i)                                    \
	{                                                                               \
		value_type *all = (value_type *)bpf_pseudo_fd(2, LB_FD_##name);         \
                                                                                        \
		__builtin_assume(all != 0);                                             \
		return all + (i & ((entries) - 1));                                     \
	}
#define LB_MMAPABLE(name, value_type, entries)
#define LB_HANDLE(name) ((void *)bpf_pseudo_fd(1, LB_FD_##name))
#define LB_LOOKUP(name, key) bpf_map_lookup_elem_(bpf_pseudo_fd(1, LB_FD_##name), key)
#define LB_PROGRAM(name) int name
#define LB_CLASSIFIER(name) int name

#else

#define LB_DEFINE(name, kind, value_type, entries, flags_set) \
	struct {                                              \
		__uint(type, kind);                           \
		__type(key, __u32);                           \
		__type(value, value_type);                    \
		__uint(max_entries, entries);                 \
		__uint(map_flags, flags_set);                 \
	} name SEC(".maps")
#define LB_WHOLE(name, value_type, entries)                                     \
	struct lb_all_##name {                                                  \
		value_type at[entries];                                         \
	};                                                                      \
	LB_DEFINE(name, BPF_MAP_TYPE_ARRAY, struct lb_all_##name, 1, BPF_F_MMAPABLE); \
	static inline value_type *lb_##name(__u32 i)                            \
	{                                                                       \
		__u32 zero = 0;                                                 \
		struct lb_all_##name *all = bpf_map_lookup_elem(&name, &zero);  \
                                                                                \
		return all ? &all->at[i & ((entries) - 1)] : 0;                 \
	}
#define LB_MMAPABLE(name, value_type, entries) \
	LB_DEFINE(name, BPF_MAP_TYPE_ARRAY, value_type, entries, BPF_F_MMAPABLE)
#define LB_HANDLE(name) ((void *)&name)
#define LB_LOOKUP(name, key) bpf_map_lookup_elem(&name, key)
#define LB_PROGRAM(name) SEC("xdp") int name
#define LB_CLASSIFIER(name) SEC("tc") int name

#endif

#endif
