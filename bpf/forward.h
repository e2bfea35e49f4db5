/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Sending a packet on from where it came in, past the node's own stack. What that would do besides is done here:
 * a hop is counted, and what is too large is left to it.
 */
#ifndef PORTOLAN_FORWARD_H
#define PORTOLAN_FORWARD_H

#include <linux/pkt_cls.h>

#include "packet.h"

/* From sys/socket.h, which does not suit this target. */
#define AF_INET 2
#define AF_INET6 10

static __always_inline bool count_hop_v4(struct __sk_buff *skb, const struct packet *packet)
{
	__u32 at = packet->l3 + offsetof(struct iphdr, ttl);
	__u32 checksum = packet->l3 + offsetof(struct iphdr, check);
	__be16 before, after;
	__u8 hops;

	/* With the protocol it makes a word of the checksum. */
	if (bpf_skb_load_bytes(skb, at, &before, sizeof(before)))
		return false;
	hops = bpf_ntohs(before) >> 8;
	if (hops <= 1)
		return false;
	after = bpf_htons(bpf_ntohs(before) - 0x100);
	return !bpf_l3_csum_replace(skb, checksum, before, after, sizeof(after)) &&
	       !bpf_skb_store_bytes(skb, at, &after, sizeof(after), 0);
}

static __always_inline bool count_hop_v6(struct __sk_buff *skb, const struct packet *packet)
{
	__u32 at = packet->l3 + offsetof(struct ipv6hdr, hop_limit);
	__u8 hops;

	if (bpf_skb_load_bytes(skb, at, &hops, sizeof(hops)) || hops <= 1)
		return false;
	hops--;
	return !bpf_skb_store_bytes(skb, at, &hops, sizeof(hops), 0);
}

/* Sends a packet on, if it is not for the node itself; `destination` is where it goes now. */
static __always_inline int forward(struct __sk_buff *skb, const struct packet *packet,
				   const struct endpoint *destination)
{
	const struct endpoint *source = &packet->tuple.source;
	struct bpf_redir_neigh hop = {};
	struct bpf_fib_lookup way = {
		.l4_protocol = packet->tuple.protocol,
		.sport = source->port,
		.dport = destination->port,
		.ifindex = skb->ifindex,
	};

	/* Of one that is put together of several it is not the length that goes out. */
	if (!skb->gso_segs || skb->gso_segs == 1)
		way.tot_len = skb->len - packet->l3;
	if (packet->is_v6) {
		way.family = AF_INET6;
		__builtin_memcpy(way.ipv6_src, &source->address, sizeof(way.ipv6_src));
		__builtin_memcpy(way.ipv6_dst, &destination->address, sizeof(way.ipv6_dst));
	} else {
		way.family = AF_INET;
		way.ipv4_src = source->address.word[3];
		way.ipv4_dst = destination->address.word[3];
	}
	int answer = bpf_fib_lookup(skb, &way, sizeof(way), 0);

	/* A neighbour that is not known yet is found by who sends it. */
	if (answer != BPF_FIB_LKUP_RET_SUCCESS && answer != BPF_FIB_LKUP_RET_NO_NEIGH)
		return TC_ACT_UNSPEC;
	if (!(packet->is_v6 ? count_hop_v6(skb, packet) : count_hop_v4(skb, packet)))
		return TC_ACT_UNSPEC;
	hop.nh_family = way.family;
	if (packet->is_v6)
		__builtin_memcpy(hop.ipv6_nh, way.ipv6_dst, sizeof(hop.ipv6_nh));
	else
		hop.ipv4_nh = way.ipv4_dst;
	return bpf_redirect_neigh(way.ifindex, &hop, sizeof(hop), 0);
}

#endif
