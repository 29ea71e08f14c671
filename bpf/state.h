/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * state.h - the TCP state machine of IPVS, as tables: docs/ARCHITECTURE.md
 * names the source. NAT sees both directions and uses INPUT and OUTPUT; dr and
 * tun see the client's only and use INPUT_ONLY until a reply passes.
 */
#ifndef DIRECTOR_STATE_H
#define DIRECTOR_STATE_H

#include "maps.h"
#include "packet.h"

enum tcp_table { TABLE_INPUT, TABLE_OUTPUT, TABLE_INPUT_ONLY, TABLE_SPARE };
enum tcp_event { EVENT_SYN, EVENT_FIN, EVENT_ACK, EVENT_RST };

#define NO TCP_NONE
#define ES TCP_ESTABLISHED
#define SS TCP_SYN_SENT
#define SR TCP_SYN_RECV
#define FW TCP_FIN_WAIT
#define TW TCP_TIME_WAIT
#define CL TCP_CLOSE
#define CW TCP_CLOSE_WAIT
#define LA TCP_LAST_ACK
#define LI TCP_LISTEN
#define SA TCP_SYNACK

/* [secure_tcp][table][event][state before], padded so that an index is plain bits. */
static const __u8 tcp_transitions[2][4][4][16] = {
	{
		[TABLE_INPUT] = {
			/*              NO  ES  SS  SR  FW  TW  CL  CW  LA  LI  SA */
			[EVENT_SYN] = { SR, ES, ES, SR, SR, SR, SR, SR, SR, SR, SR },
			[EVENT_FIN] = { CL, CW, SS, TW, TW, TW, CL, CW, LA, LI, TW },
			[EVENT_ACK] = { ES, ES, SS, ES, FW, TW, CL, CW, CL, LI, ES },
			[EVENT_RST] = { CL, CL, CL, SR, CL, CL, CL, CL, LA, LI, SR },
		},
		[TABLE_OUTPUT] = {
			[EVENT_SYN] = { SS, ES, SS, SR, SS, SS, SS, SS, SS, LI, SR },
			[EVENT_FIN] = { TW, FW, SS, TW, FW, TW, CL, TW, LA, LI, TW },
			[EVENT_ACK] = { ES, ES, SS, ES, FW, TW, CL, CW, LA, ES, ES },
			[EVENT_RST] = { CL, CL, SS, CL, CL, TW, CL, CL, CL, CL, CL },
		},
		[TABLE_INPUT_ONLY] = {
			[EVENT_SYN] = { SR, ES, ES, SR, SR, SR, SR, SR, SR, SR, SR },
			[EVENT_FIN] = { CL, FW, SS, TW, FW, TW, CL, CW, LA, LI, TW },
			[EVENT_ACK] = { ES, ES, SS, ES, FW, TW, CL, CW, CL, LI, ES },
			[EVENT_RST] = { CL, CL, CL, SR, CL, CL, CL, CL, LA, LI, CL },
		},
	},
	{
		[TABLE_INPUT] = {
			[EVENT_SYN] = { SR, ES, ES, SR, SR, SR, SR, SR, SR, SR, SA },
			[EVENT_FIN] = { CL, CW, SS, TW, TW, TW, CL, CW, LA, LI, SA },
			[EVENT_ACK] = { ES, ES, SS, SR, FW, TW, CL, CW, CL, LI, SA },
			[EVENT_RST] = { CL, CL, CL, SR, CL, CL, CL, CL, LA, LI, CL },
		},
		[TABLE_OUTPUT] = {
			[EVENT_SYN] = { SS, ES, SS, SA, SS, SS, SS, SS, SS, LI, SA },
			[EVENT_FIN] = { TW, FW, SS, TW, FW, TW, CL, TW, LA, LI, TW },
			[EVENT_ACK] = { ES, ES, SS, ES, FW, TW, CL, CW, LA, ES, ES },
			[EVENT_RST] = { CL, CL, SS, CL, CL, TW, CL, CL, CL, CL, CL },
		},
		[TABLE_INPUT_ONLY] = {
			[EVENT_SYN] = { SA, ES, ES, SR, SA, SA, SA, SA, SA, SA, SA },
			[EVENT_FIN] = { CL, FW, SS, TW, FW, TW, CL, CW, LA, LI, TW },
			[EVENT_ACK] = { ES, ES, SS, ES, FW, TW, CL, CW, CL, LI, ES },
			[EVENT_RST] = { CL, CL, CL, SR, CL, CL, CL, CL, LA, LI, CL },
		},
	},
};

#undef NO
#undef ES
#undef SS
#undef SR
#undef FW
#undef TW
#undef CL
#undef CW
#undef LA
#undef LI
#undef SA

/* First match: RST, SYN, FIN, ACK; a segment with none of them closes. */
__inline __u32 tcp_next(__u32 state, __u8 flags, __u32 table)
{
	__u32 event;

	if (flags & TCP_RST)
		event = EVENT_RST;
	else if (flags & TCP_SYN)
		event = EVENT_SYN;
	else if (flags & TCP_FIN)
		event = EVENT_FIN;
	else if (flags & TCP_ACK)
		event = EVENT_ACK;
	else
		return TCP_CLOSE;
	return tcp_transitions[settings.secure_tcp & 1][table & 3][event][state & 15];
}

/* The states that IPVS counts as active; SYN_RECV is one of them. */
__inline int state_is_active(__u32 state)
{
	const __u64 active = 1ULL << TCP_ESTABLISHED | 1ULL << TCP_SYN_SENT | 1ULL << TCP_SYN_RECV |
			     1ULL << TCP_SYNACK | 1ULL << SCTP_ESTABLISHED;

	return active >> (state & 63) & 1;
}

/* Half-open: what a full set may give up for a new connection. */
__inline int state_is_embryonic(__u32 state)
{
	const __u64 embryonic = 1ULL << TCP_NONE | 1ULL << TCP_SYN_SENT | 1ULL << TCP_SYN_RECV |
				1ULL << TCP_SYNACK | 1ULL << SCTP_NONE | 1ULL << SCTP_INIT1 |
				1ULL << SCTP_INIT | 1ULL << REPLY_NEW | 1ULL << TEMPLATE_NONE;

	return embryonic >> (state & 63) & 1;
}

#endif
