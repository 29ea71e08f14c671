/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * parse.h - from bytes to struct packet. Each parser checks its header once
 * against the frame's end and moves the cursor behind it. UNDECIDED means go on.
 */
#ifndef DIRECTOR_PARSE_H
#define DIRECTOR_PARSE_H

#include "packet.h"

#define IPV6_EXTENSIONS_MAX 6
#define IPV6_HEADERS_MAX 1024 /* bytes of headers in front of the transport's */
#define IP_OFFSET_MASK 0x1fff
#define IP_MORE_FRAGMENTS 0x2000

struct cursor {
	void *pos;
	void *end;
};

__inline __be16 parse_ethernet(struct packet *p, struct cursor *cur)
{
	struct ethhdr *eth = cur->pos;
	struct vlan_hdr *tag;
	__be16 proto;
	int i;

	if ((void *)(eth + 1) > cur->end)
		return 0;
	proto = eth->h_proto;
	head_copy(p->mac, eth);
	cur->pos = eth + 1;
	for (i = 0; i < VLAN_MAX; i++) {
		if (likely(proto != bpf_htons(ETH_P_8021Q) && proto != bpf_htons(ETH_P_8021AD)))
			break;
		tag = cur->pos;
		if ((void *)(tag + 1) > cur->end)
			return 0;
		if (!i)
			p->tpid = proto;
		p->vlan[i] = tag->tci;
		proto = tag->proto;
		cur->pos = tag + 1;
		p->vlans++;
	}
	p->l3 = sizeof(*eth) + p->vlans * sizeof(*tag);
	return proto;
}

/*
 * Keeps the ports even of a header that is no whole one, so that it is known
 * whose packet is broken.
 */
__noinline int parse_broken(struct xdp_md *ctx, struct packet *p)
{
	__u32 ports;

	if (!p || p->length - p->l4 < sizeof(ports) ||
	    bpf_xdp_load_bytes(ctx, p->l3 + p->l4, &ports, sizeof(ports)))
		return 0;
	p->ports = ports;
	return 1;
}

/*
 * payload, here and below: bytes of IP from the transport header on; what
 * follows in the frame is padding, and says nothing.
 */
__inline enum verdict parse_sctp(struct packet *p, struct cursor *cur, __u32 payload)
{
	__u32 *ports = cur->pos;

	if (payload < SCTP_HEADER || (void *)(ports + 1) > cur->end)
		return DROP_MALFORMED;
	p->ports = *ports;
	return UNDECIDED;
}

__inline enum verdict parse_tcp(struct packet *p, struct cursor *cur, __u32 payload)
{
	struct tcphdr *tcp = cur->pos;
	__u32 doff;

	/* A first fragment without the flags would hide them (RFC 1858 section 3). */
	if (payload < sizeof(*tcp) || (void *)(tcp + 1) > cur->end)
		return DROP_MALFORMED;
	p->ports = *(__u32 *)tcp;
	doff = (((__u8 *)tcp)[12] >> 4) * 4;
	if (doff < sizeof(*tcp) || (doff > payload && p->fragment == FRAGMENT_NONE))
		return DROP_MALFORMED;
	p->tcp = ((__u8 *)tcp)[13];
	return UNDECIDED;
}

__inline enum verdict parse_udp(struct packet *p, struct cursor *cur, __u32 payload)
{
	struct udphdr *udp = cur->pos;
	__u32 len;

	if (payload < sizeof(*udp) || (void *)(udp + 1) > cur->end)
		return DROP_MALFORMED;
	p->ports = *(__u32 *)udp;
	len = bpf_ntohs(udp->len);
	if (len < sizeof(*udp) || (len > payload && p->fragment == FRAGMENT_NONE))
		return DROP_MALFORMED;
	return UNDECIDED;
}

/*
 * The transport header. A packet that is too short for its ports is no valid
 * packet of anybody's; the caller decides whether it is its to drop.
 */
__inline enum verdict parse_transport(struct packet *p, struct cursor *cur)
{
	__u32 payload = p->length - p->l4;

	if (unlikely(p->fragment == FRAGMENT_LATER))
		return UNDECIDED;
	switch (p->protocol) {
	case IPPROTO_TCP:
		return parse_tcp(p, cur, payload);
	case IPPROTO_UDP:
		return parse_udp(p, cur, payload);
	case IPPROTO_SCTP:
		return parse_sctp(p, cur, payload);
	default:
		return UNDECIDED;
	}
}

__inline __u8 fragment_kind(__u64 offset, __u64 more)
{
	__u64 later = -offset >> 63;

	OPAQUE(later);
	return later * FRAGMENT_LATER | (~later & 1 & -(__u64)!!more);
}

__inline enum verdict parse_ipv4(struct packet *p, struct cursor *cur)
{
	struct iphdr *ip = cur->pos;
	__u32 header, frag;

	if ((void *)(ip + 1) > cur->end)
		return PASS_MALFORMED;
	header = ip->ihl * 4;
	p->length = bpf_ntohs(ip->tot_len);
	if (unlikely(ip->version != 4 || header < sizeof(*ip) || p->length < header ||
		     p->length > cur->end - cur->pos))
		return PASS_MALFORMED;
	p->addr[0] = *(__u64 *)&ip->saddr;
	p->protocol = ip->protocol;
	p->l4 = header;
	p->dscp = ip->tos >> 2;
	frag = bpf_ntohs(ip->frag_off);
	if (unlikely(frag & (IP_OFFSET_MASK | IP_MORE_FRAGMENTS))) {
		p->fragment = frag & IP_OFFSET_MASK ? FRAGMENT_LATER : FRAGMENT_FIRST;
		p->fragment_id = ip->id;
	}
	cur->pos += header;
	return UNDECIDED;
}

