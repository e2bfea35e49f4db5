/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Services translated at links, for what no socket here has asked: what comes from other hosts, and from
 * pods whose sockets are not in our cgroup.
 *
 * Destinations are changed where a packet comes in, before it is routed; sources where it goes out, after
 * that. For a connection from a client C to a Service V that is led to the endpoint E, by the node N:
 *
 *              comes in          is routed         goes out
 *   request    C -> V            C -> E            N -> E    (C -> E, if not masqueraded)
 *   answer     E -> N            E -> C            V -> C
 *
 * Each of the four changes is an element of `translations`, found by the packet as it is at that place.
 */
#ifndef PORTOLAN_DEVICES_H
#define PORTOLAN_DEVICES_H

#include <linux/pkt_cls.h>

#include "errors.h"
#include "forward.h"
#include "refusal.h"
#include "tables.h"

/*
 * What a packet is marked with, in a field that nothing else uses since Linux 6.4, from where its destination was
 * changed to where it leaves.
 */
#define LED 0x706f

/* What a program answers: others are asked too, or the packet is lost. */
#define NEXT TC_ACT_UNSPEC
#define LOST TC_ACT_SHOT
/* Or it is led to where was found. */
#define GO_ON (-2)

/* How long a UDP client may be silent before its next datagram is led anew. */
#define UDP_TIMEOUT (120 * SECOND)
/* How long a connection that never was, or that has been closed, keeps its source port from others. */
#define OPENING_TIMEOUT (120 * SECOND)
#define CLOSING_TIMEOUT (10 * SECOND)
/* Privileged source ports, below which well-known servers have theirs. */
#define FIRST_PRIVILEGED 600
#define FIRST_UNPRIVILEGED 1024
/* How often another source port is tried. */
#define TRIES 16

MEMORY(translations, struct tuple, struct translation);

TABLE(devices, __u32, struct device);

#define RANGES(name, key_type)                                                \
	struct {                                                              \
		__uint(type, BPF_MAP_TYPE_LPM_TRIE);                          \
		__uint(max_entries, 1);                                       \
		__uint(map_flags, BPF_F_NO_PREALLOC);                         \
		__type(key, key_type);                                        \
		__type(value, __u32);                                         \
	} name SEC(".maps")

/* Addresses of pods. */
RANGES(pods, struct range);
/* Virtual addresses: where there is no frontend nothing is. */
RANGES(virtual_ranges, struct range);
/* Who may connect to frontends that not everybody may connect to. */
RANGES(sources, struct source_range);

/* What all fragments of a packet have. */
struct fragment {
	struct address source;
	struct address destination;
	__u32 identification;
	__u32 protocol;
};

/* The ports of fragments, which only the first one has. */
MEMORY(fragments, struct fragment, __u32);

static __always_inline struct translation *find_translation(struct tuple *tuple, __u8 hook)
{
	tuple->hook = hook;
	return bpf_map_lookup_elem(&translations, tuple);
}

static __always_inline bool is_in(void *ranges, const struct address *address)
{
	struct range key = {.length = 128, .address = *address};

	return bpf_map_lookup_elem(ranges, &key) != NULL;
}

static __always_inline bool may_connect(const struct frontend *frontend, const struct address *source)
{
	struct source_range key = {.length = 192, .address = *source};

	if (!frontend->sources)
		return true;
	key.of[0] = (__u32)frontend->sources;
	key.of[1] = (__u32)(frontend->sources >> 32);
	return bpf_map_lookup_elem(&sources, &key) != NULL;
}

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

static __always_inline bool begins(const struct packet *packet)
{
	return packet->tuple.protocol != IPPROTO_TCP ||
	       (packet->tcp_flags & (TCP_SYN | TCP_ACK | TCP_RST)) == TCP_SYN;
}

/* Whether what is known of a client's connection is not about this packet, which begins another. */
static __always_inline bool is_over(const struct translation *known, const struct packet *packet)
{
	if (!(known->flags & IS_REQUEST))
		return false;
	if (packet->tuple.protocol == IPPROTO_TCP)
		return begins(packet) && known->flags & IS_ESTABLISHED;
	return age(known->seen) > UDP_TIMEOUT || !is_member(~known->port, &known->to);
}

/* Whether a translation is used by a connection, as far as can be told. */
static __always_inline bool is_used(const struct translation *known, __u8 protocol)
{
	__u64 silence = age(known->seen);

	if (protocol != IPPROTO_TCP)
		return silence < UDP_TIMEOUT;
	if (known->flags & (IS_CLOSING | IS_RESET))
		return silence < CLOSING_TIMEOUT;
	/* One that is silent may go on after days. */
	return known->flags & IS_ESTABLISHED || silence < OPENING_TIMEOUT;
}

