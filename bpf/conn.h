/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * conn.h - the connection table: sets of CONN_WAYS slots in one array.
 *
 * A key's hash names a set and a way in it, its home. Most entries lie there,
 * so most look-ups, hits and misses alike, read one line: home_moved of the
 * home says which other ways of the set hold its keys, and how many lie in the
 * second set and in the overflow map, and only then is more of it read.
 *
 * Who stores a key holds the lock of its home (home_lock odd), taken by
 * compare-and-swap from the value read before the look-up that missed. So no
 * key is ever stored twice: had another CPU stored one meanwhile, the value
 * would have moved on. Slots themselves are claimed, by anybody, by
 * compare-and-swap on the tag; the tag is published last and read first and
 * last. Who frees an entry marks its word dead first, by compare-and-swap from
 * the word that made it decide: an entry that is meanwhile established stays.
 * Userspace only frees, in the order of conn_retire, and takes no lock.
 */
#ifndef DIRECTOR_CONN_H
#define DIRECTOR_CONN_H

#include "config.h"
#include "hash.h"
#include "maps.h"
#include "packet.h"
#include "sctp.h"
#include "state.h"

#define MOVED_WAYS 0xff
#define MOVED_SECOND (1 << 8)
#define MOVED_OVERFLOW (1 << 16)
#define STATE_MASK 0x7f
#define WORD_VERSION_SHIFT 24
#define ACTIVE_ONE 1ULL
#define INACTIVE_ONE (1ULL << 32)
/* Of the tag, what a key determines: fingerprint, protocol, in use. */
#define TAG_KEY_MASK 0xffffffff0000ff03ULL
#define TAG_VERSION_ONE (1ULL << 16)
#define TAG_VERSION_MASK (0xffffULL << 16)
/* Free ways below which a set counts as crowded and the second one is considered. */
#define SET_SPARE 2
#define CLAIM_TRIES 3
#define TEMPLATE_TRIES 8
#define LOCK_WAIT 1024 /* looks at the lock, of some nanoseconds each */

/* What is wanted of a service with persistence, or by lblc, before a connection is stored. */
enum asked {
	ASK_NOBODY,
	ASK_TEMPLATE,	/* for the one that there is */
	ASK_SCHEDULER,	/* and for a new one */
	ASK_SORRY,	/* the sorry servers: no real server is usable */
	ASK_COOKIE,	/* the client, for a proof */
	ASKED,
};

/* Where a key belongs, and what was read there. No pointers, as in struct packet. */
struct place {
	__u64 want;	    /* the tag it would have, without version */
	__u32 index;	    /* of the set */
	__u32 lock;	    /* home_lock before the look-up */
	__u32 over;	    /* the look-up found it, but it has to make room: see conn_over */
	__u32 reserved;	    /* slot is reserved, and the place still locked: see packet_local */
	__u32 slot;	    /* where it was found or stored: set * CONN_WAYS + way + 1; 0: not in the sets */
	__u32 version;	    /* of its tag there */
	__u64 link;	    /* the template of the new connection that belongs there; 0: none */
	__u32 asked;	    /* enum asked */
	__u32 chosen;	    /* the answer; NO_REAL: none is usable */
};

__inline __u32 slot_size(int v6)
{
	return v6 ? sizeof(struct conn6) : sizeof(struct conn4);
}

__inline struct conn *slot_at(void *set, __u32 way, int v6)
{
	return set + (way & (CONN_WAYS - 1)) * slot_size(v6);
}

__inline void *set_at(__u32 index, int v6)
{
	if (v6)
		return bpf_map_lookup_elem(&conns6, &index);
	return bpf_map_lookup_elem(&conns4, &index);
}

__inline __u32 set_mask(int v6)
{
	return (v6 ? config.conn6_mask : config.conn4_mask) / CONN_WAYS;
}

/* The other set of a key; the same function leads back. */
__inline __u32 set_other(__u32 index, __u32 fingerprint, int v6)
{
	return (index ^ (fingerprint * 0x9e3779b1 >> 7 | 1)) & set_mask(v6);
}

__inline int key_equal(const struct conn *c, const struct packet *p, int v6)
{
	const __u64 *addr = (const void *)(c + 1);

	if (!v6)
		return addr[0] == p->addr[0];
	return addr[0] == p->addr[0] && addr[1] == p->addr[1] && addr[2] == p->addr[2] &&
	       addr[3] == p->addr[3];
}

/* With tag, which must be read before, and be there still when all that is needed has been read. */
__inline int conn_has(const struct conn *c, __u64 tag, const struct place *at, const struct packet *p, int v6)
{
	return (tag & TAG_KEY_MASK) == at->want && c->ports == p->ports && key_equal(c, p, v6);
}

__inline int conn_is(struct conn *c, const struct place *at, const struct packet *p, int v6)
{
	__u64 tag = READ_ONCE(c->tag);

	return conn_has(c, tag, at, p, v6) && READ_ONCE(c->tag) == tag;
}

__inline void overflow_key(struct conn_key *key, const struct packet *p, int v6)
{
	__builtin_memset(key, 0, sizeof(*key));
	if (v6) {
		__builtin_memcpy(key->saddr, p->addr, 32);
	} else {
		*(__u64 *)&key->saddr[8] = p->addr[0] << 32 | 0xffff0000;
		*(__u64 *)&key->daddr[8] = (p->addr[0] & 0xffffffff00000000) | 0xffff0000;
	}
	key->ports = p->ports;
	key->protocol = p->protocol;
}

