/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * nat_icmp.h - ICMP errors about nat connections. The packet that an error
 * quotes went the other way, so its other end is rewritten; of the quoted
 * transport header only the ports are, as its checksum may not be there.
 */
#ifndef DIRECTOR_NAT_ICMP_H
#define DIRECTOR_NAT_ICMP_H

#include "icmp.h"
#include "nat.h"

/* The quoted IPv4 header's checksum takes up its new address: the sum over both stays what it was. */
__inline int nat_quoted4(struct xdp_md *ctx, __u32 at, const struct nat_edit *e)
{
	__u32 addr = e->new_addr[0];
	__u16 check;

	if (bpf_xdp_load_bytes(ctx, at + 10, &check, sizeof(check)))
		return 0;
	csum_apply(&check, nat_addr_change(e, 0));
	return !bpf_xdp_store_bytes(ctx, at + 10, &check, sizeof(check)) &&
	       !bpf_xdp_store_bytes(ctx, at + (e->source ? 12 : 16), &addr, sizeof(addr));
}

__inline int nat_quoted6(struct xdp_md *ctx, __u32 at, const struct nat_edit *e)
{
	__u64 addr[2] = { e->new_addr[0], e->new_addr[1] };

	return !bpf_xdp_store_bytes(ctx, at + (e->source ? 8 : 24), addr, sizeof(addr));
}

/* Rewrites one end of the packet that is quoted; q->l4 is where its ports are. */
__inline int nat_quoted(struct xdp_md *ctx, const struct packet *p, const struct packet *q, const struct nat_edit *e, int v6)
{
	__u32 at = p->l3 + p->l4 + sizeof(struct icmp_head);
	__be16 port = e->new_port;

	if (!(v6 ? nat_quoted6(ctx, at, e) : nat_quoted4(ctx, at, e)))
		return 0;
	return !bpf_xdp_store_bytes(ctx, at + (q->l4 & 63) + (e->source ? 0 : 2), &port, sizeof(port));
}

__inline int nat_icmp_check(struct xdp_md *ctx, const struct packet *p, __u32 change)
{
	__u32 at = p->l3 + p->l4 + 2;
	__u16 check;

	if (bpf_xdp_load_bytes(ctx, at, &check, sizeof(check)))
		return 0;
	csum_apply(&check, change);
	return !bpf_xdp_store_bytes(ctx, at, &check, sizeof(check));
}

/*
 * inner: the quoted end that changes. outer: the packet's own other end. ICMPv6's
 * checksum covers both addresses, ICMP's only the ports: see nat_quoted4.
 */
__inline int nat_icmp(struct xdp_md *ctx, const struct packet *p, const struct packet *q, const struct nat_edit *outer,
		      const struct nat_edit *inner, int v6)
{
	__u32 change = csum_change(inner->port, inner->new_port), moved = nat_addr_change(outer, v6);

	if (v6)
		change = csum_add(change, csum_add(moved, nat_addr_change(inner, v6)));
	return nat_quoted(ctx, p, q, inner, v6) && nat_icmp_check(ctx, p, change) &&
	       nat_network(ctx, p, outer, moved, v6);
}

/* From the client's side, to the real server: it quotes what the virtual service sent. q: read backwards. */
__inline int nat_icmp_request(struct xdp_md *ctx, const struct packet *p, const struct packet *q, const struct real *r, int v6)
{
	struct nat_edit outer, inner;

	nat_to_real(&outer, p, r, v6);
	nat_to_real(&inner, q, r, v6);
	inner.source = 1;
	return nat_icmp(ctx, p, q, &outer, &inner, v6);
}

/* From the servers' side, to the client: it quotes what the real server was sent. q: read backwards. */
__inline int nat_icmp_reply(struct xdp_md *ctx, const struct packet *p, const struct packet *q, const struct conn *c, int v6)
{
	struct nat_edit outer, inner;

	nat_from_service(&outer, p, c, v6);
	nat_from_service(&inner, q, c, v6);
	inner.source = 0;
	return nat_icmp(ctx, p, q, &outer, &inner, v6);
}

__inline int icmp_quoted(struct xdp_md *ctx, struct packet *p, struct packet *q, int v6)
{
	return v6 ? icmp_quoted6(ctx, p, q) : icmp_quoted4(ctx, p, q);
}

/* An error about a connection, to its real server. */
__inline int nat_icmp_error(struct xdp_md *ctx, struct packet *p, const struct real *r, int v6)
{
	struct work *w = work_get();

	return w && icmp_quoted(ctx, p, &w->reply, v6) && nat_icmp_request(ctx, p, &w->reply, r, v6);
}

/* By nat: the way back is made known first, or made known again to who begins once more. */
__inline enum verdict packet_nat(struct xdp_md *ctx, struct packet *p, struct place *at, __u64 result, int v6)
{
	enum verdict verdict = result & 0xff;
	__u32 id = result >> 32;
	struct real *r = bpf_map_lookup_elem(&reals, &id);

	if (!r || verdict == TX_UNTRACKED)
		return DROP_NO_ROOM;
	if (verdict == TX_ICMP)
		return nat_icmp_error(ctx, p, r, v6) ? verdict : DROP_ERROR;
	if ((verdict == TX_NEW || packet_begins(p)) &&
	    !(v6 ? nat_remember6(p, at, id) : nat_remember4(p, at, id)))
		return DROP_NO_ROOM;
	nat_came_from(p, at, v6);
	return nat_request(ctx, p, r, v6) ? verdict : DROP_ERROR;
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
