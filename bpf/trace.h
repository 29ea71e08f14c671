/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* trace.h - tells userspace of single packets: as they came, what became of them, as they left. */
#ifndef DIRECTOR_TRACE_H
#define DIRECTOR_TRACE_H

#include "maps.h"
#include "nat.h"
#include "packet.h"
#include "work.h"

__inline struct trace_note *trace_note(void)
{
	__u32 key = 0;

	return bpf_map_lookup_elem(&trace_notes, &key);
}

/*
 * So many bytes of the frame, TRACE_BYTES at most; 0: not to be had. Linux 6.1 does not conclude from a number that is
 * not 0 that it is 1 at least.
 */
__inline int trace_load(struct xdp_md *ctx, __u8 *to, __u64 bytes)
{
	__u64 last = bytes - 1;

	if (!bytes)
		return 1;
	OPAQUE(last);
	return last < TRACE_BYTES && !bpf_xdp_load_bytes(ctx, 0, to, last + 1);
}

/* Notes what a packet looks like that somebody may want to see, before anything happens to it. */
__noinline int trace_begin(struct xdp_md *ctx)
{
	struct trace_note *t = trace_note();
	__u32 number = settings.trace, bytes;

	if (!t)
		return 0;
	t->trace = 0;
	if ((__s32)(settings.trace_until - (__u32)bpf_jiffies64()) < 0) { /* nobody is there any more */
		__sync_val_compare_and_swap(&settings.trace, number, 0);
		return 0;
	}
	bytes = t->head.length = bpf_xdp_get_buff_len(ctx);
	if (bytes > settings.trace_bytes)
		bytes = settings.trace_bytes;
	if (bytes > TRACE_BYTES)
		bytes = TRACE_BYTES;
	t->head.before = bytes;
	if (!trace_load(ctx, t->bytes, bytes))
		return 0;
	t->trace = number;
	return 0;
}

/* The words of both addresses, read backwards. */
__inline void trace_backwards(__u64 *to, const __u64 *from)
{
	if (from[1] | from[2] | from[3]) {
		to[0] = from[2];
		to[1] = from[3];
		to[2] = from[0];
		to[3] = from[1];
	} else {
		to[0] = from[0] >> 32 | from[0] << 32;
		to[1] = to[2] = to[3] = 0;
	}
}

/* What the long way has found out about the packet. */
__inline void trace_fill(struct trace_head *h, const struct work *w)
{
	const struct packet *p = &w->packet;

	__builtin_memcpy(h->addr, p->addr, sizeof(h->addr));
	__builtin_memcpy(h->flow, p->addr, sizeof(h->flow));
	h->ports = h->flow_ports = p->ports;
	if (w->replied) {
		trace_backwards(h->flow, w->ends.addr);
		h->flow_ports = w->ends.ports >> 16 | w->ends.ports << 16;
	}
	h->real = w->real;
	h->mark = p->mark;
	h->protocol = p->protocol;
	h->tcp = p->tcp;
	h->fragment = p->fragment;
	h->reply = w->replied;
}

__inline int trace_flow_wanted(const struct trace_filter *f, const struct trace_head *h)
{
	__u64 other = 0;
	int i;

#pragma unroll
	for (i = 0; i < 4; i++)
		other |= (h->flow[i] ^ f->flow[i]) & f->flow_mask[i];
	if (f->family)
		other |= f->family != (h->flow[1] | h->flow[2] | h->flow[3] ? 6 : 4);
	return !other && (!f->protocol || f->protocol == h->protocol);
}

__inline int trace_ports_wanted(const struct trace_filter *f, const struct trace_head *h)
{
	__u16 client = bpf_ntohs((__u16)h->flow_ports), virtual = bpf_ntohs(h->flow_ports >> 16);

	return client >= f->first[0] && client <= f->last[0] && virtual >= f->first[1] && virtual <= f->last[1];
}

