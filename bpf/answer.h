/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * answer.h - packets the director makes itself: ICMP errors, TCP resets, echo
 * replies. They leave the way the packet came, and their number is limited.
 */
#ifndef DIRECTOR_ANSWER_H
#define DIRECTOR_ANSWER_H

#include <linux/tcp.h>

#include "config.h"
#include "csum.h"
#include "maps.h"
#include "packet.h"

/* RFC 792 and RFC 4443: both kinds of ICMP begin with the same eight bytes. */
struct icmp_head {
	__u8 type;
	__u8 code;
	__u16 check;
	__u32 rest;
};

enum icmp4_type {
	ICMP4_ECHO_REPLY = 0,
	ICMP4_UNREACHABLE = 3,
	ICMP4_SOURCE_QUENCH = 4,
	ICMP4_ECHO_REQUEST = 8,
	ICMP4_TIME_EXCEEDED = 11,
	ICMP4_PARAMETER_PROBLEM = 12,
};

enum icmp6_type {
	ICMP6_UNREACHABLE = 1,
	ICMP6_TOO_BIG = 2,
	ICMP6_TIME_EXCEEDED = 3,
	ICMP6_PARAMETER_PROBLEM = 4,
	ICMP6_ECHO_REQUEST = 128,
	ICMP6_ECHO_REPLY = 129,
};

#define ICMP4_PORT_UNREACHABLE 3
#define ICMP6_PORT_UNREACHABLE 4

#define ANSWER_TTL 64
#define ANSWER_TOS 0xc0 /* of errors: internetwork control, RFC 1812 section 4.3.2.5 */
#define L2_MAX 22
/* Bytes of the packet that an error quotes: RFC 1812 section 4.3.2.3, RFC 4443 section 2.4. */
#define QUOTE4_MAX (576 - sizeof(struct iphdr) - sizeof(struct icmp_head))
#define QUOTE6_MAX (1280 - sizeof(struct ipv6hdr) - sizeof(struct icmp_head))

/* What an error says. */
struct complaint {
	__u8 type;
	__u8 code;
	__u16 reserved;
	__u32 info; /* the second word of the header, network byte order: an MTU */
};

/* 1: one more answer may be sent by this CPU. */
__inline int answer_allowed(__u32 now)
{
	__u32 key = 0, window = now / config.answer_window;
	struct answer_count *n = bpf_map_lookup_elem(&answers, &key);

	if (!n)
		return 0;
	if (n->window != window) {
		n->window = window;
		n->sent = 0;
	}
	return n->sent++ < config.answer_limit;
}

/* RFC 1122 section 3.2.2, RFC 4443 section 2.4(e): no answer to what is no single host, no error about ICMP. */
__inline int answer_fits4(const struct packet *p)
{
	__u8 first = p->addr[0];

	return p->fragment != FRAGMENT_LATER && first != 0 && first != 127 && first < 224;
}

__inline int answer_fits6(const struct packet *p)
{
	const __u64 lowest = 0xffULL << 56; /* ::, ::1 and their neighbours have nothing above it */

	return p->fragment != FRAGMENT_LATER && (p->addr[0] & 0xff) != 0xff &&
	       (p->addr[0] || p->addr[1] & ~lowest);
}

struct l2 {
	__u8 bytes[L2_MAX + 2];
};

/* Reads the link-layer header with its addresses swapped. */
__inline int l2_load(struct xdp_md *ctx, const struct packet *p, struct l2 *l2)
{
	__u8 *b = l2->bytes;
	__u8 mac[6];

	/* With no tags, or one, the rest is the beginning of IP, and is not used. */
	if (bpf_xdp_load_bytes(ctx, 0, b, L2_MAX))
		return 0;
	__builtin_memcpy(mac, b, 6);
	__builtin_memcpy(b, b + 6, 6);
	__builtin_memcpy(b + 6, mac, 6);
	return 1;
}

__inline int l2_store(struct xdp_md *ctx, const struct packet *p, struct l2 *l2)
{
	__u32 size = p->l3;

	if (size == 14)
		return !bpf_xdp_store_bytes(ctx, 0, l2->bytes, 14);
	if (size == 18)
		return !bpf_xdp_store_bytes(ctx, 0, l2->bytes, 18);
	return !bpf_xdp_store_bytes(ctx, 0, l2->bytes, L2_MAX);
}

