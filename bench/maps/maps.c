// SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0)
/*
 * The maps that were chosen between, each behind a program that does nothing else: where flows
 * are remembered, and how a ring is laid out. Run behind bench/prog/wrapper.c.
 *
 * Each finds the packet's flow at fixed places, for the wrapper makes no other packets, and
 * answers XDP_TX.
 */
#include <uapi/linux/bpf.h>

#define SETS 16384	/* of five ways: 64k flows fill four fifths of them */
#define WAYS 5
#define TAG_SHIFT 30
#define CPUS 2		/* that blocks are made for: the benchmark stays on one */
#define KEYED 0x9e3779b97f4a7c15ULL

struct tuple {
	u32 source;
	u32 dest;
	u32 ports;
	u32 proto;
};

static inline int read_tuple(struct xdp_md *xdp, struct tuple *tuple)
{
	void *data = (void *)(long)xdp->data, *end = (void *)(long)xdp->data_end;

	if (data + 38 > end)
		return 0;
	tuple->source = *(u32 *)(data + 26);
	tuple->dest = *(u32 *)(data + 30);
	tuple->ports = *(u32 *)(data + 34);
	tuple->proto = *(u8 *)(data + 23);
	return 1;
}

/* bpf/hash.h's, with other keys. */
static inline u64 hash_of(const struct tuple *t)
{
	u64 x = (KEYED + t->source) * (~KEYED + t->dest) +
		((KEYED >> 3) + t->ports) * ((KEYED >> 5) + t->proto);
	u64 low = (x ^ (x >> 32)) * 0xbf58476d1ce4e5b9ULL;

	return (x >> 32 << 32) | (u32)(low ^ (low >> 32));
}

/* What is left if nothing is looked up: subtracted from none, shown beside all. */
int hash_only(struct xdp_md *xdp)
{
	struct tuple tuple;

	if (!read_tuple(xdp, &tuple))
		return XDP_ABORTED;
	return hash_of(&tuple) == 1 ? XDP_ABORTED : XDP_TX;
}

/* --- where flows are remembered --------------------------------------------------------- */

BPF_TABLE("lru_hash", struct tuple, u32, lru, 131072);
BPF_F_TABLE("lru_hash", struct tuple, u32, lru_lists, 131072, BPF_F_NO_COMMON_LRU);
BPF_TABLE("lru_percpu_hash", struct tuple, u32, lru_percpu, 131072);

/* bcc has no calls of maps in macros. */
static inline u32 *find_lru(struct tuple *tuple)
{
	return lru.lookup(tuple);
}

static inline void put_lru(struct tuple *tuple, u32 *server)
{
	lru.update(tuple, server);
}

static inline u32 *find_lru_lists(struct tuple *tuple)
{
	return lru_lists.lookup(tuple);
}

static inline void put_lru_lists(struct tuple *tuple, u32 *server)
{
	lru_lists.update(tuple, server);
}

static inline u32 *find_lru_percpu(struct tuple *tuple)
{
	return lru_percpu.lookup(tuple);
}

static inline void put_lru_percpu(struct tuple *tuple, u32 *server)
{
	lru_percpu.update(tuple, server);
}

#define KERNELS(map)                                           \
	int flow_##map(struct xdp_md *xdp)                     \
	{                                                      \
		struct tuple tuple;                            \
		u32 *known, chosen;                            \
							       \
		if (!read_tuple(xdp, &tuple))                  \
			return XDP_ABORTED;                    \
		known = find_##map(&tuple);                    \
		if (known)                                     \
			return *known ? XDP_TX : XDP_ABORTED;  \
		chosen = hash_of(&tuple) >> 62 | 1;            \
		put_##map(&tuple, &chosen);                    \
		return XDP_TX;                                 \
	}

KERNELS(lru)
KERNELS(lru_lists)
KERNELS(lru_percpu)

struct set {
	u64 way[WAYS];
	u32 isn[WAYS];
	u32 pad;
};

BPF_F_TABLE("array", int, struct set, sets, SETS, BPF_F_MMAPABLE);
BPF_F_TABLE("array", int, struct set, cpu_sets, SETS * CPUS, BPF_F_MMAPABLE);

/* bpf/flows.h's, without a branch: ADR 4. */
static inline u32 way_number(const struct set *set, u64 hash)
{
	u64 number = 0;
	int i;

#pragma unroll
	for (i = WAYS - 1; i >= 0; i--) {
		s64 x = (set->way[i] ^ hash) >> TAG_SHIFT;

		__asm__("%0 = -%0" : "+r"(x));
		number = (number + 1) & (u64)(x >> 63);
	}
	return number;
}

