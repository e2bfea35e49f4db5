//! Tables for conditions, ports and packing; properties over random histories.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

fn service() -> Service {
    Service {
        name: ObjectName::new("default", "web"),
        uid: "svc-1".into(),
        labels: Map::new(),
        deleting: false,
        headless: false,
        families: vec![Family::V4],
        ports: vec![ServicePort {
            name: "".into(),
            protocol: Protocol::Tcp,
            target: TargetPort::Number(80),
            app_protocol: None,
        }],
        publish_not_ready: false,
        distribution: Distribution::Anywhere,
    }
}

fn pod(index: u16) -> Pod {
    let [high, low] = index.to_be_bytes();
    Pod {
        name: ObjectName::new("default", format!("web-{index}")),
        uid: format!("pod-{index}").into(),
        ips: vec![IpAddr::from([10, 244, high, low])],
        terminal: false,
        deleting: false,
        ready: true,
        node: Some("a".into()),
        hostname: None,
        subdomain: None,
        ports: Vec::new(),
    }
}

fn zones() -> Zones {
    BTreeMap::from([("a".into(), Some("north".into())), ("b".into(), None)])
}

/// Does the writes as an API server would.
fn apply(mut slices: Vec<Slice>, writes: &[Write], serial: &mut u32) -> Vec<Slice> {
    for write in writes {
        match write {
            Write::Create(slice) => {
                *serial += 1;
                slices.push(Slice { name: Some(format!("web-{serial}").into()), ..slice.clone() });
            }
            Write::Update(slice) => {
                let old = slices.iter_mut().find(|s| s.name == slice.name).expect("exists");
                *old = slice.clone();
            }
            Write::Delete(name) => slices.retain(|s| s.name.as_ref() != Some(name)),
        }
    }
    slices
}

fn settle(
    service: &Service,
    pods: &[Pod],
    slices: Vec<Slice>,
    serial: &mut u32,
) -> (Vec<Slice>, usize) {
    let decision = decide(service, pods, &zones(), &slices, None, 100);
    let count = decision.writes.len();
    (apply(slices, &decision.writes, serial), count)
}

fn pods(range: std::ops::Range<u16>) -> Vec<Pod> {
    range.map(pod).collect()
}

#[test]
fn as_few_slices_as_the_reference_controller() {
    for (count, slices) in [(0, 1), (1, 1), (100, 1), (101, 2), (200, 2), (250, 3)] {
        let (made, writes) = settle(&service(), &pods(0..count), Vec::new(), &mut 0);
        assert_eq!((made.len(), writes), (slices, slices), "{count} pods");
    }
}

#[test]
fn removed_endpoints_touch_only_their_slices() {
    let serial = &mut 0;
    let (slices, _) = settle(&service(), &pods(0..250), Vec::new(), serial);
    let gone: BTreeSet<IpAddr> =
        slices[1].endpoints.iter().take(10).map(|endpoint| endpoint.address).collect();
    let left: Vec<Pod> =
        pods(0..250).into_iter().filter(|pod| !gone.contains(&pod.ips[0])).collect();
    let decision = decide(&service(), &left, &zones(), &slices, None, 100);
    let [Write::Update(slice)] = &decision.writes[..] else { panic!("{:?}", decision.writes) };
    assert_eq!((slice.name.as_deref(), slice.endpoints.len()), (Some("web-2"), 90));
}

#[test]
fn scaling_down_leaves_sparse_slices() {
    let serial = &mut 0;
    let (slices, _) = settle(&service(), &pods(0..250), Vec::new(), serial);
    let left: Vec<Pod> = (0..250u16).filter(|i| i % 5 < 2).map(pod).collect();
    assert_eq!(left.len(), 100);
    let (slices, writes) = settle(&service(), &left, slices, serial);
    assert_eq!((slices.len(), writes), (3, 3));
}

#[test]
fn conditions_follow_the_table() {
    // (ready, deleting, publish) -> (ready, serving, terminating)
    let table = [
        ((true, false, false), (true, true, false)),
        ((false, false, false), (false, false, false)),
        ((true, true, false), (false, true, true)),
        ((false, true, false), (false, false, true)),
        ((true, false, true), (true, true, false)),
        ((false, false, true), (true, false, false)),
        ((true, true, true), (true, true, true)),
        ((false, true, true), (true, false, true)),
    ];
    for ((ready, deleting, publish_not_ready), expected) in table {
        let service = Service { publish_not_ready, ..service() };
        let pod = Pod { ready, deleting, ..pod(1) };
        let (slices, _) = settle(&service, &[pod], Vec::new(), &mut 0);
        let e = &slices[0].endpoints[0];
        assert_eq!((e.ready, e.serving, e.terminating), expected, "{ready} {deleting}");
    }
}

