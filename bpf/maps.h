/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * maps.h - every map. Sizes of 1 are set by Go before loading. Arrays marked
 * mmap are mapped by userspace: it reads and writes them without system calls.
 *
 * map            key        value           writer          lifetime
 * ---------------------------------------------------------------------------
 * settings       (section)  settings        userspace       pinned
 * filter         (section)  bits            userspace       pinned
 * defense        (section)  defense_state   both            pinned
 * conns4, conns6 set        8 slots         both, by CAS    pinned; evicted: expired, then oldest embryonic
 * splices4       slot       enum            BPF             pinned; their connections'
 *                           splice_part
 * overflow       conn_key   conn            both            pinned; full: the flow stays untracked
 * services       service id service         userspace,      pinned
 *                                           cursors: BPF
 * service_keys   bucket     4 keys          userspace       pinned
 * plans          chunk      16 real ids     userspace       pinned
 * mark_shapes    number     shape           userspace       pinned
 * mark_rules     bucket     4 rules         userspace       pinned
 * guards         service+1  guard           userspace,      pinned
 *                                           ceilings: BPF
 * prefixes       bucket     8 prefixes      userspace       pinned
 * prefix_trees   list       lengths         userspace       pinned
 * budgets        bucket     4 budgets       BPF             pinned; who has spent least goes
 * samples        CPU        256 samples     BPF, own CPU    pinned; overwritten
 * closed         address    closed_ports    userspace       pinned
 * reals          real id    real            userspace       pinned
 * sources        source     address         userspace       pinned
 * pools          pool       256 sources     userspace       pinned
 * real_conns     real id    counts          both, atomic    pinned
 * real_traffic   real*cpus  counters        BPF, own CPU    pinned
 * verdicts       verdict    packets, per    BPF             pinned
 *                           CPU
 * destinations   service,   real servers    both            pinned; full: nothing more is remembered
 *                address                                    until userspace's sweep
 * fragments      packet     ports           BPF             pinned; the least recently used goes
 * probes         conn_key   probe           BPF             pinned; the least recently used goes
 * answers        (one)      count, per CPU  BPF             pinned
 * answered       where      MAC address     userspace       pinned
 * works          (one)      work (work.h)   BPF, own CPU    a packet's
 * traces         number     trace_filter    userspace,      pinned
 *                                           losses: BPF
 * trace_notes    (one)      trace_note      BPF, own CPU    a packet's
 * trace_ring     -          trace_head and  BPF             until userspace has read it; full: counted as lost
 *                           bytes
 * tx_ports       port       interface       userspace       pinned
 *
 * A further one, "layout", describes the others' rows (layout.go).
 */
#ifndef DIRECTOR_MAPS_H
#define DIRECTOR_MAPS_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"

#define array_map(name, value_type, flags) \
	struct { \
		__uint(type, BPF_MAP_TYPE_ARRAY); \
		__uint(max_entries, 1); \
		__uint(map_flags, flags); \
		__type(key, __u32); \
		__type(value, value_type); \
	} name SEC(".maps")

array_map(conns4, struct conn4_set, BPF_F_MMAPABLE);
array_map(conns6, struct conn6_set, BPF_F_MMAPABLE);
array_map(splices4, __u64, BPF_F_MMAPABLE);
array_map(services, struct service, BPF_F_MMAPABLE);
array_map(service_keys, struct service_bucket, BPF_F_MMAPABLE);
array_map(plans, struct plan_chunk, BPF_F_MMAPABLE);
array_map(mark_shapes, struct mark_shape, BPF_F_MMAPABLE);
array_map(mark_rules, struct mark_bucket, BPF_F_MMAPABLE);
array_map(guards, struct guard, BPF_F_MMAPABLE);
array_map(prefixes, struct prefix_bucket, BPF_F_MMAPABLE);
array_map(prefix_trees, struct prefix_tree, BPF_F_MMAPABLE);
array_map(budgets, struct budget_bucket, BPF_F_MMAPABLE);
array_map(samples, struct sample_ring, BPF_F_MMAPABLE);
array_map(reals, struct real, BPF_F_MMAPABLE);
array_map(sources, struct source, BPF_F_MMAPABLE);
array_map(pools, struct source_pool, BPF_F_MMAPABLE);
array_map(real_conns, struct real_counts, BPF_F_MMAPABLE);
array_map(real_traffic, struct real_stats, BPF_F_MMAPABLE);
array_map(traces, struct trace_filter, BPF_F_MMAPABLE);

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, struct conn_key);
	__type(value, struct conn);
} overflow SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, VERDICTS);
	__type(key, __u32);
	__type(value, __u64);
} verdicts SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, struct destination_key);
	__type(value, struct destination);
} destinations SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, FRAGMENTS);
	__type(key, struct fragment_key);
	__type(value, __u32);
} fragments SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, PROBES);
	__type(key, struct conn_key);
	__type(value, struct probe);
} probes SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct answer_count);
} answers SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, ADDRESSES);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct answered_key);
	__type(value, struct answered_mac);
} answered SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, ADDRESSES);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct closed_key);
	__type(value, __u32);
} closed SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct trace_note);
} trace_notes SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, TRACE_RING);
} trace_ring SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_DEVMAP);
	__uint(max_entries, TX_PORTS);
	__type(key, __u32);
	__type(value, struct bpf_devmap_val);
} tx_ports SEC(".maps");

/* Sections of their own: read with no look-up at all. */
struct runtime_settings settings SEC(".data.settings");
__u64 filter[FILTER_WORDS] SEC(".data.filter");
struct defense_state defense SEC(".data.defense");

#endif