/* 1 if a < b, without a branch; both below 2^63. */
__inline __u64 less(__u64 a, __u64 b)
{
	OPAQUE(a);
	return (a - b) >> 63;
}

__inline __u64 count_bits(__u64 bits)
{
	bits = (bits & 0x55) + (bits >> 1 & 0x55);
	bits = (bits & 0x33) + (bits >> 2 & 0x33);
	return (bits & 0xf) + (bits >> 4);
}

__inline __u32 lowest_bit(__u64 bits)
{
	return count_bits((bits & -bits) - 1);
}

/* The ways whose tags are the key's, as bits: nearly always one at most. */
__inline __u64 set_matches(void *set, const struct place *at, int v6)
{
	__u64 ways = 0, tag;
	__u32 i;

	for (i = 0; i < CONN_WAYS; i++) {
		tag = READ_ONCE(slot_at(set, i, v6)->tag);
		ways |= less(((tag & TAG_KEY_MASK) ^ at->want) >> 1, 1) << i;
	}
	return ways;
}

/*
 * The way of the key, CONN_WAYS: none. Two keys of one set with one fingerprint
 * are a chance in 2^32, three are not looked for.
 */
__inline __u32 find_in_set(void *set, const struct packet *p, const struct place *at, int v6)
{
	__u64 ways = set_matches(set, at, v6);
	__u32 way;

	if (!ways)
		return CONN_WAYS;
	way = lowest_bit(ways);
	if (likely(conn_is(slot_at(set, way, v6), at, p, v6)))
		return way;
	ways &= ways - 1;
	if (!ways)
		return CONN_WAYS;
	way = lowest_bit(ways);
	return conn_is(slot_at(set, way, v6), at, p, v6) ? way : CONN_WAYS;
}

/* What find_moved returns: one more than set * CONN_WAYS + way, or one of these. */
#define MOVED_NOWHERE 0
#define MOVED_TO_OVERFLOW 0xffffffff

/* The key among the ways of its set that its home names, which is nearly always one. */
__inline __u32 find_in_ways(__u32 ways, const struct packet *p, const struct place *at, int v6)
{
	void *set = set_at(at->index, v6);
	__u32 way, i;

	if (!set)
		return MOVED_NOWHERE;
#pragma clang loop unroll(disable)
	for (i = 0; i < CONN_WAYS && ways; i++) {
		way = lowest_bit(ways);
		if (conn_is(slot_at(set, way, v6), at, p, v6))
			return at->index * CONN_WAYS + way + 1;
		ways &= ways - 1;
	}
	return MOVED_NOWHERE;
}

__inline struct conn *place_home(const struct place *at, int v6)
{
	void *set = set_at(at->index, v6);

	return set ? slot_at(set, at->want >> 32, v6) : NULL;
}

__inline __u32 place_second(const struct place *at, int v6)
{
	return set_other(at->index, at->want >> 32, v6);
}

/* The set that an entry of the place's key with this tag lies in. */
__inline __u32 tag_set(__u64 tag, const struct place *at, int v6)
{
	return tag & TAG_SECOND ? place_second(at, v6) : at->index;
}

__inline __u32 find_in_second(const struct packet *p, const struct place *at, int v6)
{
	__u32 index = place_second(at, v6);
	void *set = set_at(index, v6);
	__u32 way;

	if (!set)
		return MOVED_NOWHERE;
	way = find_in_set(set, p, at, v6);
	return way == CONN_WAYS ? MOVED_NOWHERE : index * CONN_WAYS + way + 1;
}

/* The rare part of a look-up: the key's home speaks of keys stored elsewhere. */
__inline __u32 find_moved(const struct packet *p, const struct place *at, __u32 moved, int v6)
{
	__u32 slot = find_in_ways(moved & MOVED_WAYS, p, at, v6);

	if (slot != MOVED_NOWHERE || moved < MOVED_SECOND)
		return slot;
	slot = find_in_second(p, at, v6);
	if (slot != MOVED_NOWHERE || moved < MOVED_OVERFLOW)
		return slot;
	return MOVED_TO_OVERFLOW;
}

__noinline __u32 find_moved4(struct packet *p, struct place *at, __u32 moved)
{
	return p && at ? find_moved(p, at, moved, 0) : MOVED_NOWHERE;
}

__noinline __u32 find_moved6(struct packet *p, struct place *at, __u32 moved)
{
	return p && at ? find_moved(p, at, moved, 1) : MOVED_NOWHERE;
}

static __noinline struct conn *overflow_find(const struct packet *p, int v6)
{
	struct conn_key key;

	overflow_key(&key, p, v6);
	return bpf_map_lookup_elem(&overflow, &key);
}

/* A slot by its number, see struct place; NULL: there is none. */
__inline struct conn *slot_numbered(__u32 slot, int v6)
{
	void *set = set_at((slot - 1) / CONN_WAYS, v6);

	return set ? slot_at(set, slot - 1, v6) : NULL;
}

__inline struct conn *conn_moved(struct packet *p, struct place *at, __u32 moved, int v6)
{
	__u32 slot = v6 ? find_moved6(p, at, moved) : find_moved4(p, at, moved);

	if (slot == MOVED_NOWHERE)
		return NULL;
	at->slot = slot == MOVED_TO_OVERFLOW ? 0 : slot;
	if (slot == MOVED_TO_OVERFLOW)
		return overflow_find(p, v6);
	return slot_numbered(slot, v6);
}

