/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* work.h - what the long way notes on its way, in memory of each CPU: it is too large for the stack. */
#ifndef DIRECTOR_WORK_H
#define DIRECTOR_WORK_H

#include "conn.h"
#include "packet.h"

struct work {
	struct packet packet;
	struct place at;
	struct packet reply; /* nat: the packet that a reply will be */
	struct place reply_at;
	struct conn_new fresh;
	struct destination destination; /* lblc, lblcr: the one that is stored */
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct work);
} works SEC(".maps");

__inline struct work *work_get(void)
{
	__u32 key = 0;

	return bpf_map_lookup_elem(&works, &key);
}

#endif
