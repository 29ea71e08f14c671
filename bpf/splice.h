/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * splice.h - a connection whose client has a handshake with the director, and the
 * director one with the real server: sequence numbers and timestamps of the real
 * server's are translated to what the client was told, and back.
 *
 * XDP makes no two packets of one. So the real server's SYN-ACK is not answered here: it
 * becomes a segment to the client that opens its window, and that it has to acknowledge,
 * since it brings a byte that came before. What the client sends then, data or this ACK,
 * ends the real server's handshake. Until it does, the real server repeats its SYN-ACK.
 */
#ifndef DIRECTOR_SPLICE_H
#define DIRECTOR_SPLICE_H

#include "defense.h"
#include "handshake.h"
#include "nat.h"

/* Where it stands what is translated of the connection in a slot; NULL: nowhere. */
__inline __u64 *splice_at(__u32 slot, int v6)
{
	struct conn *c = v6 ? slot_numbered(slot, 1) : NULL;
	__u32 index = slot - 1;

	if (v6)
		return c ? &((struct conn6 *)c)->more : NULL;
	return bpf_map_lookup_elem(&splices4, &index);
}

/* What is translated of a connection, as it was at one moment. */
struct splice {
	__u64 *at;
	__u64 is; /* see enum splice_part */
};

/* 0: there is none of this version of the slot's tag, but perhaps of another connection. */
__inline int splice_read(struct splice *s, __u32 slot, __u32 version, int v6)
{
	s->at = splice_at(slot, v6);
	if (!s->at)
		return 0;
	s->is = READ_ONCE(*s->at);
	return linked(slot | (__u64)version << LINK_VERSION, v6) != NULL;
}

/* The client's first sequence number; answered: what is added to the real server's. */
__inline __u32 splice_seq(__u64 is)
{
	return is >> SPLICE_SEQ;
}

__inline __u32 splice_stamp(__u64 is)
{
	return (__u32)is & ~SPLICE_SHIFT_LOW;
}

/* How far windows are shifted, by the client's scale or the real server's. */
__inline __u32 splice_scale(__u64 is, int granted)
{
	__u32 scale = is & SPLICE_SCALE;

	return scale == NO_SCALE || !(is & SPLICE_GRANTED) != !granted ? 0 : scale;
}

/* May a connection that a cookie began be the real server's? Its replies must come by here. */
__inline int splice_carries(const struct real *r)
{
	return method_replies(r->method) && !(r->flags & REAL_LOCAL);
}

/* Notes what the client has proven, for its connection, which is going to be shown at the place. Its flag; 0: there is no proof. */
__inline __u32 splice_begin(const struct packet *p, const struct place *at, int v6)
{
	__u64 *s = p->proof == PROOF_GIVEN ? splice_at(at->slot, v6) : NULL;
	struct work *w = work_get();
	struct proof *f;
	__u64 is;

	if (!s || !w)
		return 0;
	f = &w->proof;
	is = (__u64)f->cookie << SPLICE_SEQ | f->options.scale;
	if (f->options.stamp_at)
		is |= (f->options.echo & ~STAMP_BITS) | SPLICE_STAMPS;
	WRITE_ONCE(*s, is);
	return CONN_SPLICED;
}

/*
 * What the real server's SYN-ACK in memory makes of it. Its timestamps become none below what the
 * client was told, and a little more: so low bits of the change are free.
 */
__inline __u64 splice_answered(__u64 is, const struct work *w)
{
	const struct tcp_options *o = &w->options;
	__u64 next = (__u64)(splice_seq(is) - bpf_ntohl(w->head.word[1])) << SPLICE_SEQ | SPLICE_ANSWERED |
		     (is & (SPLICE_SCALE | SPLICE_STAMPS));
	__u32 told = (__u32)is | STAMP_BITS;

	next |= (told - o->stamp + SPLICE_SHIFT_LOW) & ~SPLICE_SHIFT_LOW;
	if (o->scale == NO_SCALE || (is & SPLICE_SCALE) == NO_SCALE)
		return next;
	return (next & ~(__u64)SPLICE_SCALE) | SPLICE_GRANTED | o->scale;
}

/* A window of the real server's as the client will read it. scale: what the field is shifted by. */
__inline __u32 splice_window(__u32 window, __u64 is, __u32 scale)
{
	__u32 told;

	if ((is & SPLICE_SCALE) == NO_SCALE)
		return window;
	told = (window << scale) >> COOKIE_SCALE;
	return window && !told ? 1 : told;
}

