//go:build ignore

// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * bench.bpf.c - baselines, and what stands before a measured program: it draws
 * a flow and undoes what the last run did to the packet. The cost of drawing is
 * in the baseline too, which is drawn for in the same way.
 */
#include <linux/tcp.h>

#include "packet.h"

#define SYN_WORDS 15 /* IPv4 and TCP, with as many options as Linux sends */

struct bench_state {
	__u64 random;	/* state of the generator, never 0 */
	__u32 next;	/* the next packet's flow */
	__u32 mask;	/* flows - 1 */
	__u32 counting; /* 1: a different flow every time; 0: drawn at random */
	__u32 size;	/* of the frame, where programs make it larger */
	__u32 growth;	/* by so much */
	__u32 mac[3];	/* its link-layer addresses */
	__u32 undo;	/* 1: addresses and ports are what follows, whatever the last run made of them */
	__u32 ports;
	__u64 addr[4];
	__u32 check;	/* of IPv4's header */
	__u32 syn[SYN_WORDS]; /* what bench_syn puts back: all behind the link-layer header */
	__u64 first_ns; /* when the sink saw its first frame since this was 0, */
	__u64 first;	/* and how many it had counted with it; */
	__u64 last_ns;	/* the same of the last one that it looked at the clock for */
	__u64 last;
};

struct bench_state bench SEC(".data.bench");

/*
 * The measured program. The index is a constant, so that the JIT makes the tail
 * call a plain jump; an indirect one, with the guard against speculation, would
 * make every measured program start with a stall that the baseline hides.
 */
struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} bench_target SEC(".maps");

/* xorshift64*: 2 ns where bpf_get_prandom_u32 takes 22. */
__inline __u64 bench_random(void)
{
	__u64 x = bench.random;

	x ^= x >> 12;
	x ^= x << 25;
	x ^= x >> 27;
	bench.random = x;
	return x * 0x2545f4914f6cdd1d;
}

/*
 * This packet's flow, drawn during the last one: so the generator's latency is
 * not waited for by a program that reads what was drawn.
 */
__inline __u32 bench_flow(void)
{
	__u32 flow = bench.next;

	bench.next = (bench.counting ? flow + 1 : bench_random() >> 32) & bench.mask;
	return flow;
}

/*
 * Flow n: 16 bits of port, the rest in the source address. Both ports are
 * written as one word, as they are read, and so are both addresses: a wide load
 * after a narrow store would wait for the cache, which no packet from a wire does.
 */
__inline void bench_ports(void *l4, __u32 flow)
{
	__be16 dport = ((__be16 *)l4)[1];

	*(__u32 *)l4 = bpf_htons((__u16)flow) | (__u32)dport << 16;
}

__inline void bench_addresses(struct iphdr *ip, __u32 flow)
{
	__u32 daddr = ip->daddr;

	*(__u64 *)&ip->saddr = bpf_htonl(0x0a800000 + (flow >> 16)) | (__u64)daddr << 32;
}

/* In words as they are read, see bench_ports. */
__inline void bench_undo(__u64 *addr, __u32 *ports, int words)
{
	int i;

	if (!bench.undo)
		return;
	for (i = 0; i < words; i++)
		addr[i] = bench.addr[i];
	*ports = bench.ports;
}

/* Also undoes what a run did: TTL, addresses, ports, and the header's checksum, which matters to kernels only. */
__inline int bench_write4(struct ethhdr *eth, void *end, __u32 flow, int draw)
{
	struct iphdr *ip = (void *)(eth + 1);
	struct tcphdr *tcp = (void *)(ip + 1);

	if ((void *)(tcp + 1) > end)
		return 0;
	ip->ttl = 64;
	bench_undo((__u64 *)&ip->saddr, (__u32 *)tcp, 1);
	if (bench.undo)
		ip->check = bench.check;
	if (!draw)
		return 1;
	bench_addresses(ip, flow);
	bench_ports(tcp, flow);
	return 1;
}

__inline int bench_write6(struct ethhdr *eth, void *end, __u32 flow, int draw)
{
	struct ipv6hdr *ip = (void *)(eth + 1);
	struct tcphdr *tcp = (void *)(ip + 1);

	if ((void *)(tcp + 1) > end)
		return 0;
	ip->hop_limit = 64;
	bench_undo((__u64 *)&ip->saddr, (__u32 *)tcp, 4);
	if (!draw)
		return 1;
	((__u64 *)&ip->saddr)[1] = (__u64)bpf_htonl(flow >> 16) << 32;
	bench_ports(tcp, flow);
	return 1;
}

