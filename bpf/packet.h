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
	__u32 l3;       /* offset of the IP header: an Ethernet header's length, or 0, */
	__u32 l4;       /* of what it carries, */
	bool is_v6;
	bool is_later;  /* a fragment without the header of what it carries, */
	bool is_first;  /* and one that has it, and is followed by others */
	__u8 tcp_flags; /* of TCP, */
	__u8 length;    /* and how long its header is */
	bool is_error;  /* ICMP that tells of a failure */
	__u32 fragment; /* identification of a fragment */
};

/*
 * How long a packet is from its IP header on; of what stands for several packets, how long each of them is. That
 * is asked where the way is narrow, and of the last one of them it is more than there is.
 */
static __always_inline __u32 length_of(const struct __sk_buff *skb, const struct packet *packet)
{
	__u32 header = packet->tuple.protocol == IPPROTO_TCP ? packet->length : sizeof(struct udphdr);

	if (!skb->gso_size)
		return skb->len - packet->l3;
	return packet->l4 - packet->l3 + header + skb->gso_size;
}

struct fragment_header {
	__u8 next;
	__u8 reserved;
	__be16 offset; /* in the upper 13 bits; the lowest says that there are more */
	__be32 identification;
};

/*
 * Reads from a packet. `offset` and `length` are known when this is compiled: headers lie in one piece nearly
 * always, and are read there.
 */
static __always_inline bool load(struct __sk_buff *skb, __u32 offset, void *to, __u32 length)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;

	if (data + offset + length > end)
		return !bpf_skb_load_bytes(skb, offset, to, length);
	__builtin_memcpy(to, data + offset, length);
	return true;
}

/* Reads from an IP header whose offset the compiler does not know any more. */
static __always_inline bool load_again(struct __sk_buff *skb, const struct packet *packet, __u32 offset,
				       void *to, __u32 length)
{
	if (packet->l3 == ETH_HLEN)
		return load(skb, ETH_HLEN + offset, to, length);
	return load(skb, offset, to, length);
}

/* What TCP and UDP begin with, as far as it is read. */
struct transport {
	__be16 source;
	__be16 destination;
	__u32 sequence;
	__u32 acknowledged;
	__u8 offset;
	__u8 tcp_flags;
	__u16 window;
};

/* Of UDP there is less. */
#define UDP_HEADER 8

static __always_inline bool read_v4(struct __sk_buff *skb, __u32 l3, struct packet *packet)
{
	struct iphdr ip;

	if (!load(skb, l3, &ip, sizeof(ip)) || ip.version != 4 || ip.ihl < 5)
		return false;
	packet->tuple.source.address = mapped(ip.saddr);
	packet->tuple.destination.address = mapped(ip.daddr);
	packet->tuple.protocol = ip.protocol;
	packet->l4 = l3 + ip.ihl * 4;
	__u16 fragment = bpf_ntohs(ip.frag_off);

	packet->is_later = fragment & FRAGMENT_OFFSET;
	packet->is_first = !packet->is_later && fragment & MORE_FRAGMENTS;
	packet->fragment = ip.id;
	return true;
}

static __always_inline bool is_extension(__u8 next)
{
	return next == IPPROTO_HOPOPTS || next == IPPROTO_ROUTING || next == IPPROTO_DSTOPTS ||
	       next == IPPROTO_FRAGMENT;
}

/* What an IPv6 header is followed by. */
struct behind {
	__u32 at;       /* its offset */
	__u8 next;      /* what it is */
	bool is_later;  /* not there: a fragment that has none of it, */
	bool is_first;  /* or one that has, and is followed by others */
	__u32 fragment; /* identification of a fragment */
};

/* Passes over extension headers of IPv6, up to what they are followed by. */
SEPARATE bool skip_extensions(struct __sk_buff *skb, struct behind *behind)
{
	if (!behind)
		return false;
	for (int i = 0; i < EXTENSIONS; i++) {
		struct fragment_header header;
		__u8 next = behind->next;

		if (!is_extension(next))
			break;
		/* All begin alike: what follows, and how long this one is. */
		if (bpf_skb_load_bytes(skb, behind->at, &header, sizeof(header)))
			return false;
		if (next == IPPROTO_FRAGMENT) {
			behind->is_later = bpf_ntohs(header.offset) >> 3;
			behind->is_first = !behind->is_later && bpf_ntohs(header.offset) & 1;
			behind->fragment = header.identification;
			behind->at += sizeof(header);
		} else {
			behind->at += (header.reserved + 1) * 8;
		}
		behind->next = header.next;
	}
	return true;
}

