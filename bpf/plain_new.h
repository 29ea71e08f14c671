/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * plain_new.h - the short way of SYNs: whole, untagged, without IP options, that
 * begin a connection by direct routing or nat whose key's home is free. It goes
 * through the same stages as the long way in director.bpf.c, and nothing else.
 * UNDECIDED: not such a one, and nothing was written; the long way begins anew.
 * So it does after PLAIN_ADMITTED, but the defense has counted the packet already.
 * After PLAIN_STORED it only forwards.
 *
 * Functions of their own, so that known connections do not pay for what new ones
 * need; they look at the packet again.
 */
#ifndef DIRECTOR_PLAIN_NEW_H
#define DIRECTOR_PLAIN_NEW_H

#include "begin.h"
#include "defense.h"
#include "fullnat.h"
#include "mark.h"
#include "nat.h"
#include "plain.h"
#include "plan.h"

/* What plain_new says beside verdicts. */
#define PLAIN_ADMITTED (VERDICTS + 2)
#define PLAIN_STORED (VERDICTS + 3) /* the connection, in w->at, but not its way back */

/* The home of a key, free when it was looked at. */
struct vacancy {
	struct place at;
	struct conn *home;
	__u64 tag;
};

/* 1: the home of the packet's key is free and names no other place, so the key is nowhere. */
__inline int plain_vacant(struct vacancy *v, const struct packet *p, int v6)
{
	void *set = place_of(p, &v->at, v6);

	if (!set)
		return 0;
	v->home = slot_at(set, v->at.want >> 32, v6);
	v->at.lock = READ_ONCE(v->home->home_lock);
	v->tag = READ_ONCE(v->home->tag);
	return (v->tag & TAG_MASK) == TAG_FREE && !READ_ONCE(v->home->home_moved);
}

/* 0: another CPU was faster. */
__inline int plain_claim(const struct vacancy *v)
{
	if (unlikely(!place_lock(&v->at, v->home)))
		return 0;
	if (likely(slot_claim(v->home, v->tag, TAG_BUSY)))
		return 1;
	place_unlock(&v->at, v->home);
	return 0;
}

/* What was claimed is given back. */
__inline void plain_cede(const struct vacancy *v)
{
	slot_free(v->home, v->tag);
	place_unlock(&v->at, v->home);
}

/* Stores an entry in what was claimed, and shows it. */
__inline void plain_store(struct vacancy *v, const struct packet *p, const struct conn_new *n, int v6)
{
	v->at.slot = v->at.index * CONN_WAYS + (v->at.want >> 32 & (CONN_WAYS - 1)) + 1;
	v->at.version = v->tag >> 16 & 0xffff;
	conn_publish(v->home, p, &v->at, n, v6);
	place_unlock(&v->at, v->home);
}

/* By the methods that the short way knows, for a client that is no real server itself. */
__inline int plain_serves(const struct real *r, const struct packet *p, int v6)
{
	if (r->method != METHOD_DR && (r->method != METHOD_NAT || fullnat_wanted(p, r, v6)))
		return 0;
	return plain_reaches(r, p) && !real_is_client(r, p, v6);
}

/*
 * A service and its plan's next choice, which is looked at before it is taken, since
 * the long way would take another. Only where another CPU took it meanwhile is it one
 * that may not do after all, and passed over, as pick does.
 */
struct plain_pick {
	struct service *service;
	struct real *real;
	__u64 position;
	__u32 which; /* of the service's plans */
	__u32 id;
};

/* What the plan has at a position, if the short way can do it. */
__inline int plain_choose(struct plain_pick *pick, __u64 position, const struct packet *p, int v6)
{
	const struct plan *plan = &pick->service->plan[pick->which];

	pick->id = plan_slot(plan, plan_position(plan, position));
	pick->real = real_for_new(pick->service, pick->id);
	return pick->real && plain_serves(pick->real, p, v6);
}