__inline int bench_write(struct xdp_md *ctx, __u32 flow, int draw)
{
	struct ethhdr *eth = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;

	if ((void *)(eth + 1) > end)
		return 0;
	if (eth->h_proto == bpf_htons(ETH_P_IPV6))
		return bench_write6(eth, end, flow, draw);
	return bench_write4(eth, end, flow, draw);
}

/* One hot flow. */
SEC("xdp")
int bench_hot(struct xdp_md *ctx)
{
	if (bench_write(ctx, 0, 0))
		bpf_tail_call(ctx, &bench_target, 0);
	return XDP_ABORTED;
}

/* One hot flow, of a segment that the last run may have rewritten from end to end, as long as it was. In words as they are read. */
SEC("xdp")
int bench_syn(struct xdp_md *ctx)
{
	__u32 *word = (void *)(long)ctx->data + sizeof(struct ethhdr);
	const int addr = 3;
	int i;

	if ((void *)(word + SYN_WORDS) > (void *)(long)ctx->data_end)
		return XDP_ABORTED;
	for (i = 0; i < SYN_WORDS; i++) {
		if (i < addr || i > addr + 1)
			word[i] = bench.syn[i];
	}
	*(__u64 *)&word[addr] = bench.syn[addr] | (__u64)bench.syn[addr + 1] << 32;
	bpf_tail_call(ctx, &bench_target, 0);
	return XDP_ABORTED;
}

/* The link-layer header, which outer headers took the place of. */
__inline int bench_head(struct xdp_md *ctx)
{
	struct ethhdr *eth = (void *)(long)ctx->data;

	if ((void *)(eth + 1) > (void *)(long)ctx->data_end)
		return 0;
	head_copy((void *)eth, bench.mac);
	eth->h_proto = bpf_htons(ETH_P_IP);
	return 1;
}

/*
 * One hot flow, for programs that make the frame larger: it does not shrink back
 * by itself. For a baseline that leaves its size alone it is made larger and
 * smaller in turn, so that both have one change of it in each run.
 */
__inline int bench_shrink(struct xdp_md *ctx)
{
	int growth = bench.growth;

	if (ctx->data_end - ctx->data <= bench.size)
		growth = -growth;
	return !bpf_xdp_adjust_head(ctx, growth) && bench_head(ctx);
}

SEC("xdp")
int bench_grown(struct xdp_md *ctx)
{
	if (bench_shrink(ctx) && bench_write(ctx, 0, 0))
		bpf_tail_call(ctx, &bench_target, 0);
	return XDP_ABORTED;
}

SEC("xdp")
int bench_draw(struct xdp_md *ctx)
{
	if (bench_write(ctx, bench_flow(), 1))
		bpf_tail_call(ctx, &bench_target, 0);
	return XDP_ABORTED;
}

/*
 * For live frames: out by the interface that the frame is said to have come in by.
 * Their memory is used again, with the size that they had but as it was left; growth and undo are for IPv4 here.
 */
SEC("xdp")
int bench_send(struct xdp_md *ctx)
{
	if ((bench.growth || bench.undo) && !bench_head(ctx))
		return XDP_ABORTED;
	return bench_write(ctx, bench_flow(), bench.mask != 0) ? XDP_TX : XDP_ABORTED;
}

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} bench_received SEC(".maps");

/* The clock is read rarely. What runs before the first frame and after the last is not measured: grace periods. */
__inline void bench_pace(__u64 n)
{
	if (bench.first_ns && n & 63)
		return;
	bench.last_ns = bpf_ktime_get_ns();
	bench.last = n;
	if (bench.first_ns)
		return;
	bench.first_ns = bench.last_ns;
	bench.first = n;
}

/* Counts what comes back. */
SEC("xdp.frags")
int bench_sink(struct xdp_md *ctx)
{
	__u32 key = 0;
	__u64 *n = bpf_map_lookup_elem(&bench_received, &key);

	if (n)
		bench_pace(++*n);
	return XDP_DROP;
}

SEC("xdp")
int bench_pass(struct xdp_md *ctx)
{
	return XDP_PASS;
}

SEC("xdp")
int bench_drop(struct xdp_md *ctx)
{
	return XDP_DROP;
}

SEC("xdp")
int bench_raw(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data;
	__u16 *mac = data;
	__u16 swap[3];

	if (data + sizeof(struct ethhdr) > (void *)(long)ctx->data_end)
		return XDP_ABORTED;
	swap[0] = mac[0];
	swap[1] = mac[1];
	swap[2] = mac[2];
	mac[0] = mac[3];
	mac[1] = mac[4];
	mac[2] = mac[5];
	mac[3] = swap[0];
	mac[4] = swap[1];
	mac[5] = swap[2];
	return XDP_TX;
}

char _license[] SEC("license") = "Dual BSD/GPL";
