/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * nat_icmp.h - ICMP errors about nat connections. The packet that an error
 * quotes went the other way, so it is read and written backwards; of its
 * transport header only the ports are rewritten, as its checksum may not be there.
 */
#ifndef DIRECTOR_NAT_ICMP_H
#define DIRECTOR_NAT_ICMP_H

#include "icmp.h"
#include "nat.h"

/* The quoted IPv4 header's checksum takes up its new addresses: the sum over both stays what it was. */
__inline int nat_quoted4(struct xdp_md *ctx, __u32 at, const struct packet *q, const struct nat_ends *e)
{
	__u64 addr = e->addr[0] >> 32 | e->addr[0] << 32;
	__u16 check;

	if (bpf_xdp_load_bytes(ctx, at + 10, &check, sizeof(check)))
		return 0;
	csum_apply(&check, nat_addr_change(q, e, 0));
	return !bpf_xdp_store_bytes(ctx, at + 10, &check, sizeof(check)) &&
	       !bpf_xdp_store_bytes(ctx, at + 12, &addr, sizeof(addr));
}

__inline int nat_quoted6(struct xdp_md *ctx, __u32 at, const struct nat_ends *e)
{
	__u64 addr[4] = { e->addr[2], e->addr[3], e->addr[0], e->addr[1] };

	return !bpf_xdp_store_bytes(ctx, at + 8, addr, sizeof(addr));
}

/* Rewrites the ends of the packet that is quoted, which was read backwards, as e is; q->l4 is where its ports are. */
__inline int nat_quoted(struct xdp_md *ctx, const struct packet *p, const struct packet *q, const struct nat_ends *e, int v6)
{
	__u32 at = p->l3 + p->l4 + sizeof(struct icmp_head);
	__u32 ports = e->ports >> 16 | e->ports << 16;

	if (!(v6 ? nat_quoted6(ctx, at, e) : nat_quoted4(ctx, at, q, e)))
		return 0;
	return !bpf_xdp_store_bytes(ctx, at + (q->l4 & 63), &ports, sizeof(ports));
}

__inline int nat_icmp_check(struct xdp_md *ctx, const struct packet *p, __u64 change)
{
	__u32 at = p->l3 + p->l4 + 2;
	__u16 check;

	if (bpf_xdp_load_bytes(ctx, at, &check, sizeof(check)))
		return 0;
	csum_apply(&check, change);
	return !bpf_xdp_store_bytes(ctx, at, &check, sizeof(check));
}

/*
 * inner: what the quoted packet, read backwards, becomes; outer: the packet
 * itself. ICMPv6's checksum covers all addresses, ICMP's only the ports: see
 * nat_quoted4.
 */
__inline int nat_icmp(struct xdp_md *ctx, const struct packet *p, const struct packet *q, const struct nat_ends *outer,
		      const struct nat_ends *inner, int v6)
{
	__u64 change = csum_change(q->ports, inner->ports), moved = nat_addr_change(p, outer, v6);

	if (v6)
		change += moved + nat_addr_change(q, inner, v6);
	return nat_quoted(ctx, p, q, inner, v6) && nat_icmp_check(ctx, p, change) &&
	       nat_network(ctx, p, outer, moved, v6);
}

static __noinline int nat_icmp4(struct xdp_md *ctx, const struct packet *p, const struct packet *q,
				const struct nat_ends *outer, const struct nat_ends *inner)
{
	return nat_icmp(ctx, p, q, outer, inner, 0);
}

static __noinline int nat_icmp6(struct xdp_md *ctx, const struct packet *p, const struct packet *q,
				const struct nat_ends *outer, const struct nat_ends *inner)
{
	return nat_icmp(ctx, p, q, outer, inner, 1);
}

__inline int icmp_quoted(struct xdp_md *ctx, struct packet *p, struct packet *q, int v6)
{
	return v6 ? icmp_quoted6(ctx, p, q) : icmp_quoted4(ctx, p, q);
}

/* An error about a connection, to its real server: it quotes what the virtual service sent. */
__inline enum verdict nat_icmp_error(struct xdp_md *ctx, struct packet *p, __u64 result, int v6)
{
	__u32 id = outcome_real(result), local = outcome_local(result);
	struct real *r = bpf_map_lookup_elem(&reals, &id);
	struct nat_ends outer, inner;
	struct work *w = work_get();

	if (!r || !w || !icmp_quoted(ctx, p, &w->reply, v6) || !nat_to_real(&outer, p, r, local, v6) ||
	    !nat_to_real(&inner, &w->reply, r, local, v6) ||
	    !(v6 ? nat_icmp6(ctx, p, &w->reply, &outer, &inner) : nat_icmp4(ctx, p, &w->reply, &outer, &inner)))
		return DROP_ERROR;
	return TX_ICMP;
}

static __noinline enum verdict nat_icmp_error4(struct xdp_md *ctx, struct packet *p, __u64 result)
{
	return nat_icmp_error(ctx, p, result, 0);
}

static __noinline enum verdict nat_icmp_error6(struct xdp_md *ctx, struct packet *p, __u64 result)
{
	return nat_icmp_error(ctx, p, result, 1);
}

#endif
