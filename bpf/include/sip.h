// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//
// SipHash-1-3 (Aumasson and Bernstein, 2012) over 64-bit words. One round a word and
// three at the end are what hash tables that face attackers use: nobody who does not
// know the key can make two behaviours look alike, and that is all that is asked here.
#ifndef VEDETTE_SIP_H
#define VEDETTE_SIP_H

struct sip {
	u64 v0, v1, v2, v3;
	u64 words;
};

#define SIP_ROTATE(x, n) (((x) << (n)) | ((x) >> (64 - (n))))

INLINE void sip_round(struct sip *s)
{
	s->v0 += s->v1;
	s->v2 += s->v3;
	s->v1 = SIP_ROTATE(s->v1, 13) ^ s->v0;
	s->v3 = SIP_ROTATE(s->v3, 16) ^ s->v2;
	s->v0 = SIP_ROTATE(s->v0, 32);
	s->v2 += s->v1;
	s->v0 += s->v3;
	s->v1 = SIP_ROTATE(s->v1, 17) ^ s->v2;
	s->v3 = SIP_ROTATE(s->v3, 21) ^ s->v0;
	s->v2 = SIP_ROTATE(s->v2, 32);
}

INLINE void sip_begin(struct sip *s, u64 k0, u64 k1)
{
	s->v0 = k0 ^ 0x736f6d6570736575ULL;
	s->v1 = k1 ^ 0x646f72616e646f6dULL;
	s->v2 = k0 ^ 0x6c7967656e657261ULL;
	s->v3 = k1 ^ 0x7465646279746573ULL;
	s->words = 0;
}

INLINE void sip_take(struct sip *s, u64 m)
{
	s->v3 ^= m;
	sip_round(s);
	s->v0 ^= m;
	s->words++;
}

INLINE u64 sip_result(struct sip *s)
{
	u64 hash;

	s->v2 ^= 0xff;
#pragma clang loop unroll(disable)
	for (int i = 0; i < 3; i++)
		sip_round(s);
	hash = s->v0 ^ s->v1 ^ s->v2 ^ s->v3;
	return hash ?: 1; /* 0 says that there is none */
}

/* Functions, and not part of whoever hashes: forty rounds in line are four kilobytes of
 * code for each program that has them. These are for words that come one by one. */
static __attribute__((noinline)) void sip_word(struct sip *s, u64 m)
{
	struct sip t = *s;

	sip_take(&t, m);
	*s = t;
}

static __attribute__((noinline)) u64 sip_finish(struct sip *s)
{
	struct sip t = *s;

	return sip_result(&t);
}

/* extra: what the words do not say of the length, such as the bytes of the last one.
 * Two calls side by side, and not one in the other: frames add up to 512 bytes. */
INLINE u64 sip_end(struct sip *s, u64 extra)
{
	sip_word(s, (s->words << 56) | (extra & 0x00ffffffffffffffULL));
	return sip_finish(s);
}

enum { SIP_WORDS_MAX = 514 };

/* The same of words that are all there: one short loop, its state in registers. */
static __attribute__((noinline)) u64 sip_of(const u64 *words, u32 n, u64 k0, u64 k1)
{
	struct sip s;

	sip_begin(&s, k0, k1);
#pragma clang loop unroll(disable)
	for (u32 i = 0; i < n; i++) {
		/* For the verifier of 6.1, which learns nothing from i that reaches n: the bound,
		 * and that it is i's own and not a copy's. */
		KEEP(i);
		if (i >= SIP_WORDS_MAX)
			break;
		sip_take(&s, words[i]);
	}
	sip_take(&s, (u64)n << 56);
	return sip_result(&s);
}

#endif
