// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * Services resolved where a socket learns its peer: connect(2), sendmsg(2), recvmsg(2), getpeername(2).
 *
 * A socket that asks for a frontend is given an endpoint, so that its packets carry the pod's address from
 * the start. Attached to a cgroup, for every socket of processes below it, of pods and of the node itself.
 *
 * What is left to packets (PASS) is not touched here: whoever may connect only from some sources, since a
 * socket has no source yet; what is to be lost in silence; every protocol but TCP and UDP.
 */
#include <linux/bpf.h>
#include <linux/errno.h>
#include <linux/in.h>

#include <stdbool.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "portolan.h"

/* From sys/socket.h, whose own header does not suit this target. */
#define SOCK_STREAM 1
#define SOCK_DGRAM 2

/* What a program answers: the call goes on, or it fails with what bpf_set_retval was told. */
#define PROCEED 1
#define FAIL 0

/* How often a set is looked up that changes at that very moment. */
#define ATTEMPTS 3

/* Sizes are set by the loader. Entries are allocated as they come. */
#define TABLE(name, key_type, value_type)                                     \
	struct {                                                              \
		__uint(type, BPF_MAP_TYPE_HASH);                              \
		__uint(max_entries, 1);                                       \
		__uint(map_flags, BPF_F_NO_PREALLOC);                         \
		__type(key, key_type);                                        \
		__type(value, value_type);                                    \
	} name SEC(".maps")

/* What is remembered of those who come: the eldest make room. */
#define MEMORY(name, key_type, value_type)                                    \
	struct {                                                              \
		__uint(type, BPF_MAP_TYPE_LRU_HASH);                          \
		__uint(max_entries, 1);                                       \
		__type(key, key_type);                                        \
		__type(value, value_type);                                    \
	} name SEC(".maps")

TABLE(frontends, struct frontend_key, struct frontend);
TABLE(sets, __u64, struct set);
TABLE(endpoints, struct slot, struct endpoint);
TABLE(members, struct member, __u32);
/* Addresses of the node that accept node ports. */
TABLE(node_addresses, struct address, __u32);

MEMORY(affinities, struct client, struct remembered);
/* Which endpoint a socket's datagrams go to, and who is to be shown as the sender of its answers. */
MEMORY(flows, struct datagrams, struct endpoint);
MEMORY(replies, struct datagrams, struct endpoint);

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct node);
} node SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct peer);
} peers SEC(".maps");

static __always_inline bool is_same(const struct endpoint *one, const struct endpoint *other)
{
	return one->address.word[0] == other->address.word[0] &&
	       one->address.word[1] == other->address.word[1] &&
	       one->address.word[2] == other->address.word[2] &&
	       one->address.word[3] == other->address.word[3] && one->port == other->port;
}

static __always_inline bool is_v4(const struct address *address)
{
	return address->word[0] == 0 && address->word[1] == 0 && address->word[2] == bpf_htonl(0xffff);
}

static __always_inline struct address v4(__be32 address)
{
	struct address mapped = {{0, 0, bpf_htonl(0xffff), address}};
	return mapped;
}

/* The cookie of a namespace in the place of a client's address: a socket may have none yet. */
static __always_inline struct address by_namespace(__u64 cookie)
{
	struct address client = {{0, bpf_htonl(0xfffffffe), (__u32)(cookie >> 32), (__u32)cookie}};
	return client;
}

/* The frontend that a connection meets, if any. */
static __always_inline struct frontend *find_frontend(const struct endpoint *to, __u8 protocol,
						      bool is_of_node, bool *is_refused)
{
	struct frontend_key key = {.address = to->address, .port = to->port, .protocol = protocol};
	struct frontend *found = bpf_map_lookup_elem(&frontends, &key);

	if (found)
		return found;
	__u32 *accepts = bpf_map_lookup_elem(&node_addresses, &to->address);

	if (accepts) {
		if (*accepts == FOR_NODE && !is_of_node)
			return NULL;
		key.address.word[3] = 0;
		if (!is_v4(&to->address)) {
			key.address.word[0] = 0;
			key.address.word[1] = 0;
			key.address.word[2] = 0;
		}
		return bpf_map_lookup_elem(&frontends, &key);
	}
	key.port = 0;
	key.protocol = 0;
	*is_refused = bpf_map_lookup_elem(&frontends, &key) != NULL;
	return NULL;
}

