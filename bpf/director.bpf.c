//go:build ignore

// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* director.bpf.c - the order of the stages, and what a verdict means. */
#include <linux/pkt_cls.h>

#include "answer.h"
#include "begin.h"
#include "closed.h"
#include "conn.h"
#include "defense.h"
#include "door.h"
#include "forward.h"
#include "fragment.h"
#include "fullnat.h"
#include "icmp.h"
#include "locality.h"
#include "mark.h"
#include "nat_icmp.h"
#include "neighbor.h"
#include "parse.h"
#include "persist.h"
#include "plain.h"
#include "plain_new.h"
#include "plan.h"
#include "probe.h"
#include "reply.h"
#include "service.h"
#include "sip.h"
#include "sorry.h"
#include "splice.h"
#include "stats.h"
#include "trace.h"
#include "tunnel.h"
#include "tunnel_icmp.h"
#include "work.h"

/* The whole policy, open and closed, on one screen. */
__inline int verdict_action(struct xdp_md *ctx, const struct way_out *out, enum verdict *verdict)
{
	int action;

	if (*verdict < TX_FORWARD)
		action = XDP_PASS;
	else if (*verdict >= DROP_MALFORMED)
		action = XDP_DROP;
	else
		action = transmit(ctx, out, verdict);
	stats_verdict(*verdict);
	return action;
}

__inline __u64 packet_known(struct packet *p, struct known *k)
{
	conn_input(k, p);
	stats_input(k->real, p, 0);
	return outcome_by(TX_FORWARD, k->real, k->local);
}

/* Something has to be asked, and the packet to be looked at again. */
__inline __u64 ask(struct place *at, const struct service *s, enum asked what)
{
	at->asked = what;
	return outcome(UNDECIDED, s->id);
}

/* No usable real server: its sorry servers, or what the service says. The answer's kind is in the verdict. */
__inline __u64 no_real(struct service *s, const struct packet *p, struct place *at)
{
	__sync_fetch_and_add(&s->no_real, 1);
	if (s->sorry)
		return ask(at, s, ASK_SORRY);
	switch (s->answer) {
	case ANSWER_UNREACHABLE:
		return outcome(TX_UNREACHABLE, NO_REAL);
	case ANSWER_RESET:
		return outcome(p->protocol == IPPROTO_TCP ? TX_RESET : TX_UNREACHABLE, NO_REAL);
	case ANSWER_PASS:
		return outcome(PASS_ANSWER, NO_REAL);
	default:
		return outcome(DROP_NO_REAL, NO_REAL);
	}
}

/*
 * The real server for packets that nothing is stored of: by the flow's hash, so
 * that each of them makes the same choice. id: what to take without such a plan.
 */
__inline __u32 flow_or(struct service *s, const struct place *at, __u32 id)
{
	__u32 flow = pick_flow(s, at->want >> 32);

	return flow != NO_REAL ? flow : id;
}

/* The real server for a new connection, NULL if none takes it: its client's, or the scheduler's choice. */
__inline struct real *choose(struct packet *p, struct place *at, struct service *s, __u32 *id, int v6)
{
	if (likely(at->asked != ASKED))
		return pick(s, p, at->want >> 32, id, v6);
	*id = at->chosen;
	return bpf_map_lookup_elem(&reals, id);
}

/*
 * The real server that was chosen is the client itself: another one, if there is
 * one. A template that others share stands. So this client, which goes without
 * it, is told the same by its address.
 */
__inline struct real *choose_other(struct packet *p, struct place *at, struct service *s, __u32 *id, int v6)
{
	__u32 hash = at->asked == ASKED ? address_word(&p->addr[0], v6) : at->want >> 32;
	__u32 other = pick_other(s, hash, *id);

	if (other != *id)
		at->link = 0;
	*id = other;
	return bpf_map_lookup_elem(&reals, id);
}

/* The connection that n is going to be is controlled by the template that was asked for, if there is one. */
__inline void control(struct conn_new *n, const struct place *at)
{
	n->link = 0;
	n->link_version = 0;
	if (likely(!at->link) || !template_controls(at->link, 1))
		return;
	n->link = at->link;
	n->word |= CONN_CONTROLLED;
}

/* It is stored. */
__inline void controlled(const struct conn_new *n)
{
	if (unlikely(n->link) && word_is_established(n->word))
		template_assure(n->link);
}

/* Stores the connection that n is; its place is locked. 0: no room. */
__inline int store(const struct packet *p, struct place *at, struct conn *home, struct conn_new *n, int v6)
{
	control(n, at);
	if (likely(conn_store(p, at, home, n, v6))) {
		controlled(n);
		return 1;
	}
	if (n->link)
		template_controls(n->link, -1);
	return 0;
}

