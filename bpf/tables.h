/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * The maps that say what is done with connections, and how an endpoint is found in them. Programs at sockets
 * and at links read the same.
 */
#ifndef PORTOLAN_TABLES_H
#define PORTOLAN_TABLES_H

#include "address.h"

#define SECOND 1000000000ULL

/* How often a set is looked up that changes at that very moment. */
#define ATTEMPTS 3

/* Sizes are set by the loader. Entries are allocated as they come. */
#define TABLE(name, key_type, value_type)                                     \
	struct {                                                              \
		__uint(type, BPF_MAP_TYPE_HASH);                              \
		__uint(max_entries, 1);                                       \
		__uint(map_flags, BPF_F_NO_PREALLOC);                         \
		__type(key, key_type);                                        \
		__type(value, value_type);                                    \
	} name SEC(".maps")

/* What is remembered of those who come: the eldest make room. */
#define MEMORY(name, key_type, value_type)                                    \
	struct {                                                              \
		__uint(type, BPF_MAP_TYPE_LRU_HASH);                          \
		__uint(max_entries, 1);                                       \
		__type(key, key_type);                                        \
		__type(value, value_type);                                    \
	} name SEC(".maps")

TABLE(frontends, struct frontend_key, struct frontend);
TABLE(sets, __u64, struct set);
TABLE(endpoints, struct slot, struct endpoint);
TABLE(tables, struct slot, struct block);
TABLE(members, struct member, __u32);
/* Addresses of the node that accept node ports. */
TABLE(node_addresses, struct address, __u32);

MEMORY(affinities, struct client, struct remembered);
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct node);
} node SEC(".maps");

/* Whether an address is a virtual one, whatever is asked for there. */
static __always_inline bool is_virtual_address(const struct address *address)
{
	struct frontend_key key = {.address = *address};

	return bpf_map_lookup_elem(&frontends, &key) != NULL;
}

/* The frontend that a connection meets, if any; else whether its address is a virtual one. */
static __always_inline struct frontend *find_frontend(const struct endpoint *to, __u8 protocol,
						      bool is_of_node, bool *is_virtual)
{
	struct frontend_key key = {.address = to->address, .port = to->port, .protocol = protocol};
	struct frontend *found = bpf_map_lookup_elem(&frontends, &key);

	if (found)
		return found;
	__u32 *accepts = bpf_map_lookup_elem(&node_addresses, &to->address);

	if (accepts) {
		if (*accepts == FOR_NODE && !is_of_node)
			return NULL;
		key.address.word[3] = 0;
		if (!is_v4(&to->address)) {
			key.address.word[0] = 0;
			key.address.word[1] = 0;
			key.address.word[2] = 0;
		}
		return bpf_map_lookup_elem(&frontends, &key);
	}
	*is_virtual = is_virtual_address(&to->address);
	return NULL;
}

static __always_inline bool is_member(__u64 of, const struct endpoint *endpoint)
{
	struct member key = {.of = of, .endpoint = *endpoint};

	return bpf_map_lookup_elem(&members, &key) != NULL;
}

/* MurmurHash3's last steps. */
static __always_inline __u64 mixed(__u64 hash)
{
	hash ^= hash >> 33;
	hash *= 0xff51afd7ed558ccdULL;
	hash ^= hash >> 33;
	hash *= 0xc4ceb9fe1a85ec53ULL;
	return hash ^ hash >> 33;
}

/* A client by his address and port, and what he wants: the same on all nodes. It is not 0. */
static __always_inline __u64 hash_of(const struct endpoint *client, __u64 wanted)
{
	const struct address *address = &client->address;
	__u64 hash = mixed(wanted ^ ((__u64)address->word[0] << 32 | address->word[1]));

	hash = mixed(hash ^ ((__u64)address->word[2] << 32 | address->word[3]));
	return mixed(hash ^ client->port) | 1ULL << 63;
}

/* The place of an endpoint for a client with this hash, if the list has a table. */
static __always_inline __u32 place_for(__u64 hash, __u32 list, __u32 count)
{
	__u32 size = count <= FEW ? FEW_ENTRIES : count <= MANY ? MANY_ENTRIES : MOST_ENTRIES;
	__u32 entry = (__u32)hash & (size - 1);
	struct slot slot = {.list = list, .index = entry / BLOCK};
	struct block *block = bpf_map_lookup_elem(&tables, &slot);

	/* A very long list has none. */
	return block ? block->places[entry % BLOCK] : (__u32)hash % count;
}

/* An endpoint of a set: that of a client with this hash, or any, each as likely as the others, if it is 0. */
static __always_inline bool choose(__u64 number, __u64 hash, struct endpoint *chosen)
{
	for (int i = 0; i < ATTEMPTS; i++) {
		struct set *set = bpf_map_lookup_elem(&sets, &number);

		if (!set)
			return false;
		/* List and length in one, and only then whose they are. */
		__u64 list = *(volatile __u64 *)&set->list;

		if (*(volatile __u64 *)&set->number != number)
			continue;
		__u32 count = list >> 32;
		struct slot slot = {.list = (__u32)list};

		if (count > 1 && hash)
			slot.index = place_for(hash, slot.list, count);
		else if (count > 1)
			slot.index = bpf_get_prandom_u32() % count;
		struct endpoint *found = bpf_map_lookup_elem(&endpoints, &slot);

		if (found) {
			*chosen = *found;
			return true;
		}
	}
	return false;
}

/* As `choose`, but a client that was there within the time of affinity gets the same as before. */
static __always_inline bool choose_for(const struct frontend *frontend, __u64 set, __u64 hash,
				       const struct address *from, struct endpoint *chosen)
{
	if (!frontend->affinity)
		return choose(set, hash, chosen);

	struct client client = {.port = frontend->port, .address = *from};
	struct remembered *known = bpf_map_lookup_elem(&affinities, &client);
	struct remembered latest = {.seen = now()};

	if (known && age(known->seen) <= frontend->affinity * SECOND &&
	    is_member(set, &known->endpoint))
		latest.endpoint = known->endpoint;
	else if (!choose(set, hash, &latest.endpoint))
		return false;
	bpf_map_update_elem(&affinities, &client, &latest, BPF_ANY);
	*chosen = latest.endpoint;
	return true;
}

#endif
