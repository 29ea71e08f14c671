/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * sctp.h - SCTP's chunks, and the state machine of IPVS for them, as tables:
 * docs/ARCHITECTURE.md names the source. Like TCP's they have a variant for when
 * only the client's side is seen.
 */
#ifndef DIRECTOR_SCTP_H
#define DIRECTOR_SCTP_H

#include "packet.h"
#include "state.h"

/* What a packet's first chunk is to the state machine (types: RFC 9260 section 3.2). */
enum sctp_chunk {
	CHUNK_DATA, /* and whatever else changes no state by itself */
	CHUNK_INIT,
	CHUNK_INIT_ACK,
	CHUNK_COOKIE_ECHO,
	CHUNK_COOKIE_ACK,
	CHUNK_SHUTDOWN,
	CHUNK_SHUTDOWN_ACK,
	CHUNK_SHUTDOWN_COMPLETE,
	CHUNK_ERROR,
	CHUNK_ABORT,
	CHUNK_NONE, /* too short for one, or a later fragment */
};

/* By the type of the chunk. (Of 16 bytes the compiler would make a section of its own.) */
static const __u8 sctp_chunks[64] = {
	[0] = CHUNK_DATA,
	[1] = CHUNK_INIT,
	[2] = CHUNK_INIT_ACK,
	[6] = CHUNK_ABORT,
	[7] = CHUNK_SHUTDOWN,
	[8] = CHUNK_SHUTDOWN_ACK,
	[9] = CHUNK_ERROR,
	[10] = CHUNK_COOKIE_ECHO,
	[11] = CHUNK_COOKIE_ACK,
	[14] = CHUNK_SHUTDOWN_COMPLETE,
};

#define NO SCTP_NONE
#define I1 SCTP_INIT1
#define IN SCTP_INIT
#define CS SCTP_COOKIE_SENT
#define CR SCTP_COOKIE_REPLIED
#define CW SCTP_COOKIE_WAIT
#define CO SCTP_COOKIE
#define CE SCTP_COOKIE_ECHOED
#define ES SCTP_ESTABLISHED
#define SS SCTP_SHUTDOWN_SENT
#define SR SCTP_SHUTDOWN_RECEIVED
#define SA SCTP_SHUTDOWN_ACK_SENT
#define RJ SCTP_REJECTED
#define CL SCTP_CLOSED