/* Fills at; the set that the packet's key belongs to. */
__inline void *place_of(const struct packet *p, struct place *at, int v6)
{
	__u64 hash = flow_hash(p, v6);

	at->index = hash & set_mask(v6);
	at->want = (hash & 0xffffffff00000000) | (__u64)p->protocol << 8 | TAG_USED;
	return set_at(at->index, v6);
}

/* See conn_find. among: the bits of home_moved that count. */
__inline struct conn *conn_find_among(struct packet *p, struct place *at, __u32 among, int v6)
{
	void *set = place_of(p, at, v6);
	struct conn *home;
	__u32 moved;

	if (!set)
		return NULL; /* cannot be: the mask is the table's */
	home = slot_at(set, at->want >> 32, v6);
	at->lock = READ_ONCE(home->home_lock);
	at->slot = at->index * CONN_WAYS + (at->want >> 32 & (CONN_WAYS - 1)) + 1;
	if (likely(conn_is(home, at, p, v6)))
		return home;
	moved = READ_ONCE(home->home_moved) & among;
	return likely(!moved) ? NULL : conn_moved(p, at, moved, v6);
}

/* Fills at; NULL: not in the table. An entry found may have expired: see conn_expired. */
__inline struct conn *conn_find(struct packet *p, struct place *at, int v6)
{
	return conn_find_among(p, at, ~0U, v6);
}

/* last_use may lie ahead of now: another CPU's clock may have ticked since. */
__inline int conn_expired(const struct conn *c, __u32 now)
{
	__u32 state = READ_ONCE(c->word) & (TIMEOUTS - 1);

	return (__s32)(now - READ_ONCE(c->last_use)) > (__s32)settings.timeout[state];
}

/*
 * A known connection, as it was at one moment. Its slot may be freed, and hold
 * another one, even a new one of the same key, at any time.
 */
struct known {
	struct conn *conn;
	__u64 tag;	/* read first: its version is the entry's */
	__u32 real;
	__u32 generation;
	__u32 word;
	__u32 last_use;
	__u32 local;	/* see conn_local */
};

/*
 * A local end of full-NAT in 24 bits: the number of its source, above it the
 * port as on the wire; 0: none. In a connection it is read and written together
 * with the count of packets, as one word.
 */
#define LOCAL_SHIFT 8
#define LOCAL_PORT_SHIFT 8

__inline __u32 conn_local(const struct conn *c)
{
	return READ_ONCE(*(const __u32 *)&c->packets) >> LOCAL_SHIFT;
}

__inline __u32 local_source(__u32 local)
{
	return local & 0xff;
}

__inline __be16 local_port(__u32 local)
{
	return local >> LOCAL_PORT_SHIFT;
}

__inline struct known conn_read(struct conn *c)
{
	struct known k = { .conn = c, .tag = READ_ONCE(c->tag) };

	k.real = READ_ONCE(c->real);
	k.generation = READ_ONCE(c->generation);
	k.word = READ_ONCE(c->word);
	k.last_use = READ_ONCE(c->last_use);
	k.local = conn_local(c);
	return k;
}

/* Was all that was read the key's, and one entry's? Asked before any of it is used. */
__inline int known_holds(const struct known *k, const struct place *at)
{
	return (k->tag & TAG_KEY_MASK) == at->want && READ_ONCE(k->conn->tag) == k->tag;
}

/* Notes the version of what was found at the place. */
__inline void known_at(const struct known *k, struct place *at)
{
	at->version = k->tag >> 16 & 0xffff;
}

__inline int known_expired(const struct known *k, __u32 now)
{
	__u32 state = k->word & (TIMEOUTS - 1);

	return (__s32)(now - k->last_use) > (__s32)settings.timeout[state];
}

/* Does the packet ask for a new connection? */
__inline int packet_begins(const struct packet *p)
{
	return p->protocol == IPPROTO_SCTP ? p->chunk == CHUNK_INIT : p->tcp & TCP_SYN;
}

/* Cannot the real server be reached any more, or is it dead? */
__inline int real_lost(const struct real *r)
{
	return (r->flags & (REAL_NEXT_HOP | REAL_DOWN)) != REAL_NEXT_HOP;
}

/*
 * A SYN on a connection that is closing is a new one's: IPVS's conn_reuse_mode.
 * So it is where the real server cannot be reached any more, or is dead.
 */
__inline int conn_reused(__u32 word, const struct service *s, const struct real *r)
{
	__u32 state = word & STATE_MASK;

	if (word & CONN_SPLICED && (state == TCP_TIME_WAIT || state == TCP_CLOSE || state == TCP_LAST_ACK))
		return 1; /* it cannot carry a second handshake */
	if (real_lost(r) || (s->flags & SERVICE_EXPIRE_NODEST && !(r->flags & REAL_USABLE)))
		return 1;
	if (word & CONN_CONTROLLED)
		return 0; /* its template would choose the same */
	if (s->flags & SERVICE_REUSE &&
	    (state == TCP_TIME_WAIT || state == TCP_CLOSE || state == SCTP_CLOSED))
		return 1;
	return s->flags & SERVICE_REUSE_FIN && state == TCP_FIN_WAIT && word & CONN_NO_OUTPUT;
}

/*
 * A connection that must make room for a new one of its key. Judged by what was
 * read of it at one moment: its slot may hold the new one already.
 */
