/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * sip.h - the Call-ID of a SIP message (RFC 3261), by which IPVS's persistence
 * engine sip tells calls apart. The message is walked through once, a character
 * at a time, and the walk is looked at once by the verifier.
 */
#ifndef DIRECTOR_SIP_H
#define DIRECTOR_SIP_H

#include "config.h"
#include "maps.h"
#include "packet.h"
#include "work.h"

enum call_state {
	CALL_LINE,	/* of no interest */
	CALL_CR,	/* a line has ended; a line feed may follow */
	CALL_START,	/* a line begins, or goes on where one was left: see resume */
	CALL_NAME,	/* as far as it goes it is Call-ID */
	CALL_SHORT,	/* an i at the beginning of a line */
	CALL_COLON,	/* behind the name */
	CALL_VALUE,	/* behind the colon */
	CALL_ID,
	CALL_FOUND,
	CALL_BROKEN,	/* there is one, but it is none */
};

struct call_walk {
	struct call *call;
	__u64 hash;
	__u32 state;
	__u32 resume;	/* state that a line goes on with that begins with a blank */
	__u32 length;	/* of the name or the Call-ID, so far */
	__u32 host;	/* characters behind its @, and 1 for that */
};

/* The characters of a word in RFC 3261, 64 as the bits of a number; above ASCII Latin 1's letters, as in the kernel's tables. */
__inline int call_is_word(__u8 c)
{
	__u64 word = c & 0x80 ? 0xff7fffffff7fffff : 0xd7ffefa600000000;

	if (c & 0x40)
		word = c & 0x80 ? word : 0x6fffffffbffffffe;
	else if (c & 0x80)
		word = 0;
	return word >> (c & 63) & 1;
}

__inline int call_is_letter(__u8 c)
{
	return (__u8)((c | 0x20) - 'a') < 26;
}

__inline int call_is_blank(__u8 c)
{
	return c == ' ' || c == '\t';
}

/* A character that nobody waits for; resume: should a line end with it. */
__inline __u32 call_pass(struct call_walk *w, __u8 c, __u32 resume)
{
	w->resume = resume;
	if (c == '\r')
		return CALL_CR;
	return c == '\n' ? CALL_START : CALL_LINE;
}

__inline __u32 call_start(struct call_walk *w, __u8 c)
{
	if (call_is_blank(c))
		return w->resume;
	w->length = 1;
	if ((c | 0x20) == 'c')
		return CALL_NAME;
	return (c | 0x20) == 'i' ? CALL_SHORT : call_pass(w, c, CALL_LINE);
}

__inline __u32 call_name(struct call_walk *w, __u8 c)
{
	const __u64 name = 0x64692d6c6c6163; /* call-id, its first character in the lowest byte */
	__u8 wanted = name >> (w->length & 7) * 8;

	if (c != wanted && !(call_is_letter(c) && (c | 0x20) == wanted))
		return call_pass(w, c, CALL_LINE);
	return ++w->length == 7 ? CALL_COLON : CALL_NAME;
}

__inline __u32 call_colon(struct call_walk *w, __u8 c)
{
	if (c == ':')
		return CALL_VALUE;
	return call_is_blank(c) ? CALL_COLON : call_pass(w, c, CALL_COLON);
}

/* One more character of it. */
__inline __u32 call_take(struct call_walk *w, __u8 c)
{
	if (w->length >= CALL_ID_MAX)
		return CALL_BROKEN;
	if (w->length < CALL_TEXT - 1)
		w->call->text[w->length & (CALL_TEXT - 1)] = c;
	else
		w->call->text[CALL_TEXT - 1] = 1;
	w->length++;
	w->hash = (w->hash ^ c) * settings.hash_key.factor;
	w->hash ^= w->hash >> 29;
	return CALL_ID;
}

__inline __u32 call_value(struct call_walk *w, __u8 c)
{
	if (call_is_blank(c))
		return CALL_VALUE;
	if (!call_is_word(c))
		return call_pass(w, c, CALL_VALUE);
	__builtin_memset(w->call->text, 0, CALL_TEXT);
	w->length = w->host = 0;
	w->hash = settings.hash_key.word[0] | (__u64)settings.hash_key.word[1] << 32;
	return call_take(w, c);
}

/* It is a word, or two with an @ between them, and ends with its line. */
__inline __u32 call_id(struct call_walk *w, __u8 c)
{
	if (c == '@' && !w->host) {
		w->host = 1;
		return call_take(w, c);
	}
	if (call_is_word(c)) {
		w->host += !!w->host;
		return call_take(w, c);
	}
	if (w->host == 1)
		return call_pass(w, c, CALL_LINE);
	return c == '\r' || c == '\n' ? CALL_FOUND : CALL_BROKEN;
}

__inline __u32 call_next(struct call_walk *w, __u8 c)
{
	switch (w->state) {
	case CALL_CR:
		return c == '\n' ? CALL_START : call_start(w, c);
	case CALL_START:
		return call_start(w, c);
	case CALL_NAME:
		return call_name(w, c);
	case CALL_SHORT:
		return call_is_letter(c) ? CALL_LINE : call_colon(w, c);
	case CALL_COLON:
		return call_colon(w, c);
	case CALL_VALUE:
		return call_value(w, c);
	case CALL_ID:
		return call_id(w, c);
	default:
		return call_pass(w, c, CALL_LINE);
	}
}

static long call_step(__u32 i, struct call_walk *w)
{
	w->state = call_next(w, w->call->bytes[i & (CALL_BYTES - 1)]);
	return w->state >= CALL_FOUND;
}

/* Characters of the datagram that are looked at; 0: there are none. */
__inline __u32 call_load(struct xdp_md *ctx, const struct packet *p, struct call *call)
{
	__u32 at = p->l4 + sizeof(struct udphdr), last;

	if (p->protocol != IPPROTO_UDP || p->fragment == FRAGMENT_LATER || p->length <= at)
		return 0;
	last = p->length - at - 1;
	if (last >= CALL_BYTES)
		last = CALL_BYTES - 1;
	OPAQUE(last); /* the compiler knows its range, and Linux 6.1 sees it from here on only */
	last &= CALL_BYTES - 1;
	return bpf_xdp_load_bytes(ctx, p->l3 + at, call->bytes, last + 1) ? 0 : last + 1;
}

/* Is it a SIP message with a Call-ID? Its hash and text are in the work area then. */
__noinline int call_find(struct xdp_md *ctx, struct packet *p)
{
	struct work *w = work_get();
	struct call_walk walk;
	__u32 size;

	if (!p || !w)
		return 0;
	/* Linux 6.1 looks at the body of a loop once, as if what it knows of the stack were always so. */
	walk.state = CALL_LINE + READ_ONCE(w->call.zero);
	walk.resume = READ_ONCE(w->call.zero);
	walk.length = READ_ONCE(w->call.zero);
	walk.host = READ_ONCE(w->call.zero);
	walk.hash = READ_ONCE(w->call.zero);
	size = call_load(ctx, p, &w->call);
	walk.call = &w->call;
	bpf_loop(size, call_step, &walk, 0);
	w->call.hash = walk.hash;
	return walk.state == CALL_FOUND;
}

#endif