/* The slot first, which by full-NAT the way back names, and where a proof's splice belongs. packet_local goes on. */
__inline __u64 packet_reserve(struct packet *p, struct place *at, struct conn *home, __u32 id, int v6)
{
	struct conn *c = home ? conn_reserve(p, at, home, v6) : NULL;

	if (!c)
		return outcome(DROP_NO_ROOM, NO_REAL);
	conn_locate(c, at, v6);
	at->reserved = 1;
	return outcome(TX_NEW, id);
}

/* home: its place is locked; NULL: it could not be, so nothing is stored. */
__inline __u64 schedule(struct packet *p, struct place *at, struct conn *home, struct service *s, int v6)
{
	struct work *w = work_get();
	struct conn_new *n;
	struct real *r;
	__u32 id;

	r = choose(p, at, s, &id, v6);
	if (!r || !w || (unlikely(p->proof == PROOF_GIVEN) && !splice_carries(r)))
		return no_real(s, p, at);
	if (s->flags & SERVICE_ONE_PACKET) {
		if (p->fragment != FRAGMENT_NONE && !s->persistent) /* the pieces of one datagram belong together */
			id = flow_or(s, at, id);
		stats_input(id, p, p->fragment != FRAGMENT_LATER);
		return outcome(TX_ONE_PACKET, id);
	}
	if (unlikely(p->proof == PROOF_GIVEN || fullnat_wanted(p, r, v6)))
		return packet_reserve(p, at, home, id, v6);
	if (unlikely(real_is_its_client(r, p, v6))) {
		r = choose_other(p, at, s, &id, v6);
		if (!r)
			return outcome(DROP_REAL_GONE, NO_REAL);
	}
	n = &w->fresh;
	conn_begin(n, p, r, id);
	if (unlikely(!home || !store(p, at, home, n, v6))) {
		__sync_fetch_and_add(&s->untracked, 1);
		if (!s->persistent)
			id = flow_or(s, at, id);
		stats_input(id, p, 1);
		return outcome(TX_UNTRACKED, id);
	}
	return connected(p, r, n);
}

/*
 * A segment of no known connection that may not begin one. While the table has
 * no room for its key, it may belong to one that was never stored.
 */
__inline __u64 unknown_segment(struct packet *p, struct place *at, struct service *s, int v6)
{
	__u32 id = NO_REAL;

	if (p->protocol != IPPROTO_TCP || !has_untracked(s) || place_has_room(at, p->now, v6))
		return outcome(PASS_NO_CONNECTION, NO_REAL);
	if (s->persistent && at->asked != ASKED)
		return ask(at, s, ASK_TEMPLATE);
	if (!s->persistent || at->chosen == NO_REAL)
		id = pick_untracked(s, at->want >> 32);
	else
		id = at->chosen;
	if (id == NO_REAL)
		return outcome(PASS_NO_CONNECTION, NO_REAL);
	stats_input(id, p, 0);
	return outcome(TX_UNTRACKED, id);
}

/*
 * The entry that the look-up found is taken out. If another CPU was faster, and
 * has stored a new one of this key, that is returned.
 */
__inline struct conn *make_room(struct packet *p, struct place *at, struct conn *home, int v6)
{
	struct conn *c = conn_find(p, at, v6);
	struct known k;

	if (!c)
		return NULL;
	k = conn_read(c);
	if (!known_holds(&k, at))
		return NULL; /* the lock has moved on, too */
	if (!conn_over(&k, p))
		return c;
	if (likely(conn_free(&k, home, p, at, v6)))
		return NULL;
	/* It has changed, and lives; or somebody else frees it. */
	c = conn_find(p, at, v6);
	if (!c)
		return NULL;
	k = conn_read(c);
	if (!(k.word & CONN_DEAD))
		return c;
	if (known_holds(&k, at))
		known_bury(&k, at, v6);
	return NULL;
}

/*
 * A connection that another CPU stored meanwhile. Should its slot change hands
 * in this very moment too, the packet goes its way without one.
 */
__inline __u64 packet_met(struct packet *p, struct conn *c, struct place *at, struct service *s, int v6)
{
	struct known k = conn_read(c);

	if (unlikely(!known_holds(&k, at)))
		return schedule(p, at, NULL, s, v6);
	known_at(&k, at);
	return packet_known(p, &k);
}

/*
 * No connection of this key is known. A function of its own for each family,
 * which the verifier looks at once, whatever came before.
 */
