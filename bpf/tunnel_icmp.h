/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * tunnel_icmp.h - errors about our tunnels: a router tells the director that an
 * outer packet did not fit. From then on what may travel to that real server is
 * less, and the client is told so when its next packet is too long. Believed is
 * an error only that quotes a packet of a known connection in the real server's
 * own headers. Userspace forgets it after a time, as routes change.
 */
#ifndef DIRECTOR_TUNNEL_ICMP_H
#define DIRECTOR_TUNNEL_ICMP_H

#include "answer.h"
#include "conn.h"
#include "icmp.h"
#include "tunnel.h"
#include "work.h"

#define ICMP4_FRAGMENTATION_NEEDED 4
/* No link is narrower: Linux's min_pmtu, and RFC 8200 section 5. */
#define PATH4_MIN 552
#define PATH6_MIN 1280
#define GRE_CHECKSUM 0x8000

/* An outer packet that an error quotes. */
struct tunnel_quote {
	__u64 addr[4];	/* its source and destination, as in struct packet */
	__u32 mtu;	/* of the link that it did not fit */
	__u32 inner;	/* where the packet inside begins, in the frame */
	__u32 family;	/* of that packet: an IP protocol, 4 or 41 */
	__u32 now;
};

__inline __u32 gre_family(__be16 type)
{
	if (type == bpf_htons(ETH_P_IP))
		return IPPROTO_IPIP;
	return type == bpf_htons(ETH_P_IPV6) ? IPPROTO_IPV6 : 0;
}

/* Finds what is inside the quoted headers, at which UDP's, GRE's or the inner IP header begins; 0: no tunnel of ours. */
__inline int tunnel_quoted_inside(struct xdp_md *ctx, struct tunnel_quote *q, __u32 at, __u8 protocol)
{
	__be16 gre[2];
	__u8 gue[2];

	q->inner = at;
	q->family = protocol;
	if (protocol == IPPROTO_UDP) {
		if (bpf_xdp_load_bytes(ctx, at + sizeof(struct udphdr), gue, sizeof(gue)) || gue[0])
			return 0;
		q->inner = at + SHIM_MAX;
		q->family = gue[1];
	} else if (protocol == IPPROTO_GRE) {
		if (bpf_xdp_load_bytes(ctx, at, gre, sizeof(gre)))
			return 0;
		q->inner = at + (gre[0] & bpf_htons(GRE_CHECKSUM) ? 8 : 4);
		q->family = gre_family(gre[1]);
	}
	return q->family == IPPROTO_IPIP || q->family == IPPROTO_IPV6;
}

__inline int tunnel_quoted4(struct xdp_md *ctx, const struct packet *p, struct tunnel_quote *q)
{
	__u32 at = p->l3 + p->l4 + sizeof(struct icmp_head);
	struct iphdr ip;

	if (bpf_xdp_load_bytes(ctx, at, &ip, sizeof(ip)) || *(__u8 *)&ip != 0x45 ||
	    ip.frag_off & bpf_htons(0x1fff) || ip.saddr != p->addr[0] >> 32)
		return 0;
	q->addr[0] = ip.saddr | (__u64)ip.daddr << 32;
	return tunnel_quoted_inside(ctx, q, at + sizeof(ip), ip.protocol);
}

__inline int tunnel_quoted6(struct xdp_md *ctx, const struct packet *p, struct tunnel_quote *q)
{
	__u32 at = p->l3 + p->l4 + sizeof(struct icmp_head);
	struct ipv6hdr ip;

	if (bpf_xdp_load_bytes(ctx, at, &ip, sizeof(ip)) || ip.version != 6)
		return 0;
	address_load(q->addr, &ip.saddr);
	return q->addr[0] == p->addr[2] && q->addr[1] == p->addr[3] &&
	       tunnel_quoted_inside(ctx, q, at + sizeof(ip), ip.nexthdr);
}

/* The packet inside, as its sender sent it. */
__inline int tunnel_inside4(struct xdp_md *ctx, const struct tunnel_quote *q, struct packet *inner)
{
	struct iphdr ip;

	if (bpf_xdp_load_bytes(ctx, q->inner, &ip, sizeof(ip)) || ip.version != 4 || ip.ihl < 5 ||
	    ip.frag_off & bpf_htons(0x1fff))
		return 0;
	inner->addr[0] = ip.saddr | (__u64)ip.daddr << 32;
	inner->protocol = ip.protocol;
	return !bpf_xdp_load_bytes(ctx, q->inner + ip.ihl * 4, &inner->ports, sizeof(inner->ports));
}

__inline int tunnel_inside6(struct xdp_md *ctx, const struct tunnel_quote *q, struct packet *inner)
{
	struct ipv6hdr ip;

	if (bpf_xdp_load_bytes(ctx, q->inner, &ip, sizeof(ip)) || ip.version != 6)
		return 0;
	address_load(inner->addr, &ip.saddr);
	inner->protocol = ip.nexthdr;
	return !bpf_xdp_load_bytes(ctx, q->inner + sizeof(ip), &inner->ports, sizeof(inner->ports));
}

