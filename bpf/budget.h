/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * budget.h - so many new connections a second, and no more: a token bucket, kept as the
 * time until which what was spent is paid for (the generic cell rate algorithm).
 */
#ifndef DIRECTOR_BUDGET_H
#define DIRECTOR_BUDGET_H

#include "maps.h"
#include "packet.h"
#include "prefix.h"

#define BUDGET_TRIES 4

/* Jiffies are too coarse for what a connection costs. */
__inline __u64 budget_now(void)
{
	return bpf_jiffies64() << 20;
}

/* Spends cost, if no more than burst is owed then. */
__inline int budget_spend(__u64 *paid, __u64 cost, __u64 burst)
{
	__u64 now = budget_now(), old, from;
	__u32 try;

	for (try = 0; try < BUDGET_TRIES; try++) {
		old = READ_ONCE(*paid);
		from = old > now ? old : now;
		if (from + cost - now > burst)
			return 0;
		if (__sync_val_compare_and_swap(paid, old, from + cost) == old)
			return 1;
	}
	return 1; /* many spend at once: one too many is let in */
}

/* Keyed, so that nobody can choose whom he shares a budget or a bucket with. */
__inline __u64 budget_key(const struct client *c, const struct guard *g, __u32 row, int v6)
{
	__u64 factor = settings.hash_key.factor, key = prefix_mix(row, factor);

	key = prefix_hash(c, 0, v6 ? g->prefix6 : g->prefix4, factor, v6) + key;
	return prefix_mix(key + settings.hash_key.word[0], factor) | 1;
}

/* The budget of that key; the one of who owes least makes room. NULL: another CPU takes that, too. */
__inline struct budget *budget_find(__u64 key)
{
	__u32 index = key >> 32 & (BUDGET_BUCKETS - 1), i;
	struct budget_bucket *bucket = bpf_map_lookup_elem(&budgets, &index);
	struct budget *b, *least;
	__u64 old;

	if (!bucket)
		return NULL;
	least = &bucket->budget[0];
	for (i = 0; i < BUDGET_WAYS; i++) {
		b = &bucket->budget[i];
		if (READ_ONCE(b->key) == key)
			return b;
		if (READ_ONCE(b->paid) < READ_ONCE(least->paid))
			least = b;
	}
	old = READ_ONCE(least->key);
	if (__sync_val_compare_and_swap(&least->key, old, key) != old)
		return NULL;
	WRITE_ONCE(least->paid, 0);
	return least;
}

__inline int budget_allows(const struct client *c, const struct guard *g, __u32 row, int v6)
{
	struct budget *b;

	if (!g->budget_cost)
		return 1;
	b = budget_find(budget_key(c, g, row, v6));
	return !b || budget_spend(&b->paid, g->budget_cost, g->budget_burst);
}

__inline int ceiling_allows(struct guard *g)
{
	return !g->ceiling_cost || budget_spend(&g->ceiling_paid, g->ceiling_cost, g->ceiling_burst);
}

#endif
