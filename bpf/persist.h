/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * persist.h - persistence: a client's connections go where its first one went.
 * A template remembers that: an entry of the connection table, under a key that
 * all those connections share. Each of them names its template, which so knows
 * how many it controls: while there are any its time is not over.
 */
#ifndef DIRECTOR_PERSIST_H
#define DIRECTOR_PERSIST_H

#include "locality.h"
#include "plan.h"
#include "work.h"

/* No transport protocol that services have: what packets say can never be a template's key. */
#define TEMPLATE_PROTOCOL 0x40

/* Beside it: the template is a SIP call's. */
#define TEMPLATE_CALL 0x20

/*
 * The key of the template of a SIP call, in the IPv6 table whatever the packet's
 * family: only there is room for it.
 */
__inline void template_call_key(struct packet *t, const struct packet *p, const struct service *s, __u64 hash, int v6)
{
	__u64 client = p->addr[0] & s->client_mask[0];

	t->ports = (__u32)s->template_port << 16;
	t->protocol = (s->mark ? 0 : p->protocol) | TEMPLATE_PROTOCOL | TEMPLATE_CALL;
	t->now = p->now;
	t->ingress = 0;
	t->addr[0] = v6 ? client : 0;
	t->addr[1] = hash ^ (v6 ? p->addr[1] & s->client_mask[1] : client << 32 | 0xffff0000);
	t->addr[2] = s->mark ?: (v6 ? p->addr[2] : 0);
	t->addr[3] = s->mark ? 0 : (v6 ? p->addr[3] : (p->addr[0] & 0xffffffff00000000) | 0xffff0000);
}

/* Notes of which call template c is. */
__inline void template_name(struct conn *c, const struct call *call)
{
	struct conn6 *t = (void *)c;
	const __u64 *from = (const void *)call->text;
	__u64 *to = (void *)t->text;
	__u32 i;

	t->more = call->hash;
	for (i = 0; i < CALL_TEXT / sizeof(*to); i++)
		to[i] = from[i];
}

/* The key of the template for packet p, as if it were a packet. */
__inline void template_key(struct packet *t, const struct packet *p, const struct service *s, int v6)
{
	t->ports = (__u32)s->template_port << 16;
	t->protocol = (s->mark ? 0 : p->protocol) | TEMPLATE_PROTOCOL;
	t->now = p->now;
	t->ingress = 0;
	if (v6) {
		t->addr[0] = p->addr[0] & s->client_mask[0];
		t->addr[1] = p->addr[1] & s->client_mask[1];
		t->addr[2] = s->mark ?: p->addr[2];
		t->addr[3] = s->mark ? 0 : p->addr[3];
	} else {
		t->addr[0] = (__u32)(p->addr[0] & s->client_mask[0]) |
			     (s->mark ? (__u64)s->mark << 32 : p->addr[0] & 0xffffffff00000000);
	}
}

/* A template controls connections when it fires: from then on it fires once a minute. */
__inline int template_held(struct conn *c, __u64 link)
{
	__u64 held = (link & ~(__u64)TEMPLATE_FIELD) | TEMPLATE_HELD;

	if (!(link >> TEMPLATE_CONTROLS & TEMPLATE_FIELD))
		return 0;
	__sync_val_compare_and_swap(&c->link, link, held);
	return 1;
}

/* Is its time over, with nothing left that it controls? */
__inline int template_over(const struct known *t, __u32 now)
{
	__u64 link = READ_ONCE(t->conn->link);
	__u32 limit = (link & TEMPLATE_FIELD) * settings.hz;

	return (__s32)(now - t->last_use) > (__s32)limit && !template_held(t->conn, link);
}

/* Is it worth something still? A quiesced or overloaded real server goes on getting connections by its templates (IPVS). */
__inline int template_stands(const struct known *t, const struct service *s, __u32 now)
{
	__u32 id = t->real;
	struct real *r = bpf_map_lookup_elem(&reals, &id);

	if (!r || r->generation != t->generation || r->flags & REAL_REMOVED)
		return 0;
	if (real_lost(r) && !(s->flags & SERVICE_KEEP_DOWN))
		return 0;
	if (!(r->flags & REAL_USABLE) && s->flags & SERVICE_EXPIRE_QUIESCENT)
		return 0;
	return !template_over(t, now);
}

/* The real server that template c stands for; at: the connection's place. NO_REAL: none any more. */
__inline __u32 template_use(struct conn *c, struct work *w, struct place *at, const struct service *s, int v6)
{
	struct known t = conn_read(c);

	if (!template_stands(&t, s, w->reply.now) || !known_holds(&t, &w->reply_at))
		return NO_REAL;
	c->last_use = w->reply.now;
	known_at(&t, &w->reply_at);
	at->link = link_to(&w->reply_at) | (__u64)v6 << LINK_V6;
	return t.real;
}

/* One that stands for nothing any more makes room. 0: it has changed meanwhile. */
__inline int template_free(struct conn *c, struct conn *home, struct work *w, const struct service *s, int v6)
{
	struct known t = conn_read(c);

	return !template_stands(&t, s, w->reply.now) && known_holds(&t, &w->reply_at) &&
	       conn_free(&t, home, &w->reply, &w->reply_at, v6);
}

static __noinline int template_free4(struct conn *c, struct conn *home, struct work *w, const struct service *s)
{
	return template_free(c, home, w, s, 0);
}

static __noinline int template_free6(struct conn *c, struct conn *home, struct work *w, const struct service *s)
{
	return template_free(c, home, w, s, 1);
}

/* What the scheduler chooses. Functions of their own keep the stack low: lblc's calls go deep. */
static __noinline __u32 template_scheduled4(struct service *s, const struct packet *p, __u32 hash)
{
	__u32 id;

	return pick(s, p, hash, &id, 0) ? id : NO_REAL;
}

