/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Which packets at a link may be about a Service at all, by their destination: one bit for each address, of as many as
 * fall to it. Most packets are about none, and asking here costs less than looking for their connection.
 *
 * Bits are set before they are needed, and never cleared. What is marked by another one that falls to the same bit is looked
 * for in vain, which does no harm.
 */
#ifndef PORTOLAN_MARKS_H
#define PORTOLAN_MARKS_H

#include "packet.h"
#include "ranges.h"
#include "tables.h"

#define BITMAP(name)                                                          \
	struct {                                                              \
		__uint(type, BPF_MAP_TYPE_ARRAY);                             \
		__uint(max_entries, MARKS);                                   \
		__type(key, __u32);                                           \
		__type(value, __u64);                                         \
	} name SEC(".maps")

/* By the proxy: addresses of frontends, and of the node, which answers to masqueraded connections go to. */
BITMAP(marked);
/* By programs: clients that keep their address, which answers go to. */
BITMAP(met);

/*
 * The bit of an address: the upper ones of a product depend on all below, and neighbours are far from each other
 * (Fibonacci hashing; Knuth, The Art of Computer Programming, 6.4).
 */
static __always_inline __u32 bit_of(const struct address *address)
{
	const __u32 *word = address->word;
	__u64 first = (__u64)word[0] << 32 | word[1], second = (__u64)word[2] << 32 | bpf_ntohl(word[3]);

	return (first * 0xff51afd7ed558ccdULL ^ second) * 0x9e3779b97f4a7c15ULL >> (64 - MARK_BITS);
}

static __always_inline bool is_marked(const struct address *address)
{
	__u32 bit = bit_of(address), place = bit / 64;
	__u64 *by_proxy = bpf_map_lookup_elem(&marked, &place);
	__u64 *by_us = bpf_map_lookup_elem(&met, &place);

	return !by_proxy || !by_us || (*by_proxy | *by_us) >> bit % 64 & 1;
}

/* A client keeps its address. */
static __always_inline void mark(const struct address *address)
{
	__u32 bit = bit_of(address), place = bit / 64;
	__u64 *word = bpf_map_lookup_elem(&met, &place);

	/* Where nothing changes nothing is written. */
	if (word && !(*word >> bit % 64 & 1))
		__sync_fetch_and_or(word, 1ULL << bit % 64);
}

/* Whether a packet of TCP is plainly about no Service. */
static __always_inline bool is_foreign_to(const struct address *address, const struct tcphdr *tcp)
{
	if (is_marked(address) || is_loopback(address))
		return false;
	return !tcp->syn || tcp->ack || !is_vacant(address);
}

/*
 * Whether a packet is plainly about no Service: of TCP, and not marked. All others are looked at thoroughly. What is done
 * here is done for every packet of every pod: each family has its own way, without a branch for the other.
 */
static __always_inline bool is_foreign(struct __sk_buff *skb, __u32 l3)
{
	void *start = (void *)(long)skb->data + l3, *end = (void *)(long)skb->data_end;
	struct iphdr *v4 = start;
	struct ipv6hdr *v6 = start;
	struct address to;

	if (start + sizeof(*v4) + sizeof(struct tcphdr) > end)
		return false;
	if (v4->version == 4 && v4->ihl == 5) {
		to = mapped(v4->daddr);
		return v4->protocol == IPPROTO_TCP && is_foreign_to(&to, (void *)(v4 + 1));
	}
	if (start + sizeof(*v6) + sizeof(struct tcphdr) > end || v6->version != 6)
		return false;
	__builtin_memcpy(&to, &v6->daddr, sizeof(to));
	return v6->nexthdr == IPPROTO_TCP && is_foreign_to(&to, (void *)(v6 + 1));
}

#endif
