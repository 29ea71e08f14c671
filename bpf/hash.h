/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * hash.h - the keyed hash of a flow. The key is drawn once and kept with the
 * pinned maps; without it nobody outside can aim at one set of the table.
 */
#ifndef DIRECTOR_HASH_H
#define DIRECTOR_HASH_H

#include "maps.h"
#include "packet.h"

/*
 * NH of UMAC (RFC 4418 section 5.2): two flows have one sum with a chance of
 * 2^-32, whatever they are, over the choice of the key. The products do not
 * wait for each other. Alone, they place flows in order (address after address)
 * at even distances, which for one key in a hundred fill some sets and leave
 * others empty: flow_hash mixes them once more.
 */
__inline __u64 nh(__u32 a, __u32 b, const __u32 *key)
{
	return (__u64)(a + key[0]) * (b + key[1]);
}

/* The low half chooses the set, the high half is the fingerprint. Go: flowHash. */
__inline __u64 flow_hash(const struct packet *p, int v6)
{
	const __u32 *key = settings.hash_key.word;
	__u64 h = nh(p->ports, p->protocol, key) + nh(p->addr[0], p->addr[0] >> 32, key + 2);

	if (v6) {
		h += nh(p->addr[1], p->addr[1] >> 32, key + 4);
		h += nh(p->addr[2], p->addr[2] >> 32, key + 6);
		h += nh(p->addr[3], p->addr[3] >> 32, key + 8);
	}
	h = (h ^ h >> 32) * settings.hash_key.factor;
	return h ^ h >> 32;
}

#endif
