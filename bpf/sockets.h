/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Services resolved where a socket learns its peer: connect(2), sendmsg(2), recvmsg(2), getpeername(2).
 *
 * A socket that asks for a frontend is given an endpoint, so that its packets carry the pod's address from
 * the start. Attached to a cgroup, for every socket of processes below it, of pods and of the node itself.
 *
 * What is not touched here is looked at as packets: frontends that not everybody may connect to, since a socket
 * has no source yet; what is to be lost in silence; every protocol but TCP and UDP.
 */
#ifndef PORTOLAN_SOCKETS_H
#define PORTOLAN_SOCKETS_H

#include <linux/errno.h>
#include <linux/in.h>

#include "tables.h"

/* What a program answers: the call goes on, or it fails with what bpf_set_retval was told. */
#define PROCEED 1
#define FAIL 0

/* Which endpoint a socket's datagrams go to, and who is to be shown as the sender of its answers. */
MEMORY(flows, struct datagrams, struct endpoint);
MEMORY(replies, struct datagrams, struct endpoint);

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct peer);
} peers SEC(".maps");

/* Storage of its own, as UDP has it, would make connecting a TCP socket half as expensive again: only on request. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, SHOWN);
	__type(key, __u32);
	__type(value, struct shown);
} shown SEC(".maps");

/* The cookie of a namespace in the place of a client's address: a socket may have none yet. */
static __always_inline struct address by_namespace(__u64 cookie)
{
	struct address client = {{0, bpf_htonl(0xfffffffe), (__u32)(cookie >> 32), (__u32)cookie}};
	return client;
}

/* What is done with connections of a socket to a frontend. */
static __always_inline __u64 action(const struct frontend *frontend, const struct endpoint *to,
				    const struct node *own, bool is_of_node)
{
	if (is_of_node)
		return frontend->node;
	return own->pods & (is_v4(&to->address) ? DETECTS_V4 : DETECTS_V6) ? frontend->pod
									   : frontend->outside;
}

enum outcome {
	UNTOUCHED,
	REFUSED,
	GIVEN,
};

/* Finds an endpoint for a socket that asks for `to`. */
static __always_inline enum outcome resolve(struct bpf_sock_addr *ctx, const struct endpoint *to,
					    bool is_connecting, struct endpoint *given)
{
	bool is_refused = false;
	__u8 protocol = ctx->protocol;

	if (protocol != IPPROTO_TCP && protocol != IPPROTO_UDP)
		return UNTOUCHED;
	__u32 first = 0;
	struct node *own = bpf_map_lookup_elem(&node, &first);

	if (!own)
		return UNTOUCHED;
	__u64 namespace = bpf_get_netns_cookie(ctx);
	bool is_of_node = own->netns == namespace;
	struct frontend *frontend = find_frontend(to, protocol, is_of_node, &is_refused);
	/*
	 * Nobody expects that connecting a UDP socket is refused: many do that only to learn their own address.
	 * Its datagrams are.
	 */
	enum outcome refusal = is_connecting && protocol == IPPROTO_UDP ? UNTOUCHED : REFUSED;

	if (!frontend)
		return is_refused ? refusal : UNTOUCHED;
	__u64 set = action(frontend, to, own, is_of_node);

	/* A socket can't be told nothing at all, and has no source yet; the node's own was looked at before. */
	if (set == DROP || (frontend->sources && !is_of_node))
		return UNTOUCHED;
	if (set == REFUSE)
		return refusal;
	struct address client = by_namespace(namespace);

	if (is_connecting)
		return choose_for(frontend, set, 0, &client, given) ? GIVEN : UNTOUCHED;

	/* Datagrams of a socket go on to the same endpoint as long as that serves. */
	struct datagrams flow = {.socket = bpf_get_socket_cookie(ctx), .peer = *to};
	struct endpoint *before = bpf_map_lookup_elem(&flows, &flow);

	if (before && is_member(~frontend->port, before)) {
		*given = *before;
	} else {
		if (!choose_for(frontend, set, 0, &client, given))
			return UNTOUCHED;
		bpf_map_update_elem(&flows, &flow, given, BPF_ANY);
	}
	struct datagrams reply = {.socket = flow.socket, .peer = *given};

	/* Most often it is there already, and a lookup keeps it from being the eldest. */
	struct endpoint *shown = bpf_map_lookup_elem(&replies, &reply);

	if (!shown || !is_same(shown, to))
		bpf_map_update_elem(&replies, &reply, to, BPF_ANY);
	return GIVEN;
}

