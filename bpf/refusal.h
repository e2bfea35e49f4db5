/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Telling a sender that nobody is there: TCP is reset, all else is told by ICMP that the port is unreachable.
 *
 * The packet itself becomes the answer and goes back by the link that it came by; or to the node itself, if
 * that has sent it.
 */
#ifndef PORTOLAN_REFUSAL_H
#define PORTOLAN_REFUSAL_H

#include "packet.h"

/* What ICMP says again of a packet: its header, and as much as has ports (RFC 792, RFC 4443). */
#define REPEATED 8
#define HOPS 64

struct unreachable_v4 {
	struct iphdr ip;
	struct icmp_header icmp;
	struct iphdr original;
	__u8 rest[REPEATED];
};

struct unreachable_v6 {
	struct ipv6hdr ip;
	struct icmp6hdr icmp;
	struct ipv6hdr original;
	__u8 rest[REPEATED];
};

/* What of an IPv6 packet is part of the checksum of what it carries. */
struct pseudo_header {
	struct in6_addr source;
	struct in6_addr destination;
	__be32 length;
	__be32 next;
};

static __always_inline __sum16 folded(__s64 sum)
{
	__u32 folded = (__u32)sum;

	folded = (folded & 0xffff) + (folded >> 16);
	folded = (folded & 0xffff) + (folded >> 16);
	return (__sum16)~folded;
}

static __always_inline bool swap_links(struct __sk_buff *skb, const struct packet *packet)
{
	struct ethhdr header;
	__u8 address[ETH_ALEN];

	if (packet->l3 != ETH_HLEN)
		return true;
	if (bpf_skb_load_bytes(skb, 0, &header, sizeof(header)))
		return false;
	__builtin_memcpy(address, header.h_dest, sizeof(address));
	__builtin_memcpy(header.h_dest, header.h_source, sizeof(address));
	__builtin_memcpy(header.h_source, address, sizeof(address));
	return !bpf_skb_store_bytes(skb, 0, &header, sizeof(header), 0);
}

/* Swaps addresses and ports, which no checksum notices, and answers the sequence number (RFC 9293, 3.10.7.1). */
static __always_inline bool become_reset(struct __sk_buff *skb, const struct packet *packet)
{
	const struct endpoint *source = &packet->tuple.source, *destination = &packet->tuple.destination;
	struct tcphdr old, new;
	__u32 checksum = packet->l4 + offsetof(struct tcphdr, check);
	__u32 flags = packet->l4 + offsetof(struct tcphdr, ack_seq) + 4;

	if (bpf_skb_load_bytes(skb, packet->l4, &old, sizeof(old)))
		return false;
	new = old;
	new.source = old.dest;
	new.dest = old.source;
	new.seq = 0;
	new.ack_seq = bpf_htonl(bpf_ntohl(old.seq) + 1);
	new.syn = 0;
	new.rst = 1;
	new.ack = 1;
	__be16 before, after;

	__builtin_memcpy(&before, (__u8 *)&old + 12, sizeof(before));
	__builtin_memcpy(&after, (__u8 *)&new + 12, sizeof(after));
	if (bpf_l4_csum_replace(skb, checksum, old.seq, new.seq, 4) ||
	    bpf_l4_csum_replace(skb, checksum, old.ack_seq, new.ack_seq, 4) ||
	    bpf_l4_csum_replace(skb, checksum, before, after, 2))
		return false;
	/* All but the checksum, which was changed in place. */
	if (bpf_skb_store_bytes(skb, packet->l4, &new, 12, 0) ||
	    bpf_skb_store_bytes(skb, flags, &after, sizeof(after), 0))
		return false;
	if (packet->is_v6)
		return !bpf_skb_store_bytes(skb, packet->l3 + offsetof(struct ipv6hdr, saddr),
					    &destination->address, sizeof(struct address), 0) &&
		       !bpf_skb_store_bytes(skb, packet->l3 + offsetof(struct ipv6hdr, daddr),
					    &source->address, sizeof(struct address), 0);
	return !bpf_skb_store_bytes(skb, packet->l3 + offsetof(struct iphdr, saddr),
				    &destination->address.word[3], sizeof(__be32), 0) &&
	       !bpf_skb_store_bytes(skb, packet->l3 + offsetof(struct iphdr, daddr),
				    &source->address.word[3], sizeof(__be32), 0);
}