__inline int plain_peek(struct plain_pick *pick, const struct packet *p, int v6)
{
	const struct service *s = pick->service;
	const struct plan *plan;

	pick->which = READ_ONCE(s->current) & 1;
	plan = &s->plan[pick->which];
	if (s->flags & SERVICE_ONE_PACKET || plan->kind != PLAN_SEQUENCE || !plan_chooses(plan))
		return 0;
	pick->position = READ_ONCE(s->cursor[pick->which]);
	return plain_choose(pick, pick->position, p, v6);
}

__inline int plain_take(struct plain_pick *pick, const struct packet *p, int v6)
{
	__u64 position = __sync_fetch_and_add(&pick->service->cursor[pick->which], 1);

	return likely(position == pick->position) || plain_choose(pick, position, p, v6);
}

/* A SYN that is looked at. No pointer to its packet is kept, so that the compiler keeps all of IPv4's in registers. */
struct plain_new {
	struct xdp_md *ctx;
	void *frame;
	struct packet *packet;
};

/* What is not looked at in the packets of known connections. Late, so that it is not carried along. */
__inline void plain_meet(const struct plain_new *new, int v6)
{
	const __u8 *ip = new->frame + sizeof(struct ethhdr);
	struct packet *p = new->packet;

	p->now = bpf_jiffies64();
	p->ingress = new->ctx->ingress_ifindex;
	p->dscp = v6 ? (ip[0] << 4 | ip[1] >> 4) >> 2 & 0x3f : ip[1] >> 2;
	p->l3 = sizeof(struct ethhdr);
	p->chunk = p->vlans = p->vlan[0] = p->vlan[1] = p->tpid = p->door = p->admitted = p->proof = 0;
	p->fragment_id = 0;
	head_copy(p->mac, new->frame);
}

/* The service of its mark; NULL: it has none, or none of that. */
__inline struct service *plain_marked(const struct plain_new *new, int v6)
{
	struct packet *p = new->packet;

	plain_meet(new, v6);
	mark_by_rules(p, v6);
	return p->mark ? mark_service(p->mark, v6) : NULL;
}

/*
 * Its service, by its mark or its address, if nobody but the defense and a plan has
 * a say in it. Those of other addresses' and ports' keys are for the long way.
 */
__inline struct service *plain_service(const struct plain_new *new, int v6)
{
	struct service_query q = service_query(new->packet, v6);
	struct packet *p = new->packet;
	struct service *s = NULL;

	p->mark = 0;
	p->mark_rule = NO_RULE;
	if (unlikely(settings.marking != MARKS_NONE))
		s = plain_marked(new, v6);
	if (!s)
		s = service_taking(&q, p->service);
	return s && !(s->flags & (SERVICE_NO_QUORUM | SERVICE_COOKIES)) && schedulable(s, p) && !asks_first(s) ? s : NULL;
}

/* Stores the connection, if another CPU has not been faster. 0: nothing was done. */
__inline int plain_connect(struct vacancy *v, const struct packet *p, struct plain_pick *pick, int v6)
{
	struct conn_new n = {};

	if (unlikely(!plain_claim(v)))
		return 0;
	if (unlikely(!plain_take(pick, p, v6))) {
		plain_cede(v);
		return 0;
	}
	conn_begin(&n, p, pick->real, pick->id);
	plain_store(v, p, &n, v6);
	connected(p, pick->real, &n);
	if (unlikely(p->mark))
		mark_count(p);
	return 1;
}

/* Stores the way back of the connection that was stored at the place, if its home is free, too. */
__inline int plain_remember(const struct packet *p, const struct place *at, const struct nat_ends *e, __u32 id, int v6)
{
	struct conn_new n = { .word = REPLY_NEW };
	struct packet reply;
	struct vacancy v;

	nat_reply_key(&reply, p, e, v6);
	if (!plain_vacant(&v, &reply, v6) || !plain_claim(&v))
		return 0;
	nat_way_back(&n, p, at, id);
	plain_store(&v, &reply, &n, v6);
	return 1;
}