__inline int conn_over(const struct known *k, const struct packet *p)
{
	__u32 id = k->real;
	struct service *s;
	struct real *r;

	if (known_expired(k, p->now))
		return 1;
	r = bpf_map_lookup_elem(&reals, &id);
	if (!r)
		return 1;
	if (r->generation != k->generation)
		return r->stale == STALE_RESCHEDULE || (r->stale == STALE_RESET && packet_begins(p));
	if (!packet_begins(p))
		return 0;
	id = r->service;
	s = bpf_map_lookup_elem(&services, &id);
	return s && conn_reused(k->word, s, r);
}

/* The connection's real server is not the one it was made for: removed, or down in between. */
__inline enum verdict stale_verdict(const struct real *r, const struct packet *p)
{
	return r->stale == STALE_RESET && p->protocol == IPPROTO_TCP ? TX_RESET : DROP_REAL_GONE;
}

/* What link says of the entry at the place; never 0. */
__inline __u64 link_to(const struct place *at)
{
	return at->slot | (__u64)at->version << LINK_VERSION;
}

/* The slot that a link names. */
__inline struct conn *link_slot(__u64 link, int v6)
{
	return slot_numbered(link, v6);
}

__inline int link_is_to(__u64 link, __u64 tag)
{
	return (tag >> 16 & 0xffff) == (link >> LINK_VERSION & 0xffff);
}

/* Is c, still, the entry that the link leads to? */
__inline int link_leads(__u64 link, const struct conn *c)
{
	__u64 tag = READ_ONCE(c->tag);

	return (tag & TAG_MASK) == TAG_USED && link_is_to(link, tag);
}

/* The entry that a link leads to; NULL: it is gone. */
__inline struct conn *linked(__u64 link, int v6)
{
	struct conn *c = link_slot(link, v6);

	return c && link_leads(link, c) ? c : NULL;
}

/* Is it there? It may be in the making: busy. */
__inline int link_alive(__u64 link, int v6)
{
	const struct conn *c = link_slot(link, v6);
	__u64 tag = c ? READ_ONCE(c->tag) : TAG_FREE;

	return (tag & TAG_MASK) != TAG_FREE && link_is_to(link, tag);
}

__inline struct conn *template_of(__u64 link)
{
	return link >> LINK_V6 & 1 ? linked(link, 1) : linked(link, 0);
}

/*
 * The template controls by connections more, 1 or -1. 0: it is gone. The sweep
 * repairs the number of one that many CPUs change at once.
 */
__noinline int template_controls(__u64 link, int by)
{
	struct conn *t = template_of(link);
	__u64 old;
	__u32 i, n;

	if (!t)
		return 0;
	for (i = 0; i < TEMPLATE_TRIES; i++) {
		old = READ_ONCE(t->link);
		n = (old >> TEMPLATE_CONTROLS & TEMPLATE_FIELD) + by;
		if (old >> TEMPLATE_VERSION != (link >> LINK_VERSION & 0xffff) || n > TEMPLATE_FIELD)
			return 0;
		if (__sync_val_compare_and_swap(&t->link, old, old + ((__u64)(__s64)by << TEMPLATE_CONTROLS)) == old)
			return 1;
	}
	return 0;
}

/* A connection that the template controls is established. */
__noinline int template_assure(__u64 link)
{
	struct conn *t = template_of(link);
	__u32 word;

	if (!t)
		return 0;
	word = READ_ONCE(t->word);
	if ((word & (STATE_MASK | CONN_DEAD)) == TEMPLATE_NONE)
		__sync_val_compare_and_swap(&t->word, word, word + TEMPLATE_ASSURED - TEMPLATE_NONE);
	return 0;
}

__inline int word_is_established(__u32 word)
{
	return (word & STATE_MASK) == TCP_ESTABLISHED || (word & STATE_MASK) == SCTP_ESTABLISHED;
}

/* Is it no connection, but what leads replies to one? */
__inline int is_way_back(__u32 word)
{
	__u32 state = word & STATE_MASK;

	return state >= REPLY_NEW && state <= REPLY_PROVEN;
}

/* What a connection is in real_counts.conns; a way back is none, nor is a template. */
__inline __u64 count_of(__u32 word)
{
	if ((word & STATE_MASK) >= REPLY_NEW)
		return 0;
	return state_is_active(word & STATE_MASK) ? ACTIVE_ONE : INACTIVE_ONE;
}

__inline struct real_counts *counts_get(__u32 real)
{
	return bpf_map_lookup_elem(&real_conns, &real);
}

/* A real server at its upper threshold is usable again below its lower one (IPVS). */
__inline void count_leave(struct conn *c, __u32 word)
{
	struct real_counts *n = counts_get(c->real);
	__u32 id = c->real;
	struct real *r;
	__u64 old, total;

	if (word & CONN_CONTROLLED)
		template_controls(c->link, -1);
	if (!n)
		return;
	if ((word & STATE_MASK) >= TEMPLATE_NONE)
		__sync_fetch_and_add(&n->templates, -1);
	old = __sync_fetch_and_add(&n->conns, -count_of(word));
	r = bpf_map_lookup_elem(&reals, &id);
	if (!r || likely(!(r->flags & REAL_OVERLOADED)))
		return;
	total = (old & 0xffffffff) + (old >> 32);
	if (total == r->lower)
		__sync_fetch_and_and(&r->flags, ~REAL_OVERLOADED);
}

