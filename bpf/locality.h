/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * locality.h - lblc and lblcr: a destination address stays with the real server
 * that it has, or with a small set of them. What is not remembered is chosen by
 * the service's plan, which is wlc's, and remembered. Memory only points: what
 * it names is looked at again each time, so nothing stored can do harm.
 */
#ifndef DIRECTOR_LOCALITY_H
#define DIRECTOR_LOCALITY_H

#include "conn.h"
#include "maps.h"
#include "packet.h"
#include "plan.h"
#include "work.h"

__inline __u64 member_of(__u32 id, const struct real *r)
{
	return (__u64)r->tenant << 32 | id;
}

/* The real server that is remembered, if it still is one of the service, be it removed. */
__inline struct real *member_real(const struct service *s, __u64 member)
{
	__u32 id = member;
	struct real *r = bpf_map_lookup_elem(&reals, &id);

	return r && r->tenant == member >> 32 && r->service == s->id ? r : NULL;
}

/* Weights are compared in parts: a slow start holds some of them back. */
__inline __u64 real_weight(const struct real *r)
{
	return (__u64)r->weight * (WEIGHT_WHOLE - r->held);
}

__inline __u64 real_active(__u32 id)
{
	struct real_counts *n = counts_get(id);

	return n ? (__u32)n->conns : 0;
}

/* IPVS's load: an active connection weighs as much as 257 inactive ones. */
__inline __u64 real_load(__u32 id)
{
	struct real_counts *n = counts_get(id);
	__u64 conns = n ? n->conns : 0;

	return (conns & 0xffffffff) * 257 + (conns >> 32);
}

/* One that is remembered need not be below its upper threshold, as in IPVS. */
__inline int real_stays(const struct real *r)
{
	return (r->flags & (REAL_USABLE | REAL_NEXT_HOP)) == (REAL_USABLE | REAL_NEXT_HOP);
}

__inline __u32 roster_word(const struct plan *plan, enum roster word)
{
	return plan_slot(plan, word - ROSTER_SLOTS);
}

struct spare_search {
	const struct service *service;
	const struct plan *plan;
	__u32 found;
};

static long spare_step(__u32 i, struct spare_search *w)
{
	__u32 id = roster_word(w->plan, ROSTER_FIRST + i);
	struct real *r = bpf_map_lookup_elem(&reals, &id);

	if (!r || r->service != w->service->id || !(r->flags & REAL_NEXT_HOP))
		return 0;
	w->found = 2 * WEIGHT_WHOLE * real_active(id) < real_weight(r);
	return w->found;
}

/*
 * Does lblc take a destination off this real server? So it does when that has
 * more active connections than weight, while another one, usable or not, has
 * fewer than half of its own.
 */
__inline int real_crowded(const struct service *s, const struct plan *plan, const struct real *r, __u32 id)
{
	struct spare_search w = { .service = s, .plan = plan };
	__u32 reals;

	if (WEIGHT_WHOLE * real_active(id) <= real_weight(r))
		return 0;
	reals = roster_word(plan, ROSTER_COUNT);
	bpf_loop(reals < ROSTER_SLOTS - ROSTER_FIRST ? reals : ROSTER_SLOTS - ROSTER_FIRST, spare_step, &w, 0);
	return w.found;
}

/* The best and the worst of a set, by wlc: the latest member first, of equal ones the first. */
struct set_search {
	const struct service *service;
	struct destination *set;
	__u64 best_load, best_weight;
	__u64 worst_load, worst_weight;
	__u32 best;  /* id of a real server; NO_REAL: none takes a connection */
	__u32 worst; /* place in the set; DESTINATION_REALS: none */
	__u32 reals;
};

static long set_step(__u32 i, struct set_search *w)
{
	__u32 place = (w->reals - 1 - i) & (DESTINATION_REALS - 1);
	__u64 member = READ_ONCE(w->set->real[place]), load, weight;
	struct real *r = member_real(w->service, member);

	if (!r) { /* another one has its row: it goes first */
		w->worst = place;
		w->worst_load = ~0ULL;
		w->worst_weight = 0;
		return 0;
	}
	load = real_load(member);
	weight = real_weight(r);
	if (real_takes_new(r) && (w->best == NO_REAL || w->best_load * weight > load * w->best_weight)) {
		w->best = member;
		w->best_load = load;
		w->best_weight = weight;
	}
	if (weight && (w->worst == DESTINATION_REALS || w->worst_load * weight < load * w->worst_weight)) {
		w->worst = place;
		w->worst_load = load;
		w->worst_weight = weight;
	}
	return 0;
}

/* Only one packet changes a set at a time, and none waits. */
__inline int set_lock(struct destination *set)
{
	return !__sync_val_compare_and_swap(&set->busy, 0, 1);
}

__inline void set_unlock(struct destination *set)
{
	WRITE_ONCE(set->busy, 0);
}