__inline __u64 packet_new(struct packet *p, struct place *at, int v6)
{
	struct service *s = packet_service(p, v6);
	struct conn *home = place_home(at, v6);
	enum verdict refused;
	struct conn *c;
	__u64 result;
	int locked;

	if (unlikely(p->mark && !p->door && at->asked == ASK_NOBODY && !p->proof))
		mark_count(p);
	if (!s || !home)
		return outcome(PASS_NO_SERVICE, NO_REAL);
	if (at->over) {
		c = make_room(p, at, home, v6);
		if (c)
			return packet_met(p, c, at, s, v6);
	}
	if (unlikely(s->flags & (SERVICE_COOKIES | SERVICE_PROOFS)) && proof_concerns(s, p))
		return ask(at, s, ASK_COOKIE);
	if (!schedulable(s, p))
		return unknown_segment(p, at, s, v6);
	if (unlikely(settings.defending && at->asked == ASK_NOBODY && !p->admitted)) {
		refused = packet_defend(p, s->id, v6);
		if (refused != UNDECIDED)
			return outcome(refused, NO_REAL);
	}
	s = service_serving(s, at);
	if (unlikely(asks_first(s) && at->asked != ASKED))
		return ask(at, s, ASK_SCHEDULER);
	locked = place_lock(at, home);
	if (unlikely(!locked)) {
		c = conn_find_or_lock(p, at, home, &locked, v6);
		if (c)
			return packet_met(p, c, at, s, v6);
	}
	result = schedule(p, at, locked ? home : NULL, s, v6);
	if (likely(locked && !at->reserved))
		place_unlock(at, home);
	return result;
}

__noinline __u64 packet_new4(struct packet *p, struct place *at)
{
	return p && at ? packet_new(p, at, 0) : outcome(DROP_ERROR, NO_REAL);
}

__noinline __u64 packet_new6(struct packet *p, struct place *at)
{
	return p && at ? packet_new(p, at, 1) : outcome(DROP_ERROR, NO_REAL);
}

/*
 * Ends what packet_reserve has begun: takes a local end where one is needed, shows the
 * connection, or gives its slot back, and unlocks its place. Behind packet_new, which needs
 * much stack itself.
 */
__inline __u64 packet_local(struct packet *p, struct place *at, __u32 id, int v6)
{
	struct conn *home = place_home(at, v6), *c = slot_numbered(at->slot, v6);
	struct real *r = bpf_map_lookup_elem(&reals, &id);
	__u64 result = outcome(DROP_ERROR, NO_REAL), taken;
	struct work *w = work_get();
	struct conn_new *n;

	if (!home || !c || !r || !w)
		return result; /* cannot be: they were there before */
	taken = fullnat_wanted(p, r, v6) ? local_take(id, at->want >> 32, v6) : outcome(TX_NEW, id);
	if (outcome_verdict(taken) == TX_NEW) {
		n = &w->fresh;
		conn_begin(n, p, r, id);
		n->word |= splice_begin(p, at, v6);
		n->local = outcome_local(taken);
		control(n, at);
		conn_publish(c, p, at, n, v6);
		controlled(n);
		result = connected(p, r, n);
	} else {
		conn_cancel(c, at, v6);
		result = outcome(outcome_verdict(taken), NO_REAL);
	}
	place_unlock(at, home);
	return result;
}

__noinline __u64 packet_local4(struct packet *p, struct place *at, __u32 id)
{
	return p && at ? packet_local(p, at, id, 0) : outcome(DROP_ERROR, NO_REAL);
}

__noinline __u64 packet_local6(struct packet *p, struct place *at, __u32 id)
{
	return p && at ? packet_local(p, at, id, 1) : outcome(DROP_ERROR, NO_REAL);
}

/* The packets that the director makes itself. */
__noinline int packet_answer4(struct xdp_md *ctx, struct packet *p, __u32 verdict)
{
	struct complaint c = { .type = ICMP4_UNREACHABLE, .code = ICMP4_PORT_UNREACHABLE };
	int failed;

	if (!p)
		return DROP_ERROR;
	if (verdict == TX_RESET)
		failed = answer_reset4(ctx, p);
	else if (verdict == TX_UNREACHABLE)
		failed = answer_icmp4(ctx, p, &c);
	else
		return verdict;
	return failed == UNDECIDED ? verdict : failed;
}

__noinline int packet_answer6(struct xdp_md *ctx, struct packet *p, __u32 verdict)
{
	struct complaint c = { .type = ICMP6_UNREACHABLE, .code = ICMP6_PORT_UNREACHABLE };
	int failed;

	if (!p)
		return DROP_ERROR;
	if (verdict == TX_RESET)
		failed = answer_reset6(ctx, p);
	else if (verdict == TX_UNREACHABLE)
		failed = answer_icmp6(ctx, p, &c);
	else
		return verdict;
	return failed == UNDECIDED ? verdict : failed;
}

