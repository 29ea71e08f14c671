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

__inline int list_says(const struct client *c, __u32 list, int v6)
{
	return v6 ? prefix_says6(c, list) : prefix_says(c, list, 0);
}

/* Of the service's lists and everybody's, the first that says something. */
__inline int denied(const struct client *c, const struct guard *own, const struct guard *all, int v6)
{
	int says = 0;

	if (own->list)
		says = list_says(c, own->list, v6);
	if (says <= PREFIX_NOTHING && all->list)
		says = list_says(c, all->list, v6);
	return says == PREFIX_DENY;
}

/* UNDECIDED: a packet of the client's may begin a connection. */
__inline enum verdict defense_verdict(const struct client *c, __u32 service, int v6)
{
	struct guard *own = guard_row(service + 1), *all = guard_row(0);
	__u32 defending = settings.defending;

	if (!own || !all)
		return DROP_ERROR; /* cannot be: there is one for each service */
	if (defending & DEFEND_GUARD && denied(c, own, all, v6))
		return DROP_DENIED;
	if (defending & DEFEND_RATE && drop_packet())
		return DROP_PACKET;
	if (!(defending & DEFEND_GUARD))
		return UNDECIDED;
	if (!budget_allows(c, own, service + 1, v6) || !budget_allows(c, all, 0, v6))
		return DROP_BUDGET;
	return ceiling_allows(own) && ceiling_allows(all) ? UNDECIDED : DROP_CEILING;
}

/* For the report of who sends. */
__inline void sample_take(const struct client *c, __u32 service, enum verdict verdict, int v6)
{
	__u32 cpu = bpf_get_smp_processor_id();
	struct sample_ring *ring = bpf_map_lookup_elem(&samples, &cpu);
	struct sample *s;

	if (!ring)
		return;
	s = &ring->sample[ring->count & (SAMPLES - 1)];
	*(__u64 *)&s->addr[0] = v6 ? c->word[0] : 0;
	*(__u64 *)&s->addr[8] = v6 ? c->word[1] : c->word[0] << 32 | 0xffff0000;
	s->service = service;
	s->verdict = verdict;
	WRITE_ONCE(ring->count, ring->count + 1);
}

__inline enum verdict defend(const struct client *c, __u32 service, int v6)
{
	enum verdict verdict = defense_verdict(c, service, v6);

	if (settings.defending & DEFEND_SAMPLE)
		sample_take(c, service, verdict, v6);
	return verdict;
}

__noinline enum verdict defend4(__u32 address, __u32 service)
{
	struct client c = { { address } };

	return defend(&c, service, 0);
}

__noinline enum verdict defend6(const struct client *c, __u32 service)
{
	return c ? defend(c, service, 1) : DROP_ERROR;
}

/* May the packet begin a connection of the service? */
__inline enum verdict packet_defend(const struct packet *p, __u32 service, int v6)
{
	struct client c = client_of(p, v6);

	return v6 ? defend6(&c, service) : defend4(c.word[0], service);
}

/* A SYN that gets a cookie begins nothing yet: it spends nothing of budgets and ceilings. */
__inline enum verdict defend_cookie(const struct packet *p, __u32 service, int v6)
{
	struct guard *own = guard_row(service + 1), *all = guard_row(0);
	struct client c = client_of(p, v6);
	enum verdict verdict = TX_COOKIE;

	if (!own || !all)
		return DROP_ERROR; /* cannot be: there is one for each service */
	if (settings.defending & DEFEND_GUARD && denied(&c, own, all, v6))
		verdict = DROP_DENIED;
	if (settings.defending & DEFEND_SAMPLE)
		sample_take(&c, service, verdict, v6);
	return verdict;
}

#endif