#[test]
fn pods_that_are_no_endpoints() {
    let terminal = Pod { terminal: true, ..pod(1) };
    let addressless = Pod { ips: Vec::new(), ..pod(2) };
    let other_family = Pod { ips: vec!["fd00::3".parse().expect("address")], ..pod(3) };
    let lost = Pod { node: Some("gone".into()), ..pod(4) };
    let pods = [terminal, addressless, other_family, lost];
    let decision = decide(&service(), &pods, &zones(), &[], None, 100);
    let [Write::Create(slice)] = &decision.writes[..] else { panic!("{:?}", decision.writes) };
    assert!(slice.endpoints.is_empty() && slice.ports.is_empty(), "a placeholder");
    assert_eq!(decision.missing_nodes, BTreeSet::from(["gone".into()]));
}

#[test]
fn named_ports_that_differ_split_the_slices() {
    let named =
        |number| vec![ContainerPort { name: "http".into(), protocol: Protocol::Tcp, number }];
    let mut service = service();
    service.ports[0].target = TargetPort::Name("http".into());
    let pods = [
        Pod { ports: named(80), ..pod(1) },
        Pod { ports: named(8080), ..pod(2) },
        Pod { ports: named(80), ..pod(3) },
        pod(4),
    ];
    let (slices, _) = settle(&service, &pods, Vec::new(), &mut 0);
    let shape: BTreeSet<(Vec<u16>, usize)> = slices
        .iter()
        .map(|s| (s.ports.iter().map(|p| p.number).collect(), s.endpoints.len()))
        .collect();
    assert_eq!(shape, BTreeSet::from([(vec![80], 2), (vec![8080], 1), (vec![], 1)]));
}

#[test]
fn a_slice_of_an_older_service_is_deleted_and_the_placeholder_kept() {
    let serial = &mut 0;
    let (slices, _) = settle(&service(), &[], Vec::new(), serial);
    assert_eq!(settle(&service(), &[], slices.clone(), serial).1, 0, "placeholder stays");
    let reborn = Service { uid: "svc-2".into(), ..service() };
    let decision = decide(&reborn, &[], &zones(), &slices, None, 100);
    assert!(matches!(&decision.writes[..], [Write::Create(_), Write::Delete(_)]));
}

#[test]
fn a_placeholder_becomes_the_first_slice_by_name() {
    let serial = &mut 0;
    let (slices, _) = settle(&service(), &[], Vec::new(), serial);
    let decision = decide(&service(), &[pod(1)], &zones(), &slices, Some("now"), 100);
    let [Write::Update(slice)] = &decision.writes[..] else { panic!("{:?}", decision.writes) };
    assert_eq!(slice.name, slices[0].name);
    assert_eq!(slice.annotations.get(TRIGGER_TIME_ANNOTATION).map(|t| &**t), Some("now"));
}

#[test]
fn labels_follow_the_service_and_not_its_reserved_keys() {
    let labels = Map::from([
        ("team".into(), "blue".into()),
        (SERVICE_NAME_LABEL.into(), "lie".into()),
        (HEADLESS_LABEL.into(), "".into()),
    ]);
    let serial = &mut 0;
    let (slices, _) = settle(&Service { labels, ..service() }, &[pod(1)], Vec::new(), serial);
    assert_eq!(slices[0].labels[SERVICE_NAME_LABEL], "web".into());
    assert_eq!(slices[0].labels["team"], "blue".into());
    assert!(!slices[0].labels.contains_key(HEADLESS_LABEL));
    let (slices, writes) = settle(&service(), &[pod(1)], slices, serial);
    assert_eq!((writes, slices[0].labels.contains_key("team")), (1, false));
}

#[test]
fn hints_follow_traffic_distribution() {
    let hints = |distribution, pod: Pod| {
        let (slices, _) =
            settle(&Service { distribution, ..service() }, &[pod], Vec::new(), &mut 0);
        let endpoint = &slices[0].endpoints[0];
        (endpoint.for_zones.join(","), endpoint.for_nodes.join(","))
    };
    let expect = |zones: &str, nodes: &str| (zones.to_owned(), nodes.to_owned());
    let zoneless = Pod { node: Some("b".into()), ..pod(2) };
    assert_eq!(hints(Distribution::SameZone, pod(1)), expect("north", ""));
    assert_eq!(hints(Distribution::SameNode, pod(1)), expect("north", "a"));
    assert_eq!(hints(Distribution::Anywhere, pod(1)), expect("", ""));
    assert_eq!(hints(Distribution::SameZone, zoneless), expect("", ""));
    assert_eq!(hints(Distribution::SameNode, Pod { ready: false, ..pod(1) }), expect("", ""));
}

