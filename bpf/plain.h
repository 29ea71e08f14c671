/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * plain.h - the short way of most packets: whole, untagged, without options, of
 * a connection that is established and stays so, by direct routing, by tun, or by
 * nat, in both directions; plain_new.h has that of SYNs. It goes through the same
 * stages as the long way in director.bpf.c, and nothing else. Its struct packet is
 * seen by inlined functions only, so the compiler keeps it in registers.
 * UNDECIDED: not plain, and nothing was written; the long way begins anew.
 */
#ifndef DIRECTOR_PLAIN_H
#define DIRECTOR_PLAIN_H

#include "conn.h"
#include "door.h"
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
	if (p->length - (__u32)sizeof(*ip) > cur->end - (void *)(ip + 1)) /* nor less than the header, which would wrap */
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

/* The flags that a state depends on: no table leaves ESTABLISHED on an ACK. 0: it is not plain. */
__inline __u32 plain_tcp(struct packet *p, struct cursor *cur)
{
	if (parse_tcp(p, cur, p->length - p->l4) != UNDECIDED)
		return 0;
	return p->tcp & (TCP_SYN | TCP_FIN | TCP_RST | TCP_ACK);
}

/* An address that there cannot be. */
__inline int plain_mapped(const struct packet *p, int v6)
{
	return v6 && (address_is_mapped(&p->addr[0]) || address_is_mapped(&p->addr[2]));
}

/* What the packet needs to leave. */
struct plain {
	struct conn *conn;
	struct real *real;
	__u32 id;    /* of the real server */
	__u32 hash;  /* of the flow */
	__u32 local; /* see conn_local */
};

/* The entry of the packet's key and its tag, at home or at the first place that home names; NULL: elsewhere, if anywhere. */
__inline struct conn *plain_find(const struct packet *p, struct place *at, __u64 *tag, int v6)
{
	void *set = place_of(p, at, v6);
	struct conn *c;
	__u32 ways;

	if (!set)
		return NULL;
	c = slot_at(set, at->want >> 32, v6);
	*tag = READ_ONCE(c->tag);
	if (conn_has(c, *tag, at, p, v6))
		return c;
	ways = READ_ONCE(c->home_moved) & MOVED_WAYS;
	if (!ways)
		return NULL;
	c = slot_at(set, lowest_bit(ways), v6);
	*tag = READ_ONCE(c->tag);
	return conn_has(c, *tag, at, p, v6) ? c : NULL;
}

/* Is a connection in the state, and its time is not over? One that is spliced is not plain. */
__inline int plain_lives(const struct conn *c, __u32 now, __u32 state)
{
	return (READ_ONCE(c->word) & (STATE_MASK | CONN_DEAD | CONN_UNPROVEN | CONN_SPLICED)) == state &&
	       (__s32)(now - READ_ONCE(c->last_use)) <= (__s32)settings.timeout[state];
}

/* Its real server, if it is still the one that it was made for. */
__inline int plain_real(struct plain *found)
{
	__u32 generation = READ_ONCE(found->conn->generation);

	found->id = READ_ONCE(found->conn->real);
	found->real = bpf_map_lookup_elem(&reals, &found->id);
	return found->real && found->real->generation == generation;
}

/* The packet's connection, if it is in the state and its time is not over; 0: none. */
__inline int plain_conn(struct plain *found, const struct packet *p, __u32 state, int v6)
{
	struct place at;
	__u64 tag;

	found->conn = plain_find(p, &at, &tag, v6);
	if (!found->conn || !plain_lives(found->conn, p->now, state))
		return 0;
	found->hash = at.want >> 32;
	found->local = conn_local(found->conn);
	return plain_real(found) && READ_ONCE(found->conn->tag) == tag;
}

/*
 * Most packets write nothing into their connection: memory that is only read need
 * not be written back, and stays in the caches of several CPUs. So the time of
 * last use may be a sixteenth of the timeout too early, and about a second at most.
 */
#define PLAIN_STALE 256 /* jiffies */

/* since: jiffies since the last use that is written. */
__inline int plain_is_stale(__u32 since, __u32 state)
{
	__u32 stale = settings.timeout[state] >> 4;

	if (stale > PLAIN_STALE)
		stale = PLAIN_STALE;
	return since > stale;
}