/* shared: CPUs race for ways, so one is taken by compare-and-swap. */
static inline int remember(struct set *set, u64 hash, int shared)
{
	u64 word = (hash >> TAG_SHIFT << TAG_SHIFT) | 1;
	u32 number = way_number(set, hash);
	int i;

	if (number < WAYS)
		return set->way[number] & 1 ? XDP_TX : XDP_ABORTED;
#pragma nounroll
	for (i = 0; i < WAYS; i++) {
		if (set->way[i])
			continue;
		if (!shared)
			set->way[i] = word;
		else if (__sync_val_compare_and_swap(&set->way[i], 0, word))
			continue;
		set->isn[i] = 1;
		break;
	}
	return XDP_TX;
}

int flow_sets(struct xdp_md *xdp)
{
	struct tuple tuple;
	struct set *set;
	u64 hash;
	int number;

	if (!read_tuple(xdp, &tuple))
		return XDP_ABORTED;
	hash = hash_of(&tuple);
	number = hash & (SETS - 1);
	set = sets.lookup(&number);
	return set ? remember(set, hash, 1) : XDP_ABORTED;
}

int flow_cpu_sets(struct xdp_md *xdp)
{
	struct tuple tuple;
	struct set *set;
	u64 hash;
	int number;

	if (!read_tuple(xdp, &tuple))
		return XDP_ABORTED;
	hash = hash_of(&tuple);
	number = (bpf_get_smp_processor_id() & (CPUS - 1)) * SETS + (hash & (SETS - 1));
	set = cpu_sets.lookup(&number);
	return set ? remember(set, hash, 0) : XDP_ABORTED;
}

/* --- rings ------------------------------------------------------------------------------ */

#define RINGS 1024

/*
 * All zero: server 0. Room for the longest rings of the widest slots, in blocks that lie in a
 * row; bcc compiles for ever where a value is large.
 */
#define BLOCK_BITS 12
#define BLOCKS (1 << (10 + 16 + 2 - BLOCK_BITS))

struct slots {
	u8 at[1 << BLOCK_BITS];
};

struct names {
	u16 at[256];
};

BPF_ARRAY(slots, struct slots, BLOCKS);
BPF_ARRAY(names, struct names, RINGS);	/* of one-byte slots: which servers a ring's are */

/* size: of the slot that begins at `byte`. */
static inline void *slot_at(u32 byte, u32 size)
{
	int block = byte >> BLOCK_BITS;
	struct slots *found = slots.lookup(&block);

	return found ? found->at + (byte & ((1 << BLOCK_BITS) - size)) : 0;
}

static inline u32 named(u32 service, u32 slot)
{
	int number = service;
	struct names *found = names.lookup(&number);

	return found ? found->at[slot & 255] : 1;
}

static inline u32 service_of(const struct tuple *tuple)
{
	return (tuple->dest >> 24 | (tuple->dest >> 8 & 0xff00)) & (RINGS - 1);
}

#define RING(name, type, bits, by_name)                                           \
	int ring_##name##_##bits(struct xdp_md *xdp)                              \
	{                                                                         \
		u32 number, service, server;                                      \
		struct tuple tuple;                                               \
		type *slot;                                                       \
										  \
		if (!read_tuple(xdp, &tuple))                                     \
			return XDP_ABORTED;                                       \
		service = service_of(&tuple);                                     \
		number = service << bits | (u32)(hash_of(&tuple) >> (64 - bits)); \
		slot = slot_at(number * sizeof(type), sizeof(type));                       \
		if (!slot)                                                        \
			return XDP_ABORTED;                                       \
		server = by_name ? named(service, *slot) : *slot;                 \
		return server ? XDP_ABORTED : XDP_TX;                             \
	}

#define SIZES(name, type, by_name)    \
	RING(name, type, 11, by_name) \
	RING(name, type, 14, by_name) \
	RING(name, type, 16, by_name)

SIZES(u8, u8, 0)
SIZES(u8_names, u8, 1)
SIZES(u16, u16, 0)
SIZES(u32, u32, 0)

/* --- rings that are swapped ------------------------------------------------------------- */

struct part {
	u8 at[1 << BLOCK_BITS];
};

BPF_TABLE("array", int, struct part, inner, 32);
BPF_ARRAY_OF_MAPS(outer, "inner", 1);
BPF_F_TABLE("array", int, struct part, written, 32, BPF_F_MMAPABLE); /* in place */

int ring_swapped(struct xdp_md *xdp)
{
	u64 map;
	struct part *part;
	struct tuple tuple;
	int zero = 0, number;
	u32 slot;

	map = (u64)outer.lookup(&zero);
	if (!map || !read_tuple(xdp, &tuple))
		return XDP_ABORTED;
	slot = hash_of(&tuple) >> 48;
	number = slot >> (BLOCK_BITS - 1);
	part = bpf_map_lookup_elem_(map, &number);
	if (!part)
		return XDP_ABORTED;
	return ((u16 *)part)[slot & ((1 << (BLOCK_BITS - 1)) - 1)] ? XDP_ABORTED : XDP_TX;
}
