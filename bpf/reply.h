/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* reply.h - what a real server by nat sends leaves as the virtual service's. */
#ifndef DIRECTOR_REPLY_H
#define DIRECTOR_REPLY_H

#include "forward.h"
#include "nat_icmp.h"
#include "splice.h"
#include "stats.h"

/* A reply's connection, as it was at one moment. */
struct reply {
	struct known way;
	struct known conn;
	__u8 mac[2 * ETH_ALEN]; /* of its frame */
	__u32 ingress;	/* interface that the client's packets came in by */
	__u32 slot;	/* of the connection */
	__u32 vlans;	/* see nat_way_back */
	__be16 vlan;	/* the outer one's TCI */
};

/* Fills reply, and ends with what the reply shall have. Its real server; NULL: no connection, or none any more. */
__inline struct real *reply_known(struct reply *reply, struct nat_ends *ends, struct packet *p, int v6)
{
	struct place at = {};
	struct conn *c = conn_find_among(p, &at, MOVED_OVERFLOW - 1, v6);
	struct real *r;
	__u64 link;

	if (!c)
		return NULL;
	reply->way = conn_read(c);
	link = READ_ONCE(c->link);
	reply->vlan = link >> LINK_VLAN;
	reply->slot = link;
	reply->vlans = reply->way.generation;
	__builtin_memcpy(reply->mac + ETH_ALEN, c->peer, ETH_ALEN);
	if (!is_way_back(reply->way.word) || !known_holds(&reply->way, &at))
		return NULL;
	c = linked(link, v6);
	if (!c)
		return NULL;
	reply->conn = conn_read(c);
	nat_to_client(ends, c, v6);
	__builtin_memcpy(reply->mac, c->peer, ETH_ALEN);
	reply->ingress = c->ingress;
	r = bpf_map_lookup_elem(&reals, &reply->conn.real);
	if (reply->conn.real != reply->way.real || known_expired(&reply->conn, p->now) || !link_leads(link, c))
		return NULL;
	return r;
}

/* The head of a reply: to where the client's frames come from, from where they go. */
__inline enum verdict reply_frame(struct xdp_md *ctx, const struct packet *p, const struct reply *reply,
				  struct way_out *out, int v6)
{
	struct frame_head h = {
		.mac = reply->mac,
		.vlan = { reply->vlan, reply->vlans },
		.tpid = { bpf_htons(ETH_P_8021Q), bpf_htons(ETH_P_8021Q) },
		.vlans = reply->vlans >> WAY_VLANS_SHIFT & 3,
	};

	if (reply->vlans & WAY_SERVICE_TAG)
		h.tpid[0] = bpf_htons(ETH_P_8021AD);
	out->ifindex = reply->ingress;
	return forward_head(ctx, p, &h, v6);
}

/* May it be a reply, or an error about one that somebody on the way sends? */
__inline int reply_maybe(const struct packet *p, int v6)
{
	if (p->protocol == (v6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP))
		return settings.nat;
	return nat_maybe(p, v6);
}

/* Is it an error about a packet that went to a real server? Then q is that one, read backwards. */
__inline int reply_quotes(struct xdp_md *ctx, struct packet *p, struct packet *q, int v6)
{
	struct icmp_head icmp;

	if (p->fragment != FRAGMENT_NONE || p->length - p->l4 < sizeof(icmp) ||
	    bpf_xdp_load_bytes(ctx, p->l3 + p->l4, &icmp, sizeof(icmp)))
		return 0;
	if ((v6 ? icmp_kind6(icmp.type) : icmp_kind4(icmp.type)) != ICMP_ERROR)
		return 0;
	q->now = p->now;
	return icmp_quoted(ctx, p, q, v6);
}

/* For traces. */
__inline void reply_noted(struct work *w, const struct reply *reply)
{
	w->real = reply->conn.real;
	w->replied = 1;
}