__inline void count_enter(struct real *r, __u32 id, __u32 word)
{
	struct real_counts *n = counts_get(id);
	__u64 old;

	if (!n)
		return;
	old = __sync_fetch_and_add(&n->conns, count_of(word));
	if (unlikely(r->upper) && (old & 0xffffffff) + (old >> 32) + 1 == r->upper)
		__sync_fetch_and_or(&r->flags, REAL_OVERLOADED);
}

__inline void count_move(__u32 real, __u32 from, __u32 to)
{
	struct real_counts *n;

	if (count_of(from) == count_of(to))
		return;
	n = counts_get(real);
	if (n)
		__sync_fetch_and_add(&n->conns, count_of(to) - count_of(from));
}

/*
 * event: the TCP flags, or the SCTP chunk. clear: flags that go; CONN_NO_OUTPUT
 * is one of them where the server speaks.
 */
__noinline __u32 word_next(__u32 word, __u8 event, __u32 clear)
{
	__u32 table = word & CONN_NO_OUTPUT ? TABLE_INPUT_ONLY : TABLE_INPUT;
	__u32 state = word & STATE_MASK;

	if (clear & CONN_NO_OUTPUT)
		table = TABLE_OUTPUT;

	return (word & ~(STATE_MASK | clear)) |
	       (state >= SCTP_NONE ? sctp_next(state, event, table) : tcp_next(state, event, table));
}

/*
 * Only one CPU's change of a state counts; a freed entry changes no more. A word
 * of another version is another connection's, which has the slot now.
 */
static __noinline void conn_set_state(struct known *k, __u8 event, __u32 clear)
{
	__u32 word = k->word, next, seen, i;

	for (i = 0; i < CLAIM_TRIES; i++) {
		next = word_next(word, event, clear);
		if (word & CONN_DEAD || next == word)
			return;
		seen = __sync_val_compare_and_swap(&k->conn->word, word, next);
		if (seen == word) {
			count_move(k->real, word, next);
			if (next & CONN_CONTROLLED && word_is_established(next))
				template_assure(k->conn->link);
			return;
		}
		if ((seen ^ word) >> WORD_VERSION_SHIFT)
			return;
		word = seen;
	}
}

/* No table leaves ESTABLISHED on a plain ACK, or on data. */
__inline int conn_stays(__u32 word, const struct packet *p)
{
	__u32 state = word & (STATE_MASK | CONN_UNPROVEN);

	if (p->protocol == IPPROTO_SCTP)
		return state == SCTP_ESTABLISHED && p->chunk == CHUNK_DATA;
	return state == TCP_ESTABLISHED && (p->tcp & (TCP_SYN | TCP_FIN | TCP_RST | TCP_ACK)) == TCP_ACK;
}

__inline void conn_move(struct known *k, const struct packet *p, __u32 clear)
{
	__u8 event = p->protocol == IPPROTO_SCTP ? p->chunk : p->tcp;

	if (likely(conn_stays(k->word, p)) || p->fragment == FRAGMENT_LATER)
		return;
	if (k->word & CONN_UNPROVEN && k->conn->packets > 1)
		clear |= CONN_UNPROVEN;
	if (word_next(k->word, event, clear) != k->word)
		conn_set_state(k, event, clear);
}

__inline void conn_count(struct conn *c)
{
	if (c->packets < PACKETS_COUNTED)
		c->packets++;
}

/* A client's packet of a known connection. */
__inline void conn_input(struct known *k, const struct packet *p)
{
	k->conn->last_use = p->now;
	conn_count(k->conn);
	if (p->protocol != IPPROTO_UDP)
		conn_move(k, p, 0);
}

/* The server's. */
__inline void conn_output(struct known *k, const struct packet *p)
{
	k->conn->last_use = p->now;
	if (p->protocol != IPPROTO_UDP)
		conn_move(k, p, CONN_NO_OUTPUT);
	else if (k->word & CONN_CONTROLLED)
		template_assure(k->conn->link);
}

/* The way of slot c in its set. */
__inline __u32 slot_way(const struct conn *c, const void *set, int v6)
{
	return (__u64)((const void *)c - set) / slot_size(v6) & (CONN_WAYS - 1);
}

/* Tells the home of the entry in slot c, in set index, that it goes. */
__inline void home_forget(struct conn *c, __u64 tag, __u32 index, int v6)
{
	__u32 fingerprint = tag >> 32;
	struct conn *home;
	void *set;

	if (tag & TAG_SECOND)
		index = set_other(index, fingerprint, v6);
	set = set_at(index, v6);
	if (!set)
		return;
	home = slot_at(set, fingerprint, v6);
	if (tag & TAG_SECOND)
		__sync_fetch_and_add(&home->home_moved, -MOVED_SECOND);
	else if (home != c)
		__sync_fetch_and_and(&home->home_moved, ~(1U << slot_way(c, set, v6)));
}

/*
 * Goes on where the word is dead: 1: the slot is the caller's, and says busy.
 * Whoever sees a dead entry may: the one who marked it may be held up, and its
 * key must be nowhere before it is stored again.
 */
__inline int conn_bury(struct conn *c, __u64 tag, __u32 word, __u32 index, int v6)
{
	if (__sync_val_compare_and_swap(&c->tag, tag, (tag & ~(__u64)TAG_MASK) | TAG_BUSY) != tag)
		return 0;
	home_forget(c, tag, index, v6);
	count_leave(c, word);
	return 1;
}

