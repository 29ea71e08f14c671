/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * neighbor.h - who has the address? ARP requests and neighbour solicitations
 * for the virtual addresses that are no interface's own are answered here, so
 * that their clients find the director whether or not the daemon runs.
 *
 * There is no limit as on other answers: one goes only to who asked, on the same
 * link, is no longer than the question by more than an option, and a limit that
 * others can use up would take the address off the net.
 */
#ifndef DIRECTOR_NEIGHBOR_H
#define DIRECTOR_NEIGHBOR_H

#include "answer.h"
#include "csum.h"
#include "maps.h"
#include "packet.h"

#define VLAN_VID bpf_htons(0x0fff)
#define ND_SOLICITATION 135
#define ND_ADVERTISEMENT 136
#define ND_HOP_LIMIT 255
#define ND_SOURCE_ADDRESS 1 /* options: RFC 4861 section 4.6.1 */
#define ND_TARGET_ADDRESS 2
#define ND_SOLICITED (1 << 30)
#define ND_OVERRIDE (1 << 29)

/* RFC 826, for IPv4 over Ethernet. */
struct arp_packet {
	__be16 hardware;
	__be16 protocol;
	__u8 hardware_length;
	__u8 protocol_length;
	__be16 operation;
	__u8 sender_mac[ETH_ALEN];
	__be16 sender[2];
	__u8 target_mac[ETH_ALEN];
	__be16 target[2];
};

/* RFC 4861 sections 4.3 and 4.4: both messages, with one option. */
struct nd_message {
	struct icmp_head icmp;
	__u8 target[16];
	__u8 option;
	__u8 option_length; /* in 8 bytes */
	__u8 mac[ETH_ALEN];
};

#define ND_BARE (sizeof(struct nd_message) - 8) /* without its option */

__inline int same_mac(const void *one, const void *other)
{
	const __u16 *a = one, *b = other;

	return a[0] == b[0] && a[1] == b[1] && a[2] == b[2];
}

/*
 * The link-layer address to answer with; NULL: the address is not ours to answer
 * for where the frame came in, the frame is for another host, or it is our own.
 */
__inline struct answered_mac *answered_find(struct xdp_md *ctx, const struct packet *p, struct answered_key *key)
{
	struct answered_mac *own;

	key->ifindex = ctx->ingress_ifindex;
	key->vlan[0] = p->vlan[0] & VLAN_VID;
	key->vlan[1] = p->vlan[1] & VLAN_VID;
	own = bpf_map_lookup_elem(&answered, key);
	if (!own || same_mac(packet_source(p), own->mac))
		return NULL;
	return packet_multicast(p) || same_mac(p->mac, own->mac) ? own : NULL;
}

__inline int head_store(struct xdp_md *ctx, const void *to, const void *from)
{
	return !bpf_xdp_store_bytes(ctx, 0, (void *)to, ETH_ALEN) &&
	       !bpf_xdp_store_bytes(ctx, ETH_ALEN, (void *)from, ETH_ALEN);
}

/* A request, also a probe; an announcement asks for its sender's own address. */
__inline int arp_asks(const struct arp_packet *arp)
{
	return arp->hardware == bpf_htons(1) && arp->protocol == bpf_htons(ETH_P_IP) &&
	       arp->hardware_length == ETH_ALEN && arp->protocol_length == 4 && arp->operation == bpf_htons(1) &&
	       !(arp->sender_mac[0] & 1) && (arp->sender[0] != arp->target[0] || arp->sender[1] != arp->target[1]);
}

/* RFC 826: sender and target change places. */
__inline void arp_turn(struct arp_packet *arp, const void *mac)
{
	__be16 asked[2] = { arp->target[0], arp->target[1] };

	__builtin_memcpy(arp->target, arp->sender, sizeof(arp->target));
	__builtin_memcpy(arp->target_mac, arp->sender_mac, ETH_ALEN);
	__builtin_memcpy(arp->sender, asked, sizeof(asked));
	__builtin_memcpy(arp->sender_mac, mac, ETH_ALEN);
	arp->operation = bpf_htons(2);
}

__noinline int packet_arp(struct xdp_md *ctx, struct packet *p)
{
	struct answered_key key = { .addr = { [10] = 0xff, [11] = 0xff } };
	struct arp_packet arp;
	struct answered_mac *own;

	if (!p || bpf_xdp_load_bytes(ctx, p->l3, &arp, sizeof(arp)) || !arp_asks(&arp))
		return PASS_NOT_IP;
	__builtin_memcpy(key.addr + 12, arp.target, sizeof(arp.target));
	own = answered_find(ctx, p, &key);
	if (!own)
		return PASS_NOT_IP;
	arp_turn(&arp, own->mac);
	if (!head_store(ctx, arp.target_mac, own->mac) || bpf_xdp_store_bytes(ctx, p->l3, &arp, sizeof(arp)))
		return DROP_ERROR;
	return TX_ARP;
}

__inline int address_unspecified(const __u64 *addr)
{
	return !addr[0] && !addr[1];
}

