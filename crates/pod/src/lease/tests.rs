//! Never one address twice, whatever happens between.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use proptest::prelude::*;

use super::*;

fn owner(number: usize) -> Owner {
    Owner { container: format!("c{number}"), interface: "eth0".to_owned() }
}

fn open(directory: &Path, range: &str) -> Leases {
    Leases::open(directory, range.parse().unwrap()).unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn addresses_come_in_turn_and_rest_after_use() {
    let directory = tempfile::tempdir().unwrap();
    let leases = open(directory.path(), "10.1.0.0/29");
    let first: Vec<_> = (0..2).map(|i| leases.lease(&owner(i)).unwrap()).collect();
    assert_eq!(first, [ip("10.1.0.2"), ip("10.1.0.3")]);
    assert_eq!(leases.release(&owner(0)).unwrap(), [ip("10.1.0.2")]);
    let more: Vec<_> = (2..5).map(|i| leases.lease(&owner(i)).unwrap()).collect();
    assert_eq!(more, [ip("10.1.0.4"), ip("10.1.0.5"), ip("10.1.0.6")]);
    assert_eq!(leases.lease(&owner(5)).unwrap(), ip("10.1.0.2"));
    let error = leases.lease(&owner(6)).unwrap_err();
    let expected = "no IP addresses available in range set: 10.1.0.2-10.1.0.6";
    assert_eq!(error.to_string(), expected);
}

#[test]
fn an_owner_has_one_lease_and_may_release_it_often() {
    let directory = tempfile::tempdir().unwrap();
    let leases = open(directory.path(), "fd00:1::/120");
    assert_eq!(leases.lease(&owner(0)).unwrap(), ip("fd00:1::2"));
    assert!(matches!(leases.lease(&owner(0)), Err(Error::AlreadyLeased { .. })));
    assert_eq!(leases.release(&owner(0)).unwrap(), [ip("fd00:1::2")]);
    assert_eq!(leases.release(&owner(0)).unwrap(), [] as [IpAddr; 0]);
}

#[test]
fn ranges_without_room_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    for range in ["10.1.0.0/31", "10.1.0.1/24", "fd00::/127"] {
        let error = Leases::open(directory.path(), range.parse().unwrap()).unwrap_err();
        assert!(matches!(error, Error::Range { .. }), "{range}: {error}");
    }
    assert!(open(directory.path(), "10.1.0.0/30").lease(&owner(0)).is_ok());
}

#[test]
fn leases_of_an_earlier_boot_are_gone_and_others_are_not() {
    let directory = tempfile::tempdir().unwrap();
    let address = open(directory.path(), "10.1.0.0/24").lease(&owner(0)).unwrap();
    let again = open(directory.path(), "10.1.0.0/24");
    assert_eq!(again.held().unwrap(), [(address, Some(owner(0)))]);
    fs::write(directory.path().join("boot_id"), "another").unwrap();
    assert_eq!(open(directory.path(), "10.1.0.0/24").held().unwrap(), []);
}

#[test]
fn leases_of_a_former_range_can_be_released() {
    let directory = tempfile::tempdir().unwrap();
    let before = open(directory.path(), "10.1.0.0/24").lease(&owner(0)).unwrap();
    let leases = open(directory.path(), "10.2.0.0/24");
    assert_eq!(leases.lease(&owner(0)).unwrap(), ip("10.2.0.2"));
    assert_eq!(leases.release(&owner(0)).unwrap(), [before, ip("10.2.0.2")]);
}

#[test]
fn torn_entries_stay_taken_until_collected() {
    let directory = tempfile::tempdir().unwrap();
    let leases = open(directory.path(), "10.1.0.0/29");
    fs::write(directory.path().join("10.1.0.2"), "").unwrap();
    fs::write(directory.path().join("10.1.0.3"), "c9").unwrap();
    assert_eq!(leases.lease(&owner(0)).unwrap(), ip("10.1.0.4"));
    let live = HashSet::from([owner(0)]);
    assert_eq!(leases.collect(&live).unwrap(), [ip("10.1.0.2"), ip("10.1.0.3")]);
    assert_eq!(leases.held().unwrap(), [(ip("10.1.0.4"), Some(owner(0)))]);
}

