//! The packet filter of a real kernel, in network namespaces of the tests' own: needs root.

use std::time::Duration;

use kernel::netlink::{Protocol, Socket};
use kernel::nftables::{
    self, BaseChain, Batch, Bulk, Chain, ChainType, Changed, Comparison, ConntrackKey,
    DynamicSetOperation, Element, ElementRef, Expression, Family, FibAddress, Hook, MetaKey,
    Monitor, Notification, Operation, Outcome, PayloadBase, Refused, Register, Rule, Set, SetValue,
    Table, Value, Verdict,
};

fn in_new_namespace<T: Send>(test: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)
                .expect("this test needs root: it makes a network namespace");
            test()
        });
        thread.join().unwrap()
    })
}

fn table(family: Family) -> Table {
    Table { family, name: "test".into() }
}

fn set(name: &str, key: Vec<u32>, value: SetValue) -> Set {
    let name = name.into();
    Set { name, key, is_interval: false, value, timeout: None, shown_as: (0, 0) }
}

fn batch(operations: impl IntoIterator<Item = Operation>) -> Batch {
    let mut batch = Batch::new();
    operations.into_iter().for_each(|operation| batch.push(operation));
    batch
}

/// One rule of every kind of expression, as the kernel accepts them together.
fn every_expression(family: Family) -> Vec<Expression> {
    let r = Register;
    let length = family.address_length();
    let words = u8::try_from(length / 4).unwrap();
    vec![
        Expression::Conntrack { key: ConntrackKey::Status, into: r(0) },
        Expression::Mask { from: r(0), into: r(0), mask: 32u32.to_ne_bytes().to_vec() },
        Expression::Compare {
            register: r(0),
            comparison: Comparison::Equal,
            value: 0u32.to_ne_bytes().to_vec(),
        },
        Expression::Meta { key: MetaKey::InputInterface, into: r(0) },
        Expression::AddressType { of: FibAddress::Destination, into: r(0) },
        Expression::Payload { base: PayloadBase::Network, offset: 12, length, into: r(0) },
        Expression::Meta { key: MetaKey::TransportProtocol, into: r(words) },
        Expression::Payload {
            base: PayloadBase::Transport,
            offset: 2,
            length: 2,
            into: r(words + 1),
        },
        Expression::Lookup { set: "ranges".into(), key: r(0), into: Outcome::NotMember },
        Expression::Lookup { set: "map".into(), key: r(0), into: Outcome::Register(r(6)) },
        Expression::DynamicSet {
            set: "seen".into(),
            operation: DynamicSetOperation::Update,
            key: r(0),
            value: Some(r(6)),
            timeout: Some(Duration::from_secs(5)),
        },
        Expression::Random { modulus: 3, into: r(7) },
        Expression::DestinationNat { family, address: r(0), port: r(words + 1) },
    ]
}

fn everything(family: Family) -> Batch {
    let t = table(family);
    let length = family.address_length();
    let address = vec![1u8; length as usize];
    let key = [address.as_slice(), &[6, 0, 0, 0, 0, 80, 0, 0]].concat();
    let nat = BaseChain { chain_type: ChainType::Nat, hook: Hook::Prerouting, priority: -100 };
    let rule = Rule { comment: "everything".to_owned(), expressions: every_expression(family) };
    let reject = Rule {
        comment: "no".to_owned(),
        expressions: vec![Expression::RejectPortUnreachable(family)],
    };
    let reset = Rule {
        comment: "no TCP".to_owned(),
        expressions: vec![
            Expression::Meta { key: MetaKey::TransportProtocol, into: Register(0) },
            Expression::Compare {
                register: Register(0),
                comparison: Comparison::Equal,
                value: vec![6],
            },
            Expression::RejectTcpReset,
        ],
    };
    let fields = vec![length, 1, 2];
    batch([
        Operation::AddTable(t.clone()),
        Operation::AddChain(t.clone(), Chain { name: "entry".into(), base: Some(nat) }),
        Operation::AddChain(t.clone(), Chain { name: "refuse".into(), base: None }),
        Operation::AddSet(t.clone(), set("map", fields.clone(), SetValue::Data(8))),
        Operation::AddSet(t.clone(), set("verdicts", vec![4], SetValue::Verdict)),
        Operation::AddSet(
            t.clone(),
            Set { is_interval: true, ..set("ranges", fields.clone(), SetValue::Nothing) },
        ),
        Operation::AddSet(
            t.clone(),
            Set {
                timeout: Some(Duration::from_secs(60)),
                ..set("seen", fields, SetValue::Data(8))
            },
        ),
        Operation::AddElements(
            t.clone(),
            "map".into(),
            vec![Element::data(key.clone(), *b"12345678")],
        ),
        Operation::AddElements(
            t.clone(),
            "ranges".into(),
            vec![Element { key_end: Some(key.clone().into()), ..Element::member(key) }],
        ),
        Operation::AddElements(
            t.clone(),
            "verdicts".into(),
            vec![Element::verdict([7; 4], Verdict::Goto("refuse".into()))],
        ),
        Operation::AddRule(t.clone(), "entry".into(), rule),
        Operation::AddRule(t.clone(), "refuse".into(), reset),
        Operation::AddRule(t, "refuse".into(), reject),
    ])
}

