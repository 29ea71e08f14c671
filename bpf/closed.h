/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* closed.h - packets to ports of a virtual address that no service has. */
#ifndef DIRECTOR_CLOSED_H
#define DIRECTOR_CLOSED_H

#include "maps.h"
#include "packet.h"
#include "service.h"

/*
 * Only what begins something: segments of connections that this host has itself
 * made from the address have to reach it.
 */
__inline int closed_concerns(const struct packet *p)
{
	if (p->protocol == IPPROTO_TCP)
		return (p->tcp & (TCP_SYN | TCP_ACK | TCP_RST)) == TCP_SYN;
	return p->protocol == IPPROTO_UDP;
}

/* What the address says of a packet that is no service's. */
__inline enum verdict closed_verdict(struct packet *p, int v6)
{
	struct closed_key key = {};
	__u32 *says;

	if (!closed_concerns(p) || !vip_maybe(p, v6))
		return PASS_NO_SERVICE;
	if (v6)
		__builtin_memcpy(key.addr, &p->addr[2], 16);
	else
		*(__u64 *)&key.addr[8] = (p->addr[0] & 0xffffffff00000000) | 0xffff0000;
	says = bpf_map_lookup_elem(&closed, &key);
	if (!says || *says == CLOSED_PASS)
		return PASS_NO_SERVICE;
	if (*says == CLOSED_DROP)
		return DROP_CLOSED;
	p->now = bpf_jiffies64();
	return p->protocol == IPPROTO_TCP ? TX_RESET : TX_UNREACHABLE;
}

__noinline int packet_closed4(struct packet *p)
{
	return p ? closed_verdict(p, 0) : DROP_ERROR;
}

__noinline int packet_closed6(struct packet *p)
{
	return p ? closed_verdict(p, 1) : DROP_ERROR;
}

#endif
