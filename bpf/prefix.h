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

/* Each bucket that is full leads to the next one, and no further: Go sees to that. */
#define PREFIX_STEPS (2 * PREFIX_DEPTH)

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
__inline __u64 prefix_hash(const struct packet *p, __u32 list, __u32 length, __u64 factor, int v6)
{
	__u64 word = (__u64)length << 32 | (__u64)list << 40, hi, lo;

	if (!v6)
		return prefix_mix(word | (__u64)bpf_ntohl(p->addr[0]) >> (32 - length & 63), factor);
	hi = bpf_be64_to_cpu(p->addr[0]);
	lo = bpf_be64_to_cpu(p->addr[1]);
	if (length < 64)
		hi = hi >> 1 >> (63 - length & 63);
	if (length <= 64)
		lo = 0;
	else if (length < 128)
		lo >>= 128 - length & 63;
	return prefix_mix(prefix_mix(prefix_mix(word, factor) + hi, factor) + lo, factor);
}

__inline __u64 prefix_in_bucket(const struct prefix_bucket *b, __u64 hash)
{
	__u64 found = 0;
	__u32 i;

	for (i = 0; i < PREFIX_WAYS; i++)
		if ((b->entry[i] ^ hash) <= PREFIX_SAYS && b->entry[i])
			found = b->entry[i];
	return found;
}

/* What the list says of the packet's source. 0: nothing. */
__inline __u32 prefix_says(const struct packet *p, __u32 list, int v6)
{
	__u32 which = READ_ONCE(settings.prefix_set) & 1, says = 0, steps, node, at, spilled = 0, index;
	const struct prefix_set *set = &settings.prefix_sets[which];
	const struct prefix_bucket *b;
	const struct prefix_tree *tree;
	__u64 hash, found;

	index = (which * PREFIX_LISTS + list) * 2 + v6;
	tree = bpf_map_lookup_elem(&prefix_trees, &index);
	if (!tree)
		return 0;
	at = tree->node[0] >> 8;
	for (steps = 0; steps < PREFIX_STEPS && (at & PREFIX_LENGTHS); steps++) {
		node = tree->node[at & PREFIX_LENGTHS];
		hash = prefix_hash(p, list, node & 0xff, set->factor, v6) & ~(__u64)PREFIX_SAYS;
		index = set->base + ((hash >> 3) + spilled & set->mask);
		b = bpf_map_lookup_elem(&prefixes, &index);
		if (!b)
			break;
		found = prefix_in_bucket(b, hash);
		if (found & PREFIX_LAST)
			return found & 3;
		if (found)
			says = found & 3;
		else if (!spilled && b->entry[PREFIX_WAYS - 1]) {
			spilled = 1;
			continue;
		}
		spilled = 0;
		at = found ? node >> 8 : node >> 16;
	}
	return says;
}

__noinline int prefix_says4(struct packet *p, __u32 list)
{
	return p ? prefix_says(p, list, 0) : 0;
}

__noinline int prefix_says6(struct packet *p, __u32 list)
{
	return p ? prefix_says(p, list, 1) : 0;
}

#endif
