/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* begin.h - what may begin a connection, and what it is then. */
#ifndef DIRECTOR_BEGIN_H
#define DIRECTOR_BEGIN_H

#include "conn.h"
#include "plan.h"
#include "stats.h"
#include "work.h"

/* Only persistence makes one service of several ports: without it, an FTP service has port 21 only. */
__inline int port_fits(const struct service *s, const struct packet *p)
{
	return s->persistent || !s->port || s->port == packet_dport(p);
}

/*
 * IPVS schedules SYNs and INITs; with sloppy_tcp and sloppy_sctp whatever ends
 * nothing. From port 20 come the data connections of FTP servers.
 */
__inline int schedulable(const struct service *s, const struct packet *p)
{
	if (!port_fits(s, p) || packet_sport(p) == bpf_htons(20))
		return 0;
	if (p->protocol == IPPROTO_UDP)
		return 1;
	if (p->protocol == IPPROTO_SCTP ? p->chunk >= CHUNK_ABORT : p->tcp & TCP_RST)
		return 0;
	return packet_begins(p) || s->flags & SERVICE_SLOPPY;
}

__inline __u32 first_word(const struct packet *p, const struct real *r)
{
	__u32 flags = method_replies(r->method) ? 0 : CONN_NO_OUTPUT;
	__u32 table = flags & CONN_NO_OUTPUT ? TABLE_INPUT_ONLY : TABLE_INPUT;

	if (p->protocol == IPPROTO_UDP)
		return flags | UDP_NORMAL;
	if (!packet_begins(p))
		flags |= CONN_UNPROVEN;
	if (p->protocol == IPPROTO_SCTP)
		return flags | sctp_next(SCTP_NONE, p->chunk, table);
	return flags | tcp_next(TCP_NONE, p->tcp, table);
}

/* Persistence and lblc remember more than a plan; they are asked from where there is stack enough. */
__inline int asks_first(const struct service *s)
{
	return s->persistent || plan_of(s)->kind >= PLAN_LBLC;
}

/* A connection that was stored. */
__inline __u64 connected(const struct packet *p, struct real *r, const struct conn_new *n)
{
	stats_input(n->real, p, 1);
	count_enter(r, n->real, n->word);
	return outcome_by(TX_NEW, n->real, n->local);
}

/* What the connection that p begins is made of. */
__inline void conn_begin(struct conn_new *n, const struct packet *p, const struct real *r, __u32 id)
{
	n->real = id;
	n->generation = r->generation;
	n->word = first_word(p, r);
	n->in_sets = r->method == METHOD_NAT;
	n->local = 0;
	mac_copy(n->peer, packet_source(p));
}

#endif
