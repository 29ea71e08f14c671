/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * tunnel.h - by tun a packet travels unchanged, but for its TTL, inside another
 * one from the director to the real server. Userspace has written the outer
 * headers (struct tunnel); filled in here is what differs from packet to packet.
 *
 * The outer header takes over TTL, DSCP, and "don't fragment"; a packet that is
 * marked "congestion experienced" inside is ECT(0) outside (RFC 3168 section
 * 9.1.1), so that the tunnel's own marks are told apart.
 */
#ifndef DIRECTOR_TUNNEL_H
#define DIRECTOR_TUNNEL_H

#include "csum.h"
#include "hash.h"
#include "packet.h"
#include "stats.h"

#define IP_DONT_FRAGMENT 0x4000
/* Source ports of GUE, by the flow: Linux's default ip_local_port_range. */
#define TUNNEL_PORT_FIRST 32768
#define TUNNEL_PORTS 28232
#define SHIM4 (sizeof(struct iphdr) / 4)   /* where in the head, in words, what follows IP begins */
#define SHIM6 (sizeof(struct ipv6hdr) / 4)
#define SHIM_MAX 12

/* What the outer headers take over of a packet. */
struct inner {
	__u32 length;
	__u32 hash;	/* of the flow */
	__u32 ident;	/* of the outer packet, should it be fragmented */
	__u8 tos;	/* DSCP and ECN */
	__u8 ttl;
	__be16 flags;	/* IPv4: don't fragment */
};

__inline void inner_read(struct inner *in, const void *ip, int v6)
{
	const struct iphdr *ip4 = ip;

	if (v6) {
		in->tos = bpf_ntohl(*(const __be32 *)ip) >> 20;
		in->ttl = ((const struct ipv6hdr *)ip)->hop_limit;
		in->flags = 0; /* IPv6 in IPv4: routers may cut what the IPv6 sender was not told of */
	} else {
		in->tos = ip4->tos;
		in->ttl = ip4->ttl;
		in->flags = ip4->frag_off & bpf_htons(IP_DONT_FRAGMENT);
	}
	in->tos &= ~(in->tos >> 1 & 1);
}

/* Differs between the packets that one CPU has counted for the real server, and seldom meets another's. */
__inline __u32 tunnel_ident(__u32 real)
{
	struct real_stats *s = stats_of(real);

	return s ? s->n.in_packets * config.cpus + bpf_get_smp_processor_id() + real * 0x9e37 : 0;
}

__inline void outer_ipv4(__u32 *ip, const __u32 *head, const struct inner *in, __u32 size)
{
	__u32 length = 0x45 | (__u32)in->tos << 8 | (__u32)bpf_htons(in->length + size) << 16;
	__u32 ident = in->flags ? (__u32)in->flags << 16 : bpf_htons((__u16)in->ident);
	__u32 ttl = in->ttl | (head[2] & 0xff00);
	__u64 sum = (__u64)length + ident + ttl + head[3] + head[4];

	ip[0] = length;
	ip[1] = ident;
	ip[2] = ttl | (__u32)csum_fold((sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32)) << 16;
	ip[3] = head[3];
	ip[4] = head[4];
}

/* The flow label lets routers spread the flows of a tunnel (RFC 6438). */
__inline void outer_ipv6(__u32 *ip, const __u32 *head, const struct inner *in, __u32 size)
{
	__u32 payload = in->length + size - sizeof(struct ipv6hdr), i;

	ip[0] = bpf_htonl(6U << 28 | (__u32)in->tos << 20 | (in->hash & 0xfffff));
	ip[1] = bpf_htons(payload) | (head[1] & 0xff0000) | (__u32)in->ttl << 24;
	for (i = 2; i < SHIM6; i++)
		ip[i] = head[i];
}

/* GUE's and GRE's headers; a checksum is 0 still. */
__inline void outer_shim(__u32 *to, const __u32 *head, const struct tunnel *t, const struct inner *in)
{
	__u32 port;

	if (t->type == TUNNEL_IPIP)
		return;
	to[0] = head[0];
	if (t->type == TUNNEL_GUE) {
		port = TUNNEL_PORT_FIRST + ((__u64)in->hash * TUNNEL_PORTS >> 32);
		to[0] |= bpf_htons(port);
		to[1] = bpf_htons(in->length + SHIM_MAX);
		to[2] = head[2];
	} else if (t->flags & TUNNEL_CHECKSUM) {
		to[1] = 0;
	}
}

