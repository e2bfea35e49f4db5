/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Services translated at links, for what no socket here has asked: what comes from other hosts, and from
 * pods whose sockets are not in our cgroup.
 */
#ifndef PORTOLAN_DEVICES_H
#define PORTOLAN_DEVICES_H

#include <linux/pkt_cls.h>

#include "connections.h"
#include "errors.h"
#include "forward.h"
#include "marks.h"
#include "ranges.h"
#include "refusal.h"
#include "tables.h"

/*
 * What a packet is marked with, from where its destination was changed to where it leaves; there it is cleared. Since
 * Linux 6.3 this field is read by the queueing discipline GRED alone, which comes after that.
 */
#define LED 0x706f

/* What a program answers: others are asked too, or the packet is lost. */
#define NEXT TC_ACT_UNSPEC
#define LOST TC_ACT_SHOT
/* Or it is led to where was found. */
#define GO_ON (-2)
/* Or its sender is told that nobody is there. */
#define TELL (-3)

TABLE(devices, __u32, struct device);

/* What all fragments of a packet have. */
struct fragment {
	struct address source;
	struct address destination;
	__u32 identification;
	__u32 protocol;
};

/* The ports of fragments, which only the first one has. */
MEMORY(fragments, struct fragment, __u32);

/* Gives a fragment the ports that the first one of its packet has. */
static __always_inline bool complete_fragment(struct packet *packet)
{
	struct fragment key = {
		.source = packet->tuple.source.address,
		.destination = packet->tuple.destination.address,
		.identification = packet->fragment,
		.protocol = packet->tuple.protocol,
	};

	if (packet->is_first) {
		__u32 ports = packet->tuple.source.port |
			      (__u32)packet->tuple.destination.port << 16;

		bpf_map_update_elem(&fragments, &key, &ports, BPF_ANY);
	} else if (packet->is_later) {
		__u32 *ports = bpf_map_lookup_elem(&fragments, &key);

		if (!ports)
			return false;
		packet->tuple.source.port = (__be16)*ports;
		packet->tuple.destination.port = (__be16)(*ports >> 16);
	}
	return true;
}

/*
 * Sends a packet where `to` says. It goes there at once, or with its new destination through the node's stack, and
 * gets its new source where it leaves.
 */
SEPARATE int lead(struct __sk_buff *skb, const struct packet *packet, const struct translation *to)
{
	if (!packet || !to)
		return LOST;
	__u32 first = 0;
	struct node *own = bpf_map_lookup_elem(&node, &first);

	if (to->flags & IS_TAKEN_OVER || (own && own->flags & MAY_REDIRECT)) {
		struct hop *hop = hop_of(packet, &to->destination);

		if (hop && may_follow(skb, packet, &to->destination, hop)) {
			if (is_plain(packet))
				return follow_plain(skb, packet, &to->source, &to->destination, hop);
			return rewrite(skb, packet, &to->source, &to->destination, true) ? follow(skb, hop)
											 : LOST;
		}
		struct way way = {};
		struct device *device = find_way(skb, packet, &to->destination, &way)
						? bpf_map_lookup_elem(&devices, &way.link)
						: NULL;

		if (device)
			return rewrite(skb, packet, &to->source, &to->destination, true)
				       ? send(skb, packet, &to->destination, &way, device, hop)
				       : LOST;
	}
	if (!prepare(&packet->tuple, to))
		return LOST;
	skb->tc_index = LED;
	if (!is_same(&packet->tuple.destination, &to->destination) &&
	    !rewrite(skb, packet, &packet->tuple.source, &to->destination, false))
		return LOST;
	return NEXT;
}

/* Brings an error to whom it concerns. */
SEPARATE int lead_error(struct __sk_buff *skb, const struct packet *packet)
{
	struct failure failure = {};
	struct translation *known;

	if (!packet || !read_failure(skb, packet, &failure))
		return NEXT;
	known = find_translation(&failure.answer, AT_INGRESS);
	if (!known)
		return NEXT;
	struct endpoint to = known->destination, *told = &failure.answer.destination;

	/* It is told to whom it is about, or is none. */
	if (!is_same_address(&told->address, &packet->tuple.destination.address))
		return NEXT;
	if (!prepare(&failure.answer, known))
		return LOST;
	skb->tc_index = LED;
	if (is_same(told, &to))
		return NEXT;
	return rewrite_repeated(skb, packet, &failure, true, told, &to) &&
			       rewrite_outer(skb, packet, &packet->tuple.source.address, &to.address)
		       ? NEXT
		       : LOST;
}