/* A destination that had the same servers for long needs one less. */
__inline void set_shrink(const struct set_search *w, __u32 expiration, __u32 now)
{
	struct destination *set = w->set;
	__u32 i;

	if (w->reals < 2 || w->worst >= DESTINATION_REALS || now - READ_ONCE(set->changed) <= expiration ||
	    !set_lock(set))
		return;
#pragma clang loop unroll(disable)
	for (i = 0; i < DESTINATION_REALS - 1; i++) {
		if (i >= w->worst)
			WRITE_ONCE(set->real[i], set->real[i + 1]);
	}
	WRITE_ONCE(set->reals, w->reals - 1);
	WRITE_ONCE(set->changed, now);
	set_unlock(set);
}

static __noinline __u32 set_choose(const struct service *s, struct destination *set, __u32 expiration, __u32 now)
{
	struct set_search w = {
		.service = s, .set = set, .best = NO_REAL, .worst = DESTINATION_REALS, .reals = READ_ONCE(set->reals),
	};

	if (w.reals > DESTINATION_REALS)
		return NO_REAL; /* cannot be */
	bpf_loop(w.reals, set_step, &w, 0);
	set_shrink(&w, expiration, now);
	return w.best;
}

/* A set that is full stays as it is. */
static __noinline void set_add(struct destination *set, __u64 member, __u32 now)
{
	__u32 reals, i;

	if (!set_lock(set))
		return;
	reals = READ_ONCE(set->reals);
#pragma clang loop unroll(disable)
	for (i = 0; i < DESTINATION_REALS; i++) {
		if (i < reals && set->real[i] == member)
			goto known;
	}
	if (reals < DESTINATION_REALS) {
		WRITE_ONCE(set->real[reals], member);
		WRITE_ONCE(set->reals, reals + 1);
		WRITE_ONCE(set->changed, now);
	}
known:
	set_unlock(set);
}

__inline void destination_key(struct destination_key *key, const struct service *s, const struct packet *p, int v6)
{
	__u64 *addr = (void *)key->addr;

	addr[0] = v6 ? p->addr[2] : 0;
	addr[1] = v6 ? p->addr[3] : (p->addr[0] & 0xffffffff00000000) | 0xffff0000;
	key->service = s->id;
	key->reserved = 0;
}

/* If there is no room, the next connection is chosen anew. */
__inline void destination_store(const struct destination_key *key, __u64 member, __u32 now)
{
	struct work *w = work_get();
	struct destination *d;

	if (!w)
		return;
	d = &w->destination;
	__builtin_memset(d, 0, sizeof(*d));
	d->last_use = now;
	d->changed = now;
	d->reals = 1;
	d->real[0] = member;
	bpf_map_update_elem(&destinations, key, d, BPF_NOEXIST);
}

/* The real server that the destination stays with, NO_REAL: none. */
static __noinline __u32 destination_real(const struct service *s, struct destination *d, __u32 now)
{
	const struct plan *plan = plan_of(s);
	__u64 member = READ_ONCE(d->real[0]);
	__u32 id = member;
	struct real *r;

	if (plan->kind == PLAN_LBLCR) {
		id = set_choose(s, d, roster_word(plan, ROSTER_EXPIRATION), now);
		r = bpf_map_lookup_elem(&reals, &id);
	} else {
		r = member_real(s, member);
	}
	if (!r || !real_stays(r) || real_crowded(s, plan, r, id))
		return NO_REAL;
	return id;
}

static __noinline __u32 pick_sequence(struct service *s, __u32 hash)
{
	struct choice c = { .service = s, .hash = hash, .id = NO_REAL };
	__u32 id = plan_next(s);

	if (real_for_new(s, id) || id == NO_REAL)
		return id;
	id = pick_further(&c, PLAN_SEQUENCE, 0);
	return real_for_new(s, id) ? id : NO_REAL;
}

/* The real server for a new connection of a service by lblc or lblcr. */
static __noinline struct real *pick_local(struct service *s, const struct packet *p, __u32 hash, __u32 *id, int v6)
{
	struct destination_key key;
	struct destination *d;
	struct real *r;

	destination_key(&key, s, p, v6);
	d = bpf_map_lookup_elem(&destinations, &key);
	*id = d ? destination_real(s, d, p->now) : NO_REAL;
	if (d)
		WRITE_ONCE(d->last_use, p->now);
	if (*id != NO_REAL)
		return bpf_map_lookup_elem(&reals, id);
	*id = pick_sequence(s, hash);
	r = bpf_map_lookup_elem(&reals, id);
	if (!r)
		return NULL;
	if (!d)
		destination_store(&key, member_of(*id, r), p->now);
	else if (plan_of(s)->kind == PLAN_LBLCR)
		set_add(d, member_of(*id, r), p->now);
	else
		WRITE_ONCE(d->real[0], member_of(*id, r));
	return r;
}

#endif
