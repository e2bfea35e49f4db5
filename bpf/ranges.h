/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* Ranges of addresses, for the longest match. */
#ifndef PORTOLAN_RANGES_H
#define PORTOLAN_RANGES_H

#include "address.h"

#define RANGES(name, key_type)                                                \
	struct {                                                              \
		__uint(type, BPF_MAP_TYPE_LPM_TRIE);                          \
		__uint(max_entries, 1);                                       \
		__uint(map_flags, BPF_F_NO_PREALLOC);                         \
		__type(key, key_type);                                        \
		__type(value, __u32);                                         \
	} name SEC(".maps")

/* Addresses of pods. */
RANGES(pods, struct range);
/* Virtual addresses: where there is no frontend nothing is. */
RANGES(virtual_ranges, struct range);
/* Who may connect to frontends that not everybody may connect to. */
RANGES(sources, struct source_range);

static __always_inline bool is_in(void *ranges, const struct address *address)
{
	struct range key = {.length = 128, .address = *address};

	return bpf_map_lookup_elem(ranges, &key) != NULL;
}

/* Whether an address is a virtual one, if it is not one of a frontend: nothing is there. */
static __always_inline bool is_vacant(const struct address *address)
{
	return is_in(&virtual_ranges, address);
}

static __always_inline bool may_connect(const struct frontend *frontend, const struct address *source)
{
	struct source_range key = {.length = 192, .address = *source};

	if (!frontend->sources)
		return true;
	key.of[0] = (__u32)frontend->sources;
	key.of[1] = (__u32)(frontend->sources >> 32);
	return bpf_map_lookup_elem(&sources, &key) != NULL;
}

#endif