/* Has an error that leaves tell of what was asked for. */
SEPARATE int show_error(struct __sk_buff *skb, const struct packet *packet)
{
	struct failure failure = {};
	struct translation *known;

	if (!packet || !read_failure(skb, packet, &failure))
		return NEXT;
	known = find_translation(&failure.answer, AT_EGRESS);
	if (!known)
		return NEXT;
	struct endpoint from = known->source, *told = &failure.answer.source;
	/* A router between tells in its own name. */
	bool is_by_itself = is_same_address(&told->address, &packet->tuple.source.address);

	if (!rewrite_repeated(skb, packet, &failure, false, told, &from))
		return LOST;
	return !is_by_itself || rewrite_outer(skb, packet, &from.address,
					      &packet->tuple.destination.address)
		       ? NEXT
		       : LOST;
}

/* The frontend that a packet meets, if any; else whether its destination is a virtual address. */
static __always_inline struct frontend *meet(const struct tuple *tuple, bool has_ports,
					     bool is_of_node, bool *is_virtual)
{
	if (has_ports)
		return find_frontend(&tuple->destination, tuple->protocol, is_of_node, is_virtual);
	*is_virtual = is_virtual_address(&tuple->destination.address);
	return NULL;
}

/* Finds out what is to become of a packet that belongs to no known connection; `new` gets its endpoint. */
SEPARATE int start(struct __sk_buff *skb, const struct packet *packet, struct translation *new)
{
	if (!packet || !new)
		return LOST;
	const struct tuple *tuple = &packet->tuple;
	bool is_virtual = false;
	struct frontend *frontend = meet(tuple, has_ports(packet), false, &is_virtual);

	if (!frontend) {
		if (is_virtual)
			return TELL;
		return is_vacant(&tuple->destination.address) ? LOST : NEXT;
	}
	if (!may_connect(frontend, &tuple->source.address))
		return LOST;
	__u32 link = skb->ifindex;
	struct device *device = bpf_map_lookup_elem(&devices, &link);
	bool is_pod = (device && device->flags & OF_PODS) || is_in(&pods, &tuple->source.address);
	__u64 set = is_pod ? frontend->pod : frontend->outside;

	if (set == DROP)
		return LOST;
	if (set == REFUSE)
		return TELL;
	bool is_masqueraded =
		frontend->flags & (is_pod ? MASQUERADES_PODS : MASQUERADES_OUTSIDE);
	bool is_by_client = !is_pod && frontend->flags & BY_CLIENT;
	__u64 hash = is_by_client ? hash_of(&tuple->source, set) : 0;
	struct endpoint chosen = {};

	if (!choose_for(frontend, set, hash, &tuple->source.address, &chosen))
		return LOST;
	/* One that talks to itself would not take an answer from itself for one of the Service. */
	if (is_same_address(&chosen.address, &tuple->source.address))
		is_masqueraded = true;
	new->destination = chosen;
	new->port = frontend->port;
	new->flags = is_masqueraded ? TO_BE_MASQUERADED : 0;
	return GO_ON;
}