__inline void plain_used(struct conn *c, __u32 now, __u32 state)
{
	if (c->packets >= PACKETS_COUNTED && !plain_is_stale(now - c->last_use, state))
		return;
	c->last_use = now;
	conn_count(c);
}

/* Can the short way reach the real server? What is rare is left to the long one: tags, the stack. */
__inline int plain_reaches(const struct real *r, const struct packet *p)
{
	return (r->flags & (REAL_NEXT_HOP | REAL_LOCAL)) == REAL_NEXT_HOP && !r->vlans && p->length <= r->mtu;
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

/* Addresses, ports, checksums and TTL of a packet without options. */
__inline void plain_rewrite(void *ip, const struct packet *p, const struct nat_ends *e, int v6)
{
	__u64 change = v6 ? addr_change6(p->addr, e->addr) : csum_change64(p->addr[0], e->addr[0]);
	void *l4 = ip + (v6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr));

	ttl_step(ip, v6);
	nat_addresses(ip, e, v6);
	if (!v6)
		csum_apply(&((struct iphdr *)ip)->check, change + TTL_CHANGE);
	if (p->protocol == IPPROTO_TCP)
		nat_tcp(l4, p, e, change);
	else
		nat_udp(l4, p, e, change);
}

/* A connection's peer, and the ingress behind it, in one word. */
__inline __u64 peer_load(const struct conn *c)
{
	return READ_ONCE(*(const __u64 *)c->peer);
}

__inline __u32 peer_ingress(__u64 peer)
{
	return peer >> 8 * ETH_ALEN;
}

__inline void peer_store(void *mac, __u64 peer)
{
	*(__u32 *)mac = peer;
	((__u16 *)mac)[2] = peer >> 32;
}

/* Do the client's frames still come from where the last ones came from? */
__inline int plain_same_peer(const void *frame, const struct conn *c)
{
	return (*(const __u64 *)(frame + ETH_ALEN) ^ peer_load(c)) << 8 * (sizeof(__u64) - ETH_ALEN) == 0;
}

/* What the method does to the packet, but for a tunnel; 0: it is not plain, and nothing was done. */
__inline int plain_rewritten(void *frame, const struct packet *p, const struct plain *found, int v6)
{
	void *ip = frame + sizeof(struct ethhdr);
	struct nat_ends e;

	switch (found->real->method) {
	case METHOD_TUN:
		if (found->real->tunnel.flags & TUNNEL_CHECKSUM)
			return 0; /* over all that is inside */
		ttl_lower(ip, v6);
		return 1;
	case METHOD_DR:
		ttl_lower(ip, v6);
		return 1;
	case METHOD_NAT:
	case METHOD_FULLNAT:
		if (!plain_same_peer(frame, found->conn) || !nat_to_real(&e, p, found->real, found->local, v6))
			return 0;
		plain_rewrite(ip, p, &e, v6);
		return 1;
	default:
		return 0;
	}
}

/* Of a connection in the state, which it stays in, if there is one. */
__inline enum verdict plain_request(struct xdp_md *ctx, void *frame, struct packet *p, struct way_out *out, __u32 state,
				    int v6)
{
	struct plain found;

	if (!plain_conn(&found, p, state, v6) || !plain_reaches(found.real, p) || !plain_rewritten(frame, p, &found, v6))
		return UNDECIDED;
	plain_used(found.conn, p->now, state);
	stats_input(found.id, p, 0);
	out->ifindex = found.real->ifindex;
	out->tx_port = found.real->tx_port;
	if (unlikely(found.real->method == METHOD_TUN))
		return plain_tunnel(ctx, frame + sizeof(struct ethhdr), p, &found, v6);
	head_copy(frame, found.real->mac);
	return TX_FORWARD;
}

/* What is read of a reply's way back and of its connection. */
struct plain_way {
	struct conn *conn; /* itself */
	__u64 tag;
	__u64 link;
	__u32 real;
};