SEPARATE bool read_v6(struct __sk_buff *skb, struct packet *packet)
{
	struct ipv6hdr ip;

	if (!packet || !load_again(skb, packet, 0, &ip, sizeof(ip)) || ip.version != 6)
		return false;
	__builtin_memcpy(&packet->tuple.source.address, &ip.saddr, sizeof(struct address));
	__builtin_memcpy(&packet->tuple.destination.address, &ip.daddr, sizeof(struct address));
	packet->is_v6 = true;
	struct behind behind = { .at = packet->l3 + sizeof(ip), .next = ip.nexthdr };

	if (is_extension(ip.nexthdr) && !skip_extensions(skb, &behind))
		return false;
	packet->l4 = behind.at;
	packet->tuple.protocol = behind.next;
	packet->is_later = behind.is_later;
	packet->is_first = behind.is_first;
	packet->fragment = behind.fragment;
	return true;
}

static __always_inline bool is_error_v4(__u8 type)
{
	return type == ICMP_DEST_UNREACH || type == ICMP_SOURCE_QUENCH || type == ICMP_REDIRECT ||
	       type == ICMP_TIME_EXCEEDED || type == ICMP_PARAMETERPROB;
}

/* Reads what comes behind an IP header at `l4`, of which `length` bytes are enough. */
static __always_inline bool read_transport(struct __sk_buff *skb, __u32 l3, struct packet *packet,
					   __u32 length)
{
	struct transport header = {};
	bool is_plain =
		packet->l4 == l3 + (packet->is_v6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr));
	bool is_read;

	/* The offset is a number for the compiler again. */
	if (!is_plain)
		is_read = !bpf_skb_load_bytes(skb, packet->l4, &header, length);
	else if (packet->is_v6)
		is_read = load(skb, l3 + sizeof(struct ipv6hdr), &header, length);
	else
		is_read = load(skb, l3 + sizeof(struct iphdr), &header, length);
	if (!is_read)
		return false;
	packet->tuple.source.port = header.source;
	packet->tuple.destination.port = header.destination;
	packet->tcp_flags = header.tcp_flags;
	packet->length = (header.offset >> 4) * 4;
	return true;
}

/*
 * Reads the addresses of a packet whose IP header is at `l3`; and its ports, where it is of TCP or UDP and has
 * them.
 */
static __always_inline bool read_packet(struct __sk_buff *skb, __u32 l3, struct packet *packet)
{
	bool is_read = false;

	packet->l3 = l3;
	if (skb->protocol == bpf_htons(ETH_P_IP))
		is_read = read_v4(skb, l3, packet);
	else if (skb->protocol == bpf_htons(ETH_P_IPV6))
		is_read = read_v6(skb, packet);
	if (!is_read)
		return false;
	if (packet->is_later)
		return true;
	switch (packet->tuple.protocol) {
	case IPPROTO_TCP:
		return read_transport(skb, l3, packet, sizeof(struct transport));
	case IPPROTO_UDP:
		return read_transport(skb, l3, packet, UDP_HEADER);
	case IPPROTO_ICMP:
	case IPPROTO_ICMPV6: {
		__u8 type;

		if (bpf_skb_load_bytes(skb, packet->l4, &type, sizeof(type)))
			return false;
		packet->is_error = packet->is_v6 ? type < ICMPV6_ECHO_REQUEST : is_error_v4(type);
		return true;
	}
	default:
		return true;
	}
}

static __always_inline bool has_ports(const struct packet *packet)
{
	return packet->tuple.protocol == IPPROTO_TCP || packet->tuple.protocol == IPPROTO_UDP;
}

/* Internet checksums (RFC 1071), as sums that are not folded yet. */
static __always_inline __u32 folded_sum(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffffffff) + (sum >> 32);
	return (__u32)sum;
}

static __always_inline __u64 changed_word(__u64 sum, __u32 before, __u32 after)
{
	return sum + (__u32)~before + after;
}

static __always_inline __u64 changed_address(__u64 sum, const struct address *before,
					     const struct address *after)
{
	sum = changed_word(sum, before->word[0], after->word[0]);
	sum = changed_word(sum, before->word[1], after->word[1]);
	sum = changed_word(sum, before->word[2], after->word[2]);
	return changed_word(sum, before->word[3], after->word[3]);
}

/* Adds what has changed to a checksum. */
static __always_inline __sum16 changed_checksum(__sum16 checksum, __u64 change)
{
	__u64 sum = change + (__u16)~checksum;
	__u32 folded = folded_sum(sum);

	folded = (folded & 0xffff) + (folded >> 16);
	folded = (folded & 0xffff) + (folded >> 16);
	return (__sum16)~folded;
}

/* From linux/bpf.h of kernels that have it: the sum of a whole packet does not notice an address of IPv6. */
#define CHECKSUM_OF_IPV6 (1ULL << 7)
#define EINVAL_OF_OLDER (-22)

static __always_inline bool replace_pseudo_v6(struct __sk_buff *skb, __u32 at, __u32 change, __u64 flags)
{
	long failed = bpf_l4_csum_replace(skb, at, 0, change,
					  flags | BPF_F_PSEUDO_HDR | CHECKSUM_OF_IPV6);

	if (failed == EINVAL_OF_OLDER)
		failed = bpf_l4_csum_replace(skb, at, 0, change, flags | BPF_F_PSEUDO_HDR);
	return !failed;
}

