/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * ICMP errors about packets that were translated: that one was too large, for example, by which the sender learns
 * how large they may be (RFC 1191, RFC 8201). An error repeats the packet as whoever tells of it has seen it; it
 * has to arrive as the sender knows it (RFC 5508, 4.2).
 *
 * It is known by the packet that would answer the repeated one, and is changed like that: where it comes in, whom
 * it goes to, who is the repeated packet's source; where it goes out, the repeated one's destination.
 */
#ifndef PORTOLAN_ERRORS_H
#define PORTOLAN_ERRORS_H

#include "packet.h"

/* Before the repeated packet, in both families. */
#define ICMP_HEADER 8

/* An error about a packet of TCP or UDP. */
struct failure {
	struct tuple answer; /* what would answer the repeated packet */
	__u32 l3;            /* offset of the repeated IP header, */
	__u32 l4;            /* and of the ports */
};

static __always_inline bool read_failure(struct __sk_buff *skb, const struct packet *packet,
					 struct failure *failure)
{
	__be16 ports[2];

	failure->l3 = packet->l4 + ICMP_HEADER;
	if (packet->is_v6) {
		struct ipv6hdr ip;

		if (bpf_skb_load_bytes(skb, failure->l3, &ip, sizeof(ip)) || ip.version != 6)
			return false;
		__builtin_memcpy(&failure->answer.destination.address, &ip.saddr, sizeof(ip.saddr));
		__builtin_memcpy(&failure->answer.source.address, &ip.daddr, sizeof(ip.daddr));
		struct behind behind = { .at = failure->l3 + sizeof(ip), .next = ip.nexthdr };

		/* A later fragment has no ports. */
		if (is_extension(ip.nexthdr) && (!skip_extensions(skb, &behind) || behind.is_later))
			return false;
		failure->answer.protocol = behind.next;
		failure->l4 = behind.at;
	} else {
		struct iphdr ip;

		if (bpf_skb_load_bytes(skb, failure->l3, &ip, sizeof(ip)) || ip.version != 4 || ip.ihl < 5)
			return false;
		/* It has no ports. */
		if (bpf_ntohs(ip.frag_off) & FRAGMENT_OFFSET)
			return false;
		failure->answer.destination.address = mapped(ip.saddr);
		failure->answer.source.address = mapped(ip.daddr);
		failure->answer.protocol = ip.protocol;
		failure->l4 = failure->l3 + ip.ihl * 4;
	}
	if (failure->answer.protocol != IPPROTO_TCP && failure->answer.protocol != IPPROTO_UDP)
		return false;
	if (bpf_skb_load_bytes(skb, failure->l4, ports, sizeof(ports)))
		return false;
	failure->answer.destination.port = ports[0];
	failure->answer.source.port = ports[1];
	return true;
}

/* Writes the repeated packet's source, or its destination. */
static __always_inline bool rewrite_repeated(struct __sk_buff *skb, const struct packet *packet,
					     const struct failure *failure, bool is_source,
					     const struct endpoint *before, const struct endpoint *after)
{
	__u64 change = 0;
	__u32 at = failure->l4 + (is_source ? 0 : sizeof(after->port));
	__u32 checksum = packet->l4 + (packet->is_v6 ? offsetof(struct icmp6hdr, icmp6_cksum)
						     : offsetof(struct icmp_header, checksum));

	if (packet->is_v6) {
		__u32 address = failure->l3 + (is_source ? offsetof(struct ipv6hdr, saddr)
							 : offsetof(struct ipv6hdr, daddr));

		change = changed_address(change, &before->address, &after->address);
		if (bpf_skb_store_bytes(skb, address, &after->address, sizeof(after->address), 0))
			return false;
	} else {
		struct iphdr ip;

		/* Its own checksum makes up for the address. */
		if (bpf_skb_load_bytes(skb, failure->l3, &ip, sizeof(ip)))
			return false;
		if (is_source)
			ip.saddr = after->address.word[3];
		else
			ip.daddr = after->address.word[3];
		ip.check = changed_checksum(ip.check,
					    changed_word(0, before->address.word[3],
							 after->address.word[3]));
		if (bpf_skb_store_bytes(skb, failure->l3, &ip, sizeof(ip), 0))
			return false;
	}
	change += (__u16)~before->port + (__u64)after->port;
	return !bpf_l4_csum_replace(skb, checksum, 0, folded_sum(change), 0) &&
	       !bpf_skb_store_bytes(skb, at, &after->port, sizeof(after->port), 0);
}

/* Writes the source and the destination of the error itself. */
static __always_inline bool rewrite_outer(struct __sk_buff *skb, const struct packet *packet,
					  const struct address *source, const struct address *destination)
{
	const struct tuple *from = &packet->tuple;
	__u64 change = changed_address(0, &from->source.address, source);

	change = changed_address(change, &from->destination.address, destination);
	if (packet->is_v6) {
		__u32 checksum = packet->l4 + offsetof(struct icmp6hdr, icmp6_cksum);

		return replace_pseudo_v6(skb, checksum, folded_sum(change), 0) &&
		       !bpf_skb_store_bytes(skb, packet->l3 + offsetof(struct ipv6hdr, saddr), source,
					    sizeof(*source), 0) &&
		       !bpf_skb_store_bytes(skb, packet->l3 + offsetof(struct ipv6hdr, daddr),
					    destination, sizeof(*destination), 0);
	}
	struct iphdr ip;

	if (!load_again(skb, packet, 0, &ip, sizeof(ip)))
		return false;
	ip.saddr = source->word[3];
	ip.daddr = destination->word[3];
	ip.check = changed_checksum(ip.check, change);
	return !bpf_skb_store_bytes(skb, packet->l3, &ip, sizeof(ip), 0);
}

#endif