/* TTL or hop limit ended here: time exceeded, from the virtual address. */
static __noinline enum verdict packet_ttl(struct xdp_md *ctx, struct packet *p, int v6)
{
	struct complaint c4 = { .type = ICMP4_TIME_EXCEEDED };
	struct complaint c6 = { .type = ICMP6_TIME_EXCEEDED };
	int failed = v6 ? answer_icmp6(ctx, p, &c6) : answer_icmp4(ctx, p, &c4);

	return failed == UNDECIDED ? TX_TIME_EXCEEDED : DROP_TTL;
}

/* It does not fit the way to its real server: the sender is told what does. */
static __noinline enum verdict packet_too_big(struct xdp_md *ctx, struct packet *p, __u32 mtu, int v6)
{
	struct complaint c4 = {
		.type = ICMP4_UNREACHABLE,
		.code = ICMP4_FRAGMENTATION_NEEDED,
		.info = bpf_htonl(mtu),
	};
	struct complaint c6 = { .type = ICMP6_TOO_BIG, .info = bpf_htonl(mtu) };
	int failed = v6 ? answer_icmp6(ctx, p, &c6) : answer_icmp4(ctx, p, &c4);

	if (failed == UNDECIDED)
		return TX_TOO_BIG;
	return failed == DROP_NO_REAL ? DROP_TOO_BIG : failed;
}

/* The outer family of a packet that leaves for the real server. */
__inline int forward_family(const struct real *r, int v6)
{
	return unlikely(r->method == METHOD_TUN) ? r->tunnel.flags & TUNNEL_IPV6 : v6;
}

__inline enum verdict forward_nat(struct xdp_md *ctx, struct packet *p, struct place *at, __u64 result, int v6)
{
	if (outcome_verdict(result) == TX_ICMP)
		return v6 ? nat_icmp_error6(ctx, p, result) : nat_icmp_error4(ctx, p, result);
	return v6 ? packet_nat6(ctx, p, at, result) : packet_nat4(ctx, p, at, result);
}

__inline enum verdict packet_forward(struct xdp_md *ctx, struct packet *p, struct place *at, __u64 result,
				     struct way_out *out, int v6)
{
	enum verdict verdict = outcome_verdict(result), failed;
	__u32 id = outcome_real(result);
	struct real *r = bpf_map_lookup_elem(&reals, &id);

	if (!r)
		return DROP_REAL_GONE;
	if (unlikely(!(r->flags & REAL_NEXT_HOP)))
		return DROP_NO_NEXT_HOP;
	if (unlikely(r->flags & REAL_LOCAL))
		return PASS_LOCAL;
	if (unlikely(!ttl_decrease(ctx, p, v6)))
		return packet_ttl(ctx, p, v6);
	if (unlikely(p->length > r->mtu))
		return packet_too_big(ctx, p, r->mtu, v6);
	if (unlikely(method_replies(r->method))) {
		verdict = forward_nat(ctx, p, at, result, v6);
		if (verdict >= DROP_MALFORMED)
			return verdict;
	}
	if (unlikely(r->method == METHOD_TUN) && !(v6 ? packet_tunnel6(ctx, p, id) : packet_tunnel4(ctx, p, id)))
		return DROP_ERROR;
	failed = forward_frame(ctx, p, r, forward_family(r, v6));
	if (unlikely(failed != UNDECIDED))
		return failed;
	out->ifindex = r->ifindex;
	out->tx_port = r->tx_port;
	return verdict;
}

/* Functions of their own, which keeps what they need off the stack of new connections. */
__noinline int packet_forward4(struct xdp_md *ctx, struct packet *p, struct place *at, __u64 result, struct way_out *out)
{
	return p && at && out ? packet_forward(ctx, p, at, result, out, 0) : DROP_ERROR;
}

__noinline int packet_forward6(struct xdp_md *ctx, struct packet *p, struct place *at, __u64 result, struct way_out *out)
{
	return p && at && out ? packet_forward(ctx, p, at, result, out, 1) : DROP_ERROR;
}

