/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * defense.h - what a packet has to get past that would begin a connection.
 * Packets of known connections never come here.
 */
#ifndef DIRECTOR_DEFENSE_H
#define DIRECTOR_DEFENSE_H

#include "maps.h"
#include "packet.h"

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

/* UNDECIDED: it may begin a connection. */
__noinline int defend(struct packet *p)
{
	if (!p)
		return DROP_ERROR;
	if (settings.defending & DEFEND_RATE && drop_packet())
		return DROP_PACKET;
	return UNDECIDED;
}

#endif