/* [table][chunk][state before], padded so that an index is plain bits. */
static const __u8 sctp_transitions[4][16][16] = {
	[TABLE_INPUT] = {
		/*                             NO  I1  IN  CS  CR  CW  CO  CE  ES  SS  SR  SA  RJ  CL */
		[CHUNK_DATA]             = { ES, I1, IN, CS, CR, CW, CO, CE, ES, SS, SR, SA, RJ, CL },
		[CHUNK_INIT]             = { I1, IN, IN, CS, CR, CW, CO, CE, ES, SS, SR, SA, IN, IN },
		[CHUNK_INIT_ACK]         = { CW, CW, CW, CS, CR, CO, CO, CE, ES, SS, SR, SA, RJ, CL },
		[CHUNK_COOKIE_ECHO]      = { CR, IN, IN, CR, CR, CW, CO, CE, ES, SS, SR, SA, RJ, CL },
		[CHUNK_COOKIE_ACK]       = { ES, I1, IN, CS, CR, CW, CO, ES, ES, SS, SR, SA, RJ, CL },
		[CHUNK_SHUTDOWN]         = { SR, I1, IN, CS, CR, CW, CO, CE, SR, SS, SR, SA, RJ, CL },
		[CHUNK_SHUTDOWN_ACK]     = { CL, IN, IN, CS, CR, CW, CO, CE, ES, CL, SR, CL, RJ, CL },
		[CHUNK_SHUTDOWN_COMPLETE] = { CL, CL, CL, CS, CR, CW, CO, CE, ES, SS, SR, CL, RJ, CL },
		[CHUNK_ERROR]            = { CL, I1, IN, CS, CR, CW, CO, CL, ES, SS, SR, SA, RJ, CL },
		[CHUNK_ABORT]            = { CL, CL, CL, CL, CL, RJ, CL, CL, CL, CL, CL, CL, CL, CL },
	},
	[TABLE_OUTPUT] = {
		/*                             NO  I1  IN  CS  CR  CW  CO  CE  ES  SS  SR  SA  RJ  CL */
		[CHUNK_DATA]             = { ES, I1, IN, CS, CR, CW, CO, CE, ES, SS, SR, SA, RJ, CL },
		[CHUNK_INIT]             = { CW, CW, CW, CW, CW, CW, CW, CW, ES, CW, CW, CW, CW, CW },
		[CHUNK_INIT_ACK]         = { CS, CS, CS, CS, CR, CW, CO, CE, ES, SS, SR, SA, RJ, CL },
		[CHUNK_COOKIE_ECHO]      = { CE, CE, CE, CE, CE, CE, CE, CE, ES, SS, SR, SA, RJ, CL },
		[CHUNK_COOKIE_ACK]       = { ES, ES, ES, ES, ES, ES, ES, ES, ES, SS, SR, SA, RJ, CL },
		[CHUNK_SHUTDOWN]         = { SS, SS, SS, SS, SS, SS, SS, SS, SS, SS, SR, SA, RJ, CL },
		[CHUNK_SHUTDOWN_ACK]     = { SA, SA, SA, SA, SA, CW, CO, CE, ES, SA, SA, SA, RJ, CL },
		[CHUNK_SHUTDOWN_COMPLETE] = { CL, I1, IN, CS, CR, CW, CO, CE, ES, SS, SR, SA, RJ, CL },
		[CHUNK_ERROR]            = { CL, CL, CL, CL, CL, CW, CO, CE, ES, SS, SR, SA, RJ, CL },
		[CHUNK_ABORT]            = { CL, RJ, CL, CL, CL, CL, CL, CL, CL, CL, CL, CL, CL, CL },
	},
	[TABLE_INPUT_ONLY] = {
		/*                             NO  I1  IN  CS  CR  CW  CO  CE  ES  SS  SR  SA  RJ  CL */
		[CHUNK_DATA]             = { ES, I1, IN, CS, CR, ES, CO, CE, ES, SS, SR, SA, RJ, CL },
		[CHUNK_INIT]             = { I1, IN, IN, IN, IN, IN, CO, CE, ES, SS, SR, SA, IN, IN },
		[CHUNK_INIT_ACK]         = { CE, CE, CE, CE, CE, CE, CO, CE, ES, SS, SR, SA, RJ, CL },
		[CHUNK_COOKIE_ECHO]      = { ES, ES, ES, ES, ES, ES, CO, CE, ES, SS, SR, SA, RJ, CL },
		[CHUNK_COOKIE_ACK]       = { ES, I1, IN, ES, ES, CW, ES, ES, ES, SS, SR, SA, RJ, CL },
		[CHUNK_SHUTDOWN]         = { SR, I1, IN, CS, CR, CW, CO, CE, SR, SS, SR, SA, RJ, CL },
		[CHUNK_SHUTDOWN_ACK]     = { CL, IN, IN, CS, CR, CW, CO, CE, CL, CL, SR, CL, RJ, CL },
		[CHUNK_SHUTDOWN_COMPLETE] = { CL, CL, CL, CL, CL, CW, CO, CE, ES, SS, CL, CL, RJ, CL },
		[CHUNK_ERROR]            = { CL, I1, IN, CS, CR, CW, CO, CE, ES, SS, SR, SA, RJ, CL },
		[CHUNK_ABORT]            = { CL, CL, CL, CL, CL, RJ, CL, CL, CL, CL, CL, CL, CL, CL },
	},
};

#undef NO
#undef I1
#undef IN
#undef CS
#undef CR
#undef CW
#undef CO
#undef CE
#undef ES
#undef SS
#undef SR
#undef SA
#undef RJ
#undef CL

__inline __u32 sctp_next(__u32 state, __u32 chunk, __u32 table)
{
	if (chunk == CHUNK_NONE)
		return state;
	return sctp_transitions[table & 3][chunk & 15][state & 15];
}

struct sctp_head {
	__u8 type;
	__u8 flags;
	__be16 length; /* of the chunk, with this head */
};

/* The head of the chunk that many bytes behind the SCTP header; 0: it is not there. */
__inline int sctp_load(struct xdp_md *ctx, const struct packet *p, __u32 at, struct sctp_head *head)
{
	__u32 offset = p->l4 + SCTP_HEADER + at;

	return offset + sizeof(*head) <= p->length &&
	       !bpf_xdp_load_bytes(ctx, p->l3 + offset, head, sizeof(*head));
}

__inline __u32 sctp_chunk(const struct sctp_head *head)
{
	return sctp_chunks[head->type < sizeof(sctp_chunks) ? head->type : 0];
}

/* Finds p->chunk. As IPVS: the first chunk counts, but an ABORT right behind a cookie's does. */
__noinline int sctp_parse(struct xdp_md *ctx, struct packet *p)
{
	struct sctp_head head;
	__u32 chunk, length;

	if (!p)
		return 0;
	p->chunk = CHUNK_NONE;
	if (p->fragment == FRAGMENT_LATER || !sctp_load(ctx, p, 0, &head))
		return 0;
	chunk = sctp_chunk(&head);
	length = bpf_ntohs(head.length);
	if ((chunk == CHUNK_COOKIE_ECHO || chunk == CHUNK_COOKIE_ACK) && length >= sizeof(head) &&
	    sctp_load(ctx, p, (length + 3) & ~3U, &head) && sctp_chunk(&head) == CHUNK_ABORT)
		chunk = CHUNK_ABORT;
	p->chunk = chunk;
	return 0;
}

#endif