/* Cuts the frame to size bytes of IP and makes room for head bytes in front of them. */
__inline int answer_room(struct xdp_md *ctx, const struct packet *p, __u32 size, __u32 head)
{
	struct l2 l2;
	int cut = (int)(p->l3 + size) - (int)bpf_xdp_get_buff_len(ctx);

	if (!l2_load(ctx, p, &l2))
		return 0;
	if (cut && bpf_xdp_adjust_tail(ctx, cut))
		return 0;
	if (head && bpf_xdp_adjust_head(ctx, -(int)head))
		return 0;
	return l2_store(ctx, p, &l2);
}

__inline void ipv4_header(struct iphdr *ip, __be32 saddr, __be32 daddr, __u8 protocol, __u32 length)
{
	__builtin_memset(ip, 0, sizeof(*ip));
	ip->version = 4;
	ip->ihl = 5;
	ip->tot_len = bpf_htons(length);
	ip->ttl = ANSWER_TTL;
	ip->protocol = protocol;
	ip->tos = protocol == IPPROTO_ICMP ? ANSWER_TOS : 0;
	ip->saddr = saddr;
	ip->daddr = daddr;
	ip->check = csum_fold(csum_words(ip, sizeof(*ip)));
}

__inline void ipv6_header(struct ipv6hdr *ip, const struct packet *p, __u8 protocol, __u32 payload)
{
	*(__be32 *)ip = bpf_htonl(6 << 28);
	ip->payload_len = bpf_htons(payload);
	ip->nexthdr = protocol;
	ip->hop_limit = ANSWER_TTL;
	__builtin_memcpy(&ip->saddr, &p->addr[2], 16);
	__builtin_memcpy(&ip->daddr, &p->addr[0], 16);
}

/* An error from the virtual address to the client. */
__noinline int answer_icmp4(struct xdp_md *ctx, struct packet *p, struct complaint *c)
{
	const __u32 head = sizeof(struct iphdr) + sizeof(struct icmp_head);
	struct icmp_head icmp = {};
	struct iphdr ip;
	__u32 quote;

	if (!p || !c || p->protocol == IPPROTO_ICMP || !answer_fits4(p))
		return DROP_NO_REAL;
	if (!answer_allowed(p->now))
		return DROP_RATE;
	quote = p->length < QUOTE4_MAX ? p->length : QUOTE4_MAX;
	if (!answer_room(ctx, p, quote, head))
		return DROP_ERROR;
	ipv4_header(&ip, p->addr[0] >> 32, p->addr[0], IPPROTO_ICMP, head + quote);
	icmp.type = c->type;
	icmp.code = c->code;
	icmp.rest = c->info;
	icmp.check = csum_fold(csum_packet(ctx, p->l3 + head, quote, csum_words(&icmp, sizeof(icmp))));
	if (bpf_xdp_store_bytes(ctx, p->l3, &ip, sizeof(ip)) ||
	    bpf_xdp_store_bytes(ctx, p->l3 + sizeof(ip), &icmp, sizeof(icmp)))
		return DROP_ERROR;
	return UNDECIDED;
}

__noinline int answer_icmp6(struct xdp_md *ctx, struct packet *p, struct complaint *c)
{
	const __u32 head = sizeof(struct ipv6hdr) + sizeof(struct icmp_head);
	struct icmp_head icmp = {};
	struct ipv6hdr ip;
	__u32 quote, sum;

	if (!p || !c || p->protocol == IPPROTO_ICMPV6 || !answer_fits6(p))
		return DROP_NO_REAL;
	if (!answer_allowed(p->now))
		return DROP_RATE;
	quote = p->length < QUOTE6_MAX ? p->length : QUOTE6_MAX;
	if (!answer_room(ctx, p, quote, head))
		return DROP_ERROR;
	ipv6_header(&ip, p, IPPROTO_ICMPV6, sizeof(icmp) + quote);
	icmp.type = c->type;
	icmp.code = c->code;
	icmp.rest = c->info;
	sum = csum_pseudo6(&ip, IPPROTO_ICMPV6, sizeof(icmp) + quote);
	sum = csum_add(sum, csum_words(&icmp, sizeof(icmp)));
	icmp.check = csum_fold(csum_packet(ctx, p->l3 + head, quote, sum));
	if (bpf_xdp_store_bytes(ctx, p->l3, &ip, sizeof(ip)) ||
	    bpf_xdp_store_bytes(ctx, p->l3 + sizeof(ip), &icmp, sizeof(icmp)))
		return DROP_ERROR;
	return UNDECIDED;
}

