/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * fullnat.h - requests leave from a local end: an address of the director's own
 * and a port there. So replies come back to the director, whatever the routes of
 * the real server are.
 *
 * A port is taken for one real server only: what must be unique is the key of
 * the replies, under which the way back is stored. That comes first, and names
 * the slot that the connection has reserved: a connection that is shown has its
 * way back. It is never half-open, so it goes only after its connection; who
 * finds a port taken tries another.
 */
#ifndef DIRECTOR_FULLNAT_H
#define DIRECTOR_FULLNAT_H

#include "nat.h"

/* The packet, its place and the replies' key are in struct work: many calls deep there is little stack. */
struct local_search {
	__u32 id;	/* of the real server */
	__u32 pool;
	__u32 hash;	/* of the flow */
	__u32 local;	/* what was tried last */
	__u32 verdict;	/* TX_NEW: and it is taken now */
};

/* A random number below size. */
__inline __u32 below(__u32 random, __u32 size)
{
	return (__u64)random * size >> 32;
}

/*
 * The local end to try: the same ones in the same order for the same flow, so
 * that a client that uses its port again comes from the same one here. Of few
 * ports, all are tried.
 */
__inline __u32 local_candidate(const struct local_search *s, const struct source_pool *pool, __u32 try)
{
	__u64 random = ((__u64)s->hash + try) * 0x9e3779b97f4a7c15;
	__u32 range = READ_ONCE(settings.local_ports), count = range >> 16, source, port;

	source = pool->source[random >> 56];
	port = count > PORT_TRIES ? below(random >> 24, count) : (s->hash + try) % (count ?: 1);
	return source | (__u32)bpf_htons((range & 0xffff) + port) << LOCAL_PORT_SHIFT;
}

/* The replies' key, with the local end as their destination. 0: there is no such end. */
__inline int local_key(struct packet *reply, __u32 local, int v6)
{
	const __u64 *source = source_addr(local);

	if (!local_source(local) || !source)
		return 0;
	reply->ports = packet_sport(reply) | (__u32)local_port(local) << 16;
	if (v6) {
		reply->addr[2] = source[0];
		reply->addr[3] = source[1];
	} else {
		reply->addr[0] = (__u32)reply->addr[0] | (source[1] & 0xffffffff00000000);
	}
	return 1;
}

/* Is the way back's home the connection's, too? Then it is locked already. */
__inline int local_shares_home(const struct work *w)
{
	return w->reply_at.index == w->at.index && !((w->reply_at.want ^ w->at.want) >> 32 & (CONN_WAYS - 1));
}

/* The way back that has the key of w->reply is nobody's, and its place is locked now. */
__inline int local_lock(int v6)
{
	struct work *w = work_get();
	struct conn *c, *home;

	if (!w)
		return 0;
	c = way_find(w, v6);
	home = place_home(&w->reply_at, v6);
	if (!home || (c && link_alive(READ_ONCE(c->link), v6)))
		return 0;
	if (!c)
		w->reply_at.slot = 0;
	return local_shares_home(w) || place_lock(&w->reply_at, home);
}

/* Stores it, for the connection that has reserved w->at, and unlocks its place. */
__inline enum verdict local_store(__u32 id, int v6)
{
	struct work *w = work_get();
	struct conn *home, *old;
	struct conn_new *n;
	int stored;

	if (!w)
		return DROP_ERROR;
	home = place_home(&w->reply_at, v6);
	if (!home)
		return DROP_ERROR;
	old = w->reply_at.slot ? slot_numbered(w->reply_at.slot, v6) : NULL;
	n = &w->fresh;
	n->word = REPLY_PROVEN;
	nat_way_back(n, &w->packet, &w->at, id);
	stored = way_store(w, home, old, n, v6);
	if (likely(!local_shares_home(w)))
		place_unlock(&w->reply_at, home);
	return stored ? TX_NEW : DROP_NO_ROOM;
}

__noinline int local_lock4(void)
{
	return local_lock(0);
}

__noinline int local_lock6(void)
{
	return local_lock(1);
}

__noinline int local_store4(__u32 id)
{
	return local_store(id, 0);
}

__noinline int local_store6(__u32 id)
{
	return local_store(id, 1);
}

__inline long local_try(struct local_search *s, __u32 try, int v6)
{
	struct source_pool *pool = bpf_map_lookup_elem(&pools, &s->pool);
	struct work *w = work_get();

	if (!pool || !w)
		return 1;
	s->local = local_candidate(s, pool, try);
	if (!local_key(&w->reply, s->local, v6))
		return 1;
	if (!(v6 ? local_lock6() : local_lock4()))
		return 0; /* it is taken, or what is stored beside it is changing */
	s->verdict = v6 ? local_store6(s->id) : local_store4(s->id);
	return s->verdict == TX_NEW;
}

static long local_step4(__u32 i, struct local_search *s)
{
	return local_try(s, i, 0);
}

static long local_step6(__u32 i, struct local_search *s)
{
	return local_try(s, i, 1);
}

/* The replies' key, but for the local end. */
__inline int local_prepare(struct local_search *s, int v6)
{
	struct real *r = bpf_map_lookup_elem(&reals, &s->id);
	struct work *w = work_get();
	struct nat_ends e;

	if (!r || !w || !nat_to_real(&e, &w->packet, r, 0, v6))
		return 0;
	s->pool = r->pool;
	nat_reply_key(&w->reply, &w->packet, &e, v6);
	return 1;
}

/* Takes a local end for the connection that has reserved w->at: TX_NEW and the end, or why there is none. */
__inline __u64 local_take(__u32 id, __u32 hash, int v6)
{
	struct local_search s = { .id = id, .hash = hash, .verdict = DROP_NO_PORT };

	if (!local_prepare(&s, v6))
		return DROP_ERROR;
	if (v6)
		bpf_loop(PORT_TRIES, local_step6, &s, 0);
	else
		bpf_loop(PORT_TRIES, local_step4, &s, 0);
	return outcome_by(s.verdict, 0, s.local);
}

/*
 * Is a connection by full-NAT? So is one by nat whose client is a real server
 * itself: it would be answered directly, and not know by whom.
 */
__inline int fullnat_wanted(const struct packet *p, const struct real *r, int v6)
{
	if (r->method == METHOD_FULLNAT)
		return 1;
	return r->method == METHOD_NAT && r->pool && nat_address_maybe(p, v6);
}

#endif