static __always_inline struct shown *place_of(__u64 socket)
{
	__u32 place = socket % SHOWN;

	return bpf_map_lookup_elem(&shown, &place);
}

/* Keeps what a socket has asked for, so that getpeername can tell, and of UDP the proxy. */
static __always_inline void remember(struct bpf_sock_addr *ctx, const struct endpoint *asked,
				     const struct endpoint *given)
{
	struct peer peer = {.asked = *asked, .given = *given};
	struct bpf_sock *socket = ctx->sk;
	__u32 first = 0;
	struct node *own = bpf_map_lookup_elem(&node, &first);

	if (ctx->protocol == IPPROTO_TCP && !(own && own->flags & KEEPS_TCP)) {
		__u64 cookie = bpf_get_socket_cookie(ctx);
		struct shown *place = place_of(cookie);

		if (!place)
			return;
		*(volatile __u64 *)&place->socket = 0;
		barrier();
		place->peer = peer;
		barrier();
		*(volatile __u64 *)&place->socket = cookie;
		return;
	}
	if (!socket)
		return;
	struct peer *kept = bpf_sk_storage_get(&peers, socket, &peer, BPF_SK_STORAGE_GET_F_CREATE);

	/* It may have been connected before. */
	if (kept)
		*kept = peer;
}

/* What answers to datagrams that go to `to` itself comes from there. */
static __always_inline void forget(struct bpf_sock_addr *ctx, const struct endpoint *to)
{
	if (ctx->protocol != IPPROTO_UDP)
		return;
	struct datagrams reply = {.socket = bpf_get_socket_cookie(ctx), .peer = *to};

	if (bpf_map_lookup_elem(&replies, &reply))
		bpf_map_delete_elem(&replies, &reply);
}

static __always_inline int refuse_call(void)
{
	bpf_set_retval(-ECONNREFUSED);
	return FAIL;
}

/* What a call answers, and with `given` what it is to go on with. */
static __always_inline int give(struct bpf_sock_addr *ctx, const struct endpoint *to,
				bool is_connecting, struct endpoint *given, bool *is_given)
{
	switch (resolve(ctx, to, is_connecting, given)) {
	case REFUSED:
		return refuse_call();
	case GIVEN:
		*is_given = true;
		if (is_connecting)
			remember(ctx, to, given);
		return PROCEED;
	default:
		if (!is_connecting)
			forget(ctx, to);
		return PROCEED;
	}
}

static __always_inline struct endpoint peer4(struct bpf_sock_addr *ctx)
{
	struct endpoint peer = {.address = mapped(ctx->user_ip4), .port = (__be16)ctx->user_port};
	return peer;
}

static __always_inline struct endpoint peer6(struct bpf_sock_addr *ctx)
{
	struct endpoint peer = {.address = {{ctx->user_ip6[0], ctx->user_ip6[1], ctx->user_ip6[2],
					     ctx->user_ip6[3]}},
				.port = (__be16)ctx->user_port};
	return peer;
}

static __always_inline void set_peer4(struct bpf_sock_addr *ctx, const struct endpoint *peer)
{
	ctx->user_ip4 = peer->address.word[3];
	ctx->user_port = peer->port;
}