/* An error about a connection, to the server that it is about. It proves nothing, so it moves no timer. */
__inline __u64 icmp_error(struct xdp_md *ctx, struct packet *p, int v6)
{
	struct packet quoted = { .now = p->now };
	struct place at = {};
	struct conn *c;
	struct known k;
	struct real *r;

	if (!icmp_quoted(ctx, p, &quoted, v6))
		return outcome(PASS_ICMP, NO_REAL);
	c = conn_find(&quoted, &at, v6);
	if (!c)
		return outcome(PASS_ICMP, NO_REAL);
	k = conn_read(c);
	known_at(&k, &at);
	if (is_way_back(k.word))
		return outcome(TX_REPLY, NO_REAL);
	r = bpf_map_lookup_elem(&reals, &k.real);
	if (!r || r->generation != k.generation || !known_holds(&k, &at) || known_expired(&k, p->now))
		return outcome(PASS_ICMP, NO_REAL);
	if (unlikely(k.word & CONN_SPLICED) &&
	    !(v6 ? splice_quoted6(ctx, p, quoted.l4, link_to(&at)) : splice_quoted4(ctx, p, quoted.l4, link_to(&at))))
		return outcome(DROP_ERROR, NO_REAL);
	stats_input(k.real, p, 0);
	return outcome_by(TX_ICMP, k.real, k.local);
}

__inline __u64 packet_icmp(struct xdp_md *ctx, struct packet *p, int v6)
{
	struct icmp_head icmp;
	int vip;

	/* A fragment, or less than a header, is the stack's. */
	if (p->fragment != FRAGMENT_NONE || p->length - p->l4 < sizeof(icmp))
		return outcome(PASS_ICMP, NO_REAL);
	vip = vip_is(p, v6);
	if ((!vip && settings.marking == MARKS_NONE && !p->door) || bpf_xdp_load_bytes(ctx, p->l3 + p->l4, &icmp, sizeof(icmp)))
		return outcome(PASS_ICMP, NO_REAL);
	switch (v6 ? icmp_kind6(icmp.type) : icmp_kind4(icmp.type)) {
	case ICMP_ECHO_REQUEST:
		return outcome(vip || p->door ? echo_reply(ctx, p, &icmp, v6) : PASS_ICMP, NO_REAL);
	case ICMP_ERROR:
		return icmp_error(ctx, p, v6);
	default:
		return outcome(PASS_ICMP, NO_REAL);
	}
}

__noinline __u64 packet_icmp4(struct xdp_md *ctx, struct packet *p)
{
	return p ? packet_icmp(ctx, p, 0) : outcome(DROP_ERROR, NO_REAL);
}

__noinline __u64 packet_icmp6(struct xdp_md *ctx, struct packet *p)
{
	return p ? packet_icmp(ctx, p, 1) : outcome(DROP_ERROR, NO_REAL);
}

/* Is the service's persistence by SIP calls? */
__inline int service_is_sip(__u32 service)
{
	struct service *s = bpf_map_lookup_elem(&services, &service);

	return s && s->flags & SERVICE_SIP;
}

/* The real server of a SIP call. Only the first fragment of a message has its Call-ID. 0: neither has this packet. */
__inline int choose_call(struct xdp_md *ctx, struct packet *p, struct place *at, __u32 service, int v6)
{
	if (p->fragment == FRAGMENT_LATER) {
		at->chosen = fragment_chosen(p);
		return at->chosen != NO_REAL;
	}
	if (!call_find(ctx, p))
		return 0;
	at->chosen = persist6(p, at, service, v6);
	if (p->fragment == FRAGMENT_FIRST)
		fragment_choose(p, at->chosen);
	return 1;
}

/*
 * No connection of this key is known, nor whether its client is real: see
 * handshake.h. at->asked is then for others.
 */
__inline __u64 packet_proven(struct xdp_md *ctx, struct packet *p, struct place *at, __u64 result, int v6)
{
	enum verdict verdict = v6 ? proof_ask6(ctx, p, outcome_real(result)) : proof_ask4(ctx, p, outcome_real(result));

	if (verdict != UNDECIDED)
		return outcome(verdict, NO_REAL);
	at->asked = ASK_NOBODY;
	return v6 ? packet_new6(p, at) : packet_new4(p, at);
}

/*
 * No connection of this key is known: persistence and sorry servers are asked
 * where they have a say, and full-NAT ends what it has begun.
 */