/* An untagged one, which is proven. */
__inline int plain_way(struct plain_way *way, const struct packet *p, int v6)
{
	struct place at;

	way->conn = plain_find(p, &at, &way->tag, v6);
	if (!way->conn || (READ_ONCE(way->conn->word) & (STATE_MASK | CONN_DEAD)) != REPLY_PROVEN)
		return 0;
	way->link = READ_ONCE(way->conn->link);
	way->real = READ_ONCE(way->conn->real);
	return !(READ_ONCE(way->conn->generation) >> WAY_VLANS_SHIFT);
}

/* The server's packet of such a connection. */
__inline enum verdict plain_reply(void *frame, struct packet *p, struct way_out *out, __u32 state, int v6)
{
	struct plain_way way;
	struct plain found;
	struct nat_ends e;
	__u64 to, from;

	if (!plain_way(&way, p, v6))
		return UNDECIDED;
	found.conn = linked(way.link, v6);
	if (!found.conn || !plain_lives(found.conn, p->now, state) || !plain_real(&found) || found.id != way.real)
		return UNDECIDED;
	nat_to_client(&e, found.conn, v6);
	to = peer_load(found.conn);
	from = peer_load(way.conn);
	if (READ_ONCE(way.conn->tag) != way.tag || !link_leads(way.link, found.conn))
		return UNDECIDED;
	if (plain_is_stale(p->now - found.conn->last_use, state))
		found.conn->last_use = way.conn->last_use = p->now;
	stats_output(found.id, p);
	out->ifindex = peer_ingress(to);
	plain_rewrite(frame + sizeof(struct ethhdr), p, &e, v6);
	peer_store(frame, to);
	peer_store(frame + ETH_ALEN, from);
	return TX_REPLY;
}

/* state: the one that a connection of the protocol is plain in; a constant. */
__inline enum verdict plain_flow(struct xdp_md *ctx, void *frame, struct packet *p, struct way_out *out, __u32 state,
				 int v6)
{
	enum maybe request = service_maybe(p, v6);
	int reply = 0;

	if (request != MAYBE) {
		if (plain_mapped(p, v6))
			return UNDECIDED;
		reply = nat_maybe(p, v6);
		if (likely(!reply && request == MAYBE_NOT))
			return unlikely(probe_maybe(p)) ? UNDECIDED : PASS_NO_SERVICE;
	}
	p->now = bpf_jiffies64();
	return reply ? plain_reply(frame, p, out, state, v6) : plain_request(ctx, frame, p, out, state, v6);
}

/* It is a SYN, which plain_new.h is for: the stack that it needs is not under this. */
#define PLAIN_SYN (VERDICTS + 1)

/* What was read of an IPv4 one, as in struct packet. */
struct plain_syn {
	__u64 addr;
	__u32 ports;
	__u32 length;
};

__inline enum verdict plain_is_syn(const struct packet *p, struct plain_syn *syn, int v6)
{
	if (!v6) {
		syn->addr = p->addr[0];
		syn->ports = p->ports;
		syn->length = p->length;
	}
	return PLAIN_SYN;
}

/* syn: of IPv4's; for PLAIN_SYN. */
__inline enum verdict plain(struct xdp_md *ctx, struct way_out *out, struct plain_syn *syn, int v6)
{
	void *frame = (void *)(long)ctx->data;
	struct cursor cur = { .pos = frame, .end = (void *)(long)ctx->data_end };
	struct packet p;
	__u32 tcp;

	if (!(v6 ? plain_ipv6(&p, &cur) : plain_ipv4(&p, &cur)))
		return UNDECIDED;
	if (likely(p.protocol == IPPROTO_TCP)) {
		tcp = plain_tcp(&p, &cur);
		if (likely(tcp == TCP_ACK))
			return plain_flow(ctx, frame, &p, out, TCP_ESTABLISHED, v6);
		return tcp == TCP_SYN ? plain_is_syn(&p, syn, v6) : UNDECIDED;
	}
	if (p.protocol != IPPROTO_UDP || parse_udp(&p, &cur, p.length - p.l4) != UNDECIDED)
		return UNDECIDED;
	return plain_flow(ctx, frame, &p, out, UDP_NORMAL, v6);
}

/* Not inlined: its registers' worth of stack would be under everything that the long way calls. */
static __noinline enum verdict plain6(struct xdp_md *ctx, struct way_out *out)
{
	return plain(ctx, out, NULL, 1);
}

#endif
