/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * plain.h - the short way of most packets: whole, untagged, without options, of
 * a connection that is established and stays so, by direct routing or tun. It goes
 * through the same stages as the long way in director.bpf.c, and nothing else.
 * Its struct packet is seen by inlined functions only, so the compiler keeps it
 * in registers. UNDECIDED: not plain, and nothing was written; the long way
 * begins anew.
 */
#ifndef DIRECTOR_PLAIN_H
#define DIRECTOR_PLAIN_H

#include "conn.h"
#include "forward.h"
#include "nat.h"
#include "parse.h"
#include "service.h"
#include "stats.h"
#include "tunnel.h"

/* The IP header, if the frame has no tag, is for one host, and holds IP and TCP headers. */
__inline void *plain_ip(const struct cursor *frame, __be16 proto, __u32 size)
{
	const __be16 *eth = frame->pos;
	void *ip = frame->pos + sizeof(struct ethhdr);

	if (ip + size + sizeof(struct tcphdr) > frame->end || eth[6] != proto || *(__u8 *)eth & 1)
		return NULL;
	return ip;
}

/* 1: a whole packet without options, which may be forwarded once more. */
__inline int plain_ipv4(struct packet *p, struct cursor *cur)
{
	struct iphdr *ip = plain_ip(cur, bpf_htons(ETH_P_IP), sizeof(*ip));

	if (!ip || *(__u8 *)ip != 0x45 || ip->frag_off & bpf_htons(IP_OFFSET_MASK | IP_MORE_FRAGMENTS) ||
	    ip->ttl <= 1)
		return 0;
	p->fragment = FRAGMENT_NONE;
	p->length = bpf_ntohs(ip->tot_len);
	if (p->length > cur->end - (void *)ip)
		return 0;
	p->addr[0] = *(__u64 *)&ip->saddr;
	p->protocol = ip->protocol;
	p->l4 = sizeof(*ip);
	cur->pos = ip + 1;
	return 1;
}

__inline int plain_ipv6(struct packet *p, struct cursor *cur)
{
	struct ipv6hdr *ip = plain_ip(cur, bpf_htons(ETH_P_IPV6), sizeof(*ip));

	if (!ip || *(__u8 *)ip >> 4 != 6 || ip->hop_limit <= 1)
		return 0;
	p->fragment = FRAGMENT_NONE;
	p->length = bpf_ntohs(ip->payload_len) + sizeof(*ip);
	if (p->length > cur->end - (void *)ip)
		return 0;
	address_load(p->addr, &ip->saddr);
	p->protocol = ip->nexthdr;
	p->l4 = sizeof(*ip);
	cur->pos = ip + 1;
	return 1;
}

/* 1: a segment that no table leaves ESTABLISHED on. */
__inline int plain_tcp(struct packet *p, struct cursor *cur)
{
	return parse_tcp(p, cur, p->length - p->l4) == UNDECIDED &&
	       (p->tcp & (TCP_SYN | TCP_FIN | TCP_RST | TCP_ACK)) == TCP_ACK;
}

/* To no service: nobody's here, unless it is a reply, or from an address that there cannot be. */
__inline int plain_foreign(const struct packet *p, int v6)
{
	if (v6 && (address_is_mapped(&p->addr[0]) || address_is_mapped(&p->addr[2])))
		return 0;
	return !nat_maybe(p, v6);
}

/* What the packet needs to leave. */
struct plain {
	struct conn *conn;
	struct real *real;
	__u32 id;   /* of the real server */
	__u32 hash; /* of the flow */
};

/* Its connection, if it is in the state and its time is not over; 0: none. */
__inline int plain_conn(struct plain *found, const struct packet *p, __u32 state, int v6)
{
	struct place at;
	void *set = place_of(p, &at, v6);
	__u32 generation, ways;
	struct conn *c;
	__u64 tag;

	if (!set)
		return 0;
	c = slot_at(set, at.want >> 32, v6);
	tag = READ_ONCE(c->tag);
	if (!conn_has(c, tag, &at, p, v6)) {
		ways = READ_ONCE(c->home_moved) & MOVED_WAYS;
		if (!ways)
			return 0;
		c = slot_at(set, lowest_bit(ways), v6);
		tag = READ_ONCE(c->tag);
		if (!conn_has(c, tag, &at, p, v6))
			return 0;
	}
	if ((READ_ONCE(c->word) & (STATE_MASK | CONN_DEAD | CONN_UNPROVEN)) != state)
		return 0;
	if ((__s32)(p->now - READ_ONCE(c->last_use)) > (__s32)settings.timeout[state])
		return 0;
	found->conn = c;
	found->hash = at.want >> 32;
	found->id = READ_ONCE(c->real);
	generation = READ_ONCE(c->generation);
	found->real = bpf_map_lookup_elem(&reals, &found->id);
	return found->real && READ_ONCE(c->tag) == tag && found->real->generation == generation;
}

