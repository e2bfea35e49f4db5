//! Connection tracking of a real kernel, in a network namespace of the test's own: needs root.

use std::net::{SocketAddr, UdpSocket};

use kernel::conntrack::{self, Filter, Transport};
use kernel::netlink::{Protocol, Socket};
use kernel::nftables::{
    BaseChain, Batch, Chain, ChainType, ConntrackKey, Expression, Family, Hook, Operation,
    Register, Rule, Table,
};
use kernel::route::Rtnetlink;

/// A rule that asks for a connection's state: without one, the kernel tracks nothing.
fn track_connections(socket: &mut Socket, family: Family) {
    let table = Table { family, name: "test".into() };
    let base = BaseChain { chain_type: ChainType::Filter, hook: Hook::Output, priority: 0 };
    let chain = Chain { name: "output".into(), base: Some(base) };
    let ask = Expression::Conntrack { key: ConntrackKey::State, into: Register(0) };
    let rule = Rule { comment: "track".to_owned(), expressions: vec![ask] };
    let mut batch = Batch::new();
    batch.push(Operation::AddTable(table.clone()));
    batch.push(Operation::AddChain(table.clone(), chain));
    batch.push(Operation::AddRule(table, "output".into(), rule));
    batch.run(socket, None).unwrap();
}

fn forgets_only_what_is_stale(family: Family, loopback: &str) {
    let body = || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)
            .expect("this test needs root: it makes a network namespace");
        Rtnetlink::open().unwrap().set_up("lo").unwrap();
        let mut socket = Socket::open(Protocol::Netfilter).unwrap();
        track_connections(&mut socket, family);
        let bind = || UdpSocket::bind((loopback, 0)).unwrap();
        let (kept, stale, client) = (bind(), bind(), bind());
        for server in [&kept, &stale] {
            client.send_to(b"x", server.local_addr().unwrap()).unwrap();
        }

        let list = |socket: &mut Socket, transport| {
            conntrack::entries(socket, &Filter::all(family, transport), |_| true).unwrap()
        };
        let entries = list(&mut socket, Transport::Udp);
        assert_eq!(entries.len(), 2, "{entries:?}");
        for entry in &entries {
            assert_eq!(entry.original.source, client.local_addr().unwrap());
            assert_eq!(entry.reply.source, entry.original.destination);
            assert_eq!(entry.reply.destination, entry.original.source);
        }
        assert_eq!(list(&mut socket, Transport::Tcp), []);

        let stale = stale.local_addr().unwrap();
        let to = |address: SocketAddr| Filter {
            address: Some(address.ip()),
            port: Some(address.port()),
            ..Filter::all(family, Transport::Udp)
        };
        let forget = |socket: &mut Socket, filter| {
            conntrack::delete_stale(socket, &filter, |entry| entry.original.destination == stale)
        };
        assert_eq!(forget(&mut socket, to(kept.local_addr().unwrap())).unwrap(), 0);
        assert_eq!(forget(&mut socket, to(stale)).unwrap(), 1);
        let left = list(&mut socket, Transport::Udp);
        assert_eq!(left.len(), 1);
        assert_eq!(left[0].original.destination, kept.local_addr().unwrap());
        assert!(conntrack::delete(&mut socket, &left[0]).unwrap());
        assert!(!conntrack::delete(&mut socket, &left[0]).unwrap(), "it is gone already");
    };
    std::thread::scope(|scope| scope.spawn(body).join().unwrap());
}

#[test]
fn forgets_only_what_is_stale_v4() {
    forgets_only_what_is_stale(Family::Ipv4, "127.0.0.1");
}

#[test]
fn forgets_only_what_is_stale_v6() {
    forgets_only_what_is_stale(Family::Ipv6, "::1");
}