/* ff02::1:ff00:0/104, RFC 4291 section 2.7.1. */
__inline int address_solicited_node(const __u64 *addr)
{
	return addr[0] == bpf_cpu_to_be64(0xff02ULL << 48) && (addr[1] & bpf_cpu_to_be64(~0ULL << 24)) == bpf_cpu_to_be64(0x1ff000000);
}

/* Is it a solicitation that RFC 4861 section 7.1.1 lets pass? Options without a length are its only fault that stays unseen. */
__inline int nd_asks(struct xdp_md *ctx, const struct packet *p, struct nd_message *nd)
{
	__u32 length = p->length - p->l4, sum;
	struct ipv6hdr ip;

	if (p->l4 != sizeof(ip) || p->fragment != FRAGMENT_NONE || length < ND_BARE ||
	    bpf_xdp_load_bytes(ctx, p->l3, &ip, sizeof(ip)) || ip.hop_limit != ND_HOP_LIMIT ||
	    bpf_xdp_load_bytes(ctx, p->l3 + sizeof(ip), nd, ND_BARE) || nd->icmp.type != ND_SOLICITATION ||
	    nd->icmp.code || nd->target[0] == 0xff)
		return 0;
	if (address_unspecified(&p->addr[0]) && !address_solicited_node(&p->addr[2]))
		return 0;
	sum = csum_packet(ctx, p->l3 + sizeof(ip), length, csum_pseudo6(&ip, IPPROTO_ICMPV6, length));
	return !csum_fold(sum);
}

/* Who asks without an address, to see whether ours is free, is told with everybody else. */
__inline void nd_turn(struct nd_message *nd, struct ipv6hdr *ip, const struct packet *p, const void *mac)
{
	int probe = address_unspecified(&p->addr[0]);

	ipv6_header(ip, p, IPPROTO_ICMPV6, sizeof(*nd));
	ip->hop_limit = ND_HOP_LIMIT;
	__builtin_memcpy(&ip->saddr, nd->target, 16);
	if (probe) {
		ip->daddr.s6_addr32[0] = bpf_htonl(0xff020000);
		ip->daddr.s6_addr32[1] = 0;
		ip->daddr.s6_addr32[2] = 0;
		ip->daddr.s6_addr32[3] = bpf_htonl(1);
	}
	nd->icmp = (struct icmp_head){ .type = ND_ADVERTISEMENT };
	nd->icmp.rest = bpf_htonl(probe ? ND_OVERRIDE : ND_OVERRIDE | ND_SOLICITED);
	nd->option = ND_TARGET_ADDRESS;
	nd->option_length = 1;
	__builtin_memcpy(nd->mac, mac, ETH_ALEN);
	nd->icmp.check = csum_fold(csum_add(csum_pseudo6(ip, IPPROTO_ICMPV6, sizeof(*nd)), csum_words(nd, sizeof(*nd))));
}

/* The frame's recipient: who sent the solicitation, or RFC 2464's address of all nodes. */
__inline int nd_head_store(struct xdp_md *ctx, const struct packet *p, const void *mac)
{
	const __u16 all_nodes[ETH_ALEN / 2] = { bpf_htons(0x3333), 0, bpf_htons(1) };

	return head_store(ctx, address_unspecified(&p->addr[0]) ? all_nodes : packet_source(p), mac);
}

/* 1: it asks for an address that is ours to answer for. It may still be no valid question. */
__noinline int neighbor_asked(struct xdp_md *ctx, struct packet *p)
{
	struct answered_key key = {};
	__u8 type;

	if (!p || p->l4 != sizeof(struct ipv6hdr) || bpf_xdp_load_bytes(ctx, p->l3 + sizeof(struct ipv6hdr), &type, 1) ||
	    type != ND_SOLICITATION ||
	    bpf_xdp_load_bytes(ctx, p->l3 + sizeof(struct ipv6hdr) + sizeof(struct icmp_head), key.addr, sizeof(key.addr)))
		return 0;
	return answered_find(ctx, p, &key) != NULL;
}

/* A function that may change the frame's length: what the caller knows of the frame is void then. */
__noinline int packet_neighbor(struct xdp_md *ctx, struct packet *p)
{
	struct answered_key key = {};
	struct answered_mac *own;
	struct nd_message nd;
	struct ipv6hdr ip;
	int grow;

	if (!p || !nd_asks(ctx, p, &nd))
		return PASS_ICMP;
	__builtin_memcpy(key.addr, nd.target, sizeof(key.addr));
	own = answered_find(ctx, p, &key);
	if (!own)
		return PASS_ICMP;
	nd_turn(&nd, &ip, p, own->mac);
	grow = (int)(p->l3 + sizeof(ip) + sizeof(nd)) - (int)bpf_xdp_get_buff_len(ctx);
	if (!nd_head_store(ctx, p, own->mac) || (grow && bpf_xdp_adjust_tail(ctx, grow)) ||
	    bpf_xdp_store_bytes(ctx, p->l3, &ip, sizeof(ip)) ||
	    bpf_xdp_store_bytes(ctx, p->l3 + sizeof(ip), &nd, sizeof(nd)))
		return DROP_ERROR;
	return TX_NEIGHBOR;
}

#endif