/*
 * Most packets write nothing into their connection: memory that is only read need
 * not be written back, and stays in the caches of several CPUs. So the time of
 * last use may be a sixteenth of the timeout too early, and about a second at most.
 */
#define PLAIN_STALE 256 /* jiffies */

__inline void plain_used(struct conn *c, __u32 now, __u32 state)
{
	__u32 stale = settings.timeout[state] >> 4;

	if (stale > PLAIN_STALE)
		stale = PLAIN_STALE;
	if (c->packets >= PACKETS_COUNTED && now - c->last_use <= stale)
		return;
	c->last_use = now;
	conn_count(c);
}

/* Can the short way reach the real server? What is rare is left to the long one: tags, the stack, checksums over all. */
__inline int plain_real(const struct real *r, const struct packet *p)
{
	if ((r->flags & (REAL_NEXT_HOP | REAL_LOCAL)) != REAL_NEXT_HOP || r->vlans || p->length > r->mtu)
		return 0;
	return likely(r->method == METHOD_DR) ||
	       (r->method == METHOD_TUN && !(r->tunnel.flags & TUNNEL_CHECKSUM));
}

__inline enum verdict plain_tunnel(struct xdp_md *ctx, const void *ip, const struct packet *p,
				   const struct plain *found, int v6)
{
	struct inner in = { .length = p->length, .hash = found->hash, .ident = tunnel_ident(found->id) };

	inner_read(&in, ip, v6);
	if (!tunnel_enter(ctx, sizeof(struct ethhdr), &in, &found->real->tunnel))
		return DROP_ERROR;
	return forward_untagged(ctx, found->real->mac) == UNDECIDED ? TX_FORWARD : DROP_ERROR;
}

/* On its way, by one of the methods of plain_real. */
__inline enum verdict plain_forward(struct xdp_md *ctx, void *frame, const struct packet *p,
				    const struct plain *found, int v6)
{
	void *ip = frame + sizeof(struct ethhdr);

	ttl_lower(ip, v6);
	if (unlikely(found->real->method == METHOD_TUN))
		return plain_tunnel(ctx, ip, p, found, v6);
	head_copy(frame, found->real->mac);
	return TX_FORWARD;
}

/* A packet whose connection is in the state and stays in it, if there is one. state is a constant. */
__inline enum verdict plain_flow(struct xdp_md *ctx, void *frame, struct packet *p, struct real **real, __u32 state,
				 int v6)
{
	struct plain found;

	if (service_maybe(p, v6) == MAYBE_NOT)
		return plain_foreign(p, v6) ? PASS_NO_SERVICE : UNDECIDED;
	p->now = bpf_jiffies64();
	if (!plain_conn(&found, p, state, v6))
		return UNDECIDED;
	if (!plain_real(found.real, p))
		return UNDECIDED;
	plain_used(found.conn, p->now, state);
	stats_input(found.id, p, 0);
	*real = found.real;
	return plain_forward(ctx, frame, p, &found, v6);
}

__inline enum verdict plain(struct xdp_md *ctx, struct real **real, int v6)
{
	void *frame = (void *)(long)ctx->data;
	struct cursor cur = { .pos = frame, .end = (void *)(long)ctx->data_end };
	struct packet p;

	if (!(v6 ? plain_ipv6(&p, &cur) : plain_ipv4(&p, &cur)))
		return UNDECIDED;
	if (likely(p.protocol == IPPROTO_TCP))
		return plain_tcp(&p, &cur) ? plain_flow(ctx, frame, &p, real, TCP_ESTABLISHED, v6) : UNDECIDED;
	if (p.protocol != IPPROTO_UDP || parse_udp(&p, &cur, p.length - p.l4) != UNDECIDED)
		return UNDECIDED;
	return plain_flow(ctx, frame, &p, real, UDP_NORMAL, v6);
}

#endif