/* An error about a request, whoever sends it, leaves as the service's. */
__inline enum verdict reply_icmp(struct xdp_md *ctx, struct packet *p, struct way_out *out, int v6)
{
	struct work *w = work_get();
	struct reply reply;
	enum verdict failed;
	struct real *r;

	p->now = bpf_jiffies64();
	if (!w || !reply_quotes(ctx, p, &w->reply, v6))
		return PASS_NO_SERVICE;
	r = reply_known(&reply, &w->ends, &w->reply, v6);
	if (!r || r->generation != reply.conn.generation)
		return PASS_NO_SERVICE;
	reply_noted(w, &reply);
	if (!ttl_decrease(ctx, p, v6))
		return DROP_TTL;
	stats_output(reply.conn.real, p);
	/* Whoever sends it, it quotes what the real server was sent. */
	if (!(v6 ? nat_icmp6(ctx, p, &w->reply, &w->ends, &w->ends) :
		   nat_icmp4(ctx, p, &w->reply, &w->ends, &w->ends)))
		return DROP_ERROR;
	failed = reply_frame(ctx, p, &reply, out, v6);
	return failed == UNDECIDED ? TX_ICMP : failed;
}

static __noinline enum verdict reply_icmp4(struct xdp_md *ctx, struct packet *p, struct way_out *out)
{
	return reply_icmp(ctx, p, out, 0);
}

static __noinline enum verdict reply_icmp6(struct xdp_md *ctx, struct packet *p, struct way_out *out)
{
	return reply_icmp(ctx, p, out, 1);
}

/* The server has answered: its way back is no half-open entry any more. */
__inline void reply_prove(struct known *way, struct conn *c, const struct packet *p)
{
	way->conn->last_use = p->now;
	if ((way->word & STATE_MASK) == REPLY_NEW && !conn_embryonic(c, READ_ONCE(c->word)))
		__sync_val_compare_and_swap(&way->conn->word, way->word, way->word + REPLY_PROVEN - REPLY_NEW);
}

/* UNDECIDED: it goes on, with numbers that the client knows. */
__inline enum verdict reply_spliced(struct xdp_md *ctx, struct packet *p, const struct reply *reply, int v6)
{
	__u32 version = reply->conn.tag >> 16 & 0xffff;

	if (likely(!(reply->conn.word & CONN_SPLICED)) || p->fragment == FRAGMENT_LATER)
		return UNDECIDED;
	return v6 ? splice_reply6(ctx, p, reply->slot, version) : splice_reply4(ctx, p, reply->slot, version);
}

/* The server's packet of a nat connection leaves as the service's. */
__inline enum verdict packet_reply(struct xdp_md *ctx, struct packet *p, struct way_out *out, int v6)
{
	struct work *w = work_get();
	struct reply reply;
	enum verdict failed;
	struct real *r;

	p->now = bpf_jiffies64();
	r = w ? reply_known(&reply, &w->ends, p, v6) : NULL;
	if (!r)
		return PASS_NO_CONNECTION;
	reply_noted(w, &reply);
	if (r->generation != reply.conn.generation)
		return stale_verdict(r, p); /* a reset is for both ends */
	if (!ttl_decrease(ctx, p, v6))
		return DROP_TTL;
	failed = reply_spliced(ctx, p, &reply, v6);
	if (failed != UNDECIDED)
		return failed;
	conn_output(&reply.conn, p);
	reply_prove(&reply.way, reply.conn.conn, p);
	stats_output(reply.conn.real, p);
	if (!nat_rewrite(ctx, p, &w->ends, v6))
		return DROP_ERROR;
	failed = reply_frame(ctx, p, &reply, out, v6);
	return failed == UNDECIDED ? TX_REPLY : failed;
}

__noinline int packet_reply4(struct xdp_md *ctx, struct packet *p, struct way_out *out)
{
	return p && out ? packet_reply(ctx, p, out, 0) : DROP_ERROR;
}

__noinline int packet_reply6(struct xdp_md *ctx, struct packet *p, struct way_out *out)
{
	return p && out ? packet_reply(ctx, p, out, 1) : DROP_ERROR;
}

__inline enum verdict reply(struct xdp_md *ctx, struct packet *p, struct way_out *out, int v6)
{
	if (unlikely(p->protocol == (v6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP)))
		return v6 ? reply_icmp6(ctx, p, out) : reply_icmp4(ctx, p, out);
	return v6 ? packet_reply6(ctx, p, out) : packet_reply4(ctx, p, out);
}

#endif
