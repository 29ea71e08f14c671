/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * nat.h - a request's destination becomes the real server, its reply's source
 * the virtual service again. Checksums are changed by what the rewrite changes
 * (RFC 1624), so a wrong one stays wrong.
 *
 * A nat connection has a second entry, its way back, under the key that the
 * replies have. It names the slot of the connection and the version of its tag
 * there: when the connection goes, its way back leads nowhere, and is swept.
 */
#ifndef DIRECTOR_NAT_H
#define DIRECTOR_NAT_H

#include "conn.h"
#include "csum.h"
#include "packet.h"
#include "plan.h"
#include "service.h"
#include "work.h"

/* Of a way back, what stands where connections have a generation: the tags of the client's frames. */
#define WAY_VLANS_SHIFT 16
#define WAY_SERVICE_TAG (1U << 24) /* the outer one is 802.1ad's */

/* One end of a packet as it is, and as it shall be. An IPv4 address is in the low half of addr[0]. */
struct nat_edit {
	__u64 addr[2], new_addr[2];
	__be16 port, new_port;
	__u8 source; /* 1: the source, 0: the destination */
};

__inline __u32 csum_change(__u32 from, __u32 to)
{
	return csum_add(~from, to);
}

__inline void csum_apply(__u16 *check, __u32 change)
{
	*check = csum_fold(csum_add((__u16)~*check, change));
}

__inline __u32 nat_addr_change(const struct nat_edit *e, int v6)
{
	__u32 change = csum_change(e->addr[0], e->new_addr[0]);

	if (!v6)
		return change;
	change = csum_add(change, csum_change(e->addr[0] >> 32, e->new_addr[0] >> 32));
	change = csum_add(change, csum_change(e->addr[1], e->new_addr[1]));
	return csum_add(change, csum_change(e->addr[1] >> 32, e->new_addr[1] >> 32));
}

/* SCTP's checksum is CRC32c (RFC 9260 appendix A), bits reversed. */
#define CRC32C 0x82f63b78U

/* x^(8 * 2^n), as CRC32c has it: what 2^n bytes more make of a remainder. */
static const __u32 crc32c_shift[16] = {
	0x00800000, 0x00008000, 0x82f63b78, 0x6ea2d55c, 0x18b8ea18, 0x510ac59a, 0xb82be955, 0xb8fdb1e7,
	0x88e56f72, 0x74c360a4, 0xe4172b16, 0x0d65762a, 0x35d73a62, 0x28461564, 0xbf455269, 0xe2ea32dc,
};

/* The remainder a by x, times. */
__inline __u32 crc32c_bits(__u32 a, __u32 times)
{
	__u32 i;

#pragma clang loop unroll(disable)
	for (i = 0; i < times; i++)
		a = a >> 1 ^ (CRC32C & -(a & 1));
	return a;
}

__inline __u32 crc32c_multiply(__u32 a, __u32 b)
{
	__u32 product = 0, i;

#pragma clang loop unroll(disable)
	for (i = 0; i < 32; i++) {
		product ^= b & -(a >> 31);
		a <<= 1;
		b = b >> 1 ^ (CRC32C & -(b & 1));
	}
	return product;
}

/*
 * What a change in the first word of length bytes makes of their CRC32c: it is
 * linear, so the rest of them does not matter.
 */
static __noinline __u32 crc32c_change(__u32 change, __u32 length)
{
	__u32 remainder = crc32c_bits(change, 32), left = length - 4, i;

#pragma clang loop unroll(disable)
	for (i = 0; i < 16; i++) {
		if (left >> i & 1)
			remainder = crc32c_multiply(crc32c_shift[i & 15], remainder);
	}
	return remainder;
}

__inline int nat_tcp(struct xdp_md *ctx, const struct packet *p, const struct nat_edit *e, __u32 change)
{
	struct tcphdr *tcp = packet_l4(ctx, p, sizeof(*tcp));

	if (!tcp)
		return 0;
	*(e->source ? &tcp->source : &tcp->dest) = e->new_port;
	csum_apply(&tcp->check, csum_add(change, csum_change(e->port, e->new_port)));
	return 1;
}

/* A checksum of 0 is none (RFC 768), and stays none. */
__inline int nat_udp(struct xdp_md *ctx, const struct packet *p, const struct nat_edit *e, __u32 change)
{
	struct udphdr *udp = packet_l4(ctx, p, sizeof(*udp));

	if (!udp)
		return 0;
	*(e->source ? &udp->source : &udp->dest) = e->new_port;
	if (!udp->check)
		return 1;
	csum_apply(&udp->check, csum_add(change, csum_change(e->port, e->new_port)));
	if (!udp->check)
		udp->check = 0xffff;
	return 1;
}

