/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* reply.h - what a real server by nat sends leaves as the virtual service's. */
#ifndef DIRECTOR_REPLY_H
#define DIRECTOR_REPLY_H

#include "forward.h"
#include "nat_icmp.h"
#include "stats.h"

/* The connection of a reply, as it is now, and its real server; NULL: none, or none any more. */
__inline struct real *reply_known(struct known *way, struct known *k, struct packet *p, int v6)
{
	struct place at = {};
	struct conn *c = conn_find(p, &at, v6);
	struct real *r;
	__u64 link;

	if (!c)
		return NULL;
	*way = conn_read(c);
	link = READ_ONCE(c->link);
	if ((way->word & STATE_MASK) < REPLY_NEW || !known_holds(way, &at))
		return NULL;
	c = linked(link, v6);
	if (!c)
		return NULL;
	*k = conn_read(c);
	r = bpf_map_lookup_elem(&reals, &k->real);
	if (k->real != way->real || known_expired(k, p->now) || linked(link, v6) != c)
		return NULL;
	return r;
}

/* The head of a reply: to where the client's frames come from, from where they go. */
__inline enum verdict reply_frame(struct xdp_md *ctx, const struct packet *p, const struct known *way,
				  const struct known *k, int v6)
{
	__u8 mac[2 * ETH_ALEN];
	struct frame_head h = {
		.mac = mac,
		.vlan = { way->conn->link >> LINK_VLAN, way->generation },
		.tpid = { bpf_htons(ETH_P_8021Q), bpf_htons(ETH_P_8021Q) },
		.vlans = way->generation >> WAY_VLANS_SHIFT & 3,
	};

	if (way->generation & WAY_SERVICE_TAG)
		h.tpid[0] = bpf_htons(ETH_P_8021AD);
	__builtin_memcpy(mac, k->conn->peer, ETH_ALEN);
	__builtin_memcpy(mac + ETH_ALEN, way->conn->peer, ETH_ALEN);
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

/* An error about a request, whoever sends it, leaves as the service's. */
__inline enum verdict reply_icmp(struct xdp_md *ctx, struct packet *p, struct way_out *out, int v6)
{
	struct work *w = work_get();
	struct known way, k;
	enum verdict failed;
	struct real *r;

	if (!w || !reply_quotes(ctx, p, &w->reply, v6))
		return PASS_NO_SERVICE;
	r = reply_known(&way, &k, &w->reply, v6);
	if (!r || r->generation != k.generation)
		return PASS_NO_SERVICE;
	if (!ttl_decrease(ctx, p, v6))
		return DROP_TTL;
	stats_output(k.real, p);
	if (!nat_icmp_reply(ctx, p, &w->reply, k.conn, v6))
		return DROP_ERROR;
	failed = reply_frame(ctx, p, &way, &k, v6);
	out->ifindex = k.conn->ingress;
	return failed == UNDECIDED ? TX_ICMP : failed;
}

/* The server's packet of a nat connection leaves as the service's. */
__inline enum verdict packet_reply(struct xdp_md *ctx, struct packet *p, struct way_out *out, int v6)
{
	struct known way, k;
	enum verdict failed;
	struct real *r;

	p->now = bpf_jiffies64();
	if (p->protocol == (v6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP))
		return reply_icmp(ctx, p, out, v6);
	r = reply_known(&way, &k, p, v6);
	if (!r)
		return PASS_NO_CONNECTION;
	if (r->generation != k.generation)
		return stale_verdict(r, p); /* a reset is for both ends */
	if (!ttl_decrease(ctx, p, v6))
		return DROP_TTL;
	conn_output(&k, p);
	way.conn->last_use = p->now;
	if ((way.word & STATE_MASK) == REPLY_NEW && !conn_embryonic(k.conn, READ_ONCE(k.conn->word)))
		__sync_val_compare_and_swap(&way.conn->word, way.word, way.word + REPLY_PROVEN - REPLY_NEW);
	stats_output(k.real, p);
	if (!nat_reply(ctx, p, k.conn, v6))
		return DROP_ERROR;
	failed = reply_frame(ctx, p, &way, &k, v6);
	out->ifindex = k.conn->ingress;
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

#endif