__inline __u64 packet_begun(struct xdp_md *ctx, struct packet *p, struct place *at, int v6)
{
	__u64 result;
	__u32 id;

	at->asked = ASK_NOBODY;
	at->link = 0;
	result = v6 ? packet_new6(p, at) : packet_new4(p, at);
	if (unlikely(at->asked == ASK_COOKIE))
		result = packet_proven(ctx, p, at, result, v6);
	if (unlikely(at->asked == ASK_TEMPLATE || at->asked == ASK_SCHEDULER)) {
		id = outcome_real(result);
		if (!service_is_sip(id))
			at->chosen = v6 ? persist6(p, at, id, 1) : persist4(p, at, id);
		else if (!choose_call(ctx, p, at, id, v6))
			return outcome(DROP_NO_CALL_ID, NO_REAL);
		at->asked = ASKED;
		result = v6 ? packet_new6(p, at) : packet_new4(p, at);
	}
	if (unlikely(at->asked == ASK_SORRY))
		result = v6 ? packet_new6(p, at) : packet_new4(p, at);
	if (likely(!at->reserved))
		return result;
	id = outcome_real(result);
	return v6 ? packet_local6(p, at, id) : packet_local4(p, at, id);
}

__inline __u64 packet_unknown(struct xdp_md *ctx, struct packet *p, struct place *at, int v6)
{
	__u64 result = packet_begun(ctx, p, at, v6);

	if (likely(p->proof != PROOF_GIVEN))
		return result;
	return v6 ? proof_used6(ctx, p, result) : proof_used4(ctx, p, result);
}

/* A connection whose handshake was the director's. */
__inline __u64 packet_spliced(struct xdp_md *ctx, struct packet *p, struct place *at, struct known *k, int v6)
{
	enum verdict verdict = v6 ? splice_request6(ctx, p, at->slot, at->version) :
				    splice_request4(ctx, p, at->slot, at->version);

	return verdict == UNDECIDED ? packet_known(p, k) : outcome(verdict, NO_REAL);
}

/*
 * The heart: a known connection, or a new one. Everything that is rare is in a
 * function of its own. TX_REPLY: it is to a virtual address that is a local end,
 * and a reply.
 */
__inline __u64 packet_flow(struct xdp_md *ctx, struct packet *p, struct place *at, int v6)
{
	struct known k;
	struct real *r;

	p->now = bpf_jiffies64();
	if (unlikely(p->protocol == (v6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP)))
		return v6 ? packet_icmp6(ctx, p) : packet_icmp4(ctx, p);
	k.conn = conn_find(p, at, v6);
	if (likely(k.conn)) {
		k = conn_read(k.conn);
		known_at(&k, at);
		r = bpf_map_lookup_elem(&reals, &k.real);
		at->over = !known_holds(&k, at); /* replaced in this very moment */
		if (unlikely(!at->over && is_way_back(k.word)))
			return outcome(TX_REPLY, NO_REAL);
		if (likely(!at->over && r && r->generation == k.generation && !known_expired(&k, p->now) &&
			   !packet_begins(p) && !(k.word & CONN_SPLICED)))
			return packet_known(p, &k);
		if (!at->over)
			at->over = conn_over(&k, p);
		if (!at->over && r && r->generation != k.generation)
			return outcome(stale_verdict(r, p), NO_REAL);
		if (!at->over && k.word & CONN_SPLICED && p->fragment != FRAGMENT_LATER)
			return packet_spliced(ctx, p, at, &k, v6);
		if (!at->over)
			return packet_known(p, &k);
	}
	return packet_unknown(ctx, p, at, v6);
}

/* Fragments: the first tells the ports, the later ones ask. UNDECIDED: go on. */
__inline enum verdict packet_fragment(struct packet *p, int v6)
{
	if (!vip_maybe(p, v6) && !nat_address_maybe(p, v6) && settings.marking != MARKS_ANY && !p->door &&
	    !(p->fragment == FRAGMENT_FIRST ? probe_maybe_any(p, v6) : settings.probe))
		return PASS_NO_SERVICE;
	if (p->fragment == FRAGMENT_FIRST) {
		fragment_remember(p);
		return UNDECIDED;
	}
	return fragment_recall(p) ? UNDECIDED : PASS_FRAGMENT;
}

/* A health check as a client's, to its real server. */
__inline enum verdict packet_probe(struct xdp_md *ctx, struct work *w, struct way_out *out, int v6)
{
	struct packet *p = &w->packet;
	__u64 result = v6 ? probe_begin6(p) : probe_begin4(p);

	if (outcome_real(result) == NO_REAL)
		return outcome_verdict(result);
	return v6 ? packet_forward6(ctx, p, &w->at, result, out) : packet_forward4(ctx, p, &w->at, result, out);
}

