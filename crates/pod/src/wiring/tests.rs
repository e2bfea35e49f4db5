//! Pods wired to a node made for the test: packets have to arrive, and nothing may stay.

use std::net::{IpAddr, UdpSocket};
use std::path::PathBuf;
use std::time::Duration;

use kernel::netns::Netns;
use kernel::route::{NextHop, Route, Rtnetlink};

use super::*;

/// Named namespaces that end with the test.
struct Space {
    path: PathBuf,
    netns: Netns,
}

impl Space {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("pod-wiring-{name}-{}", std::process::id()));
        let netns = Netns::create(&path).expect("this test needs root: it makes netns");
        Self { path, netns }
    }

    fn rtnetlink(&self) -> Rtnetlink {
        Rtnetlink::open_in(&self.netns).unwrap()
    }

    fn udp(&self, address: IpAddr) -> UdpSocket {
        let socket = self.netns.run(|| UdpSocket::bind((address, 7000)).unwrap()).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        socket
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        Netns::delete(&self.path).unwrap();
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn attach_to(node: &Space, sandbox: &str, pod: &Space, addresses: &[IpAddr]) -> crate::Result<()> {
    let attachment = Attachment { sandbox, netns: &pod.netns, addresses, mtu: 1400 };
    let mut rtnetlink = node.rtnetlink();
    node.netns.run(|| attach(&mut rtnetlink, &attachment)).unwrap()
}

/// Sends until it is received: what is sent in the first moment of a link may be lost.
fn exchange(from: &UdpSocket, from_address: IpAddr, to: &UdpSocket, to_address: IpAddr) {
    let is_received = || {
        from.send_to(b"ahoy", (to_address, 7000)).unwrap();
        let mut buffer = [0; 8];
        let received = to.recv_from(&mut buffer);
        received.is_ok_and(|(length, source)| {
            (&buffer[..length], source.ip()) == (&b"ahoy"[..], from_address)
        })
    };
    assert!((0..50).any(|_| is_received()), "{from_address} does not reach {to_address}");
}

#[test]
fn pods_of_a_node_reach_each_other_and_the_node_in_both_families() {
    let (node, a, b) = (Space::new("node"), Space::new("a"), Space::new("b"));
    let mut rtnetlink = node.rtnetlink();
    node.netns.run(|| prepare_node(&mut rtnetlink, true)).unwrap().unwrap();
    let addresses = |n: u8| [ip(&format!("10.244.0.{n}")), ip(&format!("fd00:244::{n}"))];
    attach_to(&node, "a", &a, &addresses(2)).unwrap();
    attach_to(&node, "b", &b, &addresses(3)).unwrap();
    for (from, to) in addresses(2).into_iter().zip(addresses(3)) {
        let (left, right) = (a.udp(from), b.udp(to));
        exchange(&left, from, &right, to);
        exchange(&right, to, &left, from);
        // The pod reaches itself by its own address.
        exchange(&left, from, &left, from);
    }
    let link = a.rtnetlink().expect_link(POD_LINK).unwrap();
    assert_eq!((link.mtu, link.is_up()), (1400, true));
    node.netns
        .run(|| {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.send_to(b"ahoy", "10.244.0.9:7000").unwrap_err();
        })
        .unwrap();
    for sandbox in ["a", "b"] {
        detach(&mut rtnetlink, sandbox).unwrap();
        detach(&mut rtnetlink, sandbox).unwrap();
    }
    let names: Vec<_> = rtnetlink.links().unwrap().into_iter().map(|link| link.name).collect();
    assert_eq!(names, ["lo"]);
    assert_eq!(rtnetlink.routes().unwrap(), []);
}

#[test]
fn a_failed_attachment_leaves_nothing() {
    let (node, a) = (Space::new("fail-node"), Space::new("fail-a"));
    let multicast = ip("ff02::1");
    attach_to(&node, "a", &a, &[ip("10.244.0.2"), multicast]).unwrap_err();
    assert_eq!(node.rtnetlink().links().unwrap().len(), 1);
    assert_eq!(a.rtnetlink().links().unwrap().len(), 1);
    attach_to(&node, "a", &a, &[ip("10.244.0.2")]).unwrap();
}

#[test]
fn host_side_names_fit_and_differ() {
    let names: std::collections::HashSet<_> =
        (0..2000).map(|n| host_link(&format!("3f0c9a52-{n}"))).collect();
    assert_eq!(names.len(), 2000);
    assert!(names.iter().all(|name| name.len() == 15 && name.starts_with(HOST_LINK_PREFIX)));
}

#[test]
fn routes_of_nodes_follow_what_is_desired() {
    let (node, other) = (Space::new("routes-node"), Space::new("routes-other"));
    let mut rtnetlink = node.rtnetlink();
    // A link to the other nodes, wired as if to a pod.
    attach_to(&node, "uplink", &other, &[ip("10.9.0.2")]).unwrap();
    let uplink = rtnetlink.expect_link(&host_link("uplink")).unwrap().index;
    rtnetlink.add_address(uplink, "10.9.0.1/24".parse().unwrap()).unwrap();
    let foreign = Route::new("10.77.0.0/24".parse().unwrap(), NextHop::Link(uplink), 4);
    rtnetlink.replace_route(&foreign).unwrap();
    let routes = |others: &[(&str, &str)]| NodeRoutes {
        others: others.iter().map(|(range, via)| (range.parse().unwrap(), ip(via))).collect(),
        own: vec!["10.244.0.0/24".parse().unwrap()],
    };
    let mut settle = |desired: &NodeRoutes| {
        let changes = desired.diff(&rtnetlink.routes().unwrap());
        changes.apply(&mut rtnetlink).unwrap();
        let held = rtnetlink.routes().unwrap();
        assert!(desired.diff(&held).is_empty(), "{}", desired.diff(&held));
        assert!(held.contains(&foreign));
        (changes.to_string(), held.iter().filter(|r| r.protocol == ROUTE_PROTOCOL).count())
    };
    let two = routes(&[("10.244.1.0/24", "10.9.0.11"), ("10.244.2.0/24", "10.9.0.12")]);
    let (changes, held) = settle(&two);
    assert!(changes.contains("+ route 10.244.1.0/24 via 10.9.0.11\n"), "{changes}");
    // Those two, the node's own range, and the "pod".
    assert_eq!(held, 4);
    let (changes, held) = settle(&routes(&[("10.244.2.0/24", "10.9.0.13")]));
    assert_eq!(
        changes,
        "- route 10.244.1.0/24 via 10.9.0.11\n+ route 10.244.2.0/24 via 10.9.0.13\n"
    );
    assert_eq!(held, 3);
    let unreachable = routes(&[("10.244.3.0/24", "192.0.2.1"), ("10.244.2.0/24", "10.9.0.13")]);
    let changes = unreachable.diff(&rtnetlink.routes().unwrap());
    let failures = changes.apply(&mut rtnetlink).unwrap_err();
    assert_eq!(failures.len(), 1);
    assert!(failures[0].to_string().contains("10.244.3.0/24 via 192.0.2.1"), "{}", failures[0]);
}
