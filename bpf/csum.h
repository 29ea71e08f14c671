/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* csum.h - Internet checksums (RFC 1071). Sums are kept unfolded in 32 bits. */
#ifndef DIRECTOR_CSUM_H
#define DIRECTOR_CSUM_H

#include "packet.h"

#define CSUM_BLOCK 64	       /* bytes at a time */
#define CSUM_BLOCKS_MAX 256    /* 16 KiB: the largest frame is below */
#define CSUM_OFFSET_MASK 0x7fff

__inline __u32 csum_add(__u32 a, __u32 b)
{
	__u32 sum = a + b;

	return sum + (sum < b);
}

/* Of a sum that has been carried out of 32 bits at most a few times. */
__inline __u16 csum_fold(__u64 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

/*
 * What a change adds to a checksum's sum (RFC 1624). Changes are added in 64
 * bits, where none of them is carried out.
 */
__inline __u64 csum_change(__u32 from, __u32 to)
{
	return (__u64)(__u32)~from + to;
}

__inline __u64 csum_change64(__u64 from, __u64 to)
{
	return csum_change(from, to) + csum_change(from >> 32, to >> 32);
}

__inline void csum_apply(__u16 *check, __u64 change)
{
	change += (__u16)~*check;
	*check = csum_fold((change & 0xffffffff) + (change >> 32));
}

/* Of size bytes, a multiple of 4 that the compiler knows. */
__inline __u32 csum_words(const void *data, __u32 size)
{
	const __u32 *word = data;
	__u32 sum = 0, i;

	for (i = 0; i < size / 4; i++)
		sum = csum_add(sum, word[i]);
	return sum;
}

/* RFC 8200 section 8.1. */
__inline __u32 csum_pseudo6(const struct ipv6hdr *ip, __u8 protocol, __u32 length)
{
	__u32 sum = csum_words(&ip->saddr, 32);

	return csum_add(sum, csum_add(bpf_htonl(length), bpf_htonl(protocol)));
}

struct csum_walk {
	struct xdp_md *ctx;
	__u32 offset;
	__u32 left;
	__u32 sum;
};

/* One word; the last one may be shorter, and counts as if zeros followed. */
static long csum_step(__u32 i, struct csum_walk *w)
{
	__u32 size = 4, word = 0;

	if (!w->left)
		return 1;
	/* Constants, hidden from the compiler: Linux 6.1 wants to see that a size is not 0. */
	if (w->left == 3)
		size = 3;
	OPAQUE(size);
	if (w->left == 2)
		size = 2;
	OPAQUE(size);
	if (w->left == 1)
		size = 1;
	OPAQUE(size);
	if (bpf_xdp_load_bytes(w->ctx, w->offset & 0xffff, &word, size))
		return 1;
	w->sum = csum_add(w->sum, word);
	w->offset += 4;
	w->left = w->left > 4 ? w->left - 4 : 0;
	return 0;
}

/* 64 bits hold the carries of a block: a compare for each would be a branch. */
static long csum_block(__u32 i, struct csum_walk *w)
{
	const __u32 *word = (void *)(long)w->ctx->data + (w->offset & CSUM_OFFSET_MASK);
	__u64 sum = w->sum;
	__u32 n;

	if (w->left < CSUM_BLOCK || (void *)word + CSUM_BLOCK > (void *)(long)w->ctx->data_end)
		return 1;
	for (n = 0; n < CSUM_BLOCK / 4; n++)
		sum += word[n];
	sum = (__u32)sum + (sum >> 32);
	w->sum = (__u32)sum + (sum >> 32);
	w->offset += CSUM_BLOCK;
	w->left -= CSUM_BLOCK;
	return 0;
}

/* Adds length bytes of the packet from offset on: what is whole blocks, then the rest of them. */
__inline __u32 csum_packet(struct xdp_md *ctx, __u32 offset, __u32 length, __u32 sum)
{
	struct csum_walk w = { .ctx = ctx, .offset = offset, .left = length, .sum = sum };

	bpf_loop(CSUM_BLOCKS_MAX, csum_block, &w, 0);
	bpf_loop(CSUM_BLOCK / 4, csum_step, &w, 0);
	return w.sum;
}

#endif