__inline int trace_real_wanted(const struct trace_filter *f, const struct trace_head *h)
{
	__u32 id = h->real;
	struct real *r;
	const __u64 *addr;

	if (!(f->real_mask[0] | f->real_mask[1]))
		return 1;
	r = bpf_map_lookup_elem(&reals, &id);
	if (!r)
		return 0;
	addr = (const void *)r->addr;
	return !((addr[0] ^ f->real[0]) & f->real_mask[0]) && !((addr[1] ^ f->real[1]) & f->real_mask[1]);
}

/* Does the trace want it? Its number as a bit, and the bytes that it wants. */
static __noinline int trace_wanted(__u32 number, const struct trace_head *h, __u32 *bytes)
{
	struct trace_filter *f = bpf_map_lookup_elem(&traces, &number);

	if (!f || !READ_ONCE(f->active) || !(f->verdicts >> (h->verdict & 63) & 1) || !trace_flow_wanted(f, h) ||
	    !trace_ports_wanted(f, h) || !trace_real_wanted(f, h))
		return 0;
	if (f->bytes > *bytes)
		*bytes = f->bytes;
	return 1 << number;
}

/* May this CPU tell of one more packet? */
__inline int trace_allowed(struct trace_note *t)
{
	__u32 second = (__u32)bpf_jiffies64() / (settings.hz ? settings.hz : 1);

	if (!settings.trace_rate)
		return 1;
	if (t->second != second) {
		t->second = second;
		t->told = 0;
	}
	return t->told++ < settings.trace_rate;
}

static __noinline void trace_missed(__u32 number)
{
	struct trace_filter *f = bpf_map_lookup_elem(&traces, &number);

	if (f)
		__sync_fetch_and_add(&f->lost, 1);
}

/* Adds the frame as it leaves, behind what there is of it as it came. Bytes of both; below 0: not to be had. */
static __noinline int trace_frames(struct xdp_md *ctx, struct trace_note *t, __u32 wanted)
{
	__u32 before = t->head.before, after;

	if (before > wanted)
		before = wanted;
	if (before > TRACE_BYTES)
		return -1;
	after = t->head.left;
	if (after > wanted)
		after = wanted;
	if (after > TRACE_BYTES)
		after = TRACE_BYTES;
	if (!trace_load(ctx, t->bytes + before, after))
		return -1;
	t->head.before = before;
	t->head.after = after;
	return before + after;
}

__inline int trace_tell(struct xdp_md *ctx, struct trace_note *t, __u32 bytes)
{
	int size = trace_frames(ctx, t, bytes);

	if (size < 0 || size > (int)sizeof(t->bytes) || !trace_allowed(t))
		return 0;
	return !bpf_ringbuf_output(&trace_ring, &t->head, sizeof(t->head) + size, 0);
}

/* Tells of the packet that trace_begin has noted, if somebody wants it. egress: 0: it leaves as it came. */
__noinline int trace_end(struct xdp_md *ctx, __u32 verdict, __u32 action, __u32 egress)
{
	struct trace_note *t = trace_note();
	struct work *w = work_get();
	__u32 i, wanted = 0, bytes = 0;

	if (!t || !w || !t->trace || t->trace != settings.trace)
		return 0;
	t->trace = 0;
	trace_fill(&t->head, w);
	t->head.verdict = verdict;
#pragma unroll
	for (i = 0; i < TRACES; i++)
		wanted |= trace_wanted(i, &t->head, &bytes);
	if (!wanted)
		return 0;
	t->head.time_ns = bpf_ktime_get_ns();
	t->head.ingress = ctx->ingress_ifindex;
	t->head.egress = egress;
	t->head.action = action;
	t->head.traces = wanted;
	t->head.left = action == XDP_TX || action == XDP_REDIRECT ? bpf_xdp_get_buff_len(ctx) : 0;
	if (trace_tell(ctx, t, bytes))
		return 0;
#pragma unroll
	for (i = 0; i < TRACES; i++)
		if (wanted >> i & 1)
			trace_missed(i);
	return 0;
}

#endif
