//! Segments that connection tracking can't place. They are not translated back, so a client would see
//! them come from a pod that it knows nothing of, and its reset would end the pod's connection.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::AsRawFd;
use std::thread;
use std::time::Duration;

use model::Protocol;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, sendto, socket,
};
use serde_json::json;

use crate::hosts::{Host, Hosts, OUTSIDE, POD_B, VIP};
use crate::{cluster, programmed};

const LIMIT: Duration = Duration::from_secs(2);

/// Sends a segment with numbers that no connection is at.
fn send_segment(host: &Host, from: SocketAddrV4, to: SocketAddrV4) {
    let mut segment = Vec::new();
    segment.extend(from.port().to_be_bytes());
    segment.extend(to.port().to_be_bytes());
    segment.extend(0x0bad_cafe_u32.to_be_bytes());
    segment.extend(0x0bad_beef_u32.to_be_bytes());
    // 20 bytes of header; ACK and PSH; window; checksum, urgent pointer; a byte of data and padding.
    segment.extend([5 << 4, 0x18, 0x01, 0x00, 0, 0, 0, 0]);
    segment.extend(*b"x!");
    let sum = checksum(*from.ip(), *to.ip(), &segment);
    segment[16..18].copy_from_slice(&sum.to_be_bytes());
    host.run(|| {
        let raw =
            socket(AddressFamily::Inet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Tcp)
                .expect("root may send anything");
        sendto(raw.as_raw_fd(), &segment, &SockaddrIn::from(to), MsgFlags::empty()).unwrap();
    });
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

#[test]
fn a_segment_out_of_the_window_resets_nothing() {
    let hosts = Hosts::new();
    let _backend = programmed(&hosts, &cluster(json!({}), &[POD_B]));
    let server = SocketAddrV4::new(POD_B.parse().unwrap(), 8080);
    // The node's and the outside client's connections are masqueraded: the pod answers the node.
    for (what, host) in
        [("a pod", &hosts.pod_c), ("the node", &hosts.node), (OUTSIDE, &hosts.outside)]
    {
        let to = SocketAddr::new(VIP.parse().unwrap(), 80);
        let mut client = host.open(Protocol::Tcp, to, None, LIMIT).unwrap();
        let answer = client.ask(LIMIT).unwrap();
        let SocketAddr::V4(own) = client.local() else { panic!("{VIP} is IPv4") };
        // Masquerading may have changed the port; then the segment belongs to nothing.
        let seen = SocketAddrV4::new(answer.client.parse().unwrap(), own.port());
        for _ in 0..5 {
            send_segment(&hosts.pod_b, server, seen);
        }
        thread::sleep(Duration::from_millis(100));
        assert_eq!(client.ask(LIMIT).expect(what).server, POD_B, "{what}");
    }
}
