/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * sorry.h - sorry servers: who takes new connections when no real server of a
 * service can. They are a service of their own behind it, with plans and counters
 * like any other's. Their connections are as ordinary; templates lead to
 * none, so every new connection asks for the real servers first.
 */
#ifndef DIRECTOR_SORRY_H
#define DIRECTOR_SORRY_H

#include "conn.h"
#include "maps.h"
#include "plan.h"

/* The service that the sorry servers are, NULL if there are none. */
__inline struct service *service_sorry(const struct service *s)
{
	__u32 id = READ_ONCE(s->sorry) - 1;

	return bpf_map_lookup_elem(&services, &id);
}

/* Who takes a new connection: the service itself, or its sorry servers in its place. */
__inline struct service *service_serving(struct service *s, const struct place *at)
{
	struct service *sorry;

	if (likely(at->asked != ASK_SORRY && !(s->flags & SERVICE_NO_QUORUM)))
		return s;
	sorry = service_sorry(s);
	return sorry && (at->asked == ASK_SORRY || sorry->flow.length) ? sorry : s;
}

/* Are there connections that were never stored? */
__inline int has_untracked(const struct service *s)
{
	struct service *sorry;

	if (READ_ONCE(s->untracked))
		return 1;
	sorry = service_sorry(s);
	return sorry && READ_ONCE(sorry->untracked);
}

/* The server that a segment of such a connection belongs to, if of any. */
static __noinline __u32 pick_untracked(struct service *s, __u32 hash)
{
	struct service *sorry = service_sorry(s);
	__u32 id = NO_REAL;

	if (sorry && s->flags & SERVICE_NO_QUORUM)
		id = pick_flow(sorry, hash);
	if (id == NO_REAL && !s->persistent)
		id = pick_flow(s, hash);
	if (id == NO_REAL && sorry && pick_flow(s, hash) == NO_REAL)
		id = pick_flow(sorry, hash);
	return id;
}

#endif