static __noinline __u32 template_scheduled6(struct service *s, const struct packet *p, __u32 hash)
{
	__u32 id;

	return pick(s, p, hash, &id, 1) ? id : NO_REAL;
}

__inline __u32 template_pick(struct service *s, const struct packet *p, __u32 hash, int v6)
{
	struct real *r;
	__u32 id;

	if (unlikely(plan_of(s)->kind >= PLAN_LBLC))
		id = pick_local(s, p, hash, &id, v6) ? id : NO_REAL;
	else
		id = v6 ? template_scheduled6(s, p, hash) : template_scheduled4(s, p, hash);
	r = bpf_map_lookup_elem(&reals, &id);
	return r && real_is_its_client(r, p, v6) ? pick_other(s, hash, id) : id;
}

/* Global, so that the verifier looks at the schedulers once, not at the end of each way that leads here. */
__noinline __u32 template_pick4(struct service *s, const struct packet *p, __u32 hash)
{
	return s && p ? template_pick(s, p, hash, 0) : NO_REAL;
}

__noinline __u32 template_pick6(struct service *s, const struct packet *p, __u32 hash)
{
	return s && p ? template_pick(s, p, hash, 1) : NO_REAL;
}

/* A template remembers real server id. home: its place is locked; NULL: nothing is remembered. */
__inline __u32 template_new(struct packet *p, struct place *at, struct service *s, struct conn *home, __u32 id, int v6)
{
	struct real *r = bpf_map_lookup_elem(&reals, &id);
	struct real_counts *counts = counts_get(id);
	struct work *w = work_get();
	struct conn_new *n;
	struct conn *c;

	if (!r)
		return NO_REAL;
	if (!home || !counts || !w)
		return id;
	n = &w->fresh;
	n->real = id;
	n->generation = r->generation;
	n->word = TEMPLATE_NONE;
	n->in_sets = 1;
	n->link = s->persistent;
	n->link_version = 1ULL << TEMPLATE_VERSION;
	mac_copy(n->peer, packet_source(p));
	c = conn_reserve(&w->reply, &w->reply_at, home, v6);
	if (!c)
		return id;
	if (v6 && w->reply.protocol & TEMPLATE_CALL)
		template_name(c, &w->call);
	conn_locate(c, &w->reply_at, v6);
	conn_publish(c, &w->reply, &w->reply_at, n, v6);
	__sync_fetch_and_add(&counts->templates, 1);
	at->link = link_to(&w->reply_at) | (__u64)v6 << LINK_V6;
	return id;
}

static __noinline __u32 template_new4(struct packet *p, struct place *at, struct service *s, struct conn *home, __u32 id)
{
	return template_new(p, at, s, home, id, 0);
}

static __noinline __u32 template_new6(struct packet *p, struct place *at, struct service *s, struct conn *home, __u32 id)
{
	return template_new(p, at, s, home, id, 1);
}

__inline void template_unlock(struct work *w, int v6)
{
	struct conn *home = place_home(&w->reply_at, v6);

	if (home)
		place_unlock(&w->reply_at, home);
}

/*
 * Finds the real server for a client's new connection by packet p, which belongs
 * to place at, by the template with the key in w->reply or the scheduler; at->link leads to the template then.
 * No lock of a connection's is held here: several CPUs may ask for one connection, and are told the same.
 * v6: the packet's family; table6: that of the template's table.
 */
__inline __u32 persist_by(struct packet *p, struct place *at, struct service *s, struct work *w, int v6, int table6)
{
	struct conn *home, *c;
	int locked;
	__u32 id;

	c = conn_find(&w->reply, &w->reply_at, table6);
	id = c ? template_use(c, w, at, s, table6) : NO_REAL;
	home = place_home(&w->reply_at, table6);
	if (id != NO_REAL || at->asked != ASK_SCHEDULER || !home)
		return id;
	locked = place_lock(&w->reply_at, home);
	if (unlikely(!locked)) {
		c = conn_find_or_lock(&w->reply, &w->reply_at, home, &locked, table6);
		id = c ? template_use(c, w, at, s, table6) : NO_REAL;
		if (id != NO_REAL)
			return id;
	}
	if (!locked || (c && !(table6 ? template_free6(c, home, w, s) : template_free4(c, home, w, s))))
		home = NULL;
	id = v6 ? template_pick6(s, p, at->want >> 32) : template_pick4(s, p, at->want >> 32);
	id = table6 ? template_new6(p, at, s, home, id) : template_new4(p, at, s, home, id);
	if (locked)
		template_unlock(w, table6);
	return id;
}

__noinline __u32 persist4(struct packet *p, struct place *at, __u32 service)
{
	struct service *s = bpf_map_lookup_elem(&services, &service);
	struct work *w = work_get();

	if (!p || !at || !s || !w)
		return NO_REAL;
	if (!s->persistent)
		return template_pick4(s, p, at->want >> 32);
	template_key(&w->reply, p, s, 0);
	return persist_by(p, at, s, w, 0, 0);
}

/* For IPv6, and for SIP calls of either family, whose Call-ID call_find has found. */
__noinline __u32 persist6(struct packet *p, struct place *at, __u32 service, __u32 v6)
{
	struct service *s = bpf_map_lookup_elem(&services, &service);
	struct work *w = work_get();

	if (!p || !at || !s || !w)
		return NO_REAL;
	if (!s->persistent)
		return template_pick6(s, p, at->want >> 32);
	if (s->flags & SERVICE_SIP)
		template_call_key(&w->reply, p, s, w->call.hash, v6);
	else
		template_key(&w->reply, p, s, 1);
	return persist_by(p, at, s, w, v6, 1);
}

#endif
