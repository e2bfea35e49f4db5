/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Connections that are translated at links: how they begin, go on, and end. For one from a client C to a Service V
 * that is led to the endpoint E, by the node N:
 *
 *              comes in                               goes out
 *   request    C -> V                                 N -> E    (C -> E, if not masqueraded)
 *   answer     E -> N   (E -> C, if not masqueraded)  V -> C
 *
 * Each is an element of `translations`, found by the packet as it comes in; what goes out, turned round, is the key
 * of the other one. A packet that has to go through the node's stack is changed in two steps, and has a second
 * element for where it leaves, which is made when it is needed:
 *
 *   request    C -> E, whose source becomes N
 *   answer     E -> C, whose source becomes V
 */
#ifndef PORTOLAN_CONNECTIONS_H
#define PORTOLAN_CONNECTIONS_H

#include "marks.h"
#include "packet.h"
#include "tables.h"

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

static __always_inline struct translation *find_translation(struct tuple *tuple, __u8 hook)
{
	tuple->hook = hook;
	return bpf_map_lookup_elem(&translations, tuple);
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
	return age(known->seen) > UDP_TIMEOUT || !is_member(~known->port, &known->destination);
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
 * A source port for a masqueraded connection: neither a node port, nor one that the node itself uses. A
 * privileged one for who has such a one: some servers take it for a proof.
 *
 * At first the same one for the same port of the same client, and for each of his ports another one, as far as they
 * go. Where the endpoint closes connections it remembers them for a minute (TIME_WAIT), and takes another one
 * from the same port only with a later timestamp (RFC 6191). A client's timestamps go up for each pair of ports, so his
 * own earlier connection is no obstacle, and anybody else's is one every second time: that SYN would be lost.
 */
static __always_inline __be16 some_port(const struct node *own, const struct endpoint *client, bool is_first)
{
	const struct address *address = &client->address;
	__u32 of_client = bpf_ntohs(client->port), number = bpf_get_prandom_u32();

	if (is_first)
		number = of_client + (__u32)mixed((__u64)(address->word[0] ^ address->word[1]) << 32 |
						  (address->word[2] ^ address->word[3])) % 65536;
	if (of_client < FIRST_UNPRIVILEGED)
		return bpf_htons(FIRST_PRIVILEGED + number % (FIRST_UNPRIVILEGED - FIRST_PRIVILEGED));
	__u32 first = own->low_ports, all = first + own->high_ports;

	if (!all)
		return client->port;
	number %= all;
	return bpf_htons(number < first ? own->low_port + number : own->high_port + number - first);
}

/* Finds a source at a link for a connection that begins, and has answers to it brought to the client. */
SEPARATE bool masquerade(const struct tuple *request, const struct device *device, struct translation *new)
{
	if (!request || !device || !new)
		return false;
	__u32 first = 0;
	struct node *own = bpf_map_lookup_elem(&node, &first);
	struct tuple answer = {
		.source = new->destination, .protocol = request->protocol, .hook = AT_INGRESS};
	struct translation back = {.source = request->destination,
				   .destination = request->source,
				   .port = new->port,
				   .seen = now()};

	if (!own)
		return false;
	/* Not by a computed offset, of which the verifier does not see how far it goes. */
	if (is_v4(&request->source.address)) {
		answer.destination.address = device->v4;
		barrier();
	} else {
		answer.destination.address = device->v6;
	}
	for (int i = 0; i < TRIES; i++) {
		answer.destination.port = some_port(own, &request->source, !i);
		if (bpf_map_update_elem(&translations, &answer, &back, BPF_NOEXIST)) {
			struct translation *other = bpf_map_lookup_elem(&translations, &answer);

			if (other && is_used(other, answer.protocol))
				continue;
			if (bpf_map_update_elem(&translations, &answer, &back, BPF_ANY))
				continue;
		}
		new->source = answer.destination;
		return true;
	}
	return false;
}

/* Lets a connection that begins keep its source, and has answers to it brought to the client as they are. */
SEPARATE bool keep_source(const struct tuple *request, struct translation *new)
{
	if (!request || !new)
		return false;
	struct tuple answer = {.source = new->destination,
			       .destination = request->source,
			       .protocol = request->protocol,
			       .hook = AT_INGRESS};
	struct translation back = {.source = request->destination,
				   .destination = request->source,
				   .port = new->port,
				   .seen = now()};

	mark(&request->source.address);
	new->source = request->source;
	return !bpf_map_update_elem(&translations, &answer, &back, BPF_ANY);
}

/* Writes down how requests of a connection that begins are changed. */
SEPARATE bool begin(const struct tuple *request, struct translation *new)
{
	if (!request || !new)
		return false;
	struct tuple key = *request;

	key.hook = AT_INGRESS;
	new->flags = IS_REQUEST;
	new->seen = now();
	return !bpf_map_update_elem(&translations, &key, new, BPF_ANY);
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

/* Has packets that come in as `tuple` says get their source where they leave. */
static __always_inline bool prepare_one(struct tuple *leaving, const struct endpoint *source,
					const struct translation *known)
{
	struct translation *there = find_translation(leaving, AT_EGRESS);

	if (there && is_same(&there->source, source)) {
		there->seen = now();
		there->flags = known->flags;
		return true;
	}
	struct translation value = {
		.source = *source, .flags = known->flags, .port = known->port, .seen = now()};

	return !bpf_map_update_elem(&translations, leaving, &value, BPF_ANY);
}

/*
 * Has a packet that comes in as `tuple` says, and goes through the node's stack, get its source where it leaves; and
 * answers to it, which the node itself may give, or errors about it.
 */
SEPARATE bool prepare(const struct tuple *tuple, const struct translation *known)
{
	if (!tuple || !known)
		return false;
	struct tuple leaving = {.source = tuple->source,
				.destination = known->destination,
				.protocol = tuple->protocol};

	if (!is_same(&known->source, &tuple->source) && !prepare_one(&leaving, &known->source, known))
		return false;
	if (known->flags & IS_OVER || is_same(&known->destination, &tuple->destination))
		return true;
	leaving.source = known->destination;
	leaving.destination = tuple->source;
	return prepare_one(&leaving, &tuple->destination, known);
}

/* Whether a packet may be the last one of its connection. */
static __always_inline bool may_end(const struct translation *known, const struct packet *packet)
{
	return packet->tuple.protocol == IPPROTO_TCP && !packet->is_later &&
	       known->flags & (IS_CLOSING | IS_RESET) && !(packet->tcp_flags & TCP_FIN);
}

/*
 * Forgets a connection with its last packet: one that resets it, or one that both ends' FIN came before. Answers
 * whether it is that. `known` is of the packet; it may be of another one as soon as this returns.
 */
SEPARATE bool end(const struct packet *packet, const struct translation *known)
{
	if (!packet || !known)
		return false;
	struct endpoint to = known->destination, from = packet->tuple.source;
	struct tuple key = {.source = to,
			    .destination = known->source,
			    .protocol = packet->tuple.protocol};
	struct translation *other = find_translation(&key, AT_INGRESS);
	__u32 flags = known->flags | (other ? other->flags : 0);

	if (!(packet->tcp_flags & TCP_RST) && !(other && other->flags & IS_CLOSING))
		return false;
	bpf_map_delete_elem(&translations, &key);
	if (flags & IS_PREPARED) {
		key.destination = from;
		key.hook = AT_EGRESS;
		bpf_map_delete_elem(&translations, &key);
		key.source = from;
		key.destination = to;
		bpf_map_delete_elem(&translations, &key);
	}
	key = packet->tuple;
	key.hook = AT_INGRESS;
	bpf_map_delete_elem(&translations, &key);
	return true;
}

#endif
