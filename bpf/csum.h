/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/* Internet checksums, changed and not recomputed (RFC 1624, section 3, equation 3). */
#ifndef LB_CSUM_H
#define LB_CSUM_H

#include <linux/types.h>

static inline __u16 lb_csum_fold(__u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return (__u16)sum;
}

/*
 * The checksum after words whose sum is `from` became words whose sum is `to`:
 * HC' = ~(~HC + ~m + m'). `delta` is ~m + m', folded.
 */
static inline __u16 lb_csum_apply(__u16 check, __u16 delta)
{
	return (__u16)~lb_csum_fold((__u32)(__u16)~check + delta);
}

/* The delta that undoes `delta`. */
static inline __u16 lb_csum_undo(__u16 delta)
{
	return (__u16)~delta;
}

/* A TTL one lower: the first byte of its word, in network order. */
static inline __u16 lb_csum_ttl(__u16 check)
{
	__u32 sum = check + 0x0001U; /* ~m + m' for m' = m - 0x0100, on little endian */

	return (__u16)(sum + (sum >= 0xffff));
}

/*
 * UDP: 0 says that there is no checksum, and one that comes to 0 is sent as 0xffff
 * (RFC 768).
 */
static inline __u16 lb_csum_udp(__u16 check, __u16 delta)
{
	__u16 sum;

	if (!check)
		return 0;
	sum = lb_csum_apply(check, delta);
	return sum ? sum : 0xffff;
}

#endif