#[test]
fn what_is_written_is_read_back() {
    for family in [Family::Ipv4, Family::Ipv6] {
        in_new_namespace(|| {
            let mut socket = Socket::open(Protocol::Netfilter).unwrap();
            let t = table(family);
            assert!(!nftables::table_exists(&mut socket, &t).unwrap());
            everything(family).run(&mut socket, None).unwrap();
            assert!(nftables::table_exists(&mut socket, &t).unwrap());

            let chains = nftables::chains(&mut socket, &t).unwrap();
            let entry = chains.iter().find(|c| &*c.name == "entry").unwrap();
            let base = entry.base.unwrap();
            assert_eq!((base.hook, base.priority), (Hook::Prerouting, -100));
            assert!(chains.iter().any(|c| &*c.name == "refuse" && c.base.is_none()));

            let rules = nftables::rules(&mut socket, &t).unwrap();
            let comments: Vec<_> =
                rules.iter().map(|r| (&*r.chain, r.comment.as_deref().unwrap())).collect();
            assert_eq!(comments, [("entry", "everything"), ("refuse", "no TCP"), ("refuse", "no")]);

            let mut sets = nftables::sets(&mut socket, &t).unwrap();
            sets.sort_by(|a, b| a.name.cmp(&b.name));
            assert_eq!(
                sets.iter().map(|s| &*s.name).collect::<Vec<_>>(),
                ["map", "ranges", "seen", "verdicts"]
            );
            let map = nftables::elements(&mut socket, &t, "map").unwrap();
            assert_eq!(map.len(), 1);
            assert_eq!(map[0].value, Value::Data(Box::from(*b"12345678")));
            let ranges = nftables::elements(&mut socket, &t, "ranges").unwrap();
            assert_eq!(ranges[0].key_end.as_ref(), Some(&ranges[0].key));
            let verdicts = nftables::elements(&mut socket, &t, "verdicts").unwrap();
            assert_eq!(verdicts, [Element::verdict([7; 4], Verdict::Goto("refuse".into()))]);

            batch([Operation::DeleteTable(t.clone())]).run(&mut socket, None).unwrap();
            assert!(!nftables::table_exists(&mut socket, &t).unwrap());
        });
    }
}

#[test]
fn a_refused_batch_changes_nothing_and_names_every_operation_refused() {
    in_new_namespace(|| {
        let mut socket = Socket::open(Protocol::Netfilter).unwrap();
        let t = table(Family::Ipv4);
        let absent = vec![Element::member([1, 2, 3, 4])];
        let refused = batch([
            Operation::AddTable(t.clone()),
            Operation::AddSet(t.clone(), set("s", vec![4], SetValue::Nothing)),
            Operation::DeleteElements(t.clone(), "s".into(), absent),
            Operation::AddSet(t.clone(), set("u", vec![4], SetValue::Nothing)),
            Operation::DeleteChain(t.clone(), "absent".into()),
        ])
        .run(&mut socket, None)
        .unwrap_err();
        let Refused::Operations(refusals) = refused else { panic!("{refused}") };
        assert_eq!(refusals.iter().map(|r| r.operation).collect::<Vec<_>>(), [2, 4]);
        let message = refusals[0].error.to_string();
        assert!(message.starts_with("delete 1 elements from ip test s"), "{message}");
        assert!(!nftables::table_exists(&mut socket, &t).unwrap());
    });
}

