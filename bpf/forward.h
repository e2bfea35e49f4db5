/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Sending a packet on from where it came in, past the node's own stack. What that would do besides is done by
 * who sends it: a hop is counted, and what is too large is left to the stack.
 */
#ifndef PORTOLAN_FORWARD_H
#define PORTOLAN_FORWARD_H

#include <linux/pkt_cls.h>

#include "packet.h"
#include "tables.h"

/* From sys/socket.h, which does not suit this target. */
#define AF_INET 2
#define AF_INET6 10

/*
 * Ways that were found a moment ago, of packets from one address to another: finding one costs as much as translating. Each
 * processor has its own.
 */
#define WAYS 512
/* How long a way is taken without asking for it again. */
#define HOP_TIMEOUT (SECOND / 10)

struct hop {
	struct address source;
	struct address destination;
	__u32 by;   /* the link that they came by */
	__u32 link; /* and the one that they go on by, with HAS_PEER */
	__u64 found; /* nanoseconds, CLOCK_MONOTONIC */
	__u32 mtu;
	__u8 ends[12]; /* addresses of their Ethernet header */
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, WAYS);
	__type(key, __u32);
	__type(value, struct hop);
} hops SEC(".maps");

/* Where a packet leaves the node. */
struct way {
	__u32 link;
	__u32 mtu;
	bool has_neighbour; /* `header` is known */
	struct ethhdr header;
	struct bpf_redir_neigh hop;
};

/* Whether a packet may go on. */
static __always_inline bool has_hops(struct __sk_buff *skb, const struct packet *packet)
{
	__u8 hops;

	if (packet->is_v6)
		return load_again(skb, packet, offsetof(struct ipv6hdr, hop_limit), &hops,
				  sizeof(hops)) &&
		       hops > 1;
	return load_again(skb, packet, offsetof(struct iphdr, ttl), &hops, sizeof(hops)) && hops > 1;
}

/* What is asked about the way of a packet to `to`. */
static __always_inline void ask_way(struct bpf_fib_lookup *lookup, struct __sk_buff *skb,
				    const struct packet *packet, const struct endpoint *to)
{
	const struct endpoint *source = &packet->tuple.source;

	lookup->l4_protocol = packet->tuple.protocol;
	lookup->sport = source->port;
	lookup->dport = to->port;
	lookup->ifindex = skb->ifindex;
	if (packet->is_v6) {
		lookup->family = AF_INET6;
		__builtin_memcpy(lookup->ipv6_src, &source->address, sizeof(lookup->ipv6_src));
		__builtin_memcpy(lookup->ipv6_dst, &to->address, sizeof(lookup->ipv6_dst));
	} else {
		lookup->family = AF_INET;
		lookup->ipv4_src = source->address.word[3];
		lookup->ipv4_dst = to->address.word[3];
	}
}

/*
 * The link that a packet to `to` leaves by, 0 if it does not leave. Where only the stack knows, it is taken to be
 * the one that it came by: of a node with one link to others that is so.
 */
SEPARATE __u32 link_to(struct __sk_buff *skb, const struct packet *packet, const struct endpoint *to)
{
	if (!packet || !to)
		return 0;
	struct bpf_fib_lookup lookup = {};

	ask_way(&lookup, skb, packet, to);
	switch (bpf_fib_lookup(skb, &lookup, sizeof(lookup), 0)) {
	case BPF_FIB_LKUP_RET_SUCCESS:
	case BPF_FIB_LKUP_RET_NO_NEIGH:
		return lookup.ifindex;
	case BPF_FIB_LKUP_RET_NOT_FWDED:
		return 0;
	default:
		return skb->ifindex;
	}
}

/* Finds the way of a packet to `to`, if it is not for the node itself and the stack has nothing to say about it. */
SEPARATE bool find_way(struct __sk_buff *skb, const struct packet *packet, const struct endpoint *to,
		       struct way *way)
{
	if (!packet || !to || !way)
		return false;
	struct bpf_fib_lookup lookup = {.tot_len = length_of(skb, packet)};

	/* Who it was from has to be told. */
	if (!has_hops(skb, packet))
		return false;
	ask_way(&lookup, skb, packet, to);
	int answer = bpf_fib_lookup(skb, &lookup, sizeof(lookup), 0);

