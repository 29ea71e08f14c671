/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* forward.h - the packet leaves for its real server. */
#ifndef DIRECTOR_FORWARD_H
#define DIRECTOR_FORWARD_H

#include "maps.h"
#include "packet.h"

/* RFC 1624: adding 0x0100 to the checksum undoes the decrement of the TTL. */
__inline void ipv4_decrease_ttl(struct iphdr *ip)
{
	__u32 check = ip->check + (__u32)bpf_htons(0x0100);

	ip->check = check + (check >= 0xffff);
	ip->ttl--;
}

/* The TTL, which is above 1, one lower, and what that is to the checksum (see csum_change). */
__inline void ttl_step(void *ip, int v6)
{
	if (v6)
		((struct ipv6hdr *)ip)->hop_limit--;
	else
		((struct iphdr *)ip)->ttl--;
}

#define TTL_CHANGE ((__u16)~bpf_htons(0x0100))

/* For one that is above 1. */
__inline void ttl_lower(void *ip, int v6)
{
	if (v6)
		((struct ipv6hdr *)ip)->hop_limit--;
	else
		ipv4_decrease_ttl(ip);
}

/* 0: it ended here. */
__inline int ttl_decrease(struct xdp_md *ctx, const struct packet *p, int v6)
{
	void *ip = packet_l3(ctx, p, v6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr));

	if (!ip || (v6 ? ((struct ipv6hdr *)ip)->hop_limit : ((struct iphdr *)ip)->ttl) <= 1)
		return 0;
	ttl_lower(ip, v6);
	return 1;
}

/* The head of a frame that has tags, or gets some. */
struct frame_head {
	const __u8 *mac;
	__be16 vlan[VLAN_MAX];
	__be16 tpid[VLAN_MAX];
	int vlans;
};

/* As many tags as the way out wants. */
static __noinline enum verdict forward_tagged(struct xdp_md *ctx, const struct packet *p,
					      const struct frame_head *h, __be16 proto)
{
	int grow = (h->vlans - p->vlans) * (int)sizeof(struct vlan_hdr);
	struct vlan_hdr *tag;
	struct ethhdr *eth;
	void *end;

	if (grow && bpf_xdp_adjust_head(ctx, -grow))
		return DROP_ERROR;
	eth = (void *)(long)ctx->data;
	end = (void *)(long)ctx->data_end;
	tag = (void *)(eth + 1);
	if ((void *)(tag + VLAN_MAX) > end)
		return DROP_ERROR;
	__builtin_memcpy(eth, h->mac, 2 * ETH_ALEN);
	eth->h_proto = h->vlans ? h->tpid[0] : proto;
	if (h->vlans) {
		tag[0].tci = h->vlan[0];
		tag[0].proto = h->vlans > 1 ? h->tpid[1] : proto;
	}
	if (h->vlans > 1) {
		tag[1].tci = h->vlan[1];
		tag[1].proto = proto;
	}
	return UNDECIDED;
}

__inline enum verdict forward_untagged(struct xdp_md *ctx, const void *mac)
{
	void *data = (void *)(long)ctx->data;

	if (data + sizeof(struct ethhdr) > (void *)(long)ctx->data_end)
		return DROP_ERROR;
	head_copy(data, mac);
	return UNDECIDED;
}

__inline enum verdict forward_head(struct xdp_md *ctx, const struct packet *p, const struct frame_head *h, int v6)
{
	if (unlikely(p->vlans | h->vlans))
		return forward_tagged(ctx, p, h, v6 ? bpf_htons(ETH_P_IPV6) : bpf_htons(ETH_P_IP));
	return forward_untagged(ctx, h->mac);
}

/* Writes the head of the frame; UNDECIDED: it may leave. */
__inline enum verdict forward_frame(struct xdp_md *ctx, const struct packet *p, const struct real *r, int v6)
{
	struct frame_head h = {
		.mac = r->mac,
		.vlan = { r->vlan[0], r->vlan[1] },
		.tpid = { r->tpid[0], r->tpid[1] },
		.vlans = r->vlans,
	};

	if (likely(!(p->vlans | r->vlans)))
		return forward_untagged(ctx, r->mac);
	return forward_head(ctx, p, &h, v6);
}

/* Where a packet leaves: what the director answers goes back as it came, ifindex 0. */
struct way_out {
	__u32 ifindex;
	__u32 tx_port; /* NO_TX_PORT: not one of a real server's */
};

#define NO_TX_PORT 0xffffffff

/* Back, or out by another interface. */
__inline int transmit(struct xdp_md *ctx, const struct way_out *out, enum verdict *verdict)
{
	int action;

	if (!out->ifindex || out->ifindex == ctx->ingress_ifindex)
		return XDP_TX;
	if (out->tx_port != NO_TX_PORT)
		action = bpf_redirect_map(&tx_ports, out->tx_port, XDP_DROP);
	else
		action = bpf_redirect(out->ifindex, 0);
	if (unlikely(action != XDP_REDIRECT))
		*verdict = DROP_ERROR;
	return action;
}

#endif
