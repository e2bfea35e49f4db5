/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Sending a packet on from where it came in, past the node's own stack. What that would do besides is done by
 * who sends it: a hop is counted, and what is too large is left to the stack.
 */
#ifndef PORTOLAN_FORWARD_H
#define PORTOLAN_FORWARD_H

#include <linux/pkt_cls.h>

#include "packet.h"

/* From sys/socket.h, which does not suit this target. */
#define AF_INET 2
#define AF_INET6 10

/* Where a packet leaves the node. */
struct way {
	__u32 link;
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

/*
 * Sends a packet that way; `device` is the link that it leaves by. What is behind a veth pair gets it at once,
 * without waiting in a queue.
 */
static __always_inline int send(struct __sk_buff *skb, const struct packet *packet, struct way *way,
				const struct device *device)
{
	bool has_header = packet->l3 == ETH_HLEN;

	if (has_header && device->flags & HAS_PEER && way->has_neighbour) {
		if (bpf_skb_store_bytes(skb, 0, &way->header, sizeof(way->header), 0))
			return TC_ACT_SHOT;
		return bpf_redirect_peer(way->link, 0);
	}
	return bpf_redirect_neigh(way->link, &way->hop, sizeof(way->hop), 0);
}

#endif
