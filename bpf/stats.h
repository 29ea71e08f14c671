/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* stats.h - counters. Each CPU writes lines of its own. */
#ifndef DIRECTOR_STATS_H
#define DIRECTOR_STATS_H

#include "config.h"
#include "maps.h"
#include "packet.h"

__inline void stats_verdict(enum verdict verdict)
{
	__u32 key = verdict;
	__u64 *n = bpf_map_lookup_elem(&verdicts, &key);

	if (n)
		(*n)++;
}

__inline struct real_stats *stats_of(__u32 real)
{
	__u32 index = real * config.cpus + bpf_get_smp_processor_id();

	return bpf_map_lookup_elem(&real_traffic, &index);
}

/* conns: 1 for the packet that began a connection. */
__inline void stats_input(__u32 real, const struct packet *p, __u32 conns)
{
	struct real_stats *s = stats_of(real);

	if (!s)
		return;
	if (conns)
		s->n.conns++;
	s->n.in_packets++;
	s->n.in_bytes += p->length;
}

__inline void stats_output(__u32 real, const struct packet *p)
{
	struct real_stats *s = stats_of(real);

	if (!s)
		return;
	s->n.out_packets++;
	s->n.out_bytes += p->length;
}

#endif
