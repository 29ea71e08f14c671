/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * handshake.h - the segments of handshakes that the director makes itself. A client's
 * SYN becomes a SYN-ACK with a cookie and a window of 0, so that no data comes before
 * there is somebody to take them; nothing is stored. The ACK that brings the cookie
 * back becomes the SYN to the real server. What a client's options were it tells
 * itself once more: MSS in the cookie, the rest in the timestamp that it echoes.
 */
#ifndef DIRECTOR_HANDSHAKE_H
#define DIRECTOR_HANDSHAKE_H

#include "answer.h"
#include "begin.h"
#include "cookie.h"
#include "options.h"

/* Sizes of segments of ours, with as many options as they have. */
#define SEGMENT_MSS (sizeof(struct tcphdr) + 4)
#define SEGMENT_STAMPS (sizeof(struct tcphdr) + 20)
#define SEGMENT_MAX sizeof(struct segment)

/* The low bits of a timestamp that a client is told. */
#define STAMP_SCALE 0xf
#define STAMP_SACK 0x10
#define STAMP_BITS 0x3f

#define COOKIE_SCALE 7 /* the window scale that clients are told; Linux has it, unless it was tuned */

/* Words of options. */
#define OPTION_MSS_WORD (OPTION_MSS << 24 | OPTION_MSS_SIZE << 16)
#define OPTION_STAMPS_HALF (OPTION_STAMPS << 8 | OPTION_STAMPS_SIZE)
#define OPTION_SACK_HALF (OPTION_SACK_PERMITTED << 24 | 2 << 16)
#define OPTION_NOPS_HALF (OPTION_NOP << 24 | OPTION_NOP << 16)
#define OPTION_SCALE_WORD (OPTION_NOP << 24 | OPTION_SCALE << 16 | OPTION_SCALE_SIZE << 8)
#define OPTION_NOPS_WORD (OPTION_NOPS_HALF | OPTION_NOP << 8 | OPTION_NOP)

/* MSS, and if there are timestamps, these and what only comes with them. Its size. */
__inline __u32 segment_options(struct segment *s, __u32 mss, const struct tcp_options *o, __u32 stamp, __u32 echo)
{
	s->option[0] = bpf_htonl(OPTION_MSS_WORD | mss);
	if (!o->stamp_at)
		return SEGMENT_MSS;
	s->option[1] = bpf_htonl((o->sack ? OPTION_SACK_HALF : OPTION_NOPS_HALF) | OPTION_STAMPS_HALF);
	s->option[2] = bpf_htonl(stamp);
	s->option[3] = bpf_htonl(echo);
	s->option[4] = bpf_htonl(o->scale == NO_SCALE ? OPTION_NOPS_WORD : OPTION_SCALE_WORD | o->scale);
	return SEGMENT_STAMPS;
}

/* pseudo: the sum of the addresses. Behind the segment there are zeros, which add nothing. */
__inline void segment_seal(struct segment *s, __u32 size, __u32 pseudo)
{
	__u32 sum = csum_add(pseudo, bpf_htonl(IPPROTO_TCP << 16 | size));

	s->tcp.doff = size / 4; /* a byte of data more is none of it */
	s->tcp.check = 0;
	s->tcp.check = csum_fold(csum_add(sum, csum_words(s, sizeof(*s))));
}

__inline __u32 pseudo_sum(const struct packet *p, int v6)
{
	return csum_words(p->addr, v6 ? 32 : 8);
}

__inline int segment_store(struct xdp_md *ctx, __u32 at, const struct segment *s, __u64 size)
{
	OPAQUE(size);
	if (size < sizeof(struct tcphdr) || size > SEGMENT_MAX)
		return 0;
	return !bpf_xdp_store_bytes(ctx, at, (void *)s, size);
}

/* The length that an IP header tells becomes another. */
__inline int length_set(struct xdp_md *ctx, const struct packet *p, __u32 length, int v6)
{
	void *l3 = packet_l3(ctx, p, v6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr));
	struct iphdr *ip = l3;
	__be16 old;

	if (!l3)
		return 0;
	if (v6) {
		((struct ipv6hdr *)l3)->payload_len = bpf_htons(length - sizeof(struct ipv6hdr));
		return 1;
	}
	old = ip->tot_len;
	ip->tot_len = bpf_htons(length);
	csum_apply(&ip->check, csum_change(old, ip->tot_len));
	return 1;
}

/*
 * The segment that was made in memory takes the place of the packet's; the IP header stays.
 * 0: it could not be, and the packet is dropped now.
 */
__inline int segment_replace(struct xdp_md *ctx, struct packet *p, __u32 size, int v6)
{
	__u32 at = p->l3 + p->l4, length = p->l4 + size;
	struct work *w = work_get();
	int grow;

	if (!w)
		return 0;
	segment_seal(&w->segment, size, pseudo_sum(p, v6));
	grow = (int)(p->l3 + length) - (int)bpf_xdp_get_buff_len(ctx);
	if (grow && bpf_xdp_adjust_tail(ctx, grow))
		return 0;
	p->length = length;
	return length_set(ctx, p, length, v6) && segment_store(ctx, at, &w->segment, size);
}

/* A new header of a segment from dport to sport, or with flip the other way round. */
__inline void segment_begin(struct segment *s, __u32 ports, __u32 seq, __u32 ack)
{
	__builtin_memset(s, 0, sizeof(*s));
	*(__u32 *)&s->tcp = ports;
	s->tcp.seq = bpf_htonl(seq);
	s->tcp.ack_seq = bpf_htonl(ack);
}