static __always_inline bool is_member(__u64 of, const struct endpoint *endpoint)
{
	struct member key = {.of = of, .endpoint = *endpoint};

	return bpf_map_lookup_elem(&members, &key) != NULL;
}

/* Any endpoint of a set, each as likely as the others. */
static __always_inline bool choose(__u64 number, struct endpoint *chosen)
{
	for (int i = 0; i < ATTEMPTS; i++) {
		struct set *set = bpf_map_lookup_elem(&sets, &number);

		if (!set)
			return false;
		/* List and length in one, and only then whose they are. */
		__u64 list = *(volatile __u64 *)&set->list;

		if (*(volatile __u64 *)&set->number != number)
			continue;
		__u32 count = list >> 32;
		struct slot slot = {.list = (__u32)list};

		if (count > 1)
			slot.index = bpf_get_prandom_u32() % count;
		struct endpoint *found = bpf_map_lookup_elem(&endpoints, &slot);

		if (found) {
			*chosen = *found;
			return true;
		}
	}
	return false;
}

/* As choose, but a client that was there within the time of affinity gets the same as before. */
static __always_inline bool choose_for(const struct frontend *frontend, __u64 set, __u64 namespace,
				       struct endpoint *chosen)
{
	if (!frontend->affinity)
		return choose(set, chosen);

	struct client client = {.port = frontend->port, .address = by_namespace(namespace)};
	struct remembered *known = bpf_map_lookup_elem(&affinities, &client);
	struct remembered now = {.seen = bpf_ktime_get_ns()};

	if (known && now.seen - known->seen <= frontend->affinity * 1000000000ULL &&
	    is_member(set, &known->endpoint))
		now.endpoint = known->endpoint;
	else if (!choose(set, &now.endpoint))
		return false;
	bpf_map_update_elem(&affinities, &client, &now, BPF_ANY);
	*chosen = now.endpoint;
	return true;
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

	if (set == PASS)
		return UNTOUCHED;
	if (set == REFUSE)
		return refusal;
	if (is_connecting)
		return choose_for(frontend, set, namespace, given) ? GIVEN : UNTOUCHED;

	/* Datagrams of a socket go on to the same endpoint as long as that serves. */
	struct datagrams flow = {.socket = bpf_get_socket_cookie(ctx), .peer = *to};
	struct endpoint *before = bpf_map_lookup_elem(&flows, &flow);

	if (before && is_member(~frontend->port, before)) {
		*given = *before;
	} else {
		if (!choose_for(frontend, set, namespace, given))
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

/* Keeps with the socket what it has asked for, so that getpeername and the proxy can tell. */
static __always_inline void remember(struct bpf_sock_addr *ctx, const struct endpoint *asked,
				     const struct endpoint *given)
{
	struct peer peer = {.asked = *asked, .given = *given};
	struct bpf_sock *socket = ctx->sk;

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

static __always_inline int refuse(void)
{
	bpf_set_retval(-ECONNREFUSED);
	return FAIL;
}

/* What a call answers, and with `given` what it is to go on with. */
static __always_inline int lead(struct bpf_sock_addr *ctx, const struct endpoint *to,
				bool is_connecting, struct endpoint *given, bool *is_given)
{
	switch (resolve(ctx, to, is_connecting, given)) {
	case REFUSED:
		return refuse();
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
	struct endpoint peer = {.address = v4(ctx->user_ip4), .port = (__be16)ctx->user_port};
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
	int answer = lead(ctx, &to, is_connecting, &given, &is_given);

	if (is_given)
		set_peer4(ctx, &given);
	return answer;
}

/* An IPv6 socket may ask for an IPv4 address; what it is given is one too. */
static __always_inline int lead6(struct bpf_sock_addr *ctx, bool is_connecting)
{
	struct endpoint to = peer6(ctx), given = {};
	bool is_given = false;
	int answer = lead(ctx, &to, is_connecting, &given, &is_given);

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

char _license[] SEC("license") = "GPL";