#[test]
fn a_batch_for_an_old_generation_is_stale() {
    in_new_namespace(|| {
        let mut socket = Socket::open(Protocol::Netfilter).unwrap();
        let add = batch([Operation::AddTable(table(Family::Ipv4))]);
        let old = nftables::generation(&mut socket).unwrap();
        add.run(&mut socket, Some(old)).unwrap();
        assert_eq!(nftables::generation(&mut socket).unwrap(), old + 1);
        assert!(matches!(add.run(&mut socket, Some(old)), Err(Refused::Stale)));
    });
}

#[test]
fn an_element_can_be_replaced_in_one_batch() {
    in_new_namespace(|| {
        let mut socket = Socket::open(Protocol::Netfilter).unwrap();
        let t = table(Family::Ipv4);
        let old = vec![Element::data([1; 4], [1; 4])];
        let new = vec![Element::data([1; 4], [2; 4])];
        batch([
            Operation::AddTable(t.clone()),
            Operation::AddSet(t.clone(), set("m", vec![4], SetValue::Data(4))),
            Operation::AddElements(t.clone(), "m".into(), old.clone()),
        ])
        .run(&mut socket, None)
        .unwrap();
        batch([
            Operation::DeleteElements(t.clone(), "m".into(), old),
            Operation::AddElements(t.clone(), "m".into(), new.clone()),
        ])
        .run(&mut socket, None)
        .unwrap();
        assert_eq!(nftables::elements(&mut socket, &t, "m").unwrap(), new);
    });
}

#[test]
fn many_elements_go_in_and_out_at_once() {
    in_new_namespace(|| {
        let mut socket = Socket::open(Protocol::Netfilter).unwrap();
        let t = table(Family::Ipv6);
        let count = 50_000u32;
        let elements: Vec<_> = (0..count)
            .map(|n| Element::data([n.to_be_bytes(); 6].concat(), n.to_be_bytes()))
            .collect();
        batch([
            Operation::AddTable(t.clone()),
            Operation::AddSet(t.clone(), set("m", vec![16, 4, 4], SetValue::Data(4))),
            Operation::AddElements(t.clone(), "m".into(), elements.clone()),
        ])
        .run(&mut socket, None)
        .unwrap();
        let read = nftables::elements(&mut socket, &t, "m").unwrap();
        assert!(read == elements, "{} of {} elements", read.len(), elements.len());
    });
}

/// What the kernel calls the calling thread.
fn thread_name() -> String {
    std::fs::read_to_string("/proc/thread-self/comm").unwrap().trim().to_owned()
}

#[test]
fn a_monitor_tells_whose_transaction_changed_which_table() {
    in_new_namespace(|| {
        let mut monitor = Monitor::open().unwrap();
        let mut socket = Socket::open(Protocol::Netfilter).unwrap();
        let t = table(Family::Ipv6);
        batch([Operation::AddTable(t.clone())]).run(&mut socket, None).unwrap();
        let id = nftables::generation(&mut socket).unwrap();
        let port = socket.port();
        assert_eq!(
            monitor.notifications().unwrap(),
            [
                Notification::Changed { table: t, what: Changed::Other, is_gone: false, port },
                Notification::Generation { id, port, process: Some(thread_name()) }
            ]
        );
        assert_eq!(monitor.notifications().unwrap(), []);
    });
}

#[test]
fn a_monitor_of_others_is_not_bothered_by_large_changes_of_ones_own() {
    in_new_namespace(|| {
        let mut socket = Socket::open(Protocol::Netfilter).unwrap();
        let mut everybody = Monitor::open().unwrap();
        let (mut others, subscription) = Monitor::of_others(socket.port()).unwrap();
        subscription.join().unwrap();
        let t = table(Family::Ipv4);
        let elements = (0..150_000u32).map(|n| Element::member(n.to_be_bytes())).collect();
        batch([
            Operation::AddTable(t.clone()),
            Operation::AddSet(t.clone(), set("s", vec![4], SetValue::Nothing)),
            Operation::AddElements(t.clone(), "s".into(), elements),
        ])
        .run(&mut socket, None)
        .unwrap();
        let lost = everybody.notifications().unwrap_err();
        assert_eq!(lost.errno(), Some(nix::libc::ENOBUFS));
        assert_eq!(others.notifications().unwrap(), []);

        let mut stranger = Socket::open(Protocol::Netfilter).unwrap();
        batch([Operation::DeleteTable(t.clone())]).run(&mut stranger, None).unwrap();
        let seen = others.notifications().unwrap();
        let port = stranger.port();
        let gone = Notification::Changed { table: t, what: Changed::Other, is_gone: true, port };
        assert!(seen.contains(&gone), "{seen:?}");
    });
}

