/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/* Internet checksums, changed and not recomputed (RFC 1624, section 3, equation 3). */
#ifndef LB_CSUM_H
#define LB_CSUM_H

#include <linux/types.h>

#include "shape.h"

/*
 * The delta of a TTL that is one lower. The TTL is the first byte of its word, so on a
 * little endian machine m' = m - 1, and ~m + m' is the same for every m.
 */
#define LB_CSUM_TTL 0xfffe

/*
 * The halves of `sum` added, with the carry around. The product holds their sum twice, one
 * above the other, so that the carry out of the lower goes into the upper.
 */
static inline __u16 lb_csum_fold(__u32 sum)
{
	return (__u16)(sum * 0x100010001ULL >> 32);
}

/*
 * The checksum after words whose sum is `from` became words whose sum is `to`:
 * HC' = ~(~HC + ~m + m'). `delta` is ~m + m', or a sum of such.
 */
static inline __u16 lb_csum_apply(__u16 check, __u32 delta)
{
	return (__u16)~lb_csum_fold((__u32)(__u16)~check + delta);
}

/* The delta that undoes `delta`. */
static inline __u16 lb_csum_undo(__u16 delta)
{
	return (__u16)~delta;
}

/*
 * UDP: 0 says that there is no checksum, and one that comes to 0 is sent as 0xffff
 * (RFC 768).
 */
static inline __u16 lb_csum_udp(__u16 check, __u32 delta)
{
	__u16 sum;

	if (!check)
		return 0;
	sum = lb_csum_apply(check, delta);
	return sum ? sum : 0xffff;
}

#endif
