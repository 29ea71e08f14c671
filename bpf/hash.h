/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * hash.h - the keyed hash of a flow. The key is drawn once and kept with the
 * pinned maps; without it nobody outside can aim at one set of the table.
 */
#ifndef DIRECTOR_HASH_H
#define DIRECTOR_HASH_H

#include "maps.h"
#include "packet.h"

__inline __u64 hash_round(__u64 h, __u64 word, __u64 key)
{
	h = (h ^ word) * key; /* keys are odd: a bijection */
	return h ^ h >> 32;
}

/* The low half chooses the set, the high half is the fingerprint. Go: flowHash. */
__inline __u64 flow_hash(const struct packet *p, int v6)
{
	__u64 h = settings.hash_key[0];

	h = hash_round(h, (__u64)p->ports | (__u64)p->protocol << 32, settings.hash_key[1]);
	h = hash_round(h, p->addr[0], settings.hash_key[2]);
	if (v6) {
		h = hash_round(h, p->addr[1], settings.hash_key[3]);
		h = hash_round(h, p->addr[2], settings.hash_key[1]);
		h = hash_round(h, p->addr[3], settings.hash_key[2]);
	}
	return hash_round(h, 0, settings.hash_key[3]);
}

#endif
