//! Everything of rtnetlink that is used, against the kernel, in namespaces of the test's own.

use std::path::PathBuf;

use ipnet::IpNet;

use super::*;
use crate::netns::Netns;
use crate::sysctl;

const PROTOCOL: u8 = 201;

/// Two named namespaces that end with the test.
struct Pair {
    paths: [PathBuf; 2],
    netns: [Netns; 2],
}

impl Pair {
    fn new(name: &str) -> Self {
        let paths = ["a", "b"].map(|end| {
            std::env::temp_dir().join(format!("kernel-route-{name}-{}-{end}", std::process::id()))
        });
        let netns = [0, 1].map(|i| {
            Netns::create(&paths[i]).expect("this test needs root: it makes network namespaces")
        });
        Self { paths, netns }
    }

    fn sockets(&self) -> [Rtnetlink; 2] {
        [0, 1].map(|i| Rtnetlink::open_in(&self.netns[i]).unwrap())
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        for path in &self.paths {
            Netns::delete(path).unwrap();
        }
    }
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

#[test]
fn a_name_is_a_namespace_until_it_is_deleted() {
    let path = std::env::temp_dir().join(format!("kernel-netns-{}", std::process::id()));
    let made = Netns::create(&path).expect("this test needs root: it makes a network namespace");
    assert_eq!(Netns::open(&path).unwrap().id().unwrap(), made.id().unwrap());
    assert_ne!(Netns::current().unwrap().id().unwrap(), made.id().unwrap());
    let inside = made.run(|| Netns::current().unwrap().id().unwrap()).unwrap();
    assert_eq!(inside, made.id().unwrap());
    let error = Netns::create(&path).unwrap_err();
    assert_eq!(error.errno(), Some(libc::EEXIST));
    Netns::delete(&path).unwrap();
    Netns::delete(&path).unwrap();
    assert!(!path.exists());
    std::fs::write(&path, "").unwrap();
    Netns::delete(&path).unwrap();
    assert!(!path.exists());
}

#[test]
fn sysctls_belong_to_the_namespace_of_the_thread() {
    let pair = Pair::new("sysctl");
    pair.netns[0].run(|| sysctl::write("net/ipv4/ip_forward", "1").unwrap()).unwrap();
    let read = |i: usize| pair.netns[i].run(|| sysctl::read("net/ipv4/ip_forward").unwrap());
    assert_eq!((read(0).unwrap().as_str(), read(1).unwrap().as_str()), ("1", "0"));
    let error = sysctl::read("net/no/such").unwrap_err();
    assert!(error.to_string().starts_with("read sysctl net/no/such"), "{error}");
}

#[test]
fn a_veth_pair_is_made_in_place_and_goes_as_one() {
    let pair = Pair::new("veth");
    let [mut a, mut b] = pair.sockets();
    let mac = Mac([2, 0, 0, 0, 0, 7]);
    let mine = VethEnd { mtu: Some(1400), ..VethEnd::new("left") };
    let other =
        VethEnd { netns: Some(&pair.netns[1]), mac: Some(mac), mtu: Some(1400), name: "right" };
    a.add_veth(mine, other).unwrap();
    assert_eq!(a.link("right").unwrap(), None);
    let right = b.expect_link("right").unwrap();
    assert_eq!((right.kind.as_deref(), right.mac, right.mtu), (Some("veth"), Some(mac), 1400));
    assert!(!right.is_up());
    b.set_up("right").unwrap();
    assert!(b.expect_link("right").unwrap().is_up());
    assert_eq!(a.add_veth(mine, other).unwrap_err().errno(), Some(libc::EEXIST));
    assert!(a.delete_link("left").unwrap());
    assert!(!a.delete_link("left").unwrap());
    assert_eq!(b.link("right").unwrap(), None);
}

#[test]
fn bridge_ports_names_and_moves() {
    let pair = Pair::new("bridge");
    let [mut a, mut b] = pair.sockets();
    a.add_bridge("br0").unwrap();
    let bridge = a.set_up("br0").unwrap();
    assert_eq!(bridge.kind.as_deref(), Some("bridge"));
    a.add_veth(VethEnd::new("p0"), VethEnd::new("p1")).unwrap();
    let port = a.expect_link("p0").unwrap().index;
    a.change_link(port, LinkChange { master: Some(bridge.index), ..LinkChange::default() })
        .unwrap();
    assert_eq!(a.expect_link("p0").unwrap().master, Some(bridge.index));
    a.change_link(port, LinkChange { master: Some(0), ..LinkChange::default() }).unwrap();
    assert_eq!(a.expect_link("p0").unwrap().master, None);
    let rename = LinkChange { name: Some("p2"), mtu: Some(1300), ..LinkChange::default() };
    a.change_link(port, rename).unwrap();
    let moved = LinkChange { netns: Some(&pair.netns[1]), ..LinkChange::default() };
    a.change_link(port, moved).unwrap();
    let mut names: Vec<_> = a.links().unwrap().into_iter().map(|l| l.name).collect();
    names.sort();
    assert_eq!(names, ["br0", "lo", "p1"]);
    assert_eq!(b.expect_link("p2").unwrap().mtu, 1300);
}

#[test]
fn addresses_of_both_families() {
    let pair = Pair::new("address");
    let [mut a, _] = pair.sockets();
    let lo = a.set_up("lo").unwrap().index;
    for address in ["10.1.2.3/32", "fd00::1/128"] {
        a.add_address(lo, net(address)).unwrap();
        a.add_address(lo, net(address)).unwrap();
        let expected = Address { index: lo, net: net(address) };
        assert!(a.addresses().unwrap().contains(&expected), "{address}");
        assert!(a.delete_address(lo, net(address)).unwrap());
        assert!(!a.addresses().unwrap().contains(&expected), "{address}");
        assert!(!a.delete_address(lo, net(address)).unwrap());
    }
}

/// Many addresses of both families, distinct.
fn many_addresses() -> Vec<IpNet> {
    let v4 = (0..3000u32).map(|i| IpNet::from(IpAddr::from((0x0a60_0000 + i).to_be_bytes())));
    let v6 = (0..3000u16).map(|i| IpNet::from(IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 1, i])));
    v4.chain(v6).collect()
}