/*
 * Finds an endpoint for a client's new connection and writes down how its packets are changed: the
 * destination of requests, and the source of answers. The source of requests follows where they go out.
 */
SEPARATE bool begin(const struct packet *packet, const struct frontend *frontend, __u64 set, bool is_pod,
		    struct endpoint *chosen)
{
	if (!packet || !frontend || !chosen)
		return false;
	const struct tuple *tuple = &packet->tuple;
	struct tuple key = {.source = tuple->source, .protocol = tuple->protocol};
	struct translation value = {.port = frontend->port, .seen = now()};

	bool is_masqueraded =
		frontend->flags & (is_pod ? MASQUERADES_PODS : MASQUERADES_OUTSIDE);
	bool is_by_client = !is_pod && frontend->flags & BY_CLIENT;
	__u64 hash = is_by_client ? hash_of(&tuple->source, set) : 0;

	if (!choose_for(frontend, set, hash, &tuple->source.address, chosen))
		return false;
	/* One that talks to itself would not take an answer from itself for one of the Service. */
	if (is_same_address(&chosen->address, &tuple->source.address))
		is_masqueraded = true;

	/* Where requests go out: also if they stay as they are, something of an earlier one may be there. */
	key.destination = *chosen;
	key.hook = AT_EGRESS;
	if (is_masqueraded) {
		value.flags = IS_REQUEST | TO_BE_MASQUERADED;
		if (bpf_map_update_elem(&translations, &key, &value, BPF_ANY))
			return false;
	} else {
		bpf_map_delete_elem(&translations, &key);
	}

	key.source = *chosen;
	key.destination = tuple->source;
	value.flags = 0;
	value.to = tuple->destination;
	if (bpf_map_update_elem(&translations, &key, &value, BPF_ANY))
		return false;
	if (!is_masqueraded) {
		/* Answers come in as they are, and are known by that: they go the same way. */
		key.hook = AT_INGRESS;
		value.to = tuple->source;
		if (bpf_map_update_elem(&translations, &key, &value, BPF_ANY))
			return false;
	}

	key.source = tuple->source;
	key.destination = tuple->destination;
	key.hook = AT_INGRESS;
	value.flags = IS_REQUEST;
	value.to = *chosen;
	return !bpf_map_update_elem(&translations, &key, &value, BPF_ANY);
}

/*
 * A source port for a masqueraded connection: neither a node port, nor one that the node itself uses. A
 * privileged one for who has such a one: some servers take it for a proof.
 */
static __always_inline __be16 some_port(const struct node *own, __be16 of_client)
{
	if (bpf_ntohs(of_client) < FIRST_UNPRIVILEGED)
		return bpf_htons(FIRST_PRIVILEGED + bpf_get_prandom_u32() %
							    (FIRST_UNPRIVILEGED - FIRST_PRIVILEGED));
	__u32 first = own->low_ports, all = first + own->high_ports;

	if (!all)
		return of_client;
	__u32 number = bpf_get_prandom_u32() % all;

	return bpf_htons(number < first ? own->low_port + number : own->high_port + number - first);
}

/*
 * Finds a source for a connection whose packets, as `tuple` has them, leave by a link, and has answers to it
 * brought to the client.
 */
SEPARATE bool masquerade(const struct tuple *tuple, const struct device *device, struct translation *known)
{
	if (!tuple || !device || !known)
		return false;
	__u32 first = 0;
	struct node *own = bpf_map_lookup_elem(&node, &first);
	struct tuple answer = {
		.source = tuple->destination,
		.protocol = tuple->protocol,
		.hook = AT_INGRESS,
	};
	struct translation back = {
		.to = tuple->source, .port = known->port, .seen = now()};

	if (!own)
		return false;
	/* Not by a computed offset, of which the verifier does not see how far it goes. */
	if (is_v4(&tuple->source.address)) {
		answer.destination.address = device->v4;
		barrier();
	} else {
		answer.destination.address = device->v6;
	}
	for (int i = 0; i < TRIES; i++) {
		answer.destination.port = some_port(own, tuple->source.port);
		if (bpf_map_update_elem(&translations, &answer, &back, BPF_NOEXIST)) {
			struct translation *other = bpf_map_lookup_elem(&translations, &answer);

			if (other && is_used(other, answer.protocol))
				continue;
			if (bpf_map_update_elem(&translations, &answer, &back, BPF_ANY))
				continue;
		}
		known->to = answer.destination;
		known->flags &= ~TO_BE_MASQUERADED;
		return true;
	}
	return false;
}

