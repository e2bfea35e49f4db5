/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * What the programs in the kernel and the proxy say to each other: the keys and values of maps.
 *
 * crates/dataplane/src/ebpf/layout.rs has the same in Rust; a test compares the two by BTF. Numbers are in
 * the machine's order unless they are of type __be*. There is no implicit padding.
 */
#ifndef PORTOLAN_H
#define PORTOLAN_H

#include <linux/types.h>

/* An IPv6 address in network order; an IPv4 address is ::ffff:a.b.c.d. */
struct address {
	__be32 word[4];
};

/* An address with a port. */
struct endpoint {
	struct address address;
	__be16 port;
	__u16 zero;
};

/*
 * Key of `frontends`: what a connection is made to.
 *
 * Any address of the node is the unspecified address of the family (:: or ::ffff:0.0.0.0). A virtual
 * address as a whole has port 0 and protocol 0: what has no frontend there is refused.
 */
struct frontend_key {
	struct address address;
	__be16 port;
	__u8 protocol;
	__u8 zero;
};

/* What a frontend does with connections of some origin: the number of an endpoint set, or one of these. */
#define REFUSE 0ULL
/* They vanish. */
#define DROP (~0ULL)

/* Value of `frontends`. */
struct frontend {
	__u64 pod;      /* what is done with connections from pods, */
	__u64 node;     /* from the node itself, */
	__u64 outside;  /* and from anywhere else */
	__u64 port;     /* number of the Service's port; frontends of one port share affinity */
	__u64 sources;  /* by which `sources` has who may connect; 0: everybody may */
	__u32 affinity; /* seconds that a silent client keeps its endpoint for; 0: none is kept */
	__u32 flags;
};

/* Packets of connections from there get an address of the node as their source. */
#define MASQUERADES_PODS 1
#define MASQUERADES_OUTSIDE 2
/* Clients from outside get an endpoint by a hash of themselves. */
#define BY_CLIENT 4

/*
 * Value of `sets`, by number of the set: which list of endpoints it has at the moment.
 *
 * The kernel uses the memory of a value that was replaced for the next one of the map, so that a program
 * may find another set's value where it was still looking at this one's: `number` tells.
 */
struct set {
	__u64 number;
	__u64 list; /* in the lower half the number of the list, in the upper half how many it has, not 0 */
};

/*
 * Key of `endpoints`: the n-th of a list. Lists never change: a changed set gets another one, and the old
 * one goes some time after that.
 */
struct slot {
	__u32 list;
	__u32 index;
};

/*
 * Value of `tables`, whose keys are slots too: a part of the table by which clients of a list are given endpoints
 * (maglev.rs), each entry the place of one in the list.
 */
#define BLOCK 64

struct block {
	__u16 places[BLOCK];
};

/* How many entries there are, up to how many endpoints. */
#define FEW 32
#define FEW_ENTRIES 1024
#define MANY 512
#define MANY_ENTRIES 16384
#define MOST_ENTRIES 65536

/*
 * Key of `members`, which answers whether somebody may go on with the endpoint that he was sent to before.
 * There are, with affinity, the endpoints of a set by its number, which a client may connect to anew; and for
 * UDP those of a port by the complement of its number, which still serve.
 */
struct member {
	__u64 of;
	struct endpoint endpoint;
	__u32 zero;
};

/* Key of `affinities`. */
struct client {
	__u64 port;
	/* A source address, or 0:0:ffff:fffe: with the cookie of a socket's network namespace. */
	struct address address;
};

/* Value of `affinities`. */
struct remembered {
	struct endpoint endpoint;
	__u32 zero;
	__u64 seen; /* nanoseconds, CLOCK_MONOTONIC */
};

/* Key of `flows` and `replies`: a UDP socket that is not connected, and whom it talks to. */
struct datagrams {
	__u64 socket; /* its cookie */
	struct endpoint peer;
	__u32 zero;
};

