/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/*
 * What the packets of a server say against it: that it refuses. Anybody may have sent them,
 * so all that comes of it is a hint to the control plane to run the server's check now.
 */
#ifndef LB_SUSPECT_H
#define LB_SUSPECT_H

#include "context.h"

#define LB_HINT_EVERY 100 /* jiffies between two hints about a server, on each CPU */

/* Is it the answer of a closed port to a SYN (RFC 9293, 3.5.2: no ACK came, so SEQ=0)? */
static inline int lb_refuses(const struct lb_ctx *c)
{
	return lb_tcp_flags(&c->packet) & LB_TCP_RST && !lb_seq(c);
}

static inline void lb_suspect(const struct lb_ctx *c, __u32 server)
{
	struct lb_server_stats *stats = lb_stats(c, server);
	struct lb_wanted hint = { .ifindex = server, .family = LB_WANTED_CHECK };
	__u64 now = bpf_jiffies64();

	stats->refused++;
	if (stats->hinted && now - stats->hinted < LB_HINT_EVERY)
		return;
	stats->hinted = now;
	bpf_ringbuf_output(LB_HANDLE(wanted), &hint, sizeof(hint), 0);
}

#endif
