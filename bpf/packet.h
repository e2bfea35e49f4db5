/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * A packet as the programs at devices see it: where its headers are, and how addresses in them are changed.
 *
 * Both families are read into the same form, so that who decides does not care which it is.
 */
#ifndef PORTOLAN_PACKET_H
#define PORTOLAN_PACKET_H

#include <linux/icmpv6.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <linux/udp.h>

#include "address.h"

/* Extension headers of IPv6 that are passed over. More than that no honest packet has. */
#define EXTENSIONS 6

/* From linux/icmp.h, which does not suit this target. */
#define ICMP_DEST_UNREACH 3
#define ICMP_SOURCE_QUENCH 4
#define ICMP_REDIRECT 5
#define ICMP_TIME_EXCEEDED 11
#define ICMP_PARAMETERPROB 12
#define ICMP_PORT_UNREACH 3

struct icmp_header {
	__u8 type;
	__u8 code;
	__sum16 checksum;
	__u32 unused;
};

#define FRAGMENT_OFFSET 0x1fff
#define MORE_FRAGMENTS 0x2000

/* Bits of the fourteenth byte of a TCP header. */
#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10

struct packet {
	struct tuple tuple;
	__u32 l3;       /* offset of the IP header, */
	__u32 l4;       /* of what it carries, */
	bool is_v6;
	bool is_later;  /* a fragment without the header of what it carries, */
	bool is_first;  /* and one that has it, and is followed by others */
	__u8 tcp_flags; /* of TCP */
	bool is_error;  /* ICMP that tells of a failure */
	__u32 fragment; /* identification of a fragment */
};

struct fragment_header {
	__u8 next;
	__u8 reserved;
	__be16 offset; /* in the upper 13 bits; the lowest says that there are more */
	__be32 identification;
};

static __always_inline bool read_v4(struct __sk_buff *skb, struct packet *packet)
{
	struct iphdr ip;

	if (bpf_skb_load_bytes(skb, packet->l3, &ip, sizeof(ip)) || ip.version != 4 || ip.ihl < 5)
		return false;
	packet->tuple.source.address = mapped(ip.saddr);
	packet->tuple.destination.address = mapped(ip.daddr);
	packet->tuple.protocol = ip.protocol;
	packet->l4 = packet->l3 + ip.ihl * 4;
	__u16 fragment = bpf_ntohs(ip.frag_off);

	packet->is_later = fragment & FRAGMENT_OFFSET;
	packet->is_first = !packet->is_later && fragment & MORE_FRAGMENTS;
	packet->fragment = ip.id;
	return true;
}

static __always_inline bool read_v6(struct __sk_buff *skb, struct packet *packet)
{
	struct ipv6hdr ip;

	if (bpf_skb_load_bytes(skb, packet->l3, &ip, sizeof(ip)) || ip.version != 6)
		return false;
	__builtin_memcpy(&packet->tuple.source.address, &ip.saddr, sizeof(struct address));
	__builtin_memcpy(&packet->tuple.destination.address, &ip.daddr, sizeof(struct address));
	packet->is_v6 = true;
	packet->l4 = packet->l3 + sizeof(ip);
	__u8 next = ip.nexthdr;

	for (int i = 0; i < EXTENSIONS; i++) {
		struct fragment_header header;

		if (next != IPPROTO_HOPOPTS && next != IPPROTO_ROUTING && next != IPPROTO_DSTOPTS &&
		    next != IPPROTO_FRAGMENT)
			break;
		/* All begin alike: what follows, and how long this one is. */
		if (bpf_skb_load_bytes(skb, packet->l4, &header, sizeof(header)))
			return false;
		if (next == IPPROTO_FRAGMENT) {
			packet->is_later = bpf_ntohs(header.offset) >> 3;
			packet->is_first = !packet->is_later && bpf_ntohs(header.offset) & 1;
			packet->fragment = header.identification;
			packet->l4 += sizeof(header);
		} else {
			packet->l4 += (header.reserved + 1) * 8;
		}
		next = header.next;
	}
	packet->tuple.protocol = next;
	return true;
}

