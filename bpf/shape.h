/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/*
 * What a configuration uses. The compiler is told by macros, and what is not used is not in
 * the program; the text tests these constants, so that all of it is compiled in each shape.
 *
 *   LB_FLOWS        schedulers with memory, or a server that several listens share
 *   LB_LOADS        lc, wlc, and limits of connections; needs LB_FLOWS
 *   LB_PERSISTENCE  clients that stay with their server; needs LB_FLOWS
 *   LB_DIRECT       prefixes that servers talk to untranslated
 *   LB_IPV6         listens with IPv6 addresses
 *   LB_VLAN         interfaces that are VLANs
 *   LB_FENCE        virtual routers
 *   LB_ALL          all of these
 */
#ifndef LB_SHAPE_H
#define LB_SHAPE_H

/* bcc makes one function of all; ahead of time it is done so, too. */
#ifndef LB_LOADER_BCC
#define inline inline __attribute__((__always_inline__))
#endif

#ifdef LB_ALL
#define LB_FLOWS
#define LB_LOADS
#define LB_PERSISTENCE
#define LB_DIRECT
#define LB_IPV6
#define LB_VLAN
#define LB_FENCE
#endif

enum lb_features {
	LB_HAS_FLOWS = 0
#ifdef LB_FLOWS
		       + 1
#endif
	,
	LB_HAS_LOADS = 0
#ifdef LB_LOADS
		       + 1
#endif
	,
	LB_HAS_PERSISTENCE = 0
#ifdef LB_PERSISTENCE
			     + 1
#endif
	,
	LB_HAS_DIRECT = 0
#ifdef LB_DIRECT
			+ 1
#endif
	,
	LB_HAS_IPV6 = 0
#ifdef LB_IPV6
		      + 1
#endif
	,
	LB_HAS_VLAN = 0
#ifdef LB_VLAN
		      + 1
#endif
	,
	LB_HAS_FENCE = 0
#ifdef LB_FENCE
		       + 1
#endif
};

#endif