#[test]
fn a_family_that_is_given_up_loses_its_slices() {
    let serial = &mut 0;
    let dual = Service { families: vec![Family::V4, Family::V6], ..service() };
    let (slices, writes) = settle(&dual, &[pod(1)], Vec::new(), serial);
    assert_eq!((slices.len(), writes), (2, 2));
    let (slices, writes) = settle(&service(), &[pod(1)], slices, serial);
    assert_eq!((slices.len(), writes, slices[0].family), (1, 1, Family::V4));
}

#[test]
fn nothing_is_created_for_a_service_that_is_being_deleted() {
    let deleting = Service { deleting: true, ..service() };
    assert_eq!(decide(&deleting, &[pod(1)], &zones(), &[], None, 100).writes, []);
}

#[test]
fn trigger_times() {
    let mut triggers = Triggers::default();
    let pods = |times: &[(&str, u32)]| -> Vec<(Arc<str>, u32)> {
        times.iter().map(|(uid, time)| ((*uid).into(), *time)).collect()
    };
    assert_eq!(triggers.look(5, pods(&[("a", 7)])), Some(5), "first look: the Service's creation");
    assert_eq!(triggers.look(5, pods(&[("a", 9), ("b", 8)])), Some(8), "earliest that advanced");
    assert_eq!(triggers.look(5, pods(&[("b", 8)])), None, "a deletion carries no time");
    assert_eq!(triggers.look(12, pods(&[("b", 8)])), Some(12), "the Service was made again");
}

#[test]
fn legacy_subsets_share_ports_with_the_same_addresses() {
    let port = |name: &str, target| ServicePort {
        name: name.into(),
        protocol: Protocol::Tcp,
        target,
        app_protocol: None,
    };
    let service = Service {
        ports: vec![
            port("web", TargetPort::Number(80)),
            port("metrics", TargetPort::Name("m".into())),
        ],
        ..service()
    };
    let metrics =
        |number| vec![ContainerPort { name: "m".into(), protocol: Protocol::Tcp, number }];
    let shape = |pods: &[Pod]| -> BTreeSet<(Vec<u16>, usize, usize)> {
        let (subsets, truncated) = subsets(&service, pods);
        assert!(!truncated);
        subsets
            .iter()
            .map(|s| {
                (s.ports.iter().map(|p| p.number).collect(), s.addresses.len(), s.not_ready.len())
            })
            .collect()
    };
    let first = Pod { ports: metrics(9000), ..pod(1) };
    let second = Pod { ports: metrics(9000), ready: false, ..pod(2) };
    let deleting = Pod { deleting: true, ..pod(3) };
    let both = shape(&[first.clone(), second, deleting]);
    assert_eq!(both, BTreeSet::from([(vec![9000, 80], 1, 1)]));
    let other = Pod { ports: metrics(9001), ..pod(2) };
    let split = shape(&[first, other]);
    assert_eq!(split, BTreeSet::from([(vec![80], 2, 0), (vec![9000], 1, 0), (vec![9001], 1, 0)]));
}

#[test]
fn legacy_addresses_are_cut_at_a_thousand() {
    let (subsets, truncated) = subsets(&service(), &pods(0..1001));
    assert!(truncated);
    assert_eq!(subsets[0].addresses.len(), 1000);
}

proptest! {
    /// Whatever the history, the slices hold exactly the desired endpoints, none is too full, none
    /// is empty beside others, and deciding again writes nothing.
    #[test]
    fn slices_converge(
        steps in prop::collection::vec(prop::collection::btree_map(0u16..40, any::<bool>(), 0..40), 1..6),
        capacity in 1usize..8,
    ) {
        let (mut slices, mut serial) = (Vec::new(), 0);
        for step in steps {
            let pods: Vec<Pod> =
                step.iter().map(|(index, ready)| Pod { ready: *ready, ..pod(*index) }).collect();
            let decision = decide(&service(), &pods, &zones(), &slices, None, capacity);
            let before = slices.len();
            slices = apply(slices, &decision.writes, &mut serial);

            let mut held: Vec<(IpAddr, bool)> =
                slices.iter().flat_map(|s| &s.endpoints).map(|e| (e.address, e.ready)).collect();
            held.sort();
            let desired: Vec<(IpAddr, bool)> = pods.iter().map(|p| (p.ips[0], p.ready)).collect();
            prop_assert_eq!(held, desired);
            prop_assert!(slices.iter().all(|s| s.endpoints.len() <= capacity));
            prop_assert!(slices.len() == 1 || slices.iter().all(|s| !s.endpoints.is_empty()));
            prop_assert!(decision.writes.len() <= before.max(slices.len()));
            let again = decide(&service(), &pods, &zones(), &slices, None, capacity);
            prop_assert_eq!(again.writes, vec![]);
        }
    }
}
