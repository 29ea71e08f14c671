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

#define SPLICE_BIT(bit) (1ULL << (bit))

__inline struct splice *splice_get(__u32 slot, int v6)
{
	__u32 index = slot - 1;

	return v6 ? bpf_map_lookup_elem(&splices6, &index) : bpf_map_lookup_elem(&splices4, &index);
}

/* Another version's is a former connection's; that of this one is being made. */
__inline int splice_is(__u64 rest, __u32 version)
{
	return (rest >> SPLICE_VERSION & 0xffff) == (version & 0xffff);
}

__inline __u32 splice_shift(const struct splice *s)
{
	return READ_ONCE(s->cookie) - READ_ONCE(s->server);
}

/* Of the connection that a packet begins. */
__inline __u32 splice_flag(const struct packet *p)
{
	return unlikely(p->proof == PROOF_GIVEN) ? CONN_SPLICED : 0;
}

/* May a connection that a cookie began be the real server's? Its replies must come by here. */
__inline int splice_carries(const struct real *r)
{
	return method_replies(r->method) && !(r->flags & REAL_LOCAL);
}

/* Notes what the client has proven, for its connection, which is stored at the place. */
__inline int splice_begin(const struct place *at, int v6)
{
	struct splice *s = splice_get(at->slot, v6);
	struct work *w = work_get();
	struct proof *f;
	__u64 rest;

	if (!s || !w)
		return 0;
	f = &w->proof;
	rest = (__u64)f->options.echo << SPLICE_STAMP | (__u64)(at->version & 0xffff) << SPLICE_VERSION;
	if (f->options.stamp_at)
		rest |= SPLICE_BIT(SPLICE_STAMPS);
	if (f->options.scale != NO_SCALE)
		rest |= SPLICE_BIT(SPLICE_SCALED) | (__u64)f->options.scale << SPLICE_CLIENT_SCALE;
	WRITE_ONCE(s->cookie, f->cookie);
	WRITE_ONCE(s->rest, rest);
	return 1;
}

/* What the real server's SYN-ACK in memory makes of the rest. */
__inline __u64 splice_answered(__u64 rest, const struct tcp_options *o)
{
	__u32 stamp = rest >> SPLICE_STAMP;
	__u64 next = rest & ~0xffffffffULL;

	if (o->stamp_at)
		next |= (__u32)(stamp - o->stamp);
	if (o->scale == NO_SCALE)
		return next | SPLICE_BIT(SPLICE_ANSWERED);
	next &= ~(0xfULL << SPLICE_CLIENT_SCALE); /* it reads the client's windows as they are */
	return next | SPLICE_BIT(SPLICE_ANSWERED) | (__u64)o->scale << SPLICE_SCALE;
}

/* A window of the real server's as the client will read it. scale: what the field is shifted by. */
__inline __u32 splice_window(__u32 window, __u64 rest, __u32 scale)
{
	__u32 told;

	if (!(rest & SPLICE_BIT(SPLICE_SCALED)))
		return window;
	told = (window << (scale & 15)) >> COOKIE_SCALE;
	return window && !told ? 1 : told;
}

/* Data of its first byte's number are a byte that the client has, so it says what it has. */
__inline int synack_become(struct xdp_md *ctx, struct packet *p, const struct splice *splice, __u32 stamp, __u64 rest, int v6)
{
	struct work *w = work_get();
	__u32 window, ack, size;
	struct segment *s;

	if (!w)
		return 0;
	window = head_window(w);
	ack = bpf_ntohl(w->head.word[2]);
	s = &w->segment;
	segment_begin(s, p->ports, READ_ONCE(splice->cookie), ack);
	s->tcp.ack = 1;
	s->tcp.window = window_field(splice_window(window, rest, 0));
	size = sizeof(s->tcp);
	if (rest & SPLICE_BIT(SPLICE_STAMPS)) {
		s->option[0] = bpf_htonl(OPTION_NOPS_HALF | OPTION_STAMPS_HALF);
		s->option[1] = bpf_htonl(stamp);
		s->option[2] = bpf_htonl(w->options.echo);
		size += 12;
	}
	return segment_replace(ctx, p, size + 1, v6);
}

/*
 * A SYN-ACK to the director's SYN, the first one or the same again. UNDECIDED: the client gets what
 * it has become.
 */
__inline enum verdict splice_synack(struct xdp_md *ctx, struct packet *p, struct splice *s, __u64 rest, int v6)
{
	struct work *w = work_get();
	__u32 stamp;
	__u64 next;

	if (!w)
		return DROP_ERROR;
	stamp = rest >> SPLICE_STAMP;
	if (rest & SPLICE_BIT(SPLICE_ANSWERED)) {
		stamp += w->options.stamp;
		next = rest;
	} else {
		WRITE_ONCE(s->server, bpf_ntohl(w->head.word[1]));
		next = splice_answered(rest, &w->options);
		if (__sync_val_compare_and_swap(&s->rest, rest, next) != rest)
			return DROP_EARLY; /* another CPU has the same one */
	}
	return synack_become(ctx, p, s, stamp, next, v6) ? UNDECIDED : DROP_ERROR;
}

/* What the real server says before it has answered. */
__inline enum verdict splice_refused(struct xdp_md *ctx, struct packet *p, const struct splice *s)
{
	struct work *w = work_get();

	if (!w)
		return DROP_ERROR;
	if (!(p->tcp & TCP_RST))
		return TX_RESET; /* of a connection that it remembers: a client would tell it so, too */
	w->head.word[1] = bpf_htonl(READ_ONCE(s->cookie) + 1); /* where the client would have its data begin */
	return tcp_store(ctx, p) ? UNDECIDED : DROP_ERROR;
}