/* Is it between the ends of the tunnel? outer6: the outer family. */
__inline int tunnel_is(const struct tunnel *t, const struct tunnel_quote *q, int outer6)
{
	const __u32 *head = (const void *)t->head;

	if (!(t->flags & TUNNEL_IPV6) != !outer6)
		return 0;
	if (!outer6)
		return q->addr[0] == (head[3] | (__u64)head[4] << 32);
	return q->addr[0] == (head[2] | (__u64)head[3] << 32) && q->addr[1] == (head[4] | (__u64)head[5] << 32) &&
	       q->addr[2] == (head[6] | (__u64)head[7] << 32) && q->addr[3] == (head[8] | (__u64)head[9] << 32);
}

/* It only ever becomes less here; learned says since when. */
__inline void tunnel_narrow(struct real *r, const struct tunnel_quote *q, int outer6)
{
	__u32 least = outer6 ? PATH6_MIN : PATH4_MIN;
	__u32 mtu = (q->mtu < least ? least : q->mtu) - r->tunnel.size;

	if (q->family == IPPROTO_IPV6 && mtu < PATH6_MIN)
		mtu = PATH6_MIN; /* RFC 2473 section 7.1: below this the tunnel has to cut */
	if (mtu > r->mtu || (mtu == r->mtu && !r->tunnel.learned))
		return;
	r->mtu = mtu;
	r->tunnel.learned = q->now | 1;
}

/* q: what is quoted; v6: the family of the packet inside. */
__inline int tunnel_learn(struct xdp_md *ctx, const struct tunnel_quote *q, int outer6, int v6)
{
	struct work *w = work_get();
	struct packet *inner;
	struct conn *c;
	struct known k;
	struct real *r;

	if (!w)
		return 0;
	inner = &w->reply;
	inner->now = q->now;
	if (!(v6 ? tunnel_inside6(ctx, q, inner) : tunnel_inside4(ctx, q, inner)) || !icmp_quotes_transport(inner))
		return 0;
	c = conn_find(inner, &w->reply_at, v6);
	if (!c)
		return 0;
	k = conn_read(c);
	r = bpf_map_lookup_elem(&reals, &k.real);
	if (!r || !known_holds(&k, &w->reply_at) || r->method != METHOD_TUN || r->generation != k.generation ||
	    !tunnel_is(&r->tunnel, q, outer6))
		return 0;
	tunnel_narrow(r, q, outer6);
	return 1;
}

__noinline int tunnel_learn4(struct xdp_md *ctx, struct tunnel_quote *q, int outer6)
{
	return q ? tunnel_learn(ctx, q, outer6, 0) : 0;
}

__noinline int tunnel_learn6(struct xdp_md *ctx, struct tunnel_quote *q, int outer6)
{
	return q ? tunnel_learn(ctx, q, outer6, 1) : 0;
}

/* The next link's MTU, if that is what the message is about and its checksum is right; 0: it is not. */
__inline __u32 tunnel_error_mtu(struct xdp_md *ctx, const struct packet *p, int v6)
{
	__u32 at = p->l3 + p->l4, length = p->length - p->l4, sum = 0;
	struct icmp_head icmp;

	if (length < sizeof(icmp) || bpf_xdp_load_bytes(ctx, at, &icmp, sizeof(icmp)))
		return 0;
	if (v6 ? icmp.type != ICMP6_TOO_BIG :
		 icmp.type != ICMP4_UNREACHABLE || icmp.code != ICMP4_FRAGMENTATION_NEEDED)
		return 0;
	if (v6)
		sum = csum_add(csum_words(p->addr, 32), csum_add(bpf_htonl(length), bpf_htonl(IPPROTO_ICMPV6)));
	if (csum_fold(csum_packet(ctx, at, length, sum)))
		return 0;
	/* A router of before RFC 1191 leaves it 0: the least there can be. */
	return (v6 ? bpf_ntohl(icmp.rest) : bpf_ntohl(icmp.rest) & 0xffff) ?: 1;
}

/* An ICMP message, to whomever: what it says of a tunnel is noted, and it goes on as any other. */
__inline int tunnel_error(struct xdp_md *ctx, const struct packet *p, int v6)
{
	struct tunnel_quote q = { .now = bpf_jiffies64() };

	if (p->fragment != FRAGMENT_NONE)
		return 0;
	q.mtu = tunnel_error_mtu(ctx, p, v6);
	if (!q.mtu || !(v6 ? tunnel_quoted6(ctx, p, &q) : tunnel_quoted4(ctx, p, &q)))
		return 0;
	return q.family == IPPROTO_IPV6 ? tunnel_learn6(ctx, &q, v6) : tunnel_learn4(ctx, &q, v6);
}

__noinline int tunnel_error4(struct xdp_md *ctx, struct packet *p)
{
	return p ? tunnel_error(ctx, p, 0) : 0;
}

__noinline int tunnel_error6(struct xdp_md *ctx, struct packet *p)
{
	return p ? tunnel_error(ctx, p, 1) : 0;
}

/* p: any packet. */
__inline void tunnel_notice(struct xdp_md *ctx, struct packet *p, int v6)
{
	if (!settings.tunnels || p->protocol != (v6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP))
		return;
	if (v6)
		tunnel_error6(ctx, p);
	else
		tunnel_error4(ctx, p);
}

#endif