/* Value of `peers`, kept with each connected UDP socket. */
struct peer {
	struct endpoint asked; /* what connect(2) was told */
	struct endpoint given; /* where it was sent */
};

/* Value of `shown`: what a TCP socket was told. */
struct shown {
	__u64 socket; /* its cookie; 0 while this is written */
	struct peer peer;
};

/* How many sockets have a place in `shown`, by their cookies, which are counted up. */
#define SHOWN 65536

/* The one value of `node`. */
struct node {
	__u64 netns; /* cookie of the node's network namespace */
	__u32 pods;  /* which families pods can be told in: DETECTS_* */
	/* Source ports of masqueraded connections, in two ranges: the first of each, and how many there are. */
	__u16 low_port;
	__u16 low_ports;
	__u16 high_port;
	__u16 high_ports;
	__u32 flags;
};

/* Nobody here filters what is forwarded: it may be sent on without being asked about. */
#define MAY_REDIRECT 1
/* What TCP sockets have asked for is kept with them, so that their connections can be ended. */
#define KEEPS_TCP 2

#define DETECTS_V4 1
#define DETECTS_V6 2

/*
 * Value of `node_addresses`, by address: whether node ports are accepted on it for everybody, or for sockets
 * of the node's own network namespace alone, as on its loopback addresses.
 */
#define FOR_ALL 0
#define FOR_NODE 1

/*
 * Key of `translations`: a packet as it is where it is translated. That is where it comes in, and for what goes
 * through the node's stack also where it leaves: its source is changed there, and what is between sees the client
 * and the endpoint, and routes by them.
 */
struct tuple {
	struct endpoint source;
	struct endpoint destination;
	__u8 protocol;
	__u8 hook; /* AT_INGRESS or AT_EGRESS */
	__u16 zero;
};

#define AT_INGRESS 0
#define AT_EGRESS 1

/* Value of `translations`: what becomes of the packet. Where it leaves, that is its source only. */
struct translation {
	struct endpoint source;
	struct endpoint destination;
	__u32 flags;
	__u32 zero;
	__u64 port; /* number of the Service's port */
	__u64 seen; /* nanoseconds, CLOCK_MONOTONIC */
};

/* It is of the client's packets, not of answers. */
#define IS_REQUEST 1
/* Its source is to be an address of the node. */
#define TO_BE_MASQUERADED 2
/* More than the handshake of TCP has passed. */
#define IS_ESTABLISHED 4
/* A FIN of TCP has passed, or a RST. */
#define IS_CLOSING 8
#define IS_RESET 16
/*
 * It was begun by another data plane. Whoever tracks connections would see it from its middle, and may take that
 * for a mistake: its packets are not shown to anybody.
 */
#define IS_TAKEN_OVER 32
/* The packet that comes now is the last one of the connection. */
#define IS_OVER 64
/* Packets have gone through the node's stack: there is an element for where they leave, too. */
#define IS_PREPARED 128

/* Value of `devices`, by number of the link. */
struct device {
	struct address v4; /* what connections that leave by it are masqueraded with */
	struct address v6;
	__u32 flags;
};

/* What comes by it comes from pods. */
#define OF_PODS 1
/* It is one end of a veth pair whose other end is in another network namespace, and nothing is between. */
#define HAS_PEER 2

/* Key of `pods` and `virtual_ranges`: a range of addresses, for the longest match. */
struct range {
	__u32 length; /* of the address, in bits */
	struct address address;
};

/* `marked` and `met` have 2 to the power of this bits, in words of 64. */
#define MARK_BITS 20
#define MARKS (1 << MARK_BITS >> 6)

/* Key of `sources`: who may connect to a frontend. */
struct source_range {
	__u32 length;   /* of both that follow, in bits */
	__u32 of[2];    /* what the frontend has in `sources`, in halves, so that there is no gap */
	struct address address;
};

#endif