static __always_inline void set_peer6(struct bpf_sock_addr *ctx, const struct endpoint *peer)
{
	ctx->user_ip6[0] = peer->address.word[0];
	ctx->user_ip6[1] = peer->address.word[1];
	ctx->user_ip6[2] = peer->address.word[2];
	ctx->user_ip6[3] = peer->address.word[3];
	ctx->user_port = peer->port;
}

static __always_inline int lead4(struct bpf_sock_addr *ctx, bool is_connecting)
{
	struct endpoint to = peer4(ctx), given = {};
	bool is_given = false;
	int answer = give(ctx, &to, is_connecting, &given, &is_given);

	if (is_given)
		set_peer4(ctx, &given);
	return answer;
}

/* An IPv6 socket may ask for an IPv4 address; what it is given is one too. */
static __always_inline int lead6(struct bpf_sock_addr *ctx, bool is_connecting)
{
	struct endpoint to = peer6(ctx), given = {};
	bool is_given = false;
	int answer = give(ctx, &to, is_connecting, &given, &is_given);

	if (is_given)
		set_peer6(ctx, &given);
	return answer;
}

/* Whom a socket has asked for that is now with `given`. */
static __always_inline bool asked(struct bpf_sock_addr *ctx, const struct endpoint *given,
				  bool is_datagram, struct endpoint *to)
{
	struct bpf_sock *socket = ctx->sk;
	struct peer *peer = socket ? bpf_sk_storage_get(&peers, socket, NULL, 0) : NULL;

	if (peer && is_same(&peer->given, given)) {
		*to = peer->asked;
		return true;
	}
	if (ctx->protocol == IPPROTO_TCP) {
		__u64 cookie = bpf_get_socket_cookie(ctx);
		struct shown *place = place_of(cookie);

		if (!place || !is_same(&place->peer.given, given))
			return false;
		*to = place->peer.asked;
		barrier();
		return *(volatile __u64 *)&place->socket == cookie;
	}
	if (!is_datagram || ctx->protocol != IPPROTO_UDP)
		return false;
	struct datagrams reply = {.socket = bpf_get_socket_cookie(ctx), .peer = *given};
	struct endpoint *shown = bpf_map_lookup_elem(&replies, &reply);

	if (!shown)
		return false;
	*to = *shown;
	return true;
}

static __always_inline int show4(struct bpf_sock_addr *ctx, bool is_datagram)
{
	struct endpoint given = peer4(ctx), to;

	if (asked(ctx, &given, is_datagram, &to))
		set_peer4(ctx, &to);
	return PROCEED;
}

static __always_inline int show6(struct bpf_sock_addr *ctx, bool is_datagram)
{
	struct endpoint given = peer6(ctx), to;

	if (asked(ctx, &given, is_datagram, &to))
		set_peer6(ctx, &to);
	return PROCEED;
}

SEC("cgroup/connect4")
int connect4(struct bpf_sock_addr *ctx)
{
	return lead4(ctx, true);
}

SEC("cgroup/connect6")
int connect6(struct bpf_sock_addr *ctx)
{
	return lead6(ctx, true);
}

SEC("cgroup/sendmsg4")
int sendmsg4(struct bpf_sock_addr *ctx)
{
	return lead4(ctx, false);
}

SEC("cgroup/sendmsg6")
int sendmsg6(struct bpf_sock_addr *ctx)
{
	return lead6(ctx, false);
}

SEC("cgroup/recvmsg4")
int recvmsg4(struct bpf_sock_addr *ctx)
{
	return show4(ctx, true);
}

SEC("cgroup/recvmsg6")
int recvmsg6(struct bpf_sock_addr *ctx)
{
	return show6(ctx, true);
}

SEC("cgroup/getpeername4")
int getpeername4(struct bpf_sock_addr *ctx)
{
	return show4(ctx, false);
}

SEC("cgroup/getpeername6")
int getpeername6(struct bpf_sock_addr *ctx)
{
	return show6(ctx, false);
}

#endif
