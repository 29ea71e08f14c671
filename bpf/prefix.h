/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * prefix.h - the longest prefix of a list that a client's address has. All prefixes
 * of all lists lie in one hash table, one entry for each, and the lengths that a
 * list has are tried in the order of a search tree: an entry that was found leads to
 * longer ones. So that it is found, a longer prefix has entries at the shorter
 * lengths on its way, and those know what holds if the search goes on in vain.
 * (Waldvogel and others, "Scalable High Speed IP Routing Lookups", 1997.)
 */
#ifndef DIRECTOR_PREFIX_H
#define DIRECTOR_PREFIX_H

#include "maps.h"
#include "packet.h"

/* One-to-one, as the factor is odd. */
__inline __u64 prefix_mix(__u64 x, __u64 factor)
{
	x = (x ^ x >> 32) * factor;
	return x ^ x >> 32;
}

/*
 * Go has the same function (prefixHash in prefixes.go). What it is compared by are 61 bits: that a client
 * is taken for another in any of a bucket's entries has a chance of 2^-58, over the choice of the factor.
 */
__inline __u64 prefix_hash(const struct client *c, __u32 list, __u32 length, __u64 factor, int v6)
{
	__u64 word = (__u64)length << 32 | (__u64)list << 40, hi, lo;

	if (!v6)
		return prefix_mix(word | (__u64)bpf_ntohl(c->word[0]) >> (32 - length & 63), factor);
	hi = bpf_be64_to_cpu(c->word[0]);
	lo = bpf_be64_to_cpu(c->word[1]);
	if (length < 64)
		hi = hi >> 1 >> (63 - length & 63);
	if (length <= 64)
		lo = 0;
	else if (length < 128)
		lo >>= 128 - length & 63;
	return prefix_mix(prefix_mix(prefix_mix(word, factor) + hi, factor) + lo, factor);
}

/* The entry of that hash; 0: none, and what a free one says, which is found if all of the hash is 0. */
__inline __u64 prefix_in_bucket(const struct prefix_bucket *b, __u64 hash)
{
	__u32 i;

	for (i = 0; i < PREFIX_WAYS; i++)
		if ((b->entry[i] ^ hash) <= PREFIX_SAYS)
			return b->entry[i];
	return 0;
}

/* A bucket that is full leads to the next one, and no further: Go sees to that. */
__inline __u64 prefix_find(const struct prefix_set *set, __u64 hash)
{
	__u32 index = set->base + (hash >> 3 & set->mask);
	const struct prefix_bucket *b = bpf_map_lookup_elem(&prefixes, &index);
	__u64 found = b ? prefix_in_bucket(b, hash) : 0;

	if (found || !b || likely(!b->entry[PREFIX_WAYS - 1]))
		return found;
	index = set->base + ((hash >> 3) + 1 & set->mask);
	b = bpf_map_lookup_elem(&prefixes, &index);
	return b ? prefix_in_bucket(b, hash) : 0;
}

/* What the list says of a client. 0: nothing. */
__inline __u32 prefix_says(const struct client *c, __u32 list, int v6)
{
	__u32 which = READ_ONCE(settings.prefix_set) & 1, says = 0, steps, node, at;
	const struct prefix_set *set = &settings.prefix_sets[which];
	__u32 index = (which * PREFIX_LISTS + list) * 2 + v6;
	const struct prefix_tree *tree = bpf_map_lookup_elem(&prefix_trees, &index);
	__u64 found;

	if (!tree)
		return 0;
	at = tree->node[0] >> 8;
	for (steps = 0; steps < PREFIX_DEPTH && (at & PREFIX_LENGTHS); steps++) {
		node = tree->node[at & PREFIX_LENGTHS];
		found = prefix_find(set, prefix_hash(c, list, node & 0xff, set->factor, v6) & ~(__u64)PREFIX_SAYS);
		if (found)
			says = found & 3;
		if (found & PREFIX_LAST)
			break;
		at = found ? node >> 8 : node >> 16;
	}
	return says;
}

__noinline int prefix_says6(const struct client *c, __u32 list)
{
	return c ? prefix_says(c, list, 1) : 0;
}

#endif
