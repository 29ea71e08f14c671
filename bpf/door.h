/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * door.h - packets that the firewall has marked. The stack routes them into a
 * veth pair of the director's, the door. XDP, at its far end, cannot see the mark
 * of a packet, so a program at the near end's egress writes it where the
 * link-layer destination stands, which nobody needs in there. Replies by nat go
 * back through the door, to the stack: the near end's address is their peer's.
 */
#ifndef DIRECTOR_DOOR_H
#define DIRECTOR_DOOR_H

#include "config.h"
#include "maps.h"
#include "packet.h"

/*
 * Begins such a destination: it is a locally administered group's. The short way
 * leaves groups' packets to the long one, so no other packet is asked.
 */
#define DOOR_GROUP 0x4d03

struct door_head {
	__u16 group;
	__be32 mark;
} __attribute__((packed));

/* At the egress of the near end. 0: the packet cannot be written to. */
__inline int door_write(struct __sk_buff *skb)
{
	struct door_head head = { .group = DOOR_GROUP, .mark = bpf_htonl(skb->mark) };

	return !bpf_skb_store_bytes(skb, 0, &head, sizeof(head), 0);
}

enum door {
	DOOR_NONE,
	DOOR_MARKS,
	DOOR_PROBES,	/* health checks come through a pair of their own (probe.h) */
};

/* Does the packet, which is for a group, come through the door? Then its mark is known. */
__inline int door_read(const struct xdp_md *ctx, struct packet *p)
{
	if ((p->mac[0] & 0xffff) != DOOR_GROUP)
		return 0;
	if (ctx->ingress_ifindex == settings.door)
		p->door = DOOR_MARKS;
	else if (ctx->ingress_ifindex == settings.probe)
		p->door = DOOR_PROBES;
	else
		return 0;
	p->mark = p->mac[0] >> 16 | p->mac[1] << 16;
	return 1;
}

/* May it be the answer to a health check (probe.h)? False is certain for all but ICMP. */
__inline int probe_maybe(const struct packet *p)
{
	return unlikely(bpf_ntohs(packet_dport(p)) >= PROBE_PORT_FIRST) && settings.probe;
}

#endif