/* Addresses are no part of SCTP's checksum; of a fragment the length is not known. */
__inline int nat_sctp(struct xdp_md *ctx, const struct packet *p, const struct nat_edit *e)
{
	__u32 *sctp = packet_l4(ctx, p, SCTP_HEADER);
	__u32 change = (e->port ^ e->new_port) << (e->source ? 0 : 16);

	if (!sctp)
		return 0;
	if (!change)
		return 1;
	if (p->fragment != FRAGMENT_NONE)
		return 0;
	sctp[0] ^= change;
	sctp[2] ^= crc32c_change(change, p->length - p->l4);
	return 1;
}

__inline int nat_transport(struct xdp_md *ctx, const struct packet *p, const struct nat_edit *e, __u32 change)
{
	if (p->fragment == FRAGMENT_LATER)
		return 1;
	if (p->protocol == IPPROTO_TCP)
		return nat_tcp(ctx, p, e, change);
	if (p->protocol == IPPROTO_UDP)
		return nat_udp(ctx, p, e, change);
	return nat_sctp(ctx, p, e);
}

/* The IP header; change: of the address. 0: it could not be. */
__inline int nat_network(struct xdp_md *ctx, const struct packet *p, const struct nat_edit *e, __u32 change, int v6)
{
	struct ipv6hdr *ip6;
	struct iphdr *ip4;
	__u64 *addr;

	if (v6) {
		ip6 = packet_l3(ctx, p, sizeof(*ip6));
		if (!ip6)
			return 0;
		addr = (void *)(e->source ? &ip6->saddr : &ip6->daddr);
		WRITE_ONCE(addr[0], e->new_addr[0]);
		WRITE_ONCE(addr[1], e->new_addr[1]);
	} else {
		ip4 = packet_l3(ctx, p, sizeof(*ip4));
		if (!ip4)
			return 0;
		*(e->source ? &ip4->saddr : &ip4->daddr) = e->new_addr[0];
		csum_apply(&ip4->check, change);
	}
	return 1;
}

/* 0: it could not be, and nothing was changed but what is dropped now. */
__inline int nat_rewrite(struct xdp_md *ctx, const struct packet *p, const struct nat_edit *e, int v6)
{
	__u32 change = nat_addr_change(e, v6);

	return nat_network(ctx, p, e, change, v6) && nat_transport(ctx, p, e, change);
}

/* The port that a request has at the real server. */
__inline __be16 nat_port(const struct packet *p, const struct real *r)
{
	__be16 port = packet_dport(p);

	return r->to_port && (!r->if_port || r->if_port == port) ? r->to_port : port;
}

/* The destination becomes the real server. */
__inline void nat_to_real(struct nat_edit *e, const struct packet *p, const struct real *r, int v6)
{
	const __u64 *real = (const void *)r->addr;

	e->source = 0;
	e->port = packet_dport(p);
	e->new_port = nat_port(p, r);
	e->addr[0] = v6 ? p->addr[2] : p->addr[0] >> 32;
	e->addr[1] = p->addr[3];
	e->new_addr[0] = v6 ? real[0] : real[1] >> 32;
	e->new_addr[1] = real[1];
}

__inline int nat_request(struct xdp_md *ctx, const struct packet *p, const struct real *r, int v6)
{
	struct nat_edit e;

	nat_to_real(&e, p, r, v6);
	return nat_rewrite(ctx, p, &e, v6);
}

/* The source becomes the virtual service that the connection is to. */
__inline void nat_from_service(struct nat_edit *e, const struct packet *p, const struct conn *c, int v6)
{
	const __u64 *ends = (const void *)(c + 1); /* the key's addresses */

	e->source = 1;
	e->port = packet_sport(p);
	e->new_port = c->ports >> 16;
	e->addr[0] = v6 ? p->addr[0] : (__u32)p->addr[0];
	e->addr[1] = p->addr[1];
	e->new_addr[0] = v6 ? ends[2] : ends[0] >> 32;
	e->new_addr[1] = v6 ? ends[3] : 0;
}

__inline int nat_reply(struct xdp_md *ctx, const struct packet *p, const struct conn *c, int v6)
{
	struct nat_edit e;

	nat_from_service(&e, p, c, v6);
	return nat_rewrite(ctx, p, &e, v6);
}