/* By nat. 0: the way back is not stored, and nothing is rewritten. */
__inline int plain_nat(void *frame, const struct packet *p, const struct place *at, const struct plain_pick *pick, int v6)
{
	struct nat_ends e;

	if (!nat_to_real(&e, p, pick->real, 0, v6) || !plain_remember(p, at, &e, pick->id, v6))
		return 0;
	plain_rewrite(frame + sizeof(struct ethhdr), p, &e, v6);
	return 1;
}

/* The long way goes on with the connection that is stored. */
__inline enum verdict plain_stored(const struct packet *p, const struct place *at, __u32 id, int v6)
{
	struct work *w = work_get();

	if (!w)
		return DROP_ERROR;
	if (!v6) /* IPv6's is there already */
		w->packet = *p;
	w->at.slot = at->slot;
	w->at.version = at->version;
	w->at.chosen = id;
	return PLAIN_STORED;
}

/* A connection begins, and its first packet leaves. */
__inline enum verdict plain_begin(const struct plain_new *new, struct vacancy *v, struct plain_pick *pick,
				  struct way_out *out, int v6)
{
	plain_meet(new, v6);
	if (!plain_connect(v, new->packet, pick, v6))
		return unlikely(settings.defending) ? PLAIN_ADMITTED : UNDECIDED;
	if (pick->real->method == METHOD_DR)
		ttl_lower(new->frame + sizeof(struct ethhdr), v6);
	else if (!plain_nat(new->frame, new->packet, &v->at, pick, v6))
		return plain_stored(new->packet, &v->at, pick->id, v6);
	out->ifindex = pick->real->ifindex;
	out->tx_port = pick->real->tx_port;
	head_copy(new->frame, pick->real->mac);
	return TX_NEW;
}

/* Where the key's home is not free, or somebody else has to be asked, the long way decides. */
__inline enum verdict plain_new(const struct plain_new *new, struct way_out *out, int v6)
{
	struct packet *p = new->packet;
	struct plain_pick pick;
	enum verdict refused;
	struct vacancy v;

	p->protocol = IPPROTO_TCP; /* said once more, so that the compiler knows */
	p->tcp = TCP_SYN;
	if (plain_mapped(p, v6) || service_maybe(p, v6) == MAYBE_NOT || !plain_vacant(&v, p, v6))
		return UNDECIDED;
	pick.service = plain_service(new, v6);
	if (!pick.service)
		return UNDECIDED;
	if (unlikely(settings.defending)) {
		refused = packet_defend(p, pick.service->id, v6);
		if (refused != UNDECIDED)
			return refused;
	}
	if (plain_peek(&pick, p, v6))
		return plain_begin(new, &v, &pick, out, v6);
	return unlikely(settings.defending) ? PLAIN_ADMITTED : UNDECIDED;
}

/* addr, ports, length: what plain has read, as in struct packet. */
static __noinline enum verdict plain_new4(struct xdp_md *ctx, struct way_out *out, __u64 addr, __u32 ports, __u32 length)
{
	void *frame = (void *)(long)ctx->data;
	struct packet p = {
		.addr = { addr },
		.ports = ports,
		.length = length,
		.l4 = sizeof(struct iphdr),
		.fragment = FRAGMENT_NONE,
	};
	struct plain_new new = { ctx, frame, &p };

	if (frame + sizeof(struct ethhdr) + sizeof(struct iphdr) + sizeof(struct tcphdr) > (void *)(long)ctx->data_end)
		return UNDECIDED; /* cannot be: plain saw it */
	return plain_new(&new, out, 0);
}

/* There is not stack enough for IPv6's packet, which is read once more. */
static __noinline enum verdict plain_new6(struct xdp_md *ctx, struct way_out *out)
{
	void *frame = (void *)(long)ctx->data;
	struct cursor cur = { .pos = frame, .end = (void *)(long)ctx->data_end };
	struct work *w = work_get();
	struct plain_new new = { ctx, frame, &w->packet };

	if (!w || !plain_ipv6(&w->packet, &cur) || plain_tcp(&w->packet, &cur) != TCP_SYN)
		return UNDECIDED;
	return plain_new(&new, out, 1);
}

#endif