	/* A neighbour that is not known yet is found by who sends it. */
	if (answer != BPF_FIB_LKUP_RET_SUCCESS && answer != BPF_FIB_LKUP_RET_NO_NEIGH)
		return false;
	way->link = lookup.ifindex;
	way->mtu = lookup.mtu_result;
	way->has_neighbour = answer == BPF_FIB_LKUP_RET_SUCCESS;
	__builtin_memcpy(way->header.h_dest, lookup.dmac, sizeof(way->header.h_dest));
	__builtin_memcpy(way->header.h_source, lookup.smac, sizeof(way->header.h_source));
	way->header.h_proto = (__be16)skb->protocol;
	way->hop.nh_family = lookup.family;
	if (packet->is_v6)
		__builtin_memcpy(way->hop.ipv6_nh, lookup.ipv6_dst, sizeof(way->hop.ipv6_nh));
	else
		way->hop.ipv4_nh = lookup.ipv4_dst;
	return true;
}

/* Where it is written down how packets like this one go on. */
static __always_inline struct hop *hop_of(const struct packet *packet, const struct endpoint *to)
{
	__u32 mixed = packet->tuple.source.address.word[3] * 31 + to->address.word[3];
	__u32 place = (mixed ^ mixed >> 16) * 0x9e3779b9U >> 23;

	return bpf_map_lookup_elem(&hops, &place);
}

/* Whether a packet may go where that says. */
static __always_inline bool may_follow(struct __sk_buff *skb, const struct packet *packet,
				       const struct endpoint *to, const struct hop *hop)
{
	return hop->by == skb->ifindex && is_same_address(&hop->destination, &to->address) &&
	       is_same_address(&hop->source, &packet->tuple.source.address) &&
	       age(hop->found) < HOP_TIMEOUT && length_of(skb, packet) <= hop->mtu &&
	       has_hops(skb, packet);
}

/* Sends a packet at once to what is behind a veth pair, without waiting in a queue. */
static __always_inline int follow(struct __sk_buff *skb, const struct hop *hop)
{
	struct ethhdr header = {.h_proto = (__be16)skb->protocol};

	__builtin_memcpy(&header, hop->ends, sizeof(hop->ends));
	if (bpf_skb_store_bytes(skb, 0, &header, sizeof(header), 0))
		return TC_ACT_SHOT;
	return bpf_redirect_peer(hop->link, 0);
}

/* What most packets begin with, behind two bytes that align it. */
struct plain {
	__u16 zero;
	struct ethhdr ethernet;
	struct iphdr ip;
	__u32 ports;
};

#define PLAIN_LENGTH (sizeof(struct plain) - offsetof(struct plain, ethernet))

static __always_inline bool is_plain(const struct packet *packet)
{
	return !packet->is_v6 && !packet->is_later && packet->l3 == ETH_HLEN &&
	       packet->l4 == ETH_HLEN + sizeof(struct iphdr);
}

/* As `rewrite` and `follow`: all that changes in a packet which begins so is written at once. */
SEPARATE int follow_plain(struct __sk_buff *skb, const struct packet *packet, const struct endpoint *source,
			  const struct endpoint *destination, const struct hop *hop)
{
	struct plain plain;

	if (!packet || !source || !destination || !hop || !load(skb, 0, &plain.ethernet, PLAIN_LENGTH))
		return TC_ACT_SHOT;
	__u32 before = plain.ports, after = ports_of(source, destination);
	__be32 from = source->address.word[3], to = destination->address.word[3];
	__u64 change = changed_v4(packet, from, to);

	__builtin_memcpy(&plain.ethernet, hop->ends, sizeof(hop->ends));
	change_v4(&plain.ip, change, from, to, true);
	plain.ports = after;
	if (!change_sum(skb, packet, folded_sum(change), before, after) ||
	    bpf_skb_store_bytes(skb, 0, &plain.ethernet, PLAIN_LENGTH, 0))
		return TC_ACT_SHOT;
	return bpf_redirect_peer(hop->link, 0);
}

/* Sends a packet that way; `device` is the link that it leaves by. `hop` is where the next one finds it. */
static __always_inline int send(struct __sk_buff *skb, const struct packet *packet,
				const struct endpoint *to, struct way *way,
				const struct device *device, struct hop *hop)
{
	bool has_header = packet->l3 == ETH_HLEN;

	if (!has_header || !(device->flags & HAS_PEER) || !way->has_neighbour || !hop)
		return bpf_redirect_neigh(way->link, &way->hop, sizeof(way->hop), 0);
	hop->source = packet->tuple.source.address;
	hop->destination = to->address;
	hop->by = skb->ifindex;
	hop->link = way->link;
	hop->found = now();
	hop->mtu = way->mtu;
	__builtin_memcpy(hop->ends, &way->header, sizeof(hop->ends));
	return follow(skb, hop);
}

#endif