/* Notes that a connection goes on. */
static __always_inline void note(struct translation *known, const struct packet *packet)
{
	__u32 flags = 0;
	__u64 seen = now();

	/* Where nothing changes nothing is written: another processor may look at it. */
	if (known->seen != seen)
		known->seen = seen;
	if (packet->tuple.protocol != IPPROTO_TCP || packet->is_later)
		return;
	if (!(packet->tcp_flags & TCP_SYN))
		flags |= IS_ESTABLISHED;
	if (packet->tcp_flags & TCP_FIN)
		flags |= IS_CLOSING;
	if (packet->tcp_flags & TCP_RST)
		flags |= IS_RESET;
	if ((known->flags | flags) != known->flags)
		known->flags |= flags;
}

/* Whether a packet may be the last one of its connection. */
static __always_inline bool may_end(const struct translation *known, const struct packet *packet)
{
	return packet->tuple.protocol == IPPROTO_TCP && !packet->is_later &&
	       known->flags & (IS_CLOSING | IS_RESET) && !(packet->tcp_flags & TCP_FIN);
}

/*
 * Forgets a connection with its last packet: one that resets it, or one that both ends' FIN came before. What
 * this packet itself needs where it goes out is forgotten there.
 *
 * `known` is what changes the packet where it comes in.
 */
SEPARATE int end(const struct packet *packet, const struct translation *known)
{
	if (!packet || !known)
		return 0;
	struct tuple key = packet->tuple, going = packet->tuple;
	struct translation *other;
	bool is_reset = packet->tcp_flags & TCP_RST;

	if (known->flags & IS_REQUEST) {
		struct endpoint client = packet->tuple.source, given = known->to;

		key.source = given;
		key.destination = client;
		other = find_translation(&key, AT_EGRESS);
		if (!is_reset && !(other && other->flags & IS_CLOSING))
			return 0;
		bpf_map_delete_elem(&translations, &key);
		going.destination = given;
		other = find_translation(&going, AT_EGRESS);
		if (other) {
			key.destination = other->to;
			other->flags |= IS_OVER;
		}
		key.hook = AT_INGRESS;
		bpf_map_delete_elem(&translations, &key);
	} else {
		struct endpoint given = packet->tuple.source, client = known->to;

		going.destination = client;
		other = find_translation(&going, AT_EGRESS);
		if (!other)
			return 0;
		key.source = client;
		key.destination = other->to;
		struct translation *first = find_translation(&key, AT_INGRESS);

		if (!is_reset && !(first && first->flags & IS_CLOSING))
			return 0;
		other->flags |= IS_OVER;
		bpf_map_delete_elem(&translations, &key);
		key.destination = given;
		key.hook = AT_EGRESS;
		bpf_map_delete_elem(&translations, &key);
	}
	key = packet->tuple;
	key.hook = AT_INGRESS;
	bpf_map_delete_elem(&translations, &key);
	return 0;
}

/* Gives a packet that leaves by a link the source that is known for it; `tuple` is how it would leave. */
static __always_inline bool change_source(const struct packet *packet, struct tuple *tuple,
					  struct translation *known, const struct device *device)
{
	if (known->flags & TO_BE_MASQUERADED && !masquerade(tuple, device, known))
		return false;
	struct endpoint to = known->to;
	bool is_over = known->flags & IS_OVER;

	note(known, packet);
	if (is_over)
		bpf_map_delete_elem(&translations, tuple);
	tuple->source = to;
	return true;
}

/*
 * Gives a packet another destination. It is sent there at once, with its other source, or goes on through the
 * node's stack and gets that where it leaves.
 */
SEPARATE int lead(struct __sk_buff *skb, struct packet *packet, const struct endpoint *to,
		  bool is_seen_by_nobody)
{
	if (!packet || !to)
		return LOST;
	__u32 first = 0;
	struct node *own = bpf_map_lookup_elem(&node, &first);
	struct tuple changed = packet->tuple;
	struct way way = {};

	changed.destination = *to;
	if ((is_seen_by_nobody || (own && own->flags & MAY_REDIRECT)) && find_way(skb, packet, to, &way)) {
		struct device *device = bpf_map_lookup_elem(&devices, &way.link);

		if (device) {
			struct translation *known = find_translation(&changed, AT_EGRESS);

			if (known && !change_source(packet, &changed, known, device))
				return LOST;
			if (!rewrite(skb, packet, &changed, true))
				return LOST;
			return send(skb, packet, &way, device);
		}
	}
	skb->tc_index = LED;
	if (!is_same(&packet->tuple.destination, to) && !rewrite(skb, packet, &changed, false))
		return LOST;
	return NEXT;
}

