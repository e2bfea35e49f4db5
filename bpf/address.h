/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* Addresses of both families in one form. */
#ifndef PORTOLAN_ADDRESS_H
#define PORTOLAN_ADDRESS_H

#include <stdbool.h>
#include <stddef.h>

#include <linux/bpf.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "portolan.h"

/*
 * A function that the verifier looks at once, by itself, and not again for each way to it: what is known of its
 * arguments is their types only, and pointers may be NULL.
 */
#define SEPARATE __attribute__((noinline))

/* Nanoseconds of CLOCK_MONOTONIC, as of the last tick: it is for seconds and minutes, and asked for each packet. */
static __always_inline __u64 now(void)
{
	return bpf_ktime_get_coarse_ns();
}

/* How long ago that was. The proxy writes times too, which may be ahead of the last tick. */
static __always_inline __u64 age(__u64 seen)
{
	__s64 passed = now() - seen;

	return passed > 0 ? passed : 0;
}

static __always_inline struct address mapped(__be32 address)
{
	struct address v4 = {{0, 0, bpf_htonl(0xffff), address}};
	return v4;
}

static __always_inline bool is_v4(const struct address *address)
{
	return address->word[0] == 0 && address->word[1] == 0 && address->word[2] == bpf_htonl(0xffff);
}

static __always_inline bool is_same_address(const struct address *one, const struct address *other)
{
	return one->word[0] == other->word[0] && one->word[1] == other->word[1] &&
	       one->word[2] == other->word[2] && one->word[3] == other->word[3];
}

static __always_inline bool is_same(const struct endpoint *one, const struct endpoint *other)
{
	return is_same_address(&one->address, &other->address) && one->port == other->port;
}

#define LOOPBACK_V4 bpf_htonl(0x7f000000)
#define LOOPBACK_MASK bpf_htonl(0xff000000)

/* What no link brings from anybody else (RFC 1122, 3.2.1.3; RFC 4291, 2.5.3). */
static __always_inline bool is_loopback(const struct address *address)
{
	if (is_v4(address))
		return (address->word[3] & LOOPBACK_MASK) == LOOPBACK_V4;
	return !address->word[0] && !address->word[1] && !address->word[2] &&
	       address->word[3] == bpf_htonl(1);
}

#endif