struct ipv6_ext {
	__u8 nexthdr;
	__u8 len; /* in 8 bytes, without the first 8; AH: in 4, without the first 8 */
	__be16 frag_off;
	__be32 id;
};

__inline int ipv6_is_extension(__u8 protocol)
{
	return protocol == IPPROTO_HOPOPTS || protocol == IPPROTO_ROUTING ||
	       protocol == IPPROTO_DSTOPTS || protocol == IPPROTO_FRAGMENT ||
	       protocol == IPPROTO_AH;
}

struct ipv6_walk {
	struct xdp_md *ctx;
	__u32 offset;	  /* of the next header, from the frame's start */
	__u32 protocol;	  /* of the next header */
	__u32 fragment;
	__u32 fragment_id;
	__u32 failed;
};

/* One extension header (RFC 8200 section 4); 1 ends the walk. */
static long ipv6_step(__u32 i, struct ipv6_walk *walk)
{
	struct ipv6_ext ext;
	__u32 off;

	if (!ipv6_is_extension(walk->protocol) || walk->fragment == FRAGMENT_LATER)
		return 1;
	walk->failed = bpf_xdp_load_bytes(walk->ctx, walk->offset & 0xffff, &ext, sizeof(ext)) != 0;
	if (walk->failed)
		return 1;
	if (walk->protocol == IPPROTO_FRAGMENT) {
		off = bpf_ntohs(ext.frag_off);
		/* Neither offset nor more to come: an atomic fragment (RFC 6946) is whole. */
		walk->fragment = fragment_kind(off & 0xfff8, off & 1);
		walk->fragment_id = ext.id;
		walk->offset += sizeof(ext);
	} else if (walk->protocol == IPPROTO_AH) {
		walk->offset += (ext.len + 2) * 4;
	} else {
		walk->offset += (ext.len + 1) * 8;
	}
	walk->protocol = ext.nexthdr;
	return 0;
}

/*
 * Walks the extension headers: p->protocol becomes the first that is none, or
 * stays one if there are too many. Returns the offset of the transport header
 * in bytes of IP; 0: malformed.
 */
__noinline __u32 ipv6_extensions(struct xdp_md *ctx, struct packet *p)
{
	struct ipv6_walk walk = { .ctx = ctx };

	if (!p)
		return 0;
	walk.offset = p->l3 + sizeof(struct ipv6hdr);
	walk.protocol = p->protocol;

	bpf_loop(IPV6_EXTENSIONS_MAX, ipv6_step, &walk, 0);
	p->protocol = walk.protocol;
	p->fragment = walk.fragment;
	p->fragment_id = walk.fragment_id;
	if (walk.failed || walk.offset - p->l3 > p->length)
		return 0;
	return walk.offset - p->l3;
}

/* ::ffff:a.b.c.d: an IPv4 address in our tables, and on no wire (RFC 4291 section 2.5.5.2). */
__inline int address_is_mapped(const __u64 *addr)
{
	return !addr[0] && (__u32)addr[1] == 0xffff0000;
}

/* Source and destination of an IPv6 header, a word at a time wherever the frame begins. */
__inline void address_load(__u64 *to, const void *saddr)
{
	const __u64 *from = saddr;

	to[0] = READ_ONCE(from[0]);
	to[1] = READ_ONCE(from[1]);
	to[2] = READ_ONCE(from[2]);
	to[3] = READ_ONCE(from[3]);
}

__inline enum verdict parse_ipv6(struct xdp_md *ctx, struct packet *p, struct cursor *cur)
{
	struct ipv6hdr *ip = cur->pos;
	__u64 headers = sizeof(*ip);
	__u32 length;

	if ((void *)(ip + 1) > cur->end)
		return PASS_MALFORMED;
	length = bpf_ntohs(ip->payload_len) + sizeof(*ip);
	if (unlikely(ip->version != 6 || length > cur->end - cur->pos))
		return PASS_MALFORMED;
	address_load(p->addr, &ip->saddr);
	if (unlikely(address_is_mapped(&p->addr[0]) || address_is_mapped(&p->addr[2])))
		return PASS_MALFORMED;
	p->length = length;
	p->protocol = ip->nexthdr;
	p->dscp = bpf_ntohs(*(__be16 *)ip) >> 6 & 0x3f;
	if (unlikely(ipv6_is_extension(p->protocol))) {
		headers = ipv6_extensions(ctx, p);
		if (headers < sizeof(*ip) || headers > IPV6_HEADERS_MAX)
			return PASS_MALFORMED;
		OPAQUE(headers); /* the verifier needs the mask that the compiler would drop */
		headers &= 2 * IPV6_HEADERS_MAX - 1;
	}
	p->l4 = headers;
	cur->pos += headers;
	return UNDECIDED;
}

#endif