/* Brings an error to whom it concerns. */
SEPARATE int lead_error(struct __sk_buff *skb, struct packet *packet)
{
	struct failure failure = {};
	struct translation *known;

	if (!packet || !read_failure(skb, packet, &failure))
		return NEXT;
	known = find_translation(&failure.answer, AT_INGRESS);
	if (!known)
		return NEXT;
	struct endpoint to = known->to, *told = &failure.answer.destination;

	/* It is told to whom it is about, or is none. */
	if (!is_same_address(&told->address, &packet->tuple.destination.address))
		return NEXT;
	skb->tc_index = LED;
	if (is_same(told, &to))
		return NEXT;
	return rewrite_repeated(skb, packet, &failure, true, told, &to) &&
			       rewrite_outer(skb, packet, &packet->tuple.source.address, &to.address)
		       ? NEXT
		       : LOST;
}

/* Has an error that leaves tell of what was asked for. */
SEPARATE int show_error(struct __sk_buff *skb, struct packet *packet)
{
	struct failure failure = {};
	struct translation *known;

	if (!packet || !read_failure(skb, packet, &failure))
		return NEXT;
	known = find_translation(&failure.answer, AT_EGRESS);
	if (!known || known->flags & TO_BE_MASQUERADED)
		return NEXT;
	struct endpoint to = known->to, *told = &failure.answer.source;
	/* A router between tells in its own name. */
	bool is_by_itself = is_same_address(&told->address, &packet->tuple.source.address);

	if (!rewrite_repeated(skb, packet, &failure, false, told, &to))
		return LOST;
	return !is_by_itself || rewrite_outer(skb, packet, &to.address,
					      &packet->tuple.destination.address)
		       ? NEXT
		       : LOST;
}

#define LOOPBACK_V4 bpf_htonl(0x7f000000)
#define LOOPBACK_MASK bpf_htonl(0xff000000)

/* What no link brings from anybody else (RFC 1122, 3.2.1.3; RFC 4291, 2.5.3). */
static __always_inline bool is_loopback(const struct address *address)
{
	if (is_v4(address))
		return (address->word[3] & LOOPBACK_MASK) == LOOPBACK_V4;
	return !address->word[0] && !address->word[1] && !address->word[2] &&
	       address->word[3] == bpf_htonl(1);
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

/* Finds an endpoint, `to`, for a packet that belongs to no known connection, if it is for a frontend. */
SEPARATE int start(struct __sk_buff *skb, struct packet *packet, struct endpoint *to)
{
	if (!packet || !to)
		return LOST;
	const struct tuple *tuple = &packet->tuple;
	bool is_virtual = false;
	struct frontend *frontend = meet(tuple, has_ports(packet), false, &is_virtual);

	if (!frontend) {
		if (is_virtual)
			return refuse(skb, packet, 0);
		return is_in(&virtual_ranges, &tuple->destination.address) ? LOST : NEXT;
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
		return refuse(skb, packet, 0);
	return begin(packet, frontend, set, is_pod, to) ? GO_ON : LOST;
}

/* A packet comes in by a link, with its IP header at `l3`. */
static __always_inline int come_in(struct __sk_buff *skb, __u32 l3)
{
	struct packet packet = {};

	/* Another node may be at the other end of a veth pair. */
	if (skb->tc_index)
		skb->tc_index = 0;
	if (!read_packet(skb, l3, &packet))
		return NEXT;
	if (is_loopback(&packet.tuple.destination.address))
		return LOST;
	if (packet.is_error)
		return lead_error(skb, &packet);
	struct translation *known = NULL;
	struct endpoint to = {};
	bool is_taken_over = false;

	if (has_ports(&packet)) {
		if (!complete_fragment(&packet))
			return NEXT;
		known = find_translation(&packet.tuple, AT_INGRESS);
	}
	if (known && !is_over(known, &packet)) {
		to = known->to;
		is_taken_over = known->flags & IS_TAKEN_OVER;
		note(known, &packet);
		if (may_end(known, &packet))
			end(&packet, known);
	} else {
		if (!begins(&packet))
			return NEXT;
		int answer = start(skb, &packet, &to);

		if (answer != GO_ON)
			return answer;
	}
	return lead(skb, &packet, &to, is_taken_over);
}

/* A packet that the node itself sends, to a virtual address perhaps, was not led anywhere by its socket. */
SEPARATE int keep_from_leaving(struct __sk_buff *skb, struct packet *packet)
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
	return is_in(&virtual_ranges, &tuple->destination.address) ? LOST : NEXT;
}

/* A packet leaves that is known to have been led, or to be an answer to one that was. */
SEPARATE int show(struct __sk_buff *skb, struct packet *packet, struct translation *known)
{
	__u32 link = skb->ifindex;
	struct device *device = bpf_map_lookup_elem(&devices, &link);

	if (!device || !packet || !known)
		return LOST;
	struct tuple changed = packet->tuple;

	if (!change_source(packet, &changed, known, device))
		return LOST;
	return rewrite(skb, packet, &changed, false) ? NEXT : LOST;
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
			return show(skb, &packet, known);
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