/*
 * Takes the entry out of slot c in set index. word and tag are what the caller
 * saw and decided by: if the word has changed, the entry is alive, or somebody
 * else was faster, and stays. 1: the slot is the caller's, and says busy.
 */
__inline int conn_retire(struct conn *c, __u64 tag, __u32 word, __u32 index, int v6)
{
	return !(word & CONN_DEAD) &&
	       __sync_val_compare_and_swap(&c->word, word, word | CONN_DEAD) == word &&
	       conn_bury(c, tag, word, index, v6);
}

/* What was stored before is seen before. The exchange is a barrier where one is needed. */
__inline void tag_publish(struct conn *c, __u64 tag)
{
	if (config.total_order)
		WRITE_ONCE(c->tag, tag);
	else
		__sync_lock_test_and_set(&c->tag, tag);
}

__inline void slot_free(struct conn *c, __u64 tag)
{
	tag_publish(c, (tag + TAG_VERSION_ONE) & TAG_VERSION_MASK);
}

/*
 * The word decides who frees: an element that is deleted may at once be another
 * key's. Not inlined, to keep its key off the stack of those who call deeper.
 */
static __noinline int overflow_free(struct conn *c, struct conn *home, const struct packet *p, int v6)
{
	__u32 word = __sync_fetch_and_or(&c->word, CONN_DEAD);
	struct conn_key key;

	if (word & CONN_DEAD)
		return 0;
	count_leave(c, word);
	overflow_key(&key, p, v6);
	bpf_map_delete_elem(&overflow, &key);
	__sync_fetch_and_add(&home->home_moved, -MOVED_OVERFLOW);
	return 1;
}

/* Frees an entry of the place's key in one of its sets; 0: it is not what was read of it any more. */
__inline int known_free(const struct known *k, const struct place *at, int v6)
{
	if (!conn_retire(k->conn, k->tag, k->word, tag_set(k->tag, at, v6), v6))
		return 0;
	slot_free(k->conn, k->tag);
	return 1;
}

/* Frees one whose word is dead, unless somebody else did. In the overflow map that somebody is never held up. */
__inline void known_bury(const struct known *k, const struct place *at, int v6)
{
	if (!(k->tag & TAG_OVERFLOW) && conn_bury(k->conn, k->tag, k->word, tag_set(k->tag, at, v6), v6))
		slot_free(k->conn, k->tag);
}

/* The same, wherever it lies. */
__inline int conn_free(const struct known *k, struct conn *home, const struct packet *p, const struct place *at, int v6)
{
	if (k->tag & TAG_OVERFLOW)
		return overflow_free(k->conn, home, p, v6);
	return known_free(k, at, v6);
}

/* Nobody else stores a key of this place from here to place_unlock. */
__inline int place_lock(const struct place *at, struct conn *home)
{
	return !(at->lock & 1) &&
	       __sync_val_compare_and_swap(&home->home_lock, at->lock, at->lock + 1) == at->lock;
}

__inline void place_unlock(const struct place *at, struct conn *home)
{
	WRITE_ONCE(home->home_lock, at->lock + 2);
}

static long lock_wait(__u32 i, struct conn **home)
{
	return !(READ_ONCE((*home)->home_lock) & 1);
}

/* Waits until nobody stores a key of the place, and looks again. */
__inline struct conn *conn_find_after(struct packet *p, struct place *at, struct conn *home, int *locked, int v6)
{
	struct conn *c;

	bpf_loop(LOCK_WAIT, lock_wait, &home, 0);
	c = conn_find(p, at, v6);
	if (!c)
		*locked = place_lock(at, home);
	return c;
}

/*
 * The place could not be locked: another CPU stores one of its keys, which
 * takes it some hundred nanoseconds. Returns the connection, or NULL with
 * *locked telling whether the place is ours. Two tries, and no loop: Linux 6.1
 * takes none with a call to a function of ours in it.
 */
__inline struct conn *conn_find_or_lock(struct packet *p, struct place *at, struct conn *home, int *locked, int v6)
{
	struct conn *c = conn_find_after(p, at, home, locked, v6);

	if (c || *locked)
		return c;
	return conn_find_after(p, at, home, locked, v6);
}

__inline int slot_claim(struct conn *c, __u64 tag, __u64 mark)
{
	return (tag & TAG_MASK) == TAG_FREE &&
	       __sync_val_compare_and_swap(&c->tag, tag, (tag & TAG_VERSION_MASK) | mark) == tag;
}

/* The free ways of a set, as bits. */
__inline __u64 set_free_ways(void *set, int v6)
{
	__u64 ways = 0;
	__u32 i;

	for (i = 0; i < CONN_WAYS; i++)
		ways |= less(READ_ONCE(slot_at(set, i, v6)->tag) & TAG_MASK, 1) << i;
	return ways;
}

/* 1 if half-open, or a datagram that nothing followed. */
__inline __u64 conn_embryonic(const struct conn *c, __u32 word)
{
	__u32 state = word & (TIMEOUTS - 1);
	__u64 lone = less(c->packets, 2) & (1ULL << UDP_NORMAL >> state);

	return state_is_embryonic(state) | (word & CONN_UNPROVEN) / CONN_UNPROVEN | lone;
}

/*
 * The way to give up, as age << 3 | way; 0: none. An expired entry counts as
 * oldest of all, an embryonic one by the time it has been unused. Without
 * branches, see OPAQUE.
 */
