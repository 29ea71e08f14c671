/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * siphash.h - SipHash: its rounds, and SipHash-1-3 of one 32-bit word, folded to
 * 32 bits, with both halves of the key equal, which is what the mh scheduler of
 * 64-bit kernels hashes with. (Aumasson, Bernstein: SipHash, a fast short-input PRF, 2012.)
 */
#ifndef DIRECTOR_SIPHASH_H
#define DIRECTOR_SIPHASH_H

#include "packet.h"

struct sip {
	__u64 v0, v1, v2, v3;
};

__inline __u64 rotate(__u64 x, int bits)
{
	return x << bits | x >> (64 - bits);
}

__inline void sip_round(struct sip *s)
{
	s->v0 += s->v1;
	s->v1 = rotate(s->v1, 13) ^ s->v0;
	s->v0 = rotate(s->v0, 32);
	s->v2 += s->v3;
	s->v3 = rotate(s->v3, 16) ^ s->v2;
	s->v0 += s->v3;
	s->v3 = rotate(s->v3, 21) ^ s->v0;
	s->v2 += s->v1;
	s->v1 = rotate(s->v1, 17) ^ s->v2;
	s->v2 = rotate(s->v2, 32);
}

__inline struct sip sip_begin(__u64 key0, __u64 key1)
{
	struct sip s = {
		.v0 = key0 ^ 0x736f6d6570736575,
		.v1 = key1 ^ 0x646f72616e646f6d,
		.v2 = key0 ^ 0x6c7967656e657261,
		.v3 = key1 ^ 0x7465646279746573,
	};

	return s;
}

__inline __u32 siphash_word(__u64 key, __u32 word)
{
	struct sip s = sip_begin(key, key);
	__u64 message = (__u64)4 << 56 | word; /* its length in bytes is part of the last word */

	s.v3 ^= message;
	sip_round(&s);
	s.v0 ^= message;
	s.v2 ^= 0xff;
	sip_round(&s);
	sip_round(&s);
	sip_round(&s);
	return s.v0 ^ s.v1 ^ s.v2 ^ s.v3;
}

#endif
