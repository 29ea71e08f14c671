/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * plan.h - the real server for a new connection. Userspace has run the
 * scheduler forward; here its choices are taken in order (sequence plans) or by
 * a hash (hash plans), whatever the algorithm and however many real servers.
 */
#ifndef DIRECTOR_PLAN_H
#define DIRECTOR_PLAN_H

#include "config.h"
#include "maps.h"
#include "packet.h"
#include "service.h"
#include "siphash.h"

/* Constants of the kernel's hash schedulers. */
#define GOLDEN_RATIO 0x61c88647U
#define MH_KEY 2654435761ULL

__inline __u32 plan_slot(const struct plan *plan, __u32 position)
{
	__u32 slot = plan->base + position;
	__u32 index = slot / PLAN_CHUNK;
	struct plan_chunk *chunk = bpf_map_lookup_elem(&plans, &index);

	return chunk ? chunk->slot[slot & (PLAN_CHUNK - 1)] : NO_REAL;
}

/* A plan can be stale for some milliseconds, so what it names is looked at again. */
__inline int real_takes_new(const struct real *r)
{
	return (r->flags & (REAL_USABLE | REAL_NEXT_HOP | REAL_OVERLOADED)) ==
	       (REAL_USABLE | REAL_NEXT_HOP);
}

__inline struct real *real_for_new(const struct service *s, __u32 id)
{
	struct real *r = bpf_map_lookup_elem(&reals, &id);

	return r && real_takes_new(r) && r->service == s->id ? r : NULL;
}

__inline __u32 plan_position(const struct plan *plan, __u64 position)
{
	__u32 span = plan->length - plan->loop;

	if (position < plan->length)
		return position;
	position -= plan->loop;
	if (likely(position >> 32 == 0)) /* the shorter division takes half the time */
		return plan->loop + (__u32)position % span;
	return plan->loop + position % span;
}

/* Does a sequence name anybody? */
__inline int plan_chooses(const struct plan *plan)
{
	return plan->length && plan->loop < plan->length;
}

/* The next choice of the plan; each takes a position of its own, as the scheduler would go on. */
__inline __u32 plan_next(struct service *s)
{
	__u32 which = READ_ONCE(s->current) & 1;
	const struct plan *plan = &s->plan[which];
	__u64 position;

	if (!plan_chooses(plan))
		return NO_REAL;
	position = __sync_fetch_and_add(&s->cursor[which], 1);
	return plan_slot(plan, plan_position(plan, position));
}

/* By the keyed flow hash: nothing has to be remembered to choose the same again. */
__inline __u32 flow_next(const struct service *s, __u32 hash)
{
	return s->flow.length ? plan_slot(&s->flow, hash % s->flow.length) : NO_REAL;
}

/* What a choice depends on; no pointers into the packet, for walks. */
struct choice {
	struct service *service;
	__u32 hash;   /* of the flow */
	__u32 source; /* address folded to a word, plus the port where the scheduler takes it */
	__u32 dest;
	__u32 id;     /* the result */
};

/* An address as the kernel's hash schedulers see it: host order, IPv6's words combined. */
__inline __u32 address_word(const __u64 *addr, int v6)
{
	__u64 fold = v6 ? addr[0] ^ addr[1] : addr[0];

	return bpf_ntohl(v6 ? fold ^ fold >> 32 : fold);
}

/*
 * The slot of a hash plan for the nth try. Only the fallback flags know more
 * tries than one; the odd order of sh's is the kernel's.
 */
__inline __u32 plan_probe(const struct plan *plan, const struct choice *c, __u32 try)
{
	__u32 home;

	if (plan->kind == PLAN_DH)
		return c->dest * GOLDEN_RATIO >> 24;
	if (plan->kind == PLAN_SH) {
		home = c->source * GOLDEN_RATIO >> 24;
		return try ? (2 * home + try - 1) & 0xff : home;
	}
	home = siphash_word(MH_KEY, c->source) % plan->length;
	return try ? siphash_word(MH_KEY, c->source + (home + try - 1) % plan->length) % plan->length : home;
}

__inline __u32 hash_next(const struct plan *plan, const struct choice *c, __u32 try)
{
	return plan->length ? plan_slot(plan, plan_probe(plan, c, try)) : NO_REAL;
}

__inline const struct plan *plan_of(const struct service *s)
{
	return &s->plan[READ_ONCE(s->current) & 1];
}