/* A packet comes in by a link, with its IP header at `l3`. */
static __always_inline int come_in(struct __sk_buff *skb, __u32 l3)
{
	/* Another node may be at the other end of a veth pair. */
	if (skb->tc_index)
		skb->tc_index = 0;
	/* Most packets are of nobody here. */
	if (is_foreign(skb, l3))
		return NEXT;
	struct packet packet = {};

	if (!read_packet(skb, l3, &packet))
		return NEXT;
	if (is_loopback(&packet.tuple.destination.address))
		return LOST;
	if (packet.is_error)
		return lead_error(skb, &packet);
	if (!is_marked(&packet.tuple.destination.address))
		return begins(&packet) && is_vacant(&packet.tuple.destination.address) ? LOST : NEXT;
	struct translation *known = NULL;

	if (has_ports(&packet)) {
		if (!complete_fragment(&packet))
			return NEXT;
		known = find_translation(&packet.tuple, AT_INGRESS);
	}
	if (!known && !begins(&packet))
		return NEXT;
	struct translation to = {};

	if (known && !is_over(known, &packet)) {
		note(known, &packet);
		to = *known;
		if (may_end(known, &packet) && end(&packet, known)) {
			to.flags |= IS_OVER;
			known = NULL;
		}
	} else {
		int answer = start(skb, &packet, &to);

		if (answer == TELL)
			return refuse(skb, &packet, 0);
		if (answer != GO_ON)
			return answer;
		__u32 link = to.flags & TO_BE_MASQUERADED ? link_to(skb, &packet, &to.destination) : 0;
		struct device *device = link ? bpf_map_lookup_elem(&devices, &link) : NULL;

		/* The node itself does not leave, and sees who asks. */
		if (!(device ? masquerade(&packet.tuple, device, &to)
			     : keep_source(&packet.tuple, &to)) ||
		    !begin(&packet.tuple, &to))
			return LOST;
		known = find_translation(&packet.tuple, AT_INGRESS);
	}
	int answer = lead(skb, &packet, &to);

	if (answer == NEXT && known && !(known->flags & IS_PREPARED))
		known->flags |= IS_PREPARED;
	return answer;
}

/* A packet that the node itself sends, to a virtual address perhaps, was not led anywhere by its socket. */
SEPARATE int keep_from_leaving(struct __sk_buff *skb, const struct packet *packet)
{
	if (!packet)
		return LOST;
	const struct tuple *tuple = &packet->tuple;
	bool is_virtual = false;
	struct frontend *frontend = meet(tuple, has_ports(packet), true, &is_virtual);

	if (frontend) {
		if (frontend->node == DROP)
			return LOST;
		return frontend->node == REFUSE && begins(packet) ? refuse(skb, packet, BPF_F_INGRESS)
								  : NEXT;
	}
	if (is_virtual)
		return refuse(skb, packet, BPF_F_INGRESS);
	return is_vacant(&tuple->destination.address) ? LOST : NEXT;
}

/*
 * A packet leaves that is known to have been led, or to be an answer to one that was. Nobody has seen it come in if the
 * node itself gives it.
 */
SEPARATE int show(struct __sk_buff *skb, const struct packet *packet, const struct translation *leaving,
		  bool is_of_node)
{
	if (!packet || !leaving)
		return LOST;
	struct endpoint from = leaving->source;
	struct tuple key = packet->tuple;

	if (leaving->flags & IS_OVER)
		bpf_map_delete_elem(&translations, &key);
	if (is_of_node) {
		struct translation *known = find_translation(&key, AT_INGRESS);

		if (known) {
			note(known, packet);
			if (may_end(known, packet))
				end(packet, known);
		}
	}
	return rewrite(skb, packet, &from, &packet->tuple.destination, false) ? NEXT : LOST;
}

/* A packet leaves by a link. */
static __always_inline int go_out(struct __sk_buff *skb, __u32 l3)
{
	struct packet packet = {};
	bool is_of_node = !skb->ingress_ifindex;

	/* What came from elsewhere was looked at when it came. */
	if (!is_of_node && skb->tc_index != LED)
		return NEXT;
	if (skb->tc_index)
		skb->tc_index = 0;
	if (!read_packet(skb, l3, &packet))
		return NEXT;
	if (packet.is_error)
		return show_error(skb, &packet);
	if (has_ports(&packet)) {
		if (!complete_fragment(&packet))
			return NEXT;
		struct translation *known = find_translation(&packet.tuple, AT_EGRESS);

		if (known)
			return show(skb, &packet, known, is_of_node);
	}
	return is_of_node ? keep_from_leaving(skb, &packet) : NEXT;
}

SEC("classifier")
int ingress(struct __sk_buff *skb)
{
	return come_in(skb, ETH_HLEN);
}

SEC("classifier")
int egress(struct __sk_buff *skb)
{
	return go_out(skb, ETH_HLEN);
}

/* Links without a link layer, such as tunnels. */
SEC("classifier")
int ingress_bare(struct __sk_buff *skb)
{
	return come_in(skb, 0);
}

SEC("classifier")
int egress_bare(struct __sk_buff *skb)
{
	return go_out(skb, 0);
}

#endif