#[test]
fn a_subscription_ends_and_begins_again() {
    in_new_namespace(|| {
        let (mut others, subscription) = Monitor::of_others(0).unwrap();
        let mut stranger = Socket::open(Protocol::Netfilter).unwrap();
        let mut change = |operation: fn(Table) -> Operation| {
            batch([operation(table(Family::Ipv4))]).run(&mut stranger, None).unwrap();
        };
        change(Operation::AddTable);
        assert_eq!(others.notifications().unwrap(), [], "it has not begun");
        subscription.join().unwrap();
        change(Operation::DeleteTable);
        assert_eq!(others.notifications().unwrap().len(), 2);
        subscription.leave().unwrap();
        change(Operation::AddTable);
        assert_eq!(others.notifications().unwrap(), []);
    });
}

#[test]
fn elements_go_in_by_the_hundred_thousand_and_are_found_by_their_keys() {
    in_new_namespace(|| {
        let mut socket = Socket::open(Protocol::Netfilter).unwrap();
        let t = table(Family::Ipv4);
        batch([
            Operation::AddTable(t.clone()),
            Operation::AddSet(t.clone(), set("map", vec![4], SetValue::Data(4))),
            Operation::AddSet(t.clone(), set("set", vec![4], SetValue::Nothing)),
        ])
        .run(&mut socket, None)
        .unwrap();
        let before = nftables::generation(&mut socket).unwrap();
        let mut bulk = Bulk::new(&mut socket, t.clone());
        for n in 0..150_000u32 {
            let (key, data) = (n.to_be_bytes(), (n ^ 0xffff).to_be_bytes());
            let element = ElementRef { key: &key, key_end: None, data: &data };
            bulk.add("map", element).unwrap();
            if n % 1000 == 0 {
                bulk.add("set", ElementRef { data: &[], ..element }).unwrap();
            }
        }
        let transactions = bulk.finish().unwrap();
        assert!(transactions > 1);
        let after = nftables::generation(&mut socket).unwrap();
        assert_eq!(after, before + transactions);

        let held = nftables::sets(&mut socket, &t).unwrap();
        for state in held {
            let expected = if &*state.name == "map" { 150_000 } else { 150 };
            assert!(state.elements.is_none_or(|count| count == expected), "{state:?}");
        }
        assert_eq!(nftables::elements(&mut socket, &t, "set").unwrap().len(), 150);
        let keys: Vec<[u8; 4]> = [7, 149_999, 0].map(u32::to_be_bytes).into();
        let keys = || keys.iter().map(|key| &key[..]);
        let found = nftables::elements_with_keys(&mut socket, &t, "map", keys()).unwrap().unwrap();
        let expected = keys().map(|key| Element::data(key, [key[0], key[1], !key[2], !key[3]]));
        assert_eq!(found, expected.collect::<Vec<_>>());
        let missing = 150_000u32.to_be_bytes();
        let keys = keys().chain([&missing[..]]);
        assert_eq!(nftables::elements_with_keys(&mut socket, &t, "map", keys).unwrap(), None);
    });
}

#[test]
fn a_bulk_says_where_it_was_refused() {
    in_new_namespace(|| {
        let mut socket = Socket::open(Protocol::Netfilter).unwrap();
        let t = table(Family::Ipv4);
        batch([
            Operation::AddTable(t.clone()),
            Operation::AddSet(t.clone(), set("map", vec![4], SetValue::Data(4))),
            Operation::AddElements(t.clone(), "map".into(), vec![Element::data([1; 4], [1; 4])]),
        ])
        .run(&mut socket, None)
        .unwrap();
        let mut add = |data: &[u8]| {
            let mut bulk = Bulk::new(&mut socket, t.clone());
            bulk.add("map", ElementRef { key: &[1; 4], key_end: None, data }).unwrap();
            bulk.finish()
        };
        assert_eq!(add(&[1; 4]).unwrap(), 1, "the same again is no difference");
        let refused = add(&[2; 4]).unwrap_err();
        assert!(refused.to_string().contains("add elements to ip test"), "{refused}");
    });
}
