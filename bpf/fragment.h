/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * fragment.h - later fragments have no ports: they get those of the first one
 * and so find the same connection. One that overtakes its first goes to the
 * stack; nothing is held back or put together.
 */
#ifndef DIRECTOR_FRAGMENT_H
#define DIRECTOR_FRAGMENT_H

#include "maps.h"
#include "packet.h"

__inline void fragment_key(struct fragment_key *key, const struct packet *p)
{
	key->addr[0] = p->addr[0];
	key->addr[1] = p->addr[1];
	key->addr[2] = p->addr[2];
	key->addr[3] = p->addr[3];
	key->id = p->fragment_id;
	key->protocol = p->protocol;
}

__noinline int fragment_remember(struct packet *p)
{
	struct fragment_key key;
	__u32 ports;

	if (!p)
		return 0;
	fragment_key(&key, p);
	ports = p->ports; /* Linux 6.1 wants the value on the stack */
	/* Cannot fail but for want of memory; then the later ones go to the stack. */
	return bpf_map_update_elem(&fragments, &key, &ports, BPF_ANY);
}

/* Beside the protocol: the entry says which real server a packet's fragments go to. */
#define FRAGMENT_CHOSEN 0x100

/* Only the first fragment has what the real server is chosen by: the later ones follow it. */
__noinline int fragment_choose(struct packet *p, __u32 id)
{
	struct fragment_key key;
	__u32 chosen = id;

	if (!p)
		return 0;
	fragment_key(&key, p);
	key.protocol |= FRAGMENT_CHOSEN;
	return bpf_map_update_elem(&fragments, &key, &chosen, BPF_ANY);
}

/* The real server that the first fragment's went to; NO_REAL: it was not seen. */
__noinline __u32 fragment_chosen(struct packet *p)
{
	struct fragment_key key;
	__u32 *id;

	if (!p)
		return NO_REAL;
	fragment_key(&key, p);
	key.protocol |= FRAGMENT_CHOSEN;
	id = bpf_map_lookup_elem(&fragments, &key);
	return id ? *id : NO_REAL;
}

/* 1: the ports are known now. */
__noinline int fragment_recall(struct packet *p)
{
	struct fragment_key key;
	__u32 *ports;

	if (!p)
		return 0;
	fragment_key(&key, p);
	ports = bpf_map_lookup_elem(&fragments, &key);
	if (!ports)
		return 0;
	p->ports = *ports;
	return 1;
}

#endif
