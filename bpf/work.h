/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* work.h - what the long way notes on its way, in memory of each CPU: it is too large for the stack. */
#ifndef DIRECTOR_WORK_H
#define DIRECTOR_WORK_H

#include "conn.h"
#include "packet.h"

/* What a packet's addresses and ports shall be, in the form that struct packet has them. */
struct nat_ends {
	__u64 addr[4];
	__u32 ports;
};

#define CALL_BYTES 2048

/* A Call-ID, and the datagram that it is looked for in. */
struct call {
	__u64 hash; /* keyed */
	__u8 text[CALL_TEXT];
	__u8 bytes[CALL_BYTES];
	__u32 zero;	/* always, which the verifier does not know */
};

/* A TCP header, and behind it zeros, which end the options. */
union tcp_head {
	__u32 word[20];
	__u8 byte[80];
};

/* What options say. Offsets are from the header's begin; 0: there is no such option. */
struct tcp_options {
	__u32 mss;	/* 0: not said */
	__u32 stamp;
	__u32 echo;
	__u8 stamp_at;
	__u8 sack_at;
	__u8 sack_size;	/* bytes of its blocks */
	__u8 sack;	/* SACK-permitted */
	__u8 scale;	/* window scale, NO_SCALE: not said */
};

/* A segment of the director's own: header, options, and a byte of data at most. Zeros behind it. */
struct segment {
	struct tcphdr tcp;
	__be32 option[6];
};

/* What a client has proven. */
struct proof {
	__u32 isn;	/* the client's first sequence number */
	__u32 cookie;
	__u32 mss;
	struct tcp_options options; /* that it has asked for */
};

struct work {
	struct packet packet;
	struct place at;
	struct packet reply; /* another one: what a reply will be, what an ICMP error quotes, a template's key */
	struct place reply_at;
	struct conn_new fresh;
	struct destination destination; /* lblc, lblcr: the one that is stored */
	struct nat_ends ends; /* that the packet shall have */
	struct call call; /* SIP */
	union tcp_head head;
	struct tcp_options options; /* of that */
	struct segment segment;
	struct proof proof;
	__u32 real;  /* that the packet is for, or from; NO_REAL */
	__u32 replied; /* 1: it is from it, and ends are the virtual service's and the client's */
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

/*
 * What a look-up or a choice came to, in one word: the verdict, the local end by
 * full-NAT (see conn_local), the real server's id.
 */
#define OUTCOME_LOCAL_SHIFT 8
#define OUTCOME_REAL_SHIFT 32

__inline __u64 outcome(enum verdict verdict, __u32 real)
{
	return verdict | (__u64)real << OUTCOME_REAL_SHIFT;
}

__inline __u64 outcome_by(enum verdict verdict, __u32 real, __u32 local)
{
	return outcome(verdict, real) | local << OUTCOME_LOCAL_SHIFT;
}

__inline enum verdict outcome_verdict(__u64 result)
{
	return result & 0xff;
}

__inline __u32 outcome_local(__u64 result)
{
	return (__u32)result >> OUTCOME_LOCAL_SHIFT;
}

__inline __u32 outcome_real(__u64 result)
{
	return result >> OUTCOME_REAL_SHIFT;
}

#endif