/*
 * Makes room between link-layer and IP header and fills it. The link-layer
 * header is void then, but for the EtherType. l3: where IP begins. 0: no room.
 */
__inline int tunnel_enter(struct xdp_md *ctx, __u32 l3, const struct inner *in, const struct tunnel *t)
{
	const __u32 *head = (const void *)t->head;
	void *end, *ip;
	__be16 *type;

	if (bpf_xdp_adjust_head(ctx, -(int)t->size))
		return 0;
	type = (void *)(long)ctx->data + ((l3 - 2) & L3_MASK);
	end = (void *)(long)ctx->data_end;
	ip = type + 1;
	if (t->flags & TUNNEL_IPV6) {
		if (ip + sizeof(struct ipv6hdr) + SHIM_MAX > end)
			return 0;
		*type = bpf_htons(ETH_P_IPV6);
		outer_ipv6(ip, head, in, t->size);
		outer_shim(ip + sizeof(struct ipv6hdr), head + SHIM6, t, in);
		return 1;
	}
	if (ip + sizeof(struct iphdr) + SHIM_MAX > end)
		return 0;
	*type = bpf_htons(ETH_P_IP);
	outer_ipv4(ip, head, in, t->size);
	outer_shim(ip + sizeof(struct iphdr), head + SHIM4, t, in);
	return 1;
}

/* The pseudo header of UDP: addresses as they lie in the head, and as words that sum up to the same. */
__inline __u32 tunnel_pseudo(const struct tunnel *t, __u32 length)
{
	__u32 sum = bpf_htonl(length), i;
	const __u32 *head = (const void *)t->head;

	if (t->type != TUNNEL_GUE)
		return 0;
	sum = csum_add(sum, bpf_htonl(IPPROTO_UDP));
	if (!(t->flags & TUNNEL_IPV6))
		return csum_add(sum, csum_add(head[3], head[4]));
	for (i = 2; i < SHIM6; i++)
		sum = csum_add(sum, head[i]);
	return sum;
}

/* UDP's checksum, or GRE's, which both begin at the shim. 0: not done. */
__inline int tunnel_checksum(struct xdp_md *ctx, __u32 l3, __u32 inner, const struct tunnel *t)
{
	__u32 ip = t->flags & TUNNEL_IPV6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr);
	__u32 length = inner + t->size - ip, at = l3 + ip + (t->type == TUNNEL_GUE ? 6 : 4);
	__u16 check = csum_fold(csum_packet(ctx, l3 + ip, length, tunnel_pseudo(t, length)));

	if (!check && t->type == TUNNEL_GUE)
		check = 0xffff;
	return !bpf_xdp_store_bytes(ctx, at & CSUM_OFFSET_MASK, &check, sizeof(check));
}

/* The packet gets its outer headers; the link-layer header is the next to be written. */
__inline int packet_tunnel(struct xdp_md *ctx, struct packet *p, __u32 real, int v6)
{
	struct real *r = bpf_map_lookup_elem(&reals, &real);
	void *ip = packet_l3(ctx, p, v6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr));
	struct inner in = {
		.length = p->length,
		.hash = flow_hash(p, v6) >> 32,
		.ident = tunnel_ident(real),
	};

	if (!r || !ip)
		return 0;
	inner_read(&in, ip, v6);
	if (!tunnel_enter(ctx, p->l3, &in, &r->tunnel))
		return 0;
	return !(r->tunnel.flags & TUNNEL_CHECKSUM) || tunnel_checksum(ctx, p->l3, p->length, &r->tunnel);
}

__noinline int packet_tunnel4(struct xdp_md *ctx, struct packet *p, __u32 real)
{
	return p ? packet_tunnel(ctx, p, real, 0) : 0;
}

__noinline int packet_tunnel6(struct xdp_md *ctx, struct packet *p, __u32 real)
{
	return p ? packet_tunnel(ctx, p, real, 1) : 0;
}

#endif