#[test]
fn a_storm_of_owners_gets_as_many_addresses() {
    let directory = tempfile::tempdir().unwrap();
    open(directory.path(), "10.1.0.0/24");
    let path = directory.path();
    let addresses: BTreeSet<IpAddr> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|thread| {
                scope.spawn(move || {
                    let leases = open(path, "10.1.0.0/24");
                    let mine = (0..10).map(|i| leases.lease(&owner(thread * 10 + i)).unwrap());
                    mine.collect::<Vec<_>>()
                })
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(addresses.len(), 80);
}

/// What happens to the leases.
#[derive(Debug, Clone)]
enum Step {
    Lease(usize),
    Release(usize),
    /// The process dies while it leases to this owner, with so many bytes of the entry written.
    CrashAt(usize, usize),
    /// The cursor is lost, or torn.
    LoseCursor(&'static str),
    Collect,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..12usize).prop_map(Step::Lease),
        3 => (0..12usize).prop_map(Step::Release),
        2 => ((0..12usize), (0..9usize)).prop_map(|(owner, bytes)| Step::CrashAt(owner, bytes)),
        1 => prop_oneof![Just(""), Just("10.1.0."), Just("fd00::1")].prop_map(Step::LoseCursor),
        1 => Just(Step::Collect),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..Default::default() })]

    #[test]
    fn no_address_is_ever_held_twice(steps in prop::collection::vec(step(), 1..40)) {
        let directory = tempfile::tempdir().unwrap();
        let range: IpNet = "10.1.0.0/28".parse().unwrap();
        let mut held: BTreeMap<usize, IpAddr> = BTreeMap::new();
        for step in steps {
            // Every step is by a new process, as it were.
            let leases = Leases::open(directory.path(), range).unwrap();
            match step {
                Step::Lease(number) => match leases.lease(&owner(number)) {
                    Ok(address) => {
                        prop_assert!(!held.values().any(|other| *other == address));
                        prop_assert!(range.hosts().skip(1).any(|host| host == address));
                        held.insert(number, address);
                    }
                    Err(Error::AlreadyLeased { address, .. }) => {
                        prop_assert_eq!(held.get(&number), Some(&address));
                    }
                    Err(Error::Exhausted { .. }) => {
                        prop_assert_eq!(leases.held().unwrap().len(), 13);
                    }
                    Err(error) => prop_assert!(false, "{error}"),
                },
                Step::Release(number) => {
                    let released = leases.release(&owner(number)).unwrap();
                    prop_assert_eq!(released, Vec::from_iter(held.remove(&number)));
                }
                Step::CrashAt(number, bytes) if !held.contains_key(&number) => {
                    if let Ok(address) = leases.lease(&owner(number)) {
                        let file = fs::File::options()
                            .write(true)
                            .open(directory.path().join(address.to_string()))
                            .unwrap();
                        let whole = file.metadata().unwrap().len();
                        file.set_len(whole.min(bytes as u64)).unwrap();
                        match leases.held().unwrap().iter().find(|(a, _)| *a == address) {
                            Some((_, Some(found))) if *found == owner(number) => {
                                held.insert(number, address);
                            }
                            _ => {}
                        }
                    }
                }
                Step::CrashAt(..) => {}
                Step::LoseCursor(text) => {
                    fs::write(directory.path().join("last_reserved_ip.0"), text).unwrap();
                }
                Step::Collect => {
                    let live = held.keys().map(|number| owner(*number)).collect();
                    leases.collect(&live).unwrap();
                    prop_assert_eq!(leases.held().unwrap().len(), held.len());
                }
            }
        }
    }
}