/* A packet of the real server's, for the client. UNDECIDED: it goes on. */
__inline enum verdict splice_reply(struct xdp_md *ctx, struct packet *p, __u32 slot, __u32 version, int v6)
{
	struct splice *s = splice_get(slot, v6);
	struct work *w = work_get();
	struct tcp_shift by = {};
	__u64 rest;

	if (!s || !w || p->fragment == FRAGMENT_LATER)
		return UNDECIDED;
	rest = READ_ONCE(s->rest);
	if (!splice_is(rest, version) || !tcp_load(ctx, p))
		return DROP_EARLY;
	if ((p->tcp & (TCP_SYN | TCP_ACK | TCP_RST)) == (TCP_SYN | TCP_ACK) &&
	    (!(rest & SPLICE_BIT(SPLICE_ANSWERED)) || bpf_ntohl(w->head.word[1]) == READ_ONCE(s->server)))
		return splice_synack(ctx, p, s, rest, v6);
	if (!(rest & SPLICE_BIT(SPLICE_ANSWERED)))
		return splice_refused(ctx, p, s);
	by.seq = splice_shift(s);
	by.stamp = rest >> SPLICE_STAMP;
	head_shift(w, &by);
	if (!(p->tcp & TCP_RST))
		head_set_window(w, splice_window(head_window(w), rest, rest >> SPLICE_SCALE));
	return tcp_store(ctx, p) ? UNDECIDED : DROP_ERROR;
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

/* A client's packet, for the real server. UNDECIDED: it goes on. */
__inline enum verdict splice_request(struct xdp_md *ctx, struct packet *p, __u32 slot, __u32 version, int v6)
{
	struct splice *s = splice_get(slot, v6);
	struct work *w = work_get();
	struct tcp_shift by = {};
	__u64 rest;

	if (!s || !w || p->fragment == FRAGMENT_LATER)
		return UNDECIDED;
	rest = READ_ONCE(s->rest);
	if (!splice_is(rest, version))
		return DROP_EARLY;
	if (!(rest & SPLICE_BIT(SPLICE_ANSWERED)))
		return splice_again(ctx, p, v6);
	if (!tcp_load(ctx, p))
		return DROP_MALFORMED;
	by.ack = -splice_shift(s);
	by.echo = -(__u32)(rest >> SPLICE_STAMP);
	head_shift(w, &by);
	head_set_window(w, head_window(w) << (rest >> SPLICE_CLIENT_SCALE & 15));
	return tcp_store(ctx, p) ? UNDECIDED : DROP_ERROR;
}

__noinline int splice_request4(struct xdp_md *ctx, struct packet *p, __u32 slot, __u32 version)
{
	return p ? splice_request(ctx, p, slot, version, 0) : DROP_ERROR;
}

__noinline int splice_request6(struct xdp_md *ctx, struct packet *p, __u32 slot, __u32 version)
{
	return p ? splice_request(ctx, p, slot, version, 1) : DROP_ERROR;
}

/*
 * An error about what the client was sent, on its way to the real server, quotes a number as the client
 * knows it; at is where, in the frame. 0: it could not be translated.
 */
__inline int splice_quoted(struct xdp_md *ctx, struct packet *p, __u32 quoted, __u32 slot, int v6)
{
	__u32 at = p->l3 + p->l4 + sizeof(struct icmp_head) + (quoted & 63) + 4;
	__u32 check_at = p->l3 + p->l4 + 2;
	struct splice *s = splice_get(slot, v6);
	__be32 old, seq;
	__u16 check;

	if (!s || bpf_xdp_load_bytes(ctx, at, &old, sizeof(old)) || bpf_xdp_load_bytes(ctx, check_at, &check, sizeof(check)))
		return 0;
	seq = bpf_htonl(bpf_ntohl(old) - splice_shift(s));
	csum_apply(&check, csum_change(old, seq));
	return !bpf_xdp_store_bytes(ctx, at, &seq, sizeof(seq)) &&
	       !bpf_xdp_store_bytes(ctx, check_at, &check, sizeof(check));
}

__noinline int splice_quoted4(struct xdp_md *ctx, struct packet *p, __u32 quoted, __u32 slot)
{
	return p ? splice_quoted(ctx, p, quoted, slot, 0) : 0;
}

__noinline int splice_quoted6(struct xdp_md *ctx, struct packet *p, __u32 quoted, __u32 slot)
{
	return p ? splice_quoted(ctx, p, quoted, slot, 1) : 0;
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
__inline __u64 proof_used(struct xdp_md *ctx, struct packet *p, struct place *at, __u64 result, int v6)
{
	if (outcome_verdict(result) == TX_NEW) {
		__sync_fetch_and_add(&defense.proven, 1);
		return splice_begin(at, v6) && syn_restore(ctx, p, v6) ? result : outcome(DROP_ERROR, NO_REAL);
	}
	p->tcp = TCP_ACK;
	return outcome_real(result) == NO_REAL ? result : outcome(DROP_EARLY, NO_REAL); /* of a connection that is being made */
}

__noinline __u64 proof_used4(struct xdp_md *ctx, struct packet *p, struct place *at, __u64 result)
{
	return p && at ? proof_used(ctx, p, at, result, 0) : outcome(DROP_ERROR, NO_REAL);
}

__noinline __u64 proof_used6(struct xdp_md *ctx, struct packet *p, struct place *at, __u64 result)
{
	return p && at ? proof_used(ctx, p, at, result, 1) : outcome(DROP_ERROR, NO_REAL);
}

#endif
