// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * Everything that runs in the kernel, in one file for the loader: programs of both kinds share their maps.
 *
 * address.h   addresses of both families in one form
 * portolan.h  keys and values of maps, as the proxy has them too
 * tables.h    what is done with connections, and how an endpoint is found
 * sockets.h   programs at sockets
 * packet.h    where headers of a packet are, and how addresses in them are changed
 * ranges.h    ranges of addresses: pods, virtual addresses, who may connect
 * marks.h     which packets may be about a Service at all
 * connections.h how connections at links begin, go on and end
 * refusal.h   telling a sender that nobody is there
 * errors.h    ICMP errors about packets that were changed
 * forward.h   sending a packet on past the node's stack, and which way that is
 * devices.h   programs at links
 */
#include "devices.h"
#include "sockets.h"

char _license[] SEC("license") = "GPL";
