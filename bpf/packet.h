/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* packet.h - what the parsers find out, once, for all the stages that follow. */
#ifndef DIRECTOR_PACKET_H
#define DIRECTOR_PACKET_H

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"

#define __inline static __always_inline
#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)
/* One load or store that the compiler may neither repeat nor tear. */
#define READ_ONCE(x) (*(volatile typeof(x) *)&(x))
#define WRITE_ONCE(x, v) (*(volatile typeof(x) *)&(x) = (v))

/*
 * Hides a value's origin from the compiler, which would otherwise turn
 * arithmetic into branches, and each branch doubles the verifier's paths.
 */
#define OPAQUE(x) asm volatile("" : "+r"(x))

#define VLAN_MAX 2
#define SCTP_HEADER 12 /* RFC 9260 section 3.1 */
#define L3_MASK 31 /* 14 bytes and two tags are 22 */
#define L4_MASK 2047 /* see IPV6_HEADERS_MAX */

struct vlan_hdr {
	__be16 tci;
	__be16 proto;
};

/* Bits of packet.tcp: the flags byte of the TCP header (RFC 9293 section 3.1). */
enum tcp_flag {
	TCP_FIN = 1,
	TCP_SYN = 2,
	TCP_RST = 4,
	TCP_PSH = 8,
	TCP_ACK = 16,
};

enum fragment {
	FRAGMENT_NONE,
	FRAGMENT_FIRST,	  /* has the transport header */
	FRAGMENT_LATER,	  /* ports stay 0 until the first fragment's are found */
};

/*
 * addr holds the packet's source and destination: IPv4 in addr[0] (source in
 * the low half, as in memory), IPv6 in addr[0..1] and addr[2..3]. No pointers:
 * a packet is handed to functions that the verifier looks at by themselves.
 */
struct packet {
	__u64 addr[4];
	__u64 service;	  /* service_hash of what it is addressed to */
	__u32 ports;	  /* source, destination, as in the header */
	__u32 now;	  /* low 32 bits of jiffies */
	__u32 length;	  /* bytes of IP */
	__u32 l4;	  /* offset of the transport header in them */
	__u32 l3;	  /* offset of the IP header in the frame */
	__u8 protocol;
	__u8 tcp;	  /* enum tcp_flag */
	__u8 chunk;	  /* SCTP: enum sctp_chunk */
	__u8 vlans;	  /* tags on the frame */
	__u8 fragment;	  /* enum fragment */
	__u8 dscp;
	__u8 door;	  /* enum door: it came through a pair of the director's own (door.h) */
	__u8 admitted;	  /* 1: the defense has let it (plain_new.h) */
	__be32 mark;	  /* firewall mark; 0: none, or not asked for yet */
	__u32 fragment_id;
	__u32 ingress;	  /* interface */
	__u32 mac[3];	  /* link-layer destination, source: 12 bytes as in the frame */
	__be16 vlan[VLAN_MAX]; /* TCIs, outermost first */
	__be16 tpid;	  /* of the outer tag */
	__u8 proof;	  /* enum proof (cookie.h) */
	__u32 mark_rule;  /* where the rule is that gave the mark: bucket * MARK_WAYS + way; or NO_RULE */
};

/* A packet's source alone: what lists, budgets and reports look at. */
struct client {
	__u64 word[2]; /* as in packet.addr: IPv4 in the low half of the first */
};

__inline struct client client_of(const struct packet *p, int v6)
{
	struct client c = { { v6 ? p->addr[0] : (__u32)p->addr[0], v6 ? p->addr[1] : 0 } };

	return c;
}

/* The link-layer addresses of a frame, a word at a time wherever they begin. */
__inline void head_copy(__u32 *to, const void *mac)
{
	const __u32 *from = mac;

	to[0] = from[0];
	to[1] = from[1];
	to[2] = from[2];
}

/* The link-layer source, in three parts. */
__inline const __u16 *packet_source(const struct packet *p)
{
	return (const __u16 *)p->mac + ETH_ALEN / 2;
}

__inline void mac_copy(__u16 *to, const __u16 *from)
{
	to[0] = from[0];
	to[1] = from[1];
	to[2] = from[2];
}

/* Is it addressed to more than one host at the link level? */
__inline int packet_multicast(const struct packet *p)
{
	return *(const __u8 *)p->mac & 1;
}

__inline __be16 packet_dport(const struct packet *p)
{
	return p->ports >> 16;
}

__inline __be16 packet_sport(const struct packet *p)
{
	return (__u16)p->ports;
}

/* The IP header, or NULL: the offset is no news to us, but it is to the verifier. */
__inline void *packet_l3(struct xdp_md *ctx, const struct packet *p, __u32 size)
{
	void *l3 = (void *)(long)ctx->data + (p->l3 & L3_MASK);

	return l3 + size > (void *)(long)ctx->data_end ? NULL : l3;
}

/* The transport header, as far as size goes, or NULL. */
__inline void *packet_l4(struct xdp_md *ctx, const struct packet *p, __u32 size)
{
	void *l4 = (void *)(long)ctx->data + (p->l3 & L3_MASK) + (p->l4 & L4_MASK);

	return l4 + size > (void *)(long)ctx->data_end ? NULL : l4;
}

#endif
