/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * service.h - whose packet is it? A filter of one bit for each (address, port,
 * protocol) lets everybody else's packets leave after a single load; the table
 * behind it is only asked for new connections.
 */
#ifndef DIRECTOR_SERVICE_H
#define DIRECTOR_SERVICE_H

#include "config.h"
#include "maps.h"
#include "packet.h"

/* What a service is known by. An IPv4 address stands in the low half of hi. */
struct service_query {
	__u64 hi;
	__u64 lo;
	__be16 port;
	__u8 protocol;
};

/*
 * Not keyed: who aims at one bucket reaches at most SERVICE_WAYS keys that the
 * operator chose. Go has the same function (Key.hash in keys.go). The three
 * words that IPv4 leaves constant come first, so that it multiplies once.
 */
__inline __u64 service_hash(const struct service_query *q)
{
	__u64 ends = (__u64)q->port | (__u64)q->protocol << 16;
	__u64 h = (q->hi ^ q->lo << 32) * 0x9e3779b97f4a7c15;

	h = (h + (q->lo >> 32 | ends << 32)) * 0xbf58476d1ce4e5b9;
	return h ^ h >> 32; /* a product alone never brings the high bits down */
}

__inline int filter_has(__u64 hash)
{
	return filter[(hash >> 6) & (FILTER_WORDS - 1)] >> (hash & 63) & 1;
}

__inline struct service_query service_query(const struct packet *p, int v6)
{
	struct service_query q = { .port = packet_dport(p), .protocol = p->protocol };

	if (v6) {
		q.hi = p->addr[2];
		q.lo = p->addr[3];
	} else {
		/* ::ffff:a.b.c.d as two 64-bit words in memory order */
		q.lo = (p->addr[0] & 0xffffffff00000000) | 0xffff0000;
	}
	return q;
}

/* An address that services stand on is stored as a key of its own: ICMP, port 0. */
__inline struct service_query vip_query(const struct packet *p, int v6)
{
	struct service_query q = service_query(p, v6);

	q.port = 0;
	q.protocol = v6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP;
	return q;
}

__inline int vip_maybe(const struct packet *p, int v6)
{
	struct service_query q = vip_query(p, v6);

	return filter_has(service_hash(&q));
}

/* May the packet be a service's? */
enum maybe {
	MAYBE_NOT,	/* certainly not */
	MAYBE_MARKED,	/* no address's, but a mark's */
	MAYBE,
};

__inline enum maybe service_maybe(struct packet *p, int v6)
{
	struct service_query q = service_query(p, v6);

	p->service = service_hash(&q);
	if (likely(filter_has(p->service)))
		return MAYBE;
	if (settings.ftp && q.protocol == IPPROTO_TCP) {
		q.port = bpf_htons(21);
		if (filter_has(service_hash(&q)))
			return MAYBE;
	}
	q.port = 0;
	if (unlikely(settings.port0) && filter_has(service_hash(&q)))
		return MAYBE;
	return unlikely(settings.marking == MARKS_ANY) ? MAYBE_MARKED : MAYBE_NOT;
}

__inline struct service *service_in_bucket(const struct service_query *q, __u32 index)
{
	struct service_bucket *b;
	struct service_key *k;
	__u32 i, id;

	b = bpf_map_lookup_elem(&service_keys, &index);
	if (!b)
		return NULL;
	for (i = 0; i < SERVICE_WAYS; i++) {
		k = &b->key[i];
		id = READ_ONCE(k->id);
		if (id && *(__u64 *)&k->addr[0] == q->hi && *(__u64 *)&k->addr[8] == q->lo &&
		    k->port == q->port && k->protocol == q->protocol) {
			id--;
			return bpf_map_lookup_elem(&services, &id);
		}
	}
	return NULL;
}

/* The first is the hash's low half; for the second the bits are mixed once more. */
__inline __u32 second_bucket(__u64 hash)
{
	return hash * 0x9e3779b97f4a7c15 >> 32;
}

/* Each key has two buckets; Go stores it in the emptier one. */
__inline struct service *service_get(const struct service_query *q, __u64 hash)
{
	struct service *s;

	s = service_in_bucket(q, hash & config.service_mask);
	if (s)
		return s;
	return service_in_bucket(q, second_bucket(hash) & config.service_mask);
}

/* One that takes new connections. A removed one hides none that would be asked next. */
__inline struct service *service_taking(const struct service_query *q, __u64 hash)
{
	struct service *s = service_get(q, hash);

	return s && !(s->flags & (SERVICE_REMOVED | SERVICE_SORRY)) ? s : NULL;
}

__inline int vip_is(const struct packet *p, int v6)
{
	struct service_query q = vip_query(p, v6);

	return service_get(&q, service_hash(&q)) != NULL;
}

/* IPVS's order: exact; the FTP service for its data ports; port 0. */
static __noinline struct service *service_find_other(const struct packet *p, int v6)
{
	struct service_query q = service_query(p, v6);
	__u16 port = bpf_ntohs(q.port);
	struct service *s;

	if (settings.ftp && q.protocol == IPPROTO_TCP &&
	    (port == 20 || port >= config.unprivileged_port)) {
		q.port = bpf_htons(21);
		s = service_taking(&q, service_hash(&q));
		if (s)
			return s;
	}
	if (!settings.port0)
		return NULL;
	q.port = 0;
	return service_taking(&q, service_hash(&q));
}

__inline struct service *service_find(const struct packet *p, int v6)
{
	struct service_query q = service_query(p, v6);
	struct service *s = service_taking(&q, p->service);

	if (likely(s) || (!settings.port0 && !settings.ftp))
		return s;
	return service_find_other(p, v6);
}

#endif
