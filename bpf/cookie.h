/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * cookie.h - a first sequence number that proves, when it comes back, that the client
 * has got it (RFC 4987 section 3.6). It is our own and not the kernel's, whose helpers
 * would do, since ours is good on every kernel and every director that has the key,
 * goes on after a restart, and can be let grow old by tests.
 *
 * From the low end: 3 bits of the client's MSS, one of the period, 28 of SipHash-2-4
 * over both, the flow and the client's own first number.
 */
#ifndef DIRECTOR_COOKIE_H
#define DIRECTOR_COOKIE_H

#include "maps.h"
#include "packet.h"
#include "siphash.h"

#define COOKIE_MSS 7
#define COOKIE_PERIOD 8
#define COOKIE_SHIFT 4

/* See packet.proof. */
enum proof_state {
	PROOF_UNASKED,
	PROOF_NONE,
	PROOF_GIVEN,
};

/*
 * The MSS of a client that is told to the real server: what Ethernet and its tunnels leave, and jumbo
 * frames. Volatile: the compiler would put it where the loader finds no type of it.
 */
static const volatile __u16 cookie_mss[COOKIE_MSS + 1] = { 536, 1220, 1300, 1360, 1400, 1440, 1460, 8940 };

/* The largest of these that the client's is not below. Who says nothing has 536 (RFC 9293 section 3.7.1). */
__inline __u32 cookie_mss_index(__u32 mss)
{
	__u32 index = 0, i;

	for (i = 1; i <= COOKIE_MSS; i++)
		index += mss >= cookie_mss[i];
	return index;
}

__inline __u64 cookie_now(void)
{
	__u32 period = settings.cookie_period;

	return period ? bpf_jiffies64() / period : 0;
}

__inline void sip_take(struct sip *s, __u64 word)
{
	s->v3 ^= word;
	sip_round(s);
	sip_round(s);
	s->v0 ^= word;
}

__inline __u64 sip_end(struct sip *s)
{
	s->v2 ^= 0xff;
	sip_round(s);
	sip_round(s);
	sip_round(s);
	sip_round(s);
	return s->v0 ^ s->v1 ^ s->v2 ^ s->v3;
}

/* The cookie of the client's packet, which goes to the service. Go: flowCookie in tests. */
__inline __u32 cookie_make(const struct packet *p, __u32 isn, __u32 mss_index, __u64 period, int v6)
{
	struct sip s = sip_begin(settings.cookie_key[0], settings.cookie_key[1]);
	__u32 said = mss_index | (period & 1 ? COOKIE_PERIOD : 0);

	sip_take(&s, p->addr[0]);
	if (v6) {
		sip_take(&s, p->addr[1]);
		sip_take(&s, p->addr[2]);
		sip_take(&s, p->addr[3]);
	}
	sip_take(&s, p->ports | (__u64)isn << 32);
	sip_take(&s, period << 8 | mss_index);
	return (__u32)sip_end(&s) << COOKIE_SHIFT | said;
}

/* Is it a cookie that this client was given for that number, and not long ago? */
__inline int cookie_holds(const struct packet *p, __u32 cookie, __u32 isn, int v6)
{
	__u64 now = cookie_now(), period;

	period = now - ((now ^ cookie / COOKIE_PERIOD) & 1);
	return cookie_make(p, isn, cookie & COOKIE_MSS, period, v6) == cookie;
}

#endif