__inline enum verdict packet_ip(struct xdp_md *ctx, struct work *w, struct cursor *cur, struct way_out *out, int v6)
{
	struct packet *p = &w->packet;
	enum verdict verdict = v6 ? parse_ipv6(ctx, p, cur) : parse_ipv4(p, cur);
	enum verdict malformed, stop;
	enum maybe request;
	__u64 result;

	if (unlikely(verdict != UNDECIDED))
		return verdict;
	if (v6 && unlikely(p->protocol == IPPROTO_ICMPV6) && neighbor_asked(ctx, p))
		return packet_neighbor(ctx, p);
	/* A switch floods such frames to every director on it. */
	if (unlikely(packet_multicast(p)) && !door_read(ctx, p))
		return PASS_OTHER_HOST;
	malformed = parse_transport(p, cur);
	if (unlikely(p->door == DOOR_PROBES))
		return malformed == UNDECIDED ? packet_probe(ctx, w, out, v6) : malformed;
	if (unlikely(malformed != UNDECIDED))
		parse_broken(ctx, p);
	if (unlikely(p->fragment != FRAGMENT_NONE)) {
		stop = packet_fragment(p, v6);
		if (stop != UNDECIDED)
			return stop;
	}
	tunnel_notice(ctx, p, v6);
	if (unlikely(probe_maybe_any(p, v6)) && malformed == UNDECIDED) {
		verdict = v6 ? probe_answer6(ctx, p, out) : probe_answer4(ctx, p, out);
		if (verdict != UNDECIDED)
			return verdict;
	}
	request = service_maybe(p, v6);
	if (unlikely(p->door))
		request = MAYBE_MARKED;
	if (request == MAYBE_NOT && !reply_maybe(p, v6)) {
		if (likely(!settings.closed_ports) || malformed != UNDECIDED)
			return PASS_NO_SERVICE;
		verdict = v6 ? packet_closed6(p) : packet_closed4(p);
		return v6 ? packet_answer6(ctx, p, verdict) : packet_answer4(ctx, p, verdict);
	}
	if (unlikely(malformed != UNDECIDED))
		return malformed;
	if (unlikely(p->protocol == IPPROTO_SCTP))
		sctp_parse(ctx, p);
	result = outcome(TX_REPLY, NO_REAL);
	if (request != MAYBE_NOT) {
		p->ingress = ctx->ingress_ifindex;
		result = packet_flow(ctx, p, &w->at, v6);
		w->real = outcome_real(result);
	}
	if (likely(outcome_real(result) != NO_REAL))
		return v6 ? packet_forward6(ctx, p, &w->at, result, out) : packet_forward4(ctx, p, &w->at, result, out);
	verdict = outcome_verdict(result);
	if (verdict == TX_REPLY)
		verdict = reply(ctx, p, out, v6);
	if (unlikely(settings.closed_ports) && verdict == PASS_NO_SERVICE)
		verdict = v6 ? packet_closed6(p) : packet_closed4(p);
	return v6 ? packet_answer6(ctx, p, verdict) : packet_answer4(ctx, p, verdict);
}

/*
 * The long way, for every packet. admitted: the defense has let it already.
 * What the stack sent through the door must not come back to it.
 */
__inline enum verdict packet(struct xdp_md *ctx, struct way_out *out, int admitted)
{
	struct work *w = work_get();
	struct cursor cur = {
		.pos = (void *)(long)ctx->data,
		.end = (void *)(long)ctx->data_end,
	};
	enum verdict verdict;

	if (!w)
		return DROP_ERROR;
	__builtin_memset(&w->packet, 0, sizeof(w->packet));
	w->packet.admitted = admitted;
	w->at.over = w->at.reserved = 0;
	w->real = NO_REAL;
	w->replied = 0;
	if (unlikely(settings.trace))
		trace_begin(ctx);
	switch (parse_ethernet(&w->packet, &cur)) {
	case bpf_htons(ETH_P_IP):
		verdict = packet_ip(ctx, w, &cur, out, 0);
		break;
	case bpf_htons(ETH_P_IPV6):
		verdict = packet_ip(ctx, w, &cur, out, 1);
		break;
	case bpf_htons(ETH_P_ARP):
		return packet_arp(ctx, &w->packet);
	default:
		return PASS_NOT_IP;
	}
	return unlikely(w->packet.door && verdict < TX_FORWARD) ? DROP_UNTAKEN : verdict;
}

/* A SYN. Where its short way has stored the connection, and no more, the long way forwards it. */
__inline enum verdict packet_syn(struct xdp_md *ctx, struct way_out *out, const struct plain_syn *syn, int v6)
{
	enum verdict verdict = v6 ? plain_new6(ctx, out) : plain_new4(ctx, out, syn->addr, syn->ports, syn->length);
	struct work *w = work_get();
	__u64 result;

	if (likely(verdict != PLAIN_STORED) || !w)
		return verdict;
	result = outcome(TX_NEW, w->at.chosen);
	return v6 ? packet_forward6(ctx, &w->packet, &w->at, result, out) : packet_forward4(ctx, &w->packet, &w->at, result, out);
}