#[test]
fn many_addresses_at_once() {
    let pair = Pair::new("addresses");
    let [mut a, _] = pair.sockets();
    let index = a.set_up("lo").unwrap().index;
    let wanted = many_addresses();
    let held = |a: &mut Rtnetlink| -> std::collections::BTreeSet<IpNet> {
        a.addresses_of("lo").unwrap().unwrap().into_iter().collect()
    };
    let before = held(&mut a);
    assert!(a.add_addresses(index, &wanted).unwrap().is_empty());
    assert!(a.add_addresses(index, &wanted).unwrap().is_empty(), "again is no error");
    let added: Vec<_> = held(&mut a).difference(&before).copied().collect();
    assert_eq!(added, wanted);
    assert_eq!(a.routes().unwrap(), [], "they lead to this host, not to networks");
    let (gone, kept) = wanted.split_at(1000);
    assert!(a.delete_addresses(index, gone).unwrap().is_empty());
    assert!(a.delete_addresses(index, gone).unwrap().is_empty(), "again is no error");
    let left: Vec<_> = held(&mut a).difference(&before).copied().collect();
    assert_eq!(left, kept);
    assert_eq!(a.addresses_of("nowhere").unwrap(), None);
}

#[test]
fn a_refused_address_is_told_and_keeps_back_no_other() {
    let pair = Pair::new("refused");
    let [mut a, _] = pair.sockets();
    let index = a.set_up("lo").unwrap().index;
    let mut nets = many_addresses();
    // Multicast addresses are nobody's own, and IPv6 says so.
    let bad = net("ff02::1:2/128");
    nets.insert(nets.len() - 1, bad);
    nets.push(bad);
    let refused = a.add_addresses(index, &nets).unwrap();
    assert_eq!(refused.iter().map(|r| r.net).collect::<Vec<_>>(), [bad, bad]);
    let text = refused[0].error.to_string();
    assert!(text.starts_with(&format!("add addresses to link {index}: ff02::1:2/128")), "{text}");
    assert!(a.addresses_of("lo").unwrap().unwrap().contains(&nets[nets.len() - 2]));
    let missing = a.add_addresses(9999, &nets[..2]).unwrap();
    assert_eq!(missing.len(), 2);
    assert_eq!(missing[0].error.errno(), Some(libc::ENODEV));
}

#[test]
fn a_dummy_is_made_once_and_is_no_other_link() {
    let pair = Pair::new("dummy");
    let [mut a, _] = pair.sockets();
    let made = match a.ensure_dummy("dummy7") {
        // Not `EEXIST`: that is what a link of that name would be.
        Err(error) if error.errno() == Some(libc::EOPNOTSUPP) => {
            eprintln!("not run here: this kernel has no dummy links");
            return;
        }
        made => made.unwrap(),
    };
    assert_eq!((made.name.as_str(), made.kind.as_deref()), ("dummy7", Some("dummy")));
    assert!(!made.is_up());
    assert_eq!(a.ensure_dummy("dummy7").unwrap(), made);
    a.set_up("dummy7").unwrap();
    assert!(a.ensure_dummy("dummy7").unwrap().is_up());
    assert!(a.delete_link("dummy7").unwrap());
}

#[test]
fn a_name_of_another_link_makes_no_dummy() {
    let pair = Pair::new("no-dummy");
    let [mut a, _] = pair.sockets();
    a.add_veth(VethEnd::new("left"), VethEnd::new("right")).unwrap();
    for (name, kind) in [("left", "veth"), ("lo", "hardware")] {
        let error = a.ensure_dummy(name).unwrap_err();
        assert_eq!(error.errno(), Some(libc::EEXIST));
        let text = error.to_string();
        assert!(text.contains(&format!("is the name of a {kind} link")), "{text}");
    }
}