/* The segment that the client gets for a SYN-ACK in memory. Data of its first byte's number are a byte that it has, so it says what it has. */
__inline int synack_become(struct xdp_md *ctx, struct packet *p, struct work *w, __u64 is, int v6)
{
	__u32 window = head_window(w), ack = bpf_ntohl(w->head.word[2]), size = sizeof(struct tcphdr);
	__u32 seq = bpf_ntohl(w->head.word[1]) + splice_seq(is);
	struct segment *s = &w->segment;

	segment_begin(s, p->ports, seq, ack);
	s->tcp.ack = 1;
	s->tcp.window = window_field(splice_window(window, is, 0));
	if (is & SPLICE_STAMPS) {
		s->option[0] = bpf_htonl(OPTION_NOPS_HALF | OPTION_STAMPS_HALF);
		s->option[1] = bpf_htonl(w->options.stamp + splice_stamp(is));
		s->option[2] = bpf_htonl(w->options.echo);
		size += 12;
	}
	return segment_replace(ctx, p, size + 1, v6);
}

/* Does the SYN-ACK in memory end the handshake that a cookie of the client's began? It comes again if its answer was lost. */
__inline int synack_again(const struct packet *p, struct work *w, const struct splice *s, int v6)
{
	nat_reply_key(&w->reply, p, &w->ends, v6); /* what the client's packets have */
	return cookie_holds(&w->reply, bpf_ntohl(w->head.word[1]) + splice_seq(s->is), bpf_ntohl(w->head.word[2]) - 1, v6);
}

/* The first SYN-ACK to the director's SYN. UNDECIDED: s->is tells what it makes of the numbers. */
__inline enum verdict synack_first(struct splice *s, const struct work *w)
{
	__u64 next = splice_answered(s->is, w);

	if (__sync_val_compare_and_swap(s->at, s->is, next) != s->is)
		return DROP_EARLY; /* another CPU has the same one */
	s->is = next;
	return UNDECIDED;
}

/* What the real server says before it has answered. */
__inline enum verdict splice_refused(struct xdp_md *ctx, struct packet *p, struct work *w, const struct splice *s)
{
	if (!(p->tcp & TCP_RST))
		return TX_RESET; /* of a connection that it remembers: a client would tell it so, too */
	w->head.word[1] = bpf_htonl(splice_seq(s->is) + 1); /* where the client would have its data begin */
	return tcp_store(ctx, p) ? UNDECIDED : DROP_ERROR;
}

/* The real server's, once it has answered. */
__inline enum verdict reply_translate(struct xdp_md *ctx, struct packet *p, struct work *w, __u64 is)
{
	struct tcp_shift by = { .seq = splice_seq(is), .stamp = splice_stamp(is) };

	head_shift(w, &by);
	if (!(p->tcp & TCP_RST))
		head_set_window(w, splice_window(head_window(w), is, splice_scale(is, 1)));
	return tcp_store(ctx, p) ? UNDECIDED : DROP_ERROR;
}

/* A packet of the real server's, for the client. UNDECIDED: it goes on. */
__inline enum verdict splice_reply(struct xdp_md *ctx, struct packet *p, __u32 slot, __u32 version, int v6)
{
	int synack = (p->tcp & (TCP_SYN | TCP_ACK | TCP_RST)) == (TCP_SYN | TCP_ACK);
	struct work *w = work_get();
	enum verdict verdict;
	struct splice s;

	if (!w || !splice_read(&s, slot, version, v6) || !tcp_load(ctx, p))
		return DROP_EARLY;
	if (s.is & SPLICE_ANSWERED) {
		if (!synack || !synack_again(p, w, &s, v6))
			return reply_translate(ctx, p, w, s.is);
	} else {
		verdict = synack ? synack_first(&s, w) : splice_refused(ctx, p, w, &s);
		if (!synack || verdict != UNDECIDED)
			return verdict;
	}
	return synack_become(ctx, p, w, s.is, v6) ? UNDECIDED : DROP_ERROR;
}

__noinline int splice_reply4(struct xdp_md *ctx, struct packet *p, __u32 slot, __u32 version)
{
	return p ? splice_reply(ctx, p, slot, version, 0) : DROP_ERROR;
}

__noinline int splice_reply6(struct xdp_md *ctx, struct packet *p, __u32 slot, __u32 version)
{
	return p ? splice_reply(ctx, p, slot, version, 1) : DROP_ERROR;
}

/* The client speaks before the real server has answered: if that is its proof once more, the SYN may be lost. */
__inline enum verdict splice_again(struct xdp_md *ctx, struct packet *p, int v6)
{
	if (p->tcp & (TCP_SYN | TCP_RST))
		return UNDECIDED;
	if (!(v6 ? proof_read6(ctx, p) : proof_read4(ctx, p)))
		return DROP_EARLY;
	return syn_restore(ctx, p, v6) ? UNDECIDED : DROP_ERROR;
}

/* The client's, once the real server has answered. */
__inline enum verdict request_translate(struct xdp_md *ctx, struct packet *p, __u64 is)
{
	struct tcp_shift by = { .ack = -splice_seq(is), .echo = -splice_stamp(is) };
	struct work *w = work_get();

	if (!w || !tcp_load(ctx, p))
		return DROP_MALFORMED;
	head_shift(w, &by);
	head_set_window(w, head_window(w) << splice_scale(is, 0));
	return tcp_store(ctx, p) ? UNDECIDED : DROP_ERROR;
}

