/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * mark.h - the firewall mark of a packet by the director's own rules, of which
 * the first that matches counts. Rules that look at the same parts of a packet
 * (a shape: so many bits of its addresses and ports, its protocol or not, ...)
 * are one hash table's, so the cost is that of the shapes, however many rules
 * there are. Only packets of no known connection are asked.
 */
#ifndef DIRECTOR_MARK_H
#define DIRECTOR_MARK_H

#include "maps.h"
#include "packet.h"
#include "service.h"

struct mark_walk {
	struct packet *packet;
	const struct mark_set *set;
	__u32 first;	/* place of the set's first shape of the family */
	__u32 rule;	/* the best that matched, NO_RULE if none did */
	__be32 mark;	/* its */
};

/* What a shape leaves of the packet. shape: its number, so that rules of others are other keys. */
__inline void mark_key(__u64 *key, const struct packet *p, const struct mark_shape *s, __u32 shape, int v6)
{
	__u64 source = v6 ? p->addr[0] : (__u32)p->addr[0];
	__u64 dest = v6 ? p->addr[2] : p->addr[0] >> 32;

	key[0] = source & s->mask[0];
	key[1] = v6 ? p->addr[1] & s->mask[1] : 0;
	key[2] = dest & s->mask[2];
	key[3] = v6 ? p->addr[3] & s->mask[3] : 0;
	key[4] = (p->ports | (__u64)p->ingress << 32) & s->mask[4];
	key[5] = ((p->protocol | (__u64)p->dscp << 8) & s->mask[5]) | (__u64)shape << 32;
}

/* Go: markHash. The factors are drawn for each set of rules. */
__inline __u64 mark_hash(const __u64 *key, const struct mark_set *set)
{
	__u64 h = 0;
	__u32 i;

	for (i = 0; i < MARK_WORDS; i++)
		h += (key[i] ^ key[i] >> 32) * set->factor[i];
	return h ^ h >> 32;
}

__inline int mark_matches(const struct mark_rule *r, const __u64 *key)
{
	return r->rule && r->key[0] == key[0] && r->key[1] == key[1] && r->key[2] == key[2] &&
	       r->key[3] == key[3] && r->key[4] == key[4] && r->key[5] == key[5];
}

/* 1: the bucket is full, so the key's rule may be in its second one. Go fills the first place first. */
__inline int mark_in_bucket(struct mark_walk *walk, const __u64 *key, __u64 hash)
{
	__u32 index = walk->set->base + (hash & walk->set->mask), i;
	struct mark_bucket *b = bpf_map_lookup_elem(&mark_rules, &index);

	if (!b)
		return 0;
	for (i = 0; i < MARK_WAYS; i++) {
		if (mark_matches(&b->rule[i], key) && b->rule[i].rule - 1 < walk->rule) {
			walk->rule = b->rule[i].rule - 1;
			walk->mark = b->rule[i].mark;
			walk->packet->mark_rule = index * MARK_WAYS + i;
		}
	}
	return b->rule[MARK_WAYS - 1].rule != 0;
}

/* One shape; 1 ends the walk: the rest have only rules that come later. */
__inline long mark_step(__u32 i, struct mark_walk *walk, int v6)
{
	__u32 index = walk->first + i;
	struct mark_shape *s = bpf_map_lookup_elem(&mark_shapes, &index);
	__u64 key[MARK_WORDS], hash;

	if (!s || s->first >= walk->rule)
		return 1;
	mark_key(key, walk->packet, s, index, v6);
	hash = mark_hash(key, walk->set);
	if (mark_in_bucket(walk, key, hash))
		mark_in_bucket(walk, key, second_bucket(hash));
	return 0;
}

static long mark_step4(__u32 i, struct mark_walk *walk)
{
	return mark_step(i, walk, 0);
}

static long mark_step6(__u32 i, struct mark_walk *walk)
{
	return mark_step(i, walk, 1);
}

/* The mark, and in the packet which rule gave it; 0: no rule matches. */
__inline __be32 mark_find(struct packet *p, int v6)
{
	__u32 which = READ_ONCE(settings.mark_set) & 1;
	const struct mark_set *set = &settings.mark_sets[which];
	struct mark_walk walk = {
		.packet = p,
		.set = set,
		.first = (which * 2 + v6) * MARK_SHAPES,
		.rule = NO_RULE,
	};

	p->mark_rule = NO_RULE;
	if (v6)
		bpf_loop(set->shapes[1], mark_step6, &walk, 0);
	else
		bpf_loop(set->shapes[0], mark_step4, &walk, 0);
	return walk.mark;
}

__noinline __be32 mark_find4(struct packet *p)
{
	return p ? mark_find(p, 0) : 0;
}

__noinline __be32 mark_find6(struct packet *p)
{
	return p ? mark_find(p, 1) : 0;
}

/* The rule that marked the packet has marked one more. */
__inline void mark_count(const struct packet *p)
{
	__u32 index = p->mark_rule / MARK_WAYS;
	struct mark_bucket *b = bpf_map_lookup_elem(&mark_rules, &index);

	if (b)
		__sync_fetch_and_add(&b->rule[p->mark_rule % MARK_WAYS].packets, 1);
}

/* The service of a mark: no packet has protocol 0. Go stores it under the same words (Key.addr). */
__inline struct service *mark_service(__be32 mark, int v6)
{
	struct service_query q = { .hi = mark, .lo = v6 ? 0 : 0xffff0000 };

	return service_taking(&q, service_hash(&q));
}

/* The packet's service, if it has one. A mark's comes before an address's (IPVS). */
__inline struct service *packet_service(struct packet *p, int v6)
{
	struct service *s;

	if (likely(settings.marking == MARKS_NONE && !p->mark))
		return service_find(p, v6);
	if (!p->mark)
		p->mark = v6 ? mark_find6(p) : mark_find4(p);
	s = p->mark ? mark_service(p->mark, v6) : NULL;
	return s ?: service_find(p, v6);
}

/* What would become of a packet that begins a connection. */
__inline void mark_explain(struct mark_question *q, struct packet *p, int v6)
{
	struct service *s;

	p->mark_rule = q->rule = NO_RULE;
	p->mark = q->mark;
	q->service = 0;
	if (service_maybe(p, v6) == MAYBE_NOT && !p->mark)
		return;
	s = packet_service(p, v6);
	q->mark = p->mark;
	q->rule = p->mark_rule;
	q->service = s ? s->id + 1 : 0;
}

#endif