#[test]
fn routes_are_listed_as_they_were_set() {
    let pair = Pair::new("routes");
    let [mut a, _] = pair.sockets();
    let end = VethEnd { netns: Some(&pair.netns[1]), ..VethEnd::new("peer") };
    a.add_veth(VethEnd::new("eth0"), end).unwrap();
    let eth0 = a.set_up("eth0").unwrap().index;
    a.add_address(eth0, net("10.1.0.1/32")).unwrap();
    a.add_address(eth0, net("fd00::1/128")).unwrap();
    let gateway = |address: &str| NextHop::Gateway {
        address: address.parse().unwrap(),
        link: Some(eth0),
        onlink: true,
    };
    let mut wanted = vec![
        Route::new(net("10.1.0.2/32"), NextHop::Link(eth0), PROTOCOL),
        Route {
            source: Some("10.1.0.1".parse().unwrap()),
            ..Route::new(net("0.0.0.0/0"), gateway("169.254.1.1"), PROTOCOL)
        },
        Route::new(net("10.2.0.0/24"), NextHop::Blackhole, PROTOCOL),
        Route::new(net("10.3.0.0/24"), NextHop::Unreachable, PROTOCOL),
        Route::new(net("10.4.0.0/24"), gateway("fe80::1"), PROTOCOL),
        Route { metric: 50, ..Route::new(net("fd01::/64"), NextHop::Link(eth0), PROTOCOL) },
        Route { metric: 50, ..Route::new(net("::/0"), gateway("fe80::1"), PROTOCOL) },
    ];
    for route in &wanted {
        a.replace_route(route).unwrap();
        a.replace_route(route).unwrap();
    }
    let ours = |a: &mut Rtnetlink| {
        let mut routes: Vec<_> =
            a.routes().unwrap().into_iter().filter(|r| r.protocol == PROTOCOL).collect();
        routes.sort();
        routes
    };
    wanted.sort();
    assert_eq!(ours(&mut a), wanted);
    for route in &wanted {
        assert!(a.delete_route(route).unwrap(), "{route}");
        assert!(!a.delete_route(route).unwrap(), "{route}");
    }
    assert_eq!(ours(&mut a), []);
}

#[test]
fn a_replaced_route_has_one_next_hop() {
    let pair = Pair::new("replace");
    let [mut a, _] = pair.sockets();
    let destination = net("10.9.0.0/24");
    let lo = a.set_up("lo").unwrap().index;
    a.replace_route(&Route::new(destination, NextHop::Blackhole, PROTOCOL)).unwrap();
    let replaced = Route::new(destination, NextHop::Link(lo), PROTOCOL);
    a.replace_route(&replaced).unwrap();
    assert_eq!(a.routes().unwrap(), [replaced]);
}

#[test]
fn permanent_neighbours_carry_packets_without_asking() {
    let pair = Pair::new("neighbour");
    let sockets = &mut pair.sockets();
    let macs = [Mac([2, 0, 0, 0, 0, 1]), Mac([2, 0, 0, 0, 0, 2])];
    let addresses = ["10.1.0.1", "10.1.0.2"];
    let end = |i: usize| VethEnd {
        netns: Some(&pair.netns[i]),
        mac: Some(macs[i]),
        ..VethEnd::new("eth0")
    };
    sockets[0].add_veth(end(0), end(1)).unwrap();
    for i in [0, 1] {
        let other: IpAddr = addresses[1 - i].parse().unwrap();
        let link = sockets[i].set_up("eth0").unwrap().index;
        sockets[i].add_address(link, net(&format!("{}/32", addresses[i]))).unwrap();
        sockets[i].set_neighbour(link, other, macs[1 - i]).unwrap();
        let route = Route::new(IpNet::from(other), NextHop::Link(link), PROTOCOL);
        sockets[i].replace_route(&route).unwrap();
    }
    let bind = |i: usize| {
        let address = (addresses[i], 7000);
        pair.netns[i].run(move || std::net::UdpSocket::bind(address).unwrap()).unwrap()
    };
    let (a, b) = (bind(0), bind(1));
    b.set_read_timeout(Some(std::time::Duration::from_millis(100))).unwrap();
    let mut buffer = [0; 8];
    // The kernel notices a moment after they are up that both ends are, and drops what is sent
    // before (linkwatch).
    let attempts = (0..50).map(|_| {
        a.send_to(b"ahoy", (addresses[1], 7000)).unwrap();
        b.recv_from(&mut buffer)
    });
    let (length, from) = attempts.flatten().next().unwrap();
    assert_eq!((&buffer[..length], from.ip().to_string().as_str()), (&b"ahoy"[..], addresses[0]));
}
