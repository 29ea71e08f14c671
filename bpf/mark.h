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

/* The first shapes are looked at without a call for each, which would cost as much as what is done there. */
#define MARK_INLINED 4

struct mark_walk {
	__u64 word[MARK_WORDS]; /* of the packet, as in a rule's key */
	const struct mark_set *set;
	__u32 shape;	/* the number of the next one */
	__u32 end;	/* behind the last one */
	__u32 rule;	/* the best that matched, NO_RULE if none did */
	__be32 mark;	/* its */
	__u32 where;	/* it is, see packet.mark_rule */
};

/* Of IPv4 two words are 0, in every key. */
__inline int mark_word_counts(__u32 i, int v6)
{
	return v6 || (i != 1 && i != 3);
}

/* A word of the key that the shape leaves of the packet. Its number is in it, so that rules of others are other keys. */
__inline __u64 mark_word(const struct mark_walk *walk, const struct mark_shape *s, __u32 index, __u32 i)
{
	__u64 word = walk->word[i] & s->mask[i];

	return i == MARK_WORDS - 1 ? word | (__u64)index << 32 : word;
}

/* Go: markHash. The factors are drawn for each set of rules. index: the shape's number. */
__inline __u64 mark_hash(const struct mark_walk *walk, const struct mark_shape *s, __u32 index, int v6)
{
	__u64 h = 0;
	__u32 i;

	for (i = 0; i < MARK_WORDS; i++)
		if (mark_word_counts(i, v6))
			h += mark_word(walk, s, index, i) * walk->set->factor[i];
	return h ^ h >> 32;
}

__inline int mark_matches(const struct mark_rule *r, const struct mark_walk *walk, const struct mark_shape *s, __u32 index, int v6)
{
	__u64 differ = 0;
	__u32 i;

	for (i = 0; i < MARK_WORDS; i++)
		if (mark_word_counts(i, v6))
			differ |= r->key[i] ^ mark_word(walk, s, index, i);
	return !differ;
}

/* 1: the bucket is full, so the key's rule may be in its second one. Go fills the first place first. */
__inline int mark_in_bucket(struct mark_walk *walk, const struct mark_shape *s, __u32 shape, __u64 hash, int v6)
{
	__u32 index = walk->set->base + (hash & walk->set->mask), i;
	struct mark_bucket *b = bpf_map_lookup_elem(&mark_rules, &index);
	const struct mark_rule *r;

	if (!b)
		return 0;
	for (i = 0; i < MARK_WAYS; i++) {
		r = &b->rule[i];
		if (!r->rule)
			return 0;
		if (r->rule - 1 < walk->rule && mark_matches(r, walk, s, shape, v6)) {
			walk->rule = r->rule - 1;
			walk->mark = r->mark;
			walk->where = index * MARK_WAYS + i;
			return 0; /* each key has one rule */
		}
	}
	return 1;
}

/* One shape; 1 ends the walk: the rest have only rules that come later. */
__inline long mark_step(struct mark_walk *walk, int v6)
{
	__u32 index = walk->shape++;
	struct mark_shape *s = bpf_map_lookup_elem(&mark_shapes, &index);
	__u64 hash;

	if (!s || index >= walk->end || s->first >= walk->rule)
		return 1;
	hash = mark_hash(walk, s, index, v6);
	if (mark_in_bucket(walk, s, index, hash, v6))
		mark_in_bucket(walk, s, index, second_bucket(hash), v6);
	return 0;
}

/* Those after the first ones. */
static long mark_step4(__u32 i, struct mark_walk *walk)
{
	return mark_step(walk, 0);
}

static long mark_step6(__u32 i, struct mark_walk *walk)
{
	return mark_step(walk, 1);
}

__inline __u64 mark_found(const struct mark_walk *walk)
{
	return walk->mark | (__u64)walk->where << 32;
}

/* The mark that the rules give to the packet with these words, above it where the rule is; 0: no rule matches. */
__inline __u64 mark_find(struct mark_walk *walk, int v6)
{
	__u32 which = READ_ONCE(settings.mark_set) & 1, i;

	OPAQUE(walk); /* it stays in memory: as registers' worth of stack it would be there twice */
	walk->set = &settings.mark_sets[which];
	walk->shape = (which * 2 + v6) * MARK_SHAPES;
	walk->end = walk->shape + walk->set->shapes[v6];
	walk->rule = walk->where = NO_RULE;
	walk->mark = 0;
#pragma clang loop unroll(disable)
	for (i = 0; i < MARK_INLINED; i++)
		if (mark_step(walk, v6))
			return mark_found(walk);
	bpf_loop(MARK_SHAPES, v6 ? mark_step6 : mark_step4, walk, 0);
	return mark_found(walk);
}

__noinline __u64 mark_find4(__u64 addr, __u64 ends, __u64 kind)
{
	struct mark_walk walk = { .word = { (__u32)addr, 0, addr >> 32, 0, ends, kind } };

	return mark_find(&walk, 0);
}

__noinline __u64 mark_find6(const __u64 (*addr)[4], __u64 ends, __u64 kind)
{
	struct mark_walk walk = { .word = { 0, 0, 0, 0, ends, kind } };

	if (!addr)
		return 0;
	__builtin_memcpy(walk.word, *addr, sizeof(*addr));
	return mark_find(&walk, 1);
}

/* Notes the mark in the packet, and which rule gave it. */
__inline void mark_by_rules(struct packet *p, int v6)
{
	__u64 ends = p->ports | (__u64)p->ingress << 32, kind = p->protocol | (__u64)p->dscp << 8;
	__u64 found = v6 ? mark_find6(&p->addr, ends, kind) : mark_find4(p->addr[0], ends, kind);

	p->mark = found;
	p->mark_rule = found >> 32;
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
		mark_by_rules(p, v6);
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
