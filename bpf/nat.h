/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * nat.h - a request's destination becomes the real server, its reply's source
 * the virtual service again; by full-NAT (fullnat.h) both ends change, both
 * times. Checksums are changed by what the rewrite changes (RFC 1624), so a
 * wrong one stays wrong.
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

/* What the change of both addresses adds to a sum. */
__inline __u64 addr_change6(const __u64 *from, const __u64 *to)
{
	return csum_change64(from[0], to[0]) + csum_change64(from[1], to[1]) + csum_change64(from[2], to[2]) +
	       csum_change64(from[3], to[3]);
}

/* Not inlined: where there is much else to do it takes the stack that others need. */
static __noinline __u64 nat_addr_change6(const struct packet *p, const struct nat_ends *e)
{
	return addr_change6(p->addr, e->addr);
}

__inline __u64 nat_addr_change(const struct packet *p, const struct nat_ends *e, int v6)
{
	return v6 ? nat_addr_change6(p, e) : csum_change64(p->addr[0], e->addr[0]);
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
__noinline __u32 crc32c_change(__u32 change, __u32 length)
{
	__u32 remainder = crc32c_bits(change, 32), left = length - 4, i;

#pragma clang loop unroll(disable)
	for (i = 0; i < 16; i++) {
		if (left >> i & 1)
			remainder = crc32c_multiply(crc32c_shift[i & 15], remainder);
	}
	return remainder;
}

/* change, here and below: that of the addresses. */
__inline void nat_tcp(struct tcphdr *tcp, const struct packet *p, const struct nat_ends *e, __u64 change)
{
	*(__u32 *)tcp = e->ports;
	csum_apply(&tcp->check, change + csum_change(p->ports, e->ports));
}

/* A checksum of 0 is none (RFC 768), and stays none. */
__inline void nat_udp(struct udphdr *udp, const struct packet *p, const struct nat_ends *e, __u64 change)
{
	*(__u32 *)udp = e->ports;
	if (!udp->check)
		return;
	csum_apply(&udp->check, change + csum_change(p->ports, e->ports));
	if (!udp->check)
		udp->check = 0xffff;
}

/* Addresses are no part of SCTP's checksum; of a fragment the length is not known. */
__inline int nat_sctp(struct xdp_md *ctx, const struct packet *p, const struct nat_ends *e)
{
	__u32 *sctp = packet_l4(ctx, p, SCTP_HEADER);
	__u32 change = p->ports ^ e->ports;

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

__inline int nat_transport(struct xdp_md *ctx, const struct packet *p, const struct nat_ends *e, __u64 change)
{
	void *l4;

	if (p->fragment == FRAGMENT_LATER)
		return 1;
	if (p->protocol == IPPROTO_SCTP)
		return nat_sctp(ctx, p, e);
	if (p->protocol == IPPROTO_TCP) {
		l4 = packet_l4(ctx, p, sizeof(struct tcphdr));
		if (l4)
			nat_tcp(l4, p, e, change);
	} else {
		l4 = packet_l4(ctx, p, sizeof(struct udphdr));
		if (l4)
			nat_udp(l4, p, e, change);
	}
	return l4 != NULL;
}

__inline void nat_addresses(void *ip, const struct nat_ends *e, int v6)
{
	__u64 *addr = v6 ? (void *)&((struct ipv6hdr *)ip)->saddr : (void *)&((struct iphdr *)ip)->saddr;

	addr[0] = e->addr[0];
	if (!v6)
		return;
	addr[1] = e->addr[1];
	addr[2] = e->addr[2];
	addr[3] = e->addr[3];
}

/* The IP header. 0: it could not be. */
__inline int nat_network(struct xdp_md *ctx, const struct packet *p, const struct nat_ends *e, __u64 change, int v6)
{
	void *ip = packet_l3(ctx, p, v6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr));

	if (!ip)
		return 0;
	nat_addresses(ip, e, v6);
	if (!v6)
		csum_apply(&((struct iphdr *)ip)->check, change);
	return 1;
}

/* 0: it could not be, and what was changed is dropped now. */
__inline int nat_rewrite(struct xdp_md *ctx, const struct packet *p, const struct nat_ends *e, int v6)
{
	__u64 change = nat_addr_change(p, e, v6);

	return nat_network(ctx, p, e, change, v6) && nat_transport(ctx, p, e, change);
}

/* The port that a request has at the real server. */
__inline __be16 nat_port(const struct packet *p, const struct real *r)
{
	__be16 port = packet_dport(p);

	return r->to_port && (!r->if_port || r->if_port == port) ? r->to_port : port;
}

/* The source of a local end; NULL: it has none. */
__inline const __u64 *source_addr(__u32 local)
{
	__u32 id = local_source(local);

	return bpf_map_lookup_elem(&sources, &id);
}

__inline void ends_set_source(struct nat_ends *e, const __u64 *addr, int v6)
{
	if (v6) {
		e->addr[0] = addr[0];
		e->addr[1] = addr[1];
	} else {
		e->addr[0] = (e->addr[0] & 0xffffffff00000000) | addr[1] >> 32;
	}
}

__inline void ends_set_dest(struct nat_ends *e, const __u64 *addr, int v6)
{
	if (v6) {
		e->addr[2] = addr[0];
		e->addr[3] = addr[1];
	} else {
		e->addr[0] = (__u32)e->addr[0] | (addr[1] & 0xffffffff00000000);
	}
}

/* The destination becomes the real server; by full-NAT, the source the local end. 0: there is no such end. */
__inline int nat_to_real(struct nat_ends *e, const struct packet *p, const struct real *r, __u32 local, int v6)
{
	__be16 port = nat_port(p, r);
	const __u64 *source;

	e->addr[0] = p->addr[0];
	e->addr[1] = p->addr[1];
	e->ports = packet_sport(p) | (__u32)port << 16;
	ends_set_dest(e, (const void *)r->addr, v6);
	if (likely(!local))
		return 1;
	source = source_addr(local);
	if (!source)
		return 0;
	ends_set_source(e, source, v6);
	e->ports = local_port(local) | (__u32)port << 16;
	return 1;
}

/* From the virtual service to the client of the connection: its key, read backwards. */
__inline void nat_to_client(struct nat_ends *e, const struct conn *c, int v6)
{
	const __u64 *key = (const void *)(c + 1);

	e->ports = c->ports >> 16 | c->ports << 16;
	e->addr[0] = v6 ? key[2] : key[0] >> 32 | key[0] << 32;
	if (!v6)
		return;
	e->addr[1] = key[3];
	e->addr[2] = key[0];
	e->addr[3] = key[1];
}

__inline int nat_request(struct xdp_md *ctx, const struct packet *p, const struct real *r, __u32 local, int v6)
{
	struct work *w = work_get();

	return w && nat_to_real(&w->ends, p, r, local, v6) && nat_rewrite(ctx, p, &w->ends, v6);
}

/*
 * Real servers by nat and fullnat are in the filter, too, under the protocol with this bit:
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

/* The key of the replies to what packet p becomes: its ends, read backwards. */
__inline void nat_reply_key(struct packet *reply, const struct packet *p, const struct nat_ends *e, int v6)
{
	reply->ports = e->ports >> 16 | e->ports << 16;
	reply->protocol = p->protocol;
	reply->now = p->now;
	reply->ingress = p->ingress;
	reply->addr[0] = v6 ? e->addr[2] : e->addr[0] >> 32 | e->addr[0] << 32;
	if (!v6)
		return;
	reply->addr[1] = e->addr[3];
	reply->addr[2] = e->addr[0];
	reply->addr[3] = e->addr[1];
}

/* Ways back are in the sets only. */
__inline struct conn *way_find(struct work *w, int v6)
{
	return conn_find_among(&w->reply, &w->reply_at, MOVED_OVERFLOW - 1, v6);
}

/* Stores a way back, whose place is locked, instead of the one that is there, if any, and leads nowhere. */
__inline int way_store(struct work *w, struct conn *home, struct conn *old, const struct conn_new *n, int v6)
{
	struct known k;

	if (old) {
		k = conn_read(old);
		if (!known_holds(&k, &w->reply_at) || !known_free(&k, &w->reply_at, v6))
			return 0;
	}
	return conn_store_set(&w->reply, &w->reply_at, home, n, v6);
}

/* Another connection's way back, between the same ends: now it is this one's. */
__inline void way_take(struct conn *c, const struct work *w, const struct conn_new *n)
{
	c->real = n->real;
	c->generation = n->generation;
	c->last_use = w->reply.now;
	WRITE_ONCE(c->link, n->link);
}

__inline int nat_store(struct work *w, const struct conn_new *n, int v6)
{
	struct conn *c = way_find(w, v6), *home = place_home(&w->reply_at, v6);
	int locked, stored;

	if (!home)
		return 0;
	if (c && link_alive(READ_ONCE(c->link), v6)) {
		way_take(c, w, n);
		return 1;
	}
	locked = place_lock(&w->reply_at, home);
	if (unlikely(!locked)) {
		c = conn_find_or_lock(&w->reply, &w->reply_at, home, &locked, v6);
		if (c)
			way_take(c, w, n);
		if (!locked)
			return c != NULL;
	}
	stored = way_store(w, home, c, n, v6);
	place_unlock(&w->reply_at, home);
	return stored;
}

/* What the way back of a connection that is at its place is made of. */
__inline void nat_way_back(struct conn_new *n, const struct packet *p, const struct place *at, __u32 id)
{
	n->real = id;
	n->in_sets = 0; /* nothing refers to it */
	n->local = 0;
	n->link = link_to(at) | (__u64)p->vlan[0] << LINK_VLAN;
	n->link_version = 0;
	n->generation = p->vlan[1] | (__u32)p->vlans << WAY_VLANS_SHIFT;
	if (p->tpid == bpf_htons(ETH_P_8021AD))
		n->generation |= WAY_SERVICE_TAG;
	mac_copy(n->peer, (const __u16 *)p->mac);
}

/* Makes the way back of the connection of packet p known, which is at its place. 0: no room. */
__inline int nat_remember(struct packet *p, const struct place *at, __u32 id, int v6)
{
	struct real *r = bpf_map_lookup_elem(&reals, &id);
	struct work *w = work_get();
	struct conn_new *n;

	if (!r || !w || !at->slot || !nat_to_real(&w->ends, p, r, 0, v6))
		return 0;
	n = &w->fresh;
	n->word = REPLY_NEW;
	nat_way_back(n, p, at, id);
	nat_reply_key(&w->reply, p, &w->ends, v6);
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

/*
 * By nat the way back is made known first, or made known again to who begins
 * once more; by full-NAT it is there as long as its connection.
 */
__inline enum verdict packet_nat(struct xdp_md *ctx, struct packet *p, struct place *at, __u64 result, int v6)
{
	enum verdict verdict = outcome_verdict(result);
	__u32 id = outcome_real(result), local = outcome_local(result);
	struct real *r = bpf_map_lookup_elem(&reals, &id);

	if (!r || verdict == TX_UNTRACKED)
		return DROP_NO_ROOM;
	if (unlikely(verdict == TX_PROBE)) /* no connection's */
		return nat_request(ctx, p, r, 0, v6) ? verdict : DROP_ERROR;
	if (!local && (verdict == TX_NEW || packet_begins(p)) &&
	    !(v6 ? nat_remember6(p, at, id) : nat_remember4(p, at, id)))
		return DROP_NO_ROOM;
	if (verdict != TX_ONE_PACKET)
		nat_came_from(p, at, v6);
	return nat_request(ctx, p, r, local, v6) ? verdict : DROP_ERROR;
}

__noinline int packet_nat4(struct xdp_md *ctx, struct packet *p, struct place *at, __u64 result)
{
	return p && at ? packet_nat(ctx, p, at, result, 0) : DROP_ERROR;
}

__noinline int packet_nat6(struct xdp_md *ctx, struct packet *p, struct place *at, __u64 result)
{
	return p && at ? packet_nat(ctx, p, at, result, 1) : DROP_ERROR;
}

#endif
