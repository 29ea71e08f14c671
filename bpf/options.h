/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* options.h - a TCP header with its options: read, changed in memory of each CPU, and written back. */
#ifndef DIRECTOR_OPTIONS_H
#define DIRECTOR_OPTIONS_H

#include "csum.h"
#include "packet.h"
#include "work.h"

#define TCP_WORDS 15 /* of a header, at most */
#define OPTION_MASK 63 /* offsets in a header */
#define OPTIONS_MAX 40
#define NO_SCALE 15
#define SCALE_MAX 14 /* RFC 7323 section 2.3 */

enum tcp_option {
	OPTION_END,
	OPTION_NOP,
	OPTION_MSS,
	OPTION_SCALE,
	OPTION_SACK_PERMITTED,
	OPTION_SACK,
	OPTION_STAMPS = 8,
};

enum tcp_option_size {
	OPTION_MSS_SIZE = 4,
	OPTION_SCALE_SIZE = 3,
	OPTION_STAMPS_SIZE = 10,
	OPTION_SACK_BLOCK = 8,
};

struct option_walk {
	__u32 at;
	__u32 end;
};

/* A number of an option, wherever it stands. */
__inline __u32 option_word(const union tcp_head *h, __u32 at)
{
	return bpf_ntohl(*(__be32 *)&h->byte[at & OPTION_MASK]);
}

__inline void option_add(union tcp_head *h, __u32 at, __u32 add)
{
	*(__be32 *)&h->byte[at & OPTION_MASK] = bpf_htonl(option_word(h, at) + add);
}

__inline void option_read(struct work *w, __u32 at, __u32 kind, __u32 size)
{
	struct tcp_options *o = &w->options;
	const union tcp_head *h = &w->head;

	if (kind == OPTION_MSS && size == OPTION_MSS_SIZE) {
		o->mss = option_word(h, at) & 0xffff;
	} else if (kind == OPTION_SCALE && size == OPTION_SCALE_SIZE) {
		o->scale = option_word(h, at) >> 8;
		if (o->scale > SCALE_MAX)
			o->scale = SCALE_MAX;
	} else if (kind == OPTION_SACK_PERMITTED) {
		o->sack = 1;
	} else if (kind == OPTION_SACK) {
		o->sack_at = at + 2;
		o->sack_size = size - 2;
	} else if (kind == OPTION_STAMPS && size == OPTION_STAMPS_SIZE) {
		o->stamp_at = at + 2;
		o->stamp = option_word(h, at + 2);
		o->echo = option_word(h, at + 6);
	}
}

static long option_step(__u32 i, struct option_walk *walk)
{
	struct work *w = work_get();
	__u32 at = walk->at & OPTION_MASK, kind, size;

	if (!w || at >= walk->end)
		return 1;
	kind = w->head.byte[at];
	if (kind == OPTION_NOP) {
		walk->at++;
		return 0;
	}
	size = w->head.byte[at + 1];
	if (kind == OPTION_END || size < 2 || at + size > walk->end)
		return 1;
	option_read(w, at, kind, size);
	walk->at += size;
	return 0;
}

/* Reads header and options; 0: it is not all there. */
__noinline int tcp_load(struct xdp_md *ctx, struct packet *p)
{
	struct option_walk walk = { .at = sizeof(struct tcphdr) };
	void *end = (void *)(long)ctx->data_end;
	struct work *w = work_get();
	const __u32 *tcp;
	__u32 i;

	if (!p || !w)
		return 0;
	tcp = packet_l4(ctx, p, sizeof(struct tcphdr));
	if (!tcp)
		return 0;
	walk.end = (((const __u8 *)tcp)[12] >> 4) * 4;
	__builtin_memset(&w->head, 0, sizeof(w->head));
	__builtin_memset(&w->options, 0, sizeof(w->options));
	w->options.scale = NO_SCALE;
	for (i = 0; i < TCP_WORDS; i++) {
		if (4 * i >= walk.end || (const void *)(tcp + i + 1) > end)
			break;
		w->head.word[i] = tcp[i];
	}
	if (4 * i < walk.end)
		return 0;
	bpf_loop(OPTIONS_MAX, option_step, &walk, 0);
	return 1;
}

/* Writes back what has changed in the header, and its checksum. */
__noinline int tcp_store(struct xdp_md *ctx, struct packet *p)
{
	void *end = (void *)(long)ctx->data_end;
	struct work *w = work_get();
	__u64 change = 0;
	__u32 *tcp;
	__u32 i;

	if (!p || !w)
		return 0;
	tcp = packet_l4(ctx, p, sizeof(struct tcphdr));
	if (!tcp)
		return 0;
	for (i = 0; i < TCP_WORDS; i++) {
		if (4 * i >= (__u32)(w->head.byte[12] >> 4) * 4 || (void *)(tcp + i + 1) > end)
			break;
		change += csum_change(tcp[i], w->head.word[i]);
		tcp[i] = w->head.word[i];
	}
	csum_apply(&((struct tcphdr *)tcp)->check, change);
	return 1;
}

/* What is added to the numbers of a segment on its way. */
struct tcp_shift {
	__u32 seq;
	__u32 ack;
	__u32 stamp;
	__u32 echo;
};

/* The header in memory. An acknowledgment that is none says nothing, and stays 0. */
__inline void head_shift(struct work *w, const struct tcp_shift *by)
{
	struct tcp_options *o = &w->options;
	int acknowledges = w->head.byte[13] & TCP_ACK;
	__u32 i;

	w->head.word[1] = bpf_htonl(bpf_ntohl(w->head.word[1]) + by->seq);
	if (o->stamp_at)
		option_add(&w->head, o->stamp_at, by->stamp);
	if (!acknowledges)
		return;
	w->head.word[2] = bpf_htonl(bpf_ntohl(w->head.word[2]) + by->ack);
	if (o->stamp_at)
		option_add(&w->head, o->stamp_at + 4, by->echo);
	for (i = 0; i < OPTIONS_MAX / 4; i++) {
		if (4 * i >= (o->sack_size & ~(OPTION_SACK_BLOCK - 1)))
			break;
		option_add(&w->head, o->sack_at + 4 * i, by->ack);
	}
}

__inline __u32 head_window(const struct work *w)
{
	return bpf_ntohs(((const struct tcphdr *)&w->head)->window);
}

__inline __be16 window_field(__u32 window)
{
	return bpf_htons(window < 0xffff ? window : 0xffff);
}

__inline void head_set_window(struct work *w, __u32 window)
{
	((struct tcphdr *)&w->head)->window = window_field(window);
}

#endif