__inline __u64 set_victim(void *set, __u32 now, int v6)
{
	__u64 best = 0, candidate, eligible, expired, idle, newer;
	struct conn *c;
	__u32 i;

#pragma clang loop unroll(disable)
	for (i = 0; i < CONN_WAYS; i++) {
		c = slot_at(set, i, v6);
		idle = (__u64)(__s64)(__s32)(now - READ_ONCE(c->last_use)) + (1ULL << 32);
		expired = less(settings.timeout[READ_ONCE(c->word) & (TIMEOUTS - 1)] + (1ULL << 32), idle);
		eligible = less((READ_ONCE(c->tag) & TAG_MASK) ^ TAG_USED, 1) & (expired | conn_embryonic(c, READ_ONCE(c->word)));
		OPAQUE(eligible);
		candidate = -eligible & (expired << 40 | idle << 3 | i);
		newer = less(best, candidate);
		OPAQUE(newer);
		best ^= -newer & (best ^ candidate);
	}
	return best;
}

/* A way back whose connection is gone. */
__inline int conn_orphan(const struct conn *c, __u32 word, int v6)
{
	return is_way_back(word) && !link_alive(READ_ONCE(c->link), v6);
}

/* The way of a set that such a one has, | CONN_WAYS; 0: none. It costs a line for each way back, so it comes last. */
__inline __u64 set_orphan(void *set, int v6)
{
	struct conn *c;
	__u32 i;

#pragma clang loop unroll(disable)
	for (i = 0; i < CONN_WAYS; i++) {
		c = slot_at(set, i, v6);
		if ((READ_ONCE(c->tag) & TAG_MASK) == TAG_USED && conn_orphan(c, READ_ONCE(c->word), v6))
			return CONN_WAYS | i;
	}
	return 0;
}

/* Takes the slot of an entry that is expired, embryonic or leads nowhere. mark: the tag bits of the claim. */
__inline struct conn *slot_take(void *set, __u32 index, __u64 way, __u64 mark, __u32 now, int v6)
{
	struct conn *c = slot_at(set, way, v6);
	__u64 tag = READ_ONCE(c->tag);
	__u32 word = READ_ONCE(c->word);

	if ((tag & TAG_MASK) != TAG_USED ||
	    (!conn_expired(c, now) && !conn_embryonic(c, word) && !conn_orphan(c, word, v6)) ||
	    !conn_retire(c, tag, word, index, v6))
		return NULL;
	WRITE_ONCE(c->tag, ((tag + TAG_VERSION_ONE) & TAG_VERSION_MASK) | mark);
	return c;
}

/* Takes the slot of such an entry of the set, if there is one: its number, see struct place. */
__inline __u32 set_give(__u32 index, __u64 mark, __u32 now, int v6)
{
	void *set = set_at(index, v6);
	__u64 victim;

	if (!set)
		return 0;
	victim = set_victim(set, now, v6);
	if (unlikely(!victim))
		victim = set_orphan(set, v6);
	if (!victim || !slot_take(set, index, victim, mark, now, v6))
		return 0;
	return index * CONN_WAYS + (victim & (CONN_WAYS - 1)) + 1;
}

/*
 * Both sets are full: somebody's expired or half-open entry goes, never an
 * established one. Its slot's number, claimed for the place; 0: none.
 */
__inline __u32 claim_victim(const struct place *at, __u32 now, int v6)
{
	return set_give(at->index, TAG_BUSY, now, v6) ?: set_give(place_second(at, v6), TAG_BUSY | TAG_SECOND, now, v6);
}

__noinline int claim_victim4(const struct place *at, __u32 now)
{
	return at ? claim_victim(at, now, 0) : 0;
}

__noinline int claim_victim6(const struct place *at, __u32 now)
{
	return at ? claim_victim(at, now, 1) : 0;
}

/* Could a key of this place be stored now? */
__inline int place_has_room(const struct place *at, __u32 now, int v6)
{
	void *first = set_at(at->index, v6);
	void *second = set_at(place_second(at, v6), v6);

	if (!first || !second)
		return 1;
	return (set_free_ways(first, v6) | set_free_ways(second, v6)) || set_victim(first, now, v6) ||
	       set_victim(second, now, v6);
}

__inline struct conn *claim_free(void *set, __u64 ways, __u64 mark, int v6)
{
	struct conn *c = slot_at(set, lowest_bit(ways), v6);

	return slot_claim(c, READ_ONCE(c->tag), mark) ? c : NULL;
}

/*
 * A slot for a key whose home is taken, claimed: the tag says busy, and whether
 * it lies in the second set. The first set is preferred while it is not
 * crowded, which keeps look-ups at one page. NULL: no room, or another CPU was
 * faster CLAIM_TRIES times.
 */
__inline struct conn *conn_claim(const struct place *at, __u32 now, int v6)
{
	void *first = set_at(at->index, v6);
	void *second = set_at(place_second(at, v6), v6);
	__u64 free, other = 0;
	struct conn *c;
	__u32 i;

	if (!first || !second)
		return NULL;
#pragma clang loop unroll(disable)
	for (i = 0; i < CLAIM_TRIES; i++) {
		free = set_free_ways(first, v6);
		if (count_bits(free) < SET_SPARE)
			other = set_free_ways(second, v6);
		if (count_bits(other) > count_bits(free))
			c = claim_free(second, other, TAG_BUSY | TAG_SECOND, v6);
		else if (free)
			c = claim_free(first, free, TAG_BUSY, v6);
		else
			c = slot_numbered(v6 ? claim_victim6(at, now) : claim_victim4(at, now), v6);
		if (c)
			return c;
	}
	return NULL;
}