/* A packet that is traced takes the long way, which notes what is told of it. */
SEC("xdp")
int director(struct xdp_md *ctx)
{
	struct way_out out = { .tx_port = NO_TX_PORT };
	enum verdict verdict = UNDECIDED;
	struct plain_syn syn;
	int action;

	if (likely(!settings.trace)) {
		verdict = plain(ctx, &out, &syn, 0);
		if (likely(verdict == TX_FORWARD) || verdict == TX_REPLY)
			return verdict_action(ctx, &out, &verdict);
		if (verdict == PLAIN_SYN) {
			verdict = packet_syn(ctx, &out, &syn, 0);
		} else if (verdict == UNDECIDED) {
			verdict = plain6(ctx, &out);
			if (verdict == PLAIN_SYN)
				verdict = packet_syn(ctx, &out, NULL, 1);
		}
	}
	if (verdict == UNDECIDED || verdict == PLAIN_ADMITTED) {
		out.tx_port = NO_TX_PORT;
		out.ifindex = 0;
		verdict = packet(ctx, &out, verdict == PLAIN_ADMITTED);
	}
	action = verdict_action(ctx, &out, &verdict);
	if (unlikely(settings.trace))
		trace_end(ctx, verdict, action, out.ifindex);
	return action;
}

/* The packet that would have this key, as far as the table is concerned. */
__inline int key_packet(const struct conn_key *key, struct packet *p)
{
	const __u64 *saddr = (const void *)key->saddr, *daddr = (const void *)key->daddr;
	int v6 = saddr[0] || (__u32)saddr[1] != 0xffff0000;

	p->ports = key->ports;
	p->protocol = key->protocol;
	p->addr[0] = v6 ? saddr[0] : saddr[1] >> 32 | (daddr[1] & 0xffffffff00000000);
	if (v6) {
		p->addr[1] = saddr[1];
		p->addr[2] = daddr[0];
		p->addr[3] = daddr[1];
	}
	return v6;
}

__inline void overflow_out(struct conn *c, int v6, struct packet *p)
{
	struct place at = { .want = c->tag };
	struct conn *home;

	at.index = flow_hash(p, v6) & set_mask(v6);
	home = place_home(&at, v6);
	if (home)
		overflow_free(c, home, p, v6);
}

__inline void overflow_take(const struct conn_key *key, struct conn *c)
{
	struct packet p = {};

	if (key_packet(key, &p))
		overflow_out(c, 1, &p);
	else
		overflow_out(c, 0, &p);
}

static long overflow_step(void *map, struct conn_key *key, struct conn *c, __u32 *now)
{
	if (conn_expired(c, *now))
		overflow_take(key, c);
	return 0;
}

/*
 * Run by userspace: frees the expired connections of the overflow map. Done
 * here, where the word decides between this and a packet that does the same.
 */
SEC("syscall")
int sweep_overflow(void *ctx)
{
	__u32 now = bpf_jiffies64();

	bpf_for_each_map_elem(&overflow, overflow_step, &now, 0);
	return 0;
}

/* Run by userspace: one connection of the overflow map goes. */
SEC("syscall")
int free_overflow(const struct conn_key *key)
{
	struct conn_key copy;
	struct conn *c;

	__builtin_memcpy(&copy, key, sizeof(copy));
	c = bpf_map_lookup_elem(&overflow, &copy);
	if (c)
		overflow_take(&copy, c);
	return 0;
}

/* At the egress of the door's near end. */
SEC("tc")
int mark_door(struct __sk_buff *skb)
{
	return door_write(skb) ? TC_ACT_OK : TC_ACT_SHOT;
}

/* Run by userspace: the question is answered where it stands. */
SEC("syscall")
int explain_mark(struct mark_question *q)
{
	struct packet p = { .ingress = q->ingress, .dscp = q->dscp };
	struct conn_key key;

	__builtin_memcpy(&key, &q->key, sizeof(key));
	if (key_packet(&key, &p))
		mark_explain(q, &p, 1);
	else
		mark_explain(q, &p, 0);
	return 0;
}

/* Run by userspace, to know what the times in the tables mean. */
SEC("syscall")
int read_clock(struct clock_reading *out)
{
	out->jiffies = bpf_jiffies64();
	out->monotonic_ns = bpf_ktime_get_ns();
	return 0;
}

char _license[] SEC("license") = "Dual BSD/GPL";