/*
 * Real servers by nat are in the filter, too, under the protocol with this bit:
 * what they send may be a reply. Their addresses are under ICMP's, for fragments.
 */
#define NAT_PROTOCOL 0x80

__inline struct service_query nat_query(const struct packet *p, int v6)
{
	struct service_query q = { .port = packet_sport(p), .protocol = p->protocol | NAT_PROTOCOL };

	if (v6) {
		q.hi = p->addr[0];
		q.lo = p->addr[1];
	} else {
		q.lo = p->addr[0] << 32 | 0xffff0000;
	}
	return q;
}

/* May the packet be a reply? False is certain, true is not. */
__inline int nat_maybe(const struct packet *p, int v6)
{
	struct service_query q = nat_query(p, v6);

	if (!settings.nat)
		return 0;
	if (filter_has(service_hash(&q)))
		return 1;
	if (likely(!settings.nat_any_port))
		return 0;
	q.port = 0;
	return filter_has(service_hash(&q));
}

__inline int nat_address_maybe(const struct packet *p, int v6)
{
	struct service_query q = nat_query(p, v6);

	q.port = 0;
	q.protocol = (v6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP) | NAT_PROTOCOL;
	return settings.nat && filter_has(service_hash(&q));
}

/* The key of the replies to packet p. */
__inline void nat_reply_key(struct packet *reply, const struct packet *p, const struct real *r, int v6)
{
	const __u64 *real = (const void *)r->addr;
	__be16 port = nat_port(p, r);

	reply->ports = port | (__u32)packet_sport(p) << 16;
	reply->protocol = p->protocol;
	reply->now = p->now;
	reply->ingress = p->ingress;
	reply->addr[0] = v6 ? real[0] : real[1] >> 32 | p->addr[0] << 32;
	reply->addr[1] = real[1];
	reply->addr[2] = p->addr[0];
	reply->addr[3] = p->addr[1];
}

__inline int nat_store(struct work *w, const struct conn_new *n, int v6)
{
	struct conn *c = conn_find(&w->reply, &w->reply_at, v6), *home = place_home(&w->reply_at, v6);
	int locked, stored;

	if (!home)
		return 0;
	if (!c) {
		locked = place_lock(&w->reply_at, home);
		if (unlikely(!locked))
			c = conn_find_or_lock(&w->reply, &w->reply_at, home, &locked, v6);
		if (!c && locked) {
			stored = conn_store_set(&w->reply, &w->reply_at, home, n, v6);
			place_unlock(&w->reply_at, home);
			return stored;
		}
	}
	if (!c)
		return 0;
	/* That of a former connection between the same ends: now it is this one's. */
	c->real = n->real;
	c->generation = n->generation;
	c->last_use = w->reply.now;
	WRITE_ONCE(c->link, n->link);
	return 1;
}

/* Makes the way back of the connection of packet p known, which is at its place. 0: no room. */
__inline int nat_remember(struct packet *p, const struct place *at, __u32 id, int v6)
{
	struct real *r = bpf_map_lookup_elem(&reals, &id);
	struct work *w = work_get();
	struct conn_new *n;

	if (!r || !w || !at->slot)
		return 0;
	n = &w->fresh;
	n->real = id;
	n->word = REPLY_NEW;
	n->in_sets = 1;
	n->link = link_to(at) | (__u64)p->vlan[0] << LINK_VLAN;
	n->link_version = 0;
	n->generation = p->vlan[1] | (__u32)p->vlans << WAY_VLANS_SHIFT;
	if (p->tpid == bpf_htons(ETH_P_8021AD))
		n->generation |= WAY_SERVICE_TAG;
	mac_copy(n->peer, (const __u16 *)p->mac);
	nat_reply_key(&w->reply, p, r, v6);
	/* In a full set the half-open entry that made room may have been its own connection. */
	return nat_store(w, n, v6) && linked(n->link, v6);
}

__noinline int nat_remember4(struct packet *p, struct place *at, __u32 id)
{
	return p && at ? nat_remember(p, at, id, 0) : 0;
}

__noinline int nat_remember6(struct packet *p, struct place *at, __u32 id)
{
	return p && at ? nat_remember(p, at, id, 1) : 0;
}

/* Replies go where the client's last packet came from: its router may have changed. */
__inline void nat_came_from(const struct packet *p, const struct place *at, int v6)
{
	struct conn *c = linked(link_to(at), v6);

	if (c && at->slot)
		__builtin_memcpy(c->peer, packet_source(p), ETH_ALEN);
}

#endif