/* What a new connection is made of. No pointers, as in struct packet. */
struct conn_new {
	__u32 real;
	__u32 generation;
	__u32 word;	/* state and flags */
	__u32 in_sets;	/* 1: not in the overflow map, as something refers to its slot */
	__u32 local;	/* see conn_local */
	__u64 link;
	__u64 link_version; /* of a template: what the version of its tag adds to the link */
	__u16 peer[3];
};

__inline void conn_fill(struct conn *c, const struct packet *p, const struct conn_new *n, __u32 version)
{
	c->ports = p->ports;
	c->real = n->real;
	c->generation = n->generation;
	c->last_use = p->now;
	WRITE_ONCE(*(__u32 *)&c->packets, 1 | n->local << LOCAL_SHIFT);
	c->link = n->link + (version & 0xffff) * n->link_version;
	__builtin_memcpy(c->peer, n->peer, sizeof(c->peer));
	c->ingress = p->ingress;
	WRITE_ONCE(c->word, n->word | version << WORD_VERSION_SHIFT);
}

__inline void conn_fill_key(struct conn *c, const struct packet *p, int v6)
{
	__u64 *addr = (void *)(c + 1);

	addr[0] = p->addr[0];
	if (!v6)
		return;
	addr[1] = p->addr[1];
	addr[2] = p->addr[2];
	addr[3] = p->addr[3];
}

static __noinline int overflow_store(const struct packet *p, const struct place *at, struct conn *home,
				     const struct conn_new *n, int v6)
{
	struct conn c = {};
	struct conn_key key;

	/* The count of the home is a byte in the making: it must not run over. */
	if (READ_ONCE(home->home_moved) >= 0xff * MOVED_OVERFLOW)
		return 0;
	conn_fill(&c, p, n, 0);
	c.tag = at->want | TAG_OVERFLOW | ((__u64)p->now << 16 & TAG_VERSION_MASK);
	overflow_key(&key, p, v6);
	if (bpf_map_update_elem(&overflow, &key, &c, BPF_NOEXIST))
		return 0;
	__sync_fetch_and_add(&home->home_moved, MOVED_OVERFLOW);
	return 1;
}

/* See struct place. */
__inline __u32 slot_number(const struct conn *c, __u64 tag, const struct place *at, int v6)
{
	__u32 index = tag_set(tag, at, v6);
	void *set = set_at(index, v6);

	return set ? index * CONN_WAYS + slot_way(c, set, v6) + 1 : 0;
}

/* Tells the home that its key is stored in slot c, of the same set or of the second. */
__inline void home_remember(const struct conn *c, __u64 tag, struct conn *home, const struct place *at, int v6)
{
	void *set = (void *)home - (at->want >> 32 & (CONN_WAYS - 1)) * slot_size(v6);

	if (tag & TAG_SECOND)
		__sync_fetch_and_add(&home->home_moved, MOVED_SECOND);
	else if (c != home)
		__sync_fetch_and_or(&home->home_moved, 1U << slot_way(c, set, v6));
}

/* A slot for the packet's key, whose place is locked: claimed, and its home knows. NULL: no room. */
__inline struct conn *conn_reserve(const struct packet *p, const struct place *at, struct conn *home, int v6)
{
	struct conn *c = home;

	if (unlikely(!slot_claim(c, READ_ONCE(c->tag), TAG_BUSY))) {
		c = conn_claim(at, p->now, v6);
		if (c)
			home_remember(c, READ_ONCE(c->tag), home, at, v6);
	}
	return c;
}

/* Notes where a reserved slot is: something will refer to it. */
__inline void conn_locate(const struct conn *c, struct place *at, int v6)
{
	__u64 tag = READ_ONCE(c->tag);

	at->slot = slot_number(c, tag, at, v6);
	at->version = tag >> 16 & 0xffff;
}

/* Fills a reserved slot and shows it. */
__inline void conn_publish(struct conn *c, const struct packet *p, const struct place *at, const struct conn_new *n, int v6)
{
	__u64 tag = READ_ONCE(c->tag);

	conn_fill(c, p, n, tag >> 16);
	conn_fill_key(c, p, v6);
	tag_publish(c, at->want | (tag & (TAG_VERSION_MASK | TAG_SECOND)));
}

/* Gives a reserved slot back. */
__inline void conn_cancel(struct conn *c, const struct place *at, int v6)
{
	__u64 tag = READ_ONCE(c->tag);

	home_forget(c, tag | (at->want & ~0xffffffffULL), tag_set(tag, at, v6), v6);
	slot_free(c, tag);
}

/* Stores an entry in one of its sets; its place is locked. 0: no room there. */
__inline int conn_store_set(const struct packet *p, struct place *at, struct conn *home, const struct conn_new *n, int v6)
{
	struct conn *c = conn_reserve(p, at, home, v6);

	if (unlikely(!c))
		return 0;
	if (unlikely(n->in_sets))
		conn_locate(c, at, v6);
	conn_publish(c, p, at, n, v6);
	return 1;
}

/* The same, or in the overflow map if it may lie there. */
__inline int conn_store(const struct packet *p, struct place *at, struct conn *home, const struct conn_new *n, int v6)
{
	return likely(conn_store_set(p, at, home, n, v6)) || (!n->in_sets && overflow_store(p, at, home, n, v6));
}

#endif