static __always_inline bool is_error_v4(__u8 type)
{
	return type == ICMP_DEST_UNREACH || type == ICMP_SOURCE_QUENCH || type == ICMP_REDIRECT ||
	       type == ICMP_TIME_EXCEEDED || type == ICMP_PARAMETERPROB;
}

/* Reads the addresses of a packet; and its ports, where it is of TCP or UDP and has them. */
static __always_inline bool read_packet(struct __sk_buff *skb, __u32 l3, struct packet *packet)
{
	bool is_read = false;

	packet->l3 = l3;
	if (skb->protocol == bpf_htons(ETH_P_IP))
		is_read = read_v4(skb, packet);
	else if (skb->protocol == bpf_htons(ETH_P_IPV6))
		is_read = read_v6(skb, packet);
	if (!is_read)
		return false;
	__u8 protocol = packet->tuple.protocol;

	if (packet->is_later)
		return true;
	if (protocol == IPPROTO_ICMP || protocol == IPPROTO_ICMPV6) {
		__u8 type;

		if (bpf_skb_load_bytes(skb, packet->l4, &type, sizeof(type)))
			return false;
		packet->is_error = packet->is_v6 ? type < ICMPV6_ECHO_REQUEST : is_error_v4(type);
		return true;
	}
	if (protocol != IPPROTO_TCP && protocol != IPPROTO_UDP)
		return true;
	__be16 ports[2];

	if (bpf_skb_load_bytes(skb, packet->l4, ports, sizeof(ports)))
		return false;
	packet->tuple.source.port = ports[0];
	packet->tuple.destination.port = ports[1];
	if (protocol == IPPROTO_TCP &&
	    bpf_skb_load_bytes(skb, packet->l4 + 13, &packet->tcp_flags, sizeof(packet->tcp_flags)))
		return false;
	return true;
}

/* Where the checksum of a TCP or UDP header is, and how it is changed. */
static __always_inline __u32 checksum_of(const struct packet *packet, __u64 *flags)
{
	if (packet->tuple.protocol == IPPROTO_TCP)
		return packet->l4 + offsetof(struct tcphdr, check);
	/* One that is 0 is none. */
	*flags = BPF_F_MARK_MANGLED_0;
	return packet->l4 + offsetof(struct udphdr, check);
}

/* Writes another source, or another destination, into the headers of a packet. */
static __always_inline bool write_endpoint(struct __sk_buff *skb, const struct packet *packet,
					   bool is_source, const struct endpoint *old,
					   const struct endpoint *new)
{
	__u64 flags = 0;
	__u32 checksum = checksum_of(packet, &flags);

	if (packet->is_v6) {
		__u32 at = packet->l3 + (is_source ? offsetof(struct ipv6hdr, saddr)
						   : offsetof(struct ipv6hdr, daddr));
		__s64 difference =
			bpf_csum_diff((__be32 *)&old->address, sizeof(old->address),
				      (__be32 *)&new->address, sizeof(new->address), 0);

		if (!packet->is_later && bpf_l4_csum_replace(skb, checksum, 0, difference,
							     flags | BPF_F_PSEUDO_HDR))
			return false;
		if (bpf_skb_store_bytes(skb, at, &new->address, sizeof(new->address), 0))
			return false;
	} else {
		__u32 at = packet->l3 + (is_source ? offsetof(struct iphdr, saddr)
						   : offsetof(struct iphdr, daddr));
		__be32 before = old->address.word[3], after = new->address.word[3];

		if (!packet->is_later && bpf_l4_csum_replace(skb, checksum, before, after,
							     flags | BPF_F_PSEUDO_HDR | 4))
			return false;
		if (bpf_l3_csum_replace(skb, packet->l3 + offsetof(struct iphdr, check), before,
					after, 4) ||
		    bpf_skb_store_bytes(skb, at, &after, sizeof(after), 0))
			return false;
	}
	if (packet->is_later || old->port == new->port)
		return true;
	if (bpf_l4_csum_replace(skb, checksum, old->port, new->port, flags | 2))
		return false;
	/* In both protocols the ports are foremost. */
	return !bpf_skb_store_bytes(skb, packet->l4 + (is_source ? 0 : 2), &new->port,
				    sizeof(new->port), 0);
}

#endif