/* A client's packet, for the real server. UNDECIDED: it goes on. */
__inline enum verdict splice_request(struct xdp_md *ctx, struct packet *p, __u32 slot, __u32 version, int v6)
{
	struct splice s;

	if (!splice_read(&s, slot, version, v6))
		return DROP_EARLY;
	return s.is & SPLICE_ANSWERED ? request_translate(ctx, p, s.is) : splice_again(ctx, p, v6);
}

__noinline int splice_request4(struct xdp_md *ctx, struct packet *p, __u32 slot, __u32 version)
{
	return p ? splice_request(ctx, p, slot, version, 0) : DROP_ERROR;
}

__noinline int splice_request6(struct xdp_md *ctx, struct packet *p, __u32 slot, __u32 version)
{
	return p ? splice_request(ctx, p, slot, version, 1) : DROP_ERROR;
}

/* The bytes of a number and of a checksum become others'. */
__inline int quoted_shift(struct xdp_md *ctx, __u32 at, __u32 check_at, __u32 by)
{
	__be32 old, seq;
	__u16 check;

	if (bpf_xdp_load_bytes(ctx, at, &old, sizeof(old)) || bpf_xdp_load_bytes(ctx, check_at, &check, sizeof(check)))
		return 0;
	seq = bpf_htonl(bpf_ntohl(old) - by);
	csum_apply(&check, csum_change(old, seq));
	return !bpf_xdp_store_bytes(ctx, at, &seq, sizeof(seq)) &&
	       !bpf_xdp_store_bytes(ctx, check_at, &check, sizeof(check));
}

/*
 * An error about what the client was sent, on its way to the real server, quotes a number as the client
 * knows it; quoted is where its segment begins in the message. 0: it could not be translated.
 */
__inline int splice_quoted(struct xdp_md *ctx, struct packet *p, __u32 quoted, __u64 link, int v6)
{
	__u32 icmp = p->l3 + p->l4;
	struct splice s;

	return splice_read(&s, link, link >> LINK_VERSION, v6) && s.is & SPLICE_ANSWERED &&
	       quoted_shift(ctx, icmp + sizeof(struct icmp_head) + (quoted & 63) + 4, icmp + 2, splice_seq(s.is));
}

__noinline int splice_quoted4(struct xdp_md *ctx, struct packet *p, __u32 quoted, __u64 link)
{
	return p ? splice_quoted(ctx, p, quoted, link, 0) : 0;
}

__noinline int splice_quoted6(struct xdp_md *ctx, struct packet *p, __u32 quoted, __u64 link)
{
	return p ? splice_quoted(ctx, p, quoted, link, 1) : 0;
}

/* A SYN gets a cookie, an ACK brings one. UNDECIDED: the service is asked, p->proof tells for whom. */
__inline enum verdict proof_ask(struct xdp_md *ctx, struct packet *p, __u32 service, int v6)
{
	struct service *s = bpf_map_lookup_elem(&services, &service);
	enum verdict verdict;

	if (!s)
		return DROP_ERROR;
	if (p->tcp & TCP_SYN) {
		verdict = defend_cookie(p, service, v6);
		return verdict == TX_COOKIE ? syn_answer(ctx, p, s->mss, v6) : verdict;
	}
	p->proof = PROOF_NONE;
	if (!(v6 ? proof_read6(ctx, p) : proof_read4(ctx, p)))
		return s->flags & SERVICE_COOKIES ? DROP_COOKIE : UNDECIDED;
	p->proof = PROOF_GIVEN;
	p->tcp = TCP_SYN; /* for all who decide about it; the frame becomes one at last */
	return UNDECIDED;
}

__noinline int proof_ask4(struct xdp_md *ctx, struct packet *p, __u32 service)
{
	return p ? proof_ask(ctx, p, service, 0) : DROP_ERROR;
}

__noinline int proof_ask6(struct xdp_md *ctx, struct packet *p, __u32 service)
{
	return p ? proof_ask(ctx, p, service, 1) : DROP_ERROR;
}

/* The proof is used: its connection is stored, and the packet its SYN; or it is refused, as the ACK that it is. */
__inline __u64 proof_used(struct xdp_md *ctx, struct packet *p, __u64 result, int v6)
{
	if (outcome_verdict(result) == TX_NEW) {
		__sync_fetch_and_add(&defense.proven, 1);
		return syn_restore(ctx, p, v6) ? result : outcome(DROP_ERROR, NO_REAL);
	}
	p->tcp = TCP_ACK;
	return outcome_real(result) == NO_REAL ? result : outcome(DROP_EARLY, NO_REAL); /* of a connection that is being made */
}

__noinline __u64 proof_used4(struct xdp_md *ctx, struct packet *p, __u64 result)
{
	return p ? proof_used(ctx, p, result, 0) : outcome(DROP_ERROR, NO_REAL);
}

__noinline __u64 proof_used6(struct xdp_md *ctx, struct packet *p, __u64 result)
{
	return p ? proof_used(ctx, p, result, 1) : outcome(DROP_ERROR, NO_REAL);
}

#endif
