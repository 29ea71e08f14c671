/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * defense.h - what a packet has to get past that would begin a connection.
 * Packets of known connections never come here.
 */
#ifndef DIRECTOR_DEFENSE_H
#define DIRECTOR_DEFENSE_H

#include "budget.h"
#include "maps.h"
#include "packet.h"
#include "prefix.h"

/*
 * drop_packet, as IPVS does it: one counter for all services and protocols. Two
 * CPUs that reach its end at once both drop; that is once in drop_rate packets at most.
 */
__inline int drop_packet(void)
{
	__s32 rate = READ_ONCE(settings.drop_rate);

	if (!rate || __sync_fetch_and_add(&defense.drop_left, -1) > 1)
		return 0;
	WRITE_ONCE(defense.drop_left, rate);
	return 1;
}

__inline struct guard *guard_row(__u32 row)
{
	return bpf_map_lookup_elem(&guards, &row);
}

/* Of the service's lists and everybody's, the first that says something. */
__inline int denied(struct packet *p, const struct guard *own, const struct guard *all, int v6)
{
	int says = 0;

	if (own->list)
		says = v6 ? prefix_says6(p, own->list) : prefix_says4(p, own->list);
	if (says <= PREFIX_NOTHING && all->list)
		says = v6 ? prefix_says6(p, all->list) : prefix_says4(p, all->list);
	return says == PREFIX_DENY;
}

/* UNDECIDED: the packet may begin a connection. */
__inline enum verdict defense_verdict(struct packet *p, __u32 service, int v6)
{
	struct guard *own = guard_row(service + 1), *all = guard_row(0);
	__u32 defending = settings.defending;

	if (!own || !all)
		return DROP_ERROR; /* cannot be: there is one for each service */
	if (defending & DEFEND_GUARD && denied(p, own, all, v6))
		return DROP_DENIED;
	if (defending & DEFEND_RATE && drop_packet())
		return DROP_PACKET;
	if (!(defending & DEFEND_GUARD))
		return UNDECIDED;
	if (!budget_allows(p, own, service + 1, v6) || !budget_allows(p, all, 0, v6))
		return DROP_BUDGET;
	return ceiling_allows(own) && ceiling_allows(all) ? UNDECIDED : DROP_CEILING;
}

/* For the report of who sends. */
__inline void sample_take(const struct packet *p, __u32 service, enum verdict verdict, int v6)
{
	__u32 cpu = bpf_get_smp_processor_id();
	struct sample_ring *ring = bpf_map_lookup_elem(&samples, &cpu);
	struct sample *s;

	if (!ring)
		return;
	s = &ring->sample[ring->count & (SAMPLES - 1)];
	if (v6) {
		__builtin_memcpy(s->addr, p->addr, 16);
	} else {
		*(__u64 *)&s->addr[0] = 0;
		*(__u64 *)&s->addr[8] = p->addr[0] << 32 | 0xffff0000;
	}
	s->service = service;
	s->verdict = verdict;
	WRITE_ONCE(ring->count, ring->count + 1);
}

__inline enum verdict defend(struct packet *p, __u32 service, int v6)
{
	enum verdict verdict = defense_verdict(p, service, v6);

	if (settings.defending & DEFEND_SAMPLE)
		sample_take(p, service, verdict, v6);
	return verdict;
}

/* A SYN that gets a cookie begins nothing yet: it spends nothing of budgets and ceilings. */
__inline enum verdict defend_cookie(struct packet *p, __u32 service, int v6)
{
	struct guard *own = guard_row(service + 1), *all = guard_row(0);
	enum verdict verdict = TX_COOKIE;

	if (!own || !all)
		return DROP_ERROR; /* cannot be: there is one for each service */
	if (settings.defending & DEFEND_GUARD && denied(p, own, all, v6))
		verdict = DROP_DENIED;
	if (settings.defending & DEFEND_SAMPLE)
		sample_take(p, service, verdict, v6);
	return verdict;
}

__noinline int defend4(struct packet *p, __u32 service)
{
	return p ? defend(p, service, 0) : DROP_ERROR;
}

__noinline int defend6(struct packet *p, __u32 service)
{
	return p ? defend(p, service, 1) : DROP_ERROR;
}

#endif