/* Bytes of sequence space that a segment takes. */
__inline __u32 tcp_length(const struct packet *p, const struct tcphdr *tcp)
{
	return p->length - p->l4 - tcp->doff * 4 + !!(p->tcp & TCP_SYN) + !!(p->tcp & TCP_FIN);
}

/* The reset that answers a segment of no connection: RFC 9293 section 3.5.2, group 1. */
__inline void tcp_reset(struct tcphdr *out, const struct tcphdr *in, const struct packet *p)
{
	__builtin_memset(out, 0, sizeof(*out));
	out->source = in->dest;
	out->dest = in->source;
	out->doff = sizeof(*out) / 4;
	out->rst = 1;
	if (p->tcp & TCP_ACK) {
		out->seq = in->ack_seq;
		return;
	}
	out->ack = 1;
	out->ack_seq = bpf_htonl(bpf_ntohl(in->seq) + tcp_length(p, in));
}

__inline int reset_prepare(struct xdp_md *ctx, struct packet *p, struct tcphdr *out)
{
	struct tcphdr in;

	if (p->tcp & TCP_RST || bpf_xdp_load_bytes(ctx, p->l3 + p->l4, &in, sizeof(in)))
		return DROP_NO_REAL;
	if (!answer_allowed(p->now))
		return DROP_RATE;
	tcp_reset(out, &in, p);
	return UNDECIDED;
}

__noinline int answer_reset4(struct xdp_md *ctx, struct packet *p)
{
	struct tcphdr tcp;
	struct iphdr ip;
	__u32 sum;
	int verdict;

	if (!p || !answer_fits4(p))
		return DROP_NO_REAL;
	verdict = reset_prepare(ctx, p, &tcp);
	if (verdict != UNDECIDED)
		return verdict;
	if (!answer_room(ctx, p, sizeof(ip) + sizeof(tcp), 0))
		return DROP_ERROR;
	ipv4_header(&ip, p->addr[0] >> 32, p->addr[0], IPPROTO_TCP, sizeof(ip) + sizeof(tcp));
	sum = csum_add(csum_words(&ip.saddr, 8), bpf_htonl(IPPROTO_TCP << 16 | sizeof(tcp)));
	tcp.check = csum_fold(csum_add(sum, csum_words(&tcp, sizeof(tcp))));
	if (bpf_xdp_store_bytes(ctx, p->l3, &ip, sizeof(ip)) ||
	    bpf_xdp_store_bytes(ctx, p->l3 + sizeof(ip), &tcp, sizeof(tcp)))
		return DROP_ERROR;
	return UNDECIDED;
}

__noinline int answer_reset6(struct xdp_md *ctx, struct packet *p)
{
	struct ipv6hdr ip;
	struct tcphdr tcp;
	__u32 sum;
	int verdict;

	if (!p || !answer_fits6(p))
		return DROP_NO_REAL;
	verdict = reset_prepare(ctx, p, &tcp);
	if (verdict != UNDECIDED)
		return verdict;
	if (!answer_room(ctx, p, sizeof(ip) + sizeof(tcp), 0))
		return DROP_ERROR;
	ipv6_header(&ip, p, IPPROTO_TCP, sizeof(tcp));
	sum = csum_pseudo6(&ip, IPPROTO_TCP, sizeof(tcp));
	tcp.check = csum_fold(csum_add(sum, csum_words(&tcp, sizeof(tcp))));
	if (bpf_xdp_store_bytes(ctx, p->l3, &ip, sizeof(ip)) ||
	    bpf_xdp_store_bytes(ctx, p->l3 + sizeof(ip), &tcp, sizeof(tcp)))
		return DROP_ERROR;
	return UNDECIDED;
}

#endif