/* Both ports, as they lie in a header. */
static __always_inline __u32 ports_of(const struct endpoint *source, const struct endpoint *destination)
{
	return (__u32)source->port | (__u32)destination->port << 16;
}

/* Tells the checksum of TCP or UDP of other addresses, and of other ports. */
static __always_inline bool change_sum(struct __sk_buff *skb, const struct packet *packet, __u32 of_addresses,
				       __u32 before, __u32 after)
{
	__u32 at = packet->l4 + offsetof(struct tcphdr, check);
	__u64 flags = 0;

	if (packet->tuple.protocol == IPPROTO_UDP) {
		at = packet->l4 + offsetof(struct udphdr, check);
		/* One that is 0 is none. */
		flags = BPF_F_MARK_MANGLED_0;
	}
	if (packet->is_v6) {
		if (!replace_pseudo_v6(skb, at, of_addresses, flags))
			return false;
	} else if (bpf_l4_csum_replace(skb, at, 0, of_addresses, flags | BPF_F_PSEUDO_HDR)) {
		return false;
	}
	return before == after || !bpf_l4_csum_replace(skb, at, before, after, flags | sizeof(after));
}

/* The same, and writes the ports. */
static __always_inline bool change_transport(struct __sk_buff *skb, const struct packet *packet,
					     __u32 of_addresses, const struct endpoint *source,
					     const struct endpoint *destination)
{
	__u32 before = ports_of(&packet->tuple.source, &packet->tuple.destination);
	__u32 after = ports_of(source, destination);

	if (!change_sum(skb, packet, of_addresses, before, after))
		return false;
	/* In both protocols the ports are foremost. */
	return before == after || !bpf_skb_store_bytes(skb, packet->l4, &after, sizeof(after), 0);
}

/* Changes addresses in a header of IPv4, and its checksum by `change`. */
static __always_inline void change_v4(struct iphdr *ip, __u64 change, __be32 source, __be32 destination,
				      bool is_hop)
{
	ip->saddr = source;
	ip->daddr = destination;
	ip->ttl -= is_hop;
	/* The hops are the upper half of a word. */
	ip->check = changed_checksum(ip->check,
				     is_hop ? change + (__u16)~bpf_htons(0x100) : change);
}

/* What the checksum of a header of IPv4 gets to know. */
static __always_inline __u64 changed_v4(const struct packet *packet, __be32 source, __be32 destination)
{
	__u64 change = changed_word(0, packet->tuple.source.address.word[3], source);

	return changed_word(change, packet->tuple.destination.address.word[3], destination);
}

static __always_inline bool rewrite_v4(struct __sk_buff *skb, const struct packet *packet, __u64 change,
				       __be32 source, __be32 destination, bool is_hop)
{
	struct iphdr ip;

	if (!load_again(skb, packet, 0, &ip, sizeof(ip)))
		return false;
	change_v4(&ip, change, source, destination, is_hop);
	return !bpf_skb_store_bytes(skb, packet->l3, &ip, sizeof(ip), 0);
}

static __always_inline bool rewrite_v6(struct __sk_buff *skb, const struct packet *packet,
				       const struct address *source, const struct address *destination,
				       bool is_hop)
{
	__u32 at = packet->l3 + offsetof(struct ipv6hdr, hop_limit);
	__u8 hops;

	if (bpf_skb_store_bytes(skb, packet->l3 + offsetof(struct ipv6hdr, saddr), source,
				sizeof(*source), 0) ||
	    bpf_skb_store_bytes(skb, packet->l3 + offsetof(struct ipv6hdr, daddr), destination,
				sizeof(*destination), 0))
		return false;
	if (!is_hop)
		return true;
	if (bpf_skb_load_bytes(skb, at, &hops, sizeof(hops)))
		return false;
	hops--;
	return !bpf_skb_store_bytes(skb, at, &hops, sizeof(hops), 0);
}

/*
 * Writes other addresses and ports into the headers of a packet, and with `is_hop` that it has one hop less to
 * go, which it has to have.
 */
SEPARATE bool rewrite(struct __sk_buff *skb, const struct packet *packet, const struct endpoint *source,
		      const struct endpoint *destination, bool is_hop)
{
	if (!packet || !source || !destination)
		return false;
	const struct tuple *from = &packet->tuple;
	__u64 change = 0;

	if (packet->is_v6) {
		change = changed_address(change, &from->source.address, &source->address);
		change = changed_address(change, &from->destination.address, &destination->address);
		if (!rewrite_v6(skb, packet, &source->address, &destination->address, is_hop))
			return false;
	} else {
		change = changed_v4(packet, source->address.word[3], destination->address.word[3]);
		if (!rewrite_v4(skb, packet, change, source->address.word[3],
				destination->address.word[3], is_hop))
			return false;
	}
	return packet->is_later ||
	       change_transport(skb, packet, folded_sum(change), source, destination);
}

#endif