/* One more try of a sequence plan, or, when there were enough, by the flow. */
static long sequence_step(__u32 i, struct choice *c)
{
	if (i < PICK_TRIES)
		c->id = plan_next(c->service);
	else
		c->id = flow_next(c->service, c->hash + i - PICK_TRIES);
	return c->id == NO_REAL || real_for_new(c->service, c->id) != NULL;
}

static long fallback_step(__u32 i, struct choice *c)
{
	c->id = hash_next(plan_of(c->service), c, i + 1);
	return real_for_new(c->service, c->id) != NULL;
}

/* What the plan named takes no new connection: on, a bounded number of tries. */
static __noinline __u32 pick_further(struct choice *c, __u32 kind, __u32 length)
{
	if (kind == PLAN_SEQUENCE)
		bpf_loop(2 * PICK_TRIES, sequence_step, c, 0);
	else if (c->service->flags & SERVICE_FALLBACK)
		bpf_loop(kind == PLAN_SH ? 256 : length, fallback_step, c, 0);
	return c->id;
}

static long flow_step(__u32 i, struct choice *c)
{
	c->id = flow_next(c->service, c->hash + i);
	return real_for_new(c->service, c->id) != NULL;
}

/* The real server of a flow that is not remembered; NO_REAL: none takes it. */
static __noinline __u32 pick_flow(struct service *s, __u32 hash)
{
	struct choice c = { .service = s, .hash = hash, .id = NO_REAL };

	bpf_loop(PICK_TRIES, flow_step, &c, 0);
	return real_for_new(s, c.id) ? c.id : NO_REAL;
}

struct detour {
	struct service *service;
	__u32 hash;
	__u32 from; /* the real server that was chosen */
	__u32 id;   /* the result */
};

__inline int real_same_address(const struct real *a, const struct real *b)
{
	const __u64 *x = (const void *)a->addr, *y = (const void *)b->addr;

	return x[0] == y[0] && x[1] == y[1];
}

__inline int detour_ends(const struct detour *d)
{
	struct real *r = real_for_new(d->service, d->id), *from = bpf_map_lookup_elem(&reals, &d->from);

	return r && from && !real_same_address(r, from);
}

static long detour_step(__u32 i, struct detour *d)
{
	d->id = flow_next(d->service, d->hash + i);
	return detour_ends(d);
}

/* One at another address than real server id, by the flow's hash; id itself where there is none. */
static __noinline __u32 pick_other(struct service *s, __u32 hash, __u32 id)
{
	struct detour d = { .service = s, .hash = hash, .from = id, .id = NO_REAL };

	bpf_loop(PICK_TRIES, detour_step, &d, 0);
	return detour_ends(&d) ? d.id : id;
}

/* Is the real server the client itself? */
__inline int real_is_client(const struct real *r, const struct packet *p, int v6)
{
	const __u64 *real = (const void *)r->addr;

	if (v6)
		return real[0] == p->addr[0] && real[1] == p->addr[1];
	return !real[0] && real[1] == (p->addr[0] << 32 | 0xffff0000);
}

/* Do replies come back through the director? */
__inline int method_replies(__u8 method)
{
	return method == METHOD_NAT || method == METHOD_FULLNAT;
}

/* By dr and the like, it would not take what seems to come from itself. */
__inline int real_is_its_client(const struct real *r, const struct packet *p, int v6)
{
	return unlikely(real_is_client(r, p, v6)) && !method_replies(r->method);
}

/* The real server for a new connection, NULL if none takes it. hash: the flow's. */
__inline struct real *pick(struct service *s, const struct packet *p, __u32 hash, __u32 *id, int v6)
{
	const struct plan *plan = plan_of(s);
	struct choice c = { .service = s, .hash = hash, .id = NO_REAL };
	__u32 kind = plan->kind;
	struct real *r;

	if (likely(kind == PLAN_SEQUENCE)) {
		*id = plan_next(s);
	} else {
		c.source = address_word(&p->addr[0], v6);
		c.dest = v6 ? address_word(&p->addr[2], v6) : bpf_ntohl(p->addr[0] >> 32);
		if (s->flags & SERVICE_HASH_PORT)
			c.source += bpf_ntohs(packet_sport(p));
		*id = hash_next(plan, &c, 0);
	}
	r = real_for_new(s, *id);
	if (likely(r))
		return r;
	if (kind == PLAN_SEQUENCE && *id == NO_REAL)
		return NULL; /* the scheduler refuses: ovf with all at their weights */
	*id = pick_further(&c, kind, plan->length);
	return real_for_new(s, *id);
}

#endif
