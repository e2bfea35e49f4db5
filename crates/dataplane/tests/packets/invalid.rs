//! Segments that connection tracking can't place. They are not translated back, so a client would see
//! them come from a pod that it knows nothing of, and its reset would end the pod's connection.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::{AsRawFd, OwnedFd};
use std::thread;
use std::time::Duration;

use model::Protocol;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, recv, sendto, socket,
};
use serde_json::json;

use crate::hosts::{Hosts, OUTSIDE, POD_B, VIP};
use crate::planes::{Plane, on_every_plane};
use crate::{cluster, programmed};

on_every_plane!(a_segment_out_of_the_window_resets_nothing);

const LIMIT: Duration = Duration::from_secs(2);
/// The endpoint's port.
const PORT: u16 = 8080;
/// Farther than any window.
const FAR: u32 = 0x2000_0000;

/// Where a connection is, as its server sees it.
#[derive(Debug, Clone, Copy)]
struct Position {
    client: SocketAddrV4,
    /// What the server sends next, and what it expects next.
    next_sent: u32,
    next_expected: u32,
}

/// A copy of the segments that a host gets, and a way to send others.
struct Wire(OwnedFd);

impl Wire {
    /// Of the calling thread's network namespace.
    fn tap() -> Self {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let raw = socket(AddressFamily::Inet, SockType::Raw, flags, SockProtocol::Tcp);
        Self(raw.expect("root may hear and send anything"))
    }

    /// Where the last connection is whose segments came in.
    fn position(&self) -> Position {
        let mut buffer = [0; 65_536];
        let mut last = None;
        while let Ok(length) = recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            let packet = &buffer[..length];
            let segment = &packet[usize::from(packet[0] & 15) * 4..];
            let port = |at: usize| u16::from_be_bytes([segment[at], segment[at + 1]]);
            let number =
                |at: usize| u32::from_be_bytes(segment[at..at + 4].try_into().expect("four bytes"));
            if port(2) != PORT {
                continue;
            }
            let source = Ipv4Addr::new(packet[12], packet[13], packet[14], packet[15]);
            let payload = segment.len() - usize::from(segment[12] >> 4) * 4;
            let syn = u32::from(segment[13] >> 1 & 1);
            last = Some(Position {
                client: SocketAddrV4::new(source, port(0)),
                next_sent: number(8),
                next_expected: number(4).wrapping_add(payload as u32 + syn),
            });
        }
        last.expect("the client has sent something")
    }

    /// Sends a segment that is far out of the window but acknowledges what the server has heard, as a
    /// late copy could. A host that does not know the connection answers with a reset that fits in it.
    fn send_stray(&self, server: SocketAddrV4, at: Position) {
        let mut segment = Vec::new();
        segment.extend(server.port().to_be_bytes());
        segment.extend(at.client.port().to_be_bytes());
        segment.extend(at.next_sent.wrapping_add(FAR).to_be_bytes());
        segment.extend(at.next_expected.to_be_bytes());
        // 20 bytes of header; ACK and PSH; window; checksum, urgent pointer; two bytes of data.
        segment.extend([5 << 4, 0x18, 0x01, 0x00, 0, 0, 0, 0]);
        segment.extend(*b"x!");
        let sum = checksum(*server.ip(), *at.client.ip(), &segment);
        segment[16..18].copy_from_slice(&sum.to_be_bytes());
        let to = SockaddrIn::from(at.client);
        sendto(self.0.as_raw_fd(), &segment, &to, MsgFlags::empty()).unwrap();
    }
}

/// RFC 9293, 3.1: over a pseudo header and the segment.
fn checksum(from: Ipv4Addr, to: Ipv4Addr, segment: &[u8]) -> u16 {
    let mut bytes = [from.octets(), to.octets()].concat();
    bytes.extend([0, 6]);
    bytes.extend((segment.len() as u16).to_be_bytes());
    bytes.extend(segment);
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]));
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded & 0xffff) + (folded >> 16)) as u16
}

fn a_segment_out_of_the_window_resets_nothing(plane: Plane) {
    let hosts = Hosts::new();
    let _backend = programmed(plane, &hosts, &cluster(json!({}), &[POD_B]));
    let server = SocketAddrV4::new(POD_B.parse().unwrap(), PORT);
    // The node's and the outside client's connections are masqueraded: the pod answers the node.
    for (what, host) in
        [("a pod", &hosts.pod_c), ("the node", &hosts.node), (OUTSIDE, &hosts.outside)]
    {
        let wire = hosts.pod_b.run(Wire::tap);
        let to = SocketAddr::new(VIP.parse().unwrap(), 80);
        let mut client = host.open(Protocol::Tcp, to, None, LIMIT).unwrap();
        client.ask(LIMIT).unwrap();
        // The acknowledgement of the answer is still on its way.
        thread::sleep(Duration::from_millis(100));
        let position = wire.position();
        for _ in 0..5 {
            wire.send_stray(server, position);
        }
        thread::sleep(Duration::from_millis(100));
        assert_eq!(client.ask(LIMIT).expect(what).server, POD_B, "{what}");
    }
}
