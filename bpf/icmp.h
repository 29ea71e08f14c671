/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * icmp.h - ICMP for a virtual address: echo requests are answered, errors about
 * a connection go to its real server, everything else is the stack's.
 */
#ifndef DIRECTOR_ICMP_H
#define DIRECTOR_ICMP_H

#include "answer.h"
#include "csum.h"
#include "packet.h"

enum icmp_kind { ICMP_OTHER, ICMP_ECHO_REQUEST, ICMP_ERROR };

__inline int icmp_kind4(__u8 type)
{
	if (type == ICMP4_ECHO_REQUEST)
		return ICMP_ECHO_REQUEST;
	if (type == ICMP4_UNREACHABLE || type == ICMP4_SOURCE_QUENCH || type == ICMP4_TIME_EXCEEDED ||
	    type == ICMP4_PARAMETER_PROBLEM)
		return ICMP_ERROR;
	return ICMP_OTHER;
}

__inline int icmp_kind6(__u8 type)
{
	if (type == ICMP6_ECHO_REQUEST)
		return ICMP_ECHO_REQUEST;
	return type >= ICMP6_UNREACHABLE && type <= ICMP6_PARAMETER_PROBLEM ? ICMP_ERROR : ICMP_OTHER;
}

/* Does the message quote so many bytes? What follows it in the frame is padding. */
__inline int icmp_quotes(const struct packet *p, __u32 size)
{
	return p->length - p->l4 >= sizeof(struct icmp_head) + size;
}

/* Other protocols have no connections, but numbers that entries of other kinds have. */
__inline int icmp_quotes_transport(const struct packet *q)
{
	return q->protocol == IPPROTO_TCP || q->protocol == IPPROTO_UDP || q->protocol == IPPROTO_SCTP;
}

/*
 * The packet that an error quotes was sent by the real server: read backwards
 * it is the connection's key. What it says of itself is only used for that.
 */
static __noinline int icmp_quoted4(struct xdp_md *ctx, struct packet *p, struct packet *q)
{
	__u32 at = p->l3 + p->l4 + sizeof(struct icmp_head);
	struct iphdr ip;
	__be16 ports[2];

	if (bpf_xdp_load_bytes(ctx, at, &ip, sizeof(ip)) || ip.version != 4 || ip.ihl < 5 ||
	    ip.frag_off & bpf_htons(0x1fff) || !icmp_quotes(p, ip.ihl * 4 + sizeof(ports)))
		return 0;
	if (bpf_xdp_load_bytes(ctx, at + ip.ihl * 4, ports, sizeof(ports)))
		return 0;
	q->addr[0] = ip.daddr | (__u64)ip.saddr << 32;
	q->protocol = ip.protocol;
	q->ports = ports[1] | (__u32)ports[0] << 16;
	q->l4 = ip.ihl * 4;
	return ip.saddr == p->addr[0] >> 32 && icmp_quotes_transport(q);
}

static __noinline int icmp_quoted6(struct xdp_md *ctx, struct packet *p, struct packet *q)
{
	__u32 at = p->l3 + p->l4 + sizeof(struct icmp_head);
	struct ipv6hdr ip;
	__be16 ports[2];

	if (bpf_xdp_load_bytes(ctx, at, &ip, sizeof(ip)) || ip.version != 6 ||
	    !icmp_quotes(p, sizeof(ip) + sizeof(ports)) ||
	    bpf_xdp_load_bytes(ctx, at + sizeof(ip), ports, sizeof(ports)))
		return 0;
	__builtin_memcpy(&q->addr[0], &ip.daddr, 16);
	__builtin_memcpy(&q->addr[2], &ip.saddr, 16);
	q->protocol = ip.nexthdr;
	q->ports = ports[1] | (__u32)ports[0] << 16;
	q->l4 = sizeof(ip);
	return q->addr[2] == p->addr[2] && q->addr[3] == p->addr[3] && icmp_quotes_transport(q);
}

/* RFC 1624: the type is the first byte of its word, in memory order. */
__inline void icmp_retype(struct icmp_head *icmp, __u8 type)
{
	__u32 sum = csum_add((__u16)~icmp->check, (__u16)~icmp->type);

	icmp->check = csum_fold(csum_add(sum, type));
	icmp->type = type;
}

__inline int echo_ip4(struct xdp_md *ctx, struct packet *p)
{
	struct iphdr ip;

	if (bpf_xdp_load_bytes(ctx, p->l3, &ip, sizeof(ip)))
		return 0;
	ip.saddr = p->addr[0] >> 32;
	ip.daddr = p->addr[0];
	ip.ttl = ANSWER_TTL;
	ip.check = 0;
	ip.check = csum_fold(csum_words(&ip, sizeof(ip)));
	return !bpf_xdp_store_bytes(ctx, p->l3, &ip, sizeof(ip));
}

__inline int echo_ip6(struct xdp_md *ctx, struct packet *p)
{
	__u8 hop_limit = ANSWER_TTL;

	return !bpf_xdp_store_bytes(ctx, p->l3 + 7, &hop_limit, 1) &&
	       !bpf_xdp_store_bytes(ctx, p->l3 + 8, &p->addr[2], 16) &&
	       !bpf_xdp_store_bytes(ctx, p->l3 + 24, &p->addr[0], 16);
}

/*
 * A request becomes its reply: addresses change places, the type changes. A
 * wrong checksum stays as wrong as it came. Headers with options or extensions
 * are the stack's.
 */
__inline int echo_reply(struct xdp_md *ctx, struct packet *p, struct icmp_head *icmp, int v6)
{
	struct l2 l2;

	if (p->l4 != (v6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr)) ||
	    !(v6 ? answer_fits6(p) : answer_fits4(p)))
		return PASS_ICMP;
	if (!answer_allowed(p->now))
		return DROP_RATE;
	icmp_retype(icmp, v6 ? ICMP6_ECHO_REPLY : ICMP4_ECHO_REPLY);
	if (!l2_load(ctx, p, &l2) || !l2_store(ctx, p, &l2) ||
	    bpf_xdp_store_bytes(ctx, p->l3 + p->l4, icmp, sizeof(*icmp)) ||
	    !(v6 ? echo_ip6(ctx, p) : echo_ip4(ctx, p)))
		return DROP_ERROR;
	return TX_ECHO;
}

#endif
