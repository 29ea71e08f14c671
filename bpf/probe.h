/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * probe.h - health checks that come as a client's: to a virtual address, and by
 * the forwarding of one real server. The daemon's sockets are bound to the near
 * end of a veth pair like the door's (door.h); their mark says which real server.
 * Nothing of it is a connection's, nor counted as traffic.
 *
 * The answers come to the director's own address. A stack that has the virtual
 * address itself takes no packet from it by a real interface. So each request
 * leaves a note under the key of its answers, by which they are sent back into the
 * pair. Who else should have the same key misses nothing: sockets that are bound
 * to no interface take packets of the near end, too.
 */
#ifndef DIRECTOR_PROBE_H
#define DIRECTOR_PROBE_H

#include "door.h"
#include "reply.h"

/* The address that was asked, in the form of struct real. */
__inline void probe_note(struct probe *n, const struct packet *p, int v6)
{
	n->addr[0] = v6 ? p->addr[2] : 0;
	n->addr[1] = v6 ? p->addr[3] : (p->addr[0] & 0xffffffff00000000) | 0xffff0000;
	n->port = packet_dport(p);
	mac_copy((__u16 *)n->peer, packet_source(p));
}

/* What the packet becomes: by nat another one, else the same. */
__inline int probe_ends(struct nat_ends *e, const struct packet *p, const struct real *r, int v6)
{
	if (method_replies(r->method))
		return p->protocol != IPPROTO_ICMP && p->protocol != IPPROTO_ICMPV6 && nat_to_real(e, p, r, 0, v6);
	__builtin_memcpy(e->addr, p->addr, sizeof(e->addr));
	e->ports = p->ports;
	return 1;
}

/* Its real server, and the note is left; who has no mark is none of ours. */
__inline __u64 probe_begin(struct packet *p, int v6)
{
	__u32 id = bpf_ntohl(p->mark) - 1;
	struct real *r = bpf_map_lookup_elem(&reals, &id);
	struct work *w = work_get();
	struct conn_key key;
	struct probe note;

	if (!r || !w || p->fragment != FRAGMENT_NONE || !probe_ends(&w->ends, p, r, v6))
		return outcome(DROP_UNTAKEN, NO_REAL);
	nat_reply_key(&w->reply, p, &w->ends, v6);
	overflow_key(&key, &w->reply, v6);
	probe_note(&note, p, v6);
	if (bpf_map_update_elem(&probes, &key, &note, BPF_ANY))
		return outcome(DROP_ERROR, NO_REAL);
	return outcome(TX_PROBE, id);
}

__noinline __u64 probe_begin4(struct packet *p)
{
	return p ? probe_begin(p, 0) : outcome(DROP_ERROR, NO_REAL);
}

__noinline __u64 probe_begin6(struct packet *p)
{
	return p ? probe_begin(p, 1) : outcome(DROP_ERROR, NO_REAL);
}

static __noinline struct probe *probe_noted(const struct packet *p, int v6)
{
	struct conn_key key;

	overflow_key(&key, p, v6);
	return bpf_map_lookup_elem(&probes, &key);
}

/* The packet as it would be had nobody rewritten it: its source is what was asked. */
__inline void probe_ends_back(struct nat_ends *e, const struct packet *p, const struct probe *n, int v6)
{
	__builtin_memcpy(e->addr, p->addr, sizeof(e->addr));
	e->ports = n->port | (p->ports & 0xffff0000);
	ends_set_source(e, n->addr, v6);
}

/* An answer, or an error that quotes a request. 0: it could not be. */
__inline int probe_rewrite(struct xdp_md *ctx, struct packet *p, const struct probe *n, int v6)
{
	struct work *w = work_get();

	if (!w)
		return 0;
	probe_ends_back(&w->ends, p, n, v6);
	return nat_rewrite(ctx, p, &w->ends, v6);
}

__inline int probe_rewrite_error(struct xdp_md *ctx, struct packet *p, const struct probe *n, int v6)
{
	struct work *w = work_get();
	struct nat_ends outer;

	if (!w)
		return 0;
	__builtin_memcpy(outer.addr, p->addr, sizeof(outer.addr));
	outer.ports = p->ports;
	probe_ends_back(&w->ends, &w->reply, n, v6);
	return v6 ? nat_icmp6(ctx, p, &w->reply, &outer, &w->ends) : nat_icmp4(ctx, p, &w->reply, &outer, &w->ends);
}

/* Back into the pair, as it came out of it. */
__inline enum verdict probe_back(struct xdp_md *ctx, const struct packet *p, const struct probe *n, struct way_out *out,
				 int v6)
{
	__u8 mac[2 * ETH_ALEN] = {};
	struct frame_head h = { .mac = mac };
	enum verdict failed;

	mac_copy((__u16 *)mac, (const __u16 *)n->peer);
	out->ifindex = settings.probe;
	failed = forward_head(ctx, p, &h, v6);
	return failed == UNDECIDED ? TX_PROBE : failed;
}

__inline int probe_is_icmp(const struct packet *p, int v6)
{
	return p->protocol == (v6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP);
}

/* May it be an answer? Echo replies and errors, and what is for a port that probes come from. */
__inline int probe_maybe_any(const struct packet *p, int v6)
{
	return probe_maybe(p) || (unlikely(settings.probe) && probe_is_icmp(p, v6));
}

/* UNDECIDED: it is no answer to a probe. */
__inline enum verdict probe_answer(struct xdp_md *ctx, struct packet *p, struct way_out *out, int v6)
{
	struct probe *n = probe_noted(p, v6);
	struct work *w = work_get();
	int done;

	if (!w)
		return DROP_ERROR;
	if (n) {
		done = probe_is_icmp(p, v6) || probe_rewrite(ctx, p, n, v6);
	} else {
		if (!probe_is_icmp(p, v6) || !reply_quotes(ctx, p, &w->reply, v6))
			return UNDECIDED;
		n = probe_noted(&w->reply, v6);
		if (!n)
			return UNDECIDED;
		done = probe_rewrite_error(ctx, p, n, v6);
	}
	return done ? probe_back(ctx, p, n, out, v6) : DROP_ERROR;
}

__noinline int probe_answer4(struct xdp_md *ctx, struct packet *p, struct way_out *out)
{
	return p && out ? probe_answer(ctx, p, out, 0) : DROP_ERROR;
}

__noinline int probe_answer6(struct xdp_md *ctx, struct packet *p, struct way_out *out)
{
	return p && out ? probe_answer(ctx, p, out, 1) : DROP_ERROR;
}

#endif