static __always_inline bool become_unreachable_v4(struct __sk_buff *skb, const struct packet *packet)
{
	struct unreachable_v4 answer = {};

	/* Options would be part of what is repeated. */
	if (packet->l4 - packet->l3 != sizeof(struct iphdr) ||
	    bpf_skb_load_bytes(skb, packet->l3, &answer.original,
			       sizeof(answer.original) + sizeof(answer.rest)))
		return false;
	answer.ip.version = 4;
	answer.ip.ihl = 5;
	answer.ip.tot_len = bpf_htons(sizeof(answer));
	answer.ip.ttl = HOPS;
	answer.ip.protocol = IPPROTO_ICMP;
	answer.ip.saddr = packet->tuple.destination.address.word[3];
	answer.ip.daddr = packet->tuple.source.address.word[3];
	answer.ip.check = folded(bpf_csum_diff(NULL, 0, (__be32 *)&answer.ip, sizeof(answer.ip), 0));
	answer.icmp.type = ICMP_DEST_UNREACH;
	answer.icmp.code = ICMP_PORT_UNREACH;
	answer.icmp.checksum = folded(bpf_csum_diff(NULL, 0, (__be32 *)&answer.icmp,
						    sizeof(answer) - sizeof(answer.ip), 0));
	return !bpf_skb_change_tail(skb, packet->l3 + sizeof(answer), 0) &&
	       !bpf_skb_store_bytes(skb, packet->l3, &answer, sizeof(answer), 0);
}

static __always_inline bool become_unreachable_v6(struct __sk_buff *skb, const struct packet *packet)
{
	struct unreachable_v6 answer = {};
	struct pseudo_header pseudo = {
		.length = bpf_htonl(sizeof(answer) - sizeof(answer.ip)),
		.next = bpf_htonl(IPPROTO_ICMPV6),
	};

	if (bpf_skb_load_bytes(skb, packet->l3, &answer.original,
			       sizeof(answer.original) + sizeof(answer.rest)))
		return false;
	answer.ip.version = 6;
	answer.ip.payload_len = bpf_htons(sizeof(answer) - sizeof(answer.ip));
	answer.ip.nexthdr = IPPROTO_ICMPV6;
	answer.ip.hop_limit = HOPS;
	answer.ip.saddr = answer.original.daddr;
	answer.ip.daddr = answer.original.saddr;
	pseudo.source = answer.ip.saddr;
	pseudo.destination = answer.ip.daddr;
	answer.icmp.icmp6_type = ICMPV6_DEST_UNREACH;
	answer.icmp.icmp6_code = ICMPV6_PORT_UNREACH;
	__s64 sum = bpf_csum_diff(NULL, 0, (__be32 *)&pseudo, sizeof(pseudo), 0);

	sum = bpf_csum_diff(NULL, 0, (__be32 *)&answer.icmp, sizeof(answer) - sizeof(answer.ip), sum);
	answer.icmp.icmp6_cksum = folded(sum);
	return !bpf_skb_change_tail(skb, packet->l3 + sizeof(answer), 0) &&
	       !bpf_skb_store_bytes(skb, packet->l3, &answer, sizeof(answer), 0);
}

/* Answers a packet in the place of whom it was sent to; `direction` as bpf_redirect takes it. */
SEPARATE int refuse(struct __sk_buff *skb, const struct packet *packet, __u64 direction)
{
	bool is_ready;

	if (!packet || packet->is_later)
		return TC_ACT_SHOT;
	if (packet->tuple.protocol == IPPROTO_TCP)
		is_ready = become_reset(skb, packet);
	else if (packet->is_v6)
		is_ready = become_unreachable_v6(skb, packet);
	else
		is_ready = become_unreachable_v4(skb, packet);
	if (!is_ready || !swap_links(skb, packet))
		return TC_ACT_SHOT;
	return bpf_redirect(skb->ifindex, direction);
}

#endif