/* What only comes with timestamps, since they are where it is remembered. */
__inline void options_limit(struct tcp_options *o)
{
	if (o->stamp_at)
		return;
	o->sack = 0;
	o->scale = NO_SCALE;
}

/* The SYN-ACK that a client's SYN gets, in memory; its size. */
__inline __u32 synack_make(struct work *w, const struct packet *p, __u32 mss, int v6)
{
	__u32 isn = bpf_ntohl(w->head.word[1]), stamp = p->now & ~STAMP_BITS, cookie;
	struct tcp_options *o = &w->options;
	struct segment *s = &w->segment;

	options_limit(o);
	cookie = cookie_make(p, isn, cookie_mss_index(o->mss), cookie_now(), v6);
	stamp |= o->scale | (o->sack ? STAMP_SACK : 0);
	if (o->scale != NO_SCALE)
		o->scale = COOKIE_SCALE;
	segment_begin(s, p->ports >> 16 | p->ports << 16, cookie, isn + 1);
	s->tcp.syn = s->tcp.ack = 1;
	return segment_options(s, mss, o, stamp, o->stamp);
}

__inline int synack_head4(struct xdp_md *ctx, struct packet *p, __u32 size)
{
	struct iphdr ip;

	ipv4_header(&ip, p->addr[0] >> 32, p->addr[0], IPPROTO_TCP, sizeof(ip) + size);
	p->l4 = sizeof(ip);
	return !bpf_xdp_store_bytes(ctx, p->l3, &ip, sizeof(ip));
}

__inline int synack_head6(struct xdp_md *ctx, struct packet *p, __u32 size)
{
	struct ipv6hdr ip;

	ipv6_header(&ip, p, IPPROTO_TCP, size);
	p->l4 = sizeof(ip);
	return !bpf_xdp_store_bytes(ctx, p->l3, &ip, sizeof(ip));
}

/* Answers a SYN. It is no more work than a reset, and not limited: whoever waits for it may be real. */
__inline enum verdict syn_answer(struct xdp_md *ctx, struct packet *p, __u32 mss, int v6)
{
	__u32 head = v6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr), size;
	struct work *w = work_get();

	if (!w || !(v6 ? answer_fits6(p) : answer_fits4(p)) || !tcp_load(ctx, p))
		return DROP_COOKIE;
	size = synack_make(w, p, mss, v6);
	segment_seal(&w->segment, size, pseudo_sum(p, v6));
	if (!answer_room(ctx, p, head + size, 0) || !(v6 ? synack_head6(ctx, p, size) : synack_head4(ctx, p, size)) ||
	    !segment_store(ctx, p->l3 + head, &w->segment, size))
		return DROP_ERROR;
	return TX_COOKIE;
}

/*
 * Does the segment bring a cookie back? The first number of a client is one below its segment's, or
 * that itself where it asks for its window: probes have a number that was acknowledged (RFC 9293 section 3.8.6.1).
 */
__inline int proof_read(struct xdp_md *ctx, struct packet *p, int v6)
{
	struct work *w = work_get();
	struct proof *f;
	__u32 seq;

	if (!w || !tcp_load(ctx, p))
		return 0;
	f = &w->proof;
	seq = bpf_ntohl(w->head.word[1]);
	f->cookie = bpf_ntohl(w->head.word[2]) - 1;
	f->isn = seq - 1;
	if (!cookie_holds(p, f->cookie, f->isn, v6)) {
		f->isn = seq;
		if (!cookie_holds(p, f->cookie, f->isn, v6))
			return 0;
	}
	f->mss = cookie_mss[f->cookie & COOKIE_MSS];
	f->options = w->options;
	f->options.sack = w->options.echo & STAMP_SACK ? 1 : 0;
	f->options.scale = w->options.echo & STAMP_SCALE;
	options_limit(&f->options);
	return 1;
}

__noinline int proof_read4(struct xdp_md *ctx, struct packet *p)
{
	return p ? proof_read(ctx, p, 0) : 0;
}

__noinline int proof_read6(struct xdp_md *ctx, struct packet *p)
{
	return p ? proof_read(ctx, p, 1) : 0;
}

/* Windows of SYNs are not scaled. */
__inline __be16 window_whole(__u32 window, __u32 scale)
{
	return window_field(scale == NO_SCALE ? window : window << scale);
}

/* The packet that has proven its client becomes the SYN that the client began with, for the real server. */
__inline int syn_restore(struct xdp_md *ctx, struct packet *p, int v6)
{
	struct work *w = work_get();
	struct segment *s;
	struct proof *f;

	if (!w)
		return 0;
	f = &w->proof;
	s = &w->segment;
	segment_begin(s, p->ports, f->isn, 0);
	s->tcp.syn = 1;
	s->tcp.window = window_whole(head_window(w), f->options.scale);
	p->tcp = TCP_SYN;
	return segment_replace(ctx, p, segment_options(s, f->mss, &f->options, f->options.stamp, 0), v6);
}

/* Does the packet ask for a proof, or may it bring one? */
__inline int proof_concerns(const struct service *s, const struct packet *p)
{
	__u32 flags = p->tcp & (TCP_SYN | TCP_ACK | TCP_RST);

	if (p->protocol != IPPROTO_TCP || p->proof || p->fragment != FRAGMENT_NONE || !port_fits(s, p) ||
	    packet_sport(p) == bpf_htons(20))
		return 0;
	return (flags == TCP_SYN && s->flags & SERVICE_COOKIES) || (flags == TCP_ACK && s->flags & SERVICE_PROOFS);
}

#endif
