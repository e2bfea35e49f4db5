//! Labs on the real kernel: hosts reach each other, nothing else is touched, nothing is left.

use std::process::Command;
use std::time::Duration;

use kernel::netns::Netns;
use kernel::route::Rtnetlink;
use lab::{Directory, Error, HostAddress, Lab, Record, Underlay, take_down};

const LIMIT: Duration = Duration::from_secs(10);

fn underlay() -> Underlay {
    let host = |name: &str, last: u8| HostAddress {
        name: name.to_owned(),
        address: [172, 31, 0, last].into(),
    };
    let network = "172.31.0.0/24".parse().expect("a network");
    Underlay { network, gateway: None, hosts: vec![host("left", 1), host("right", 2)] }
}

fn create(name: &str) -> Lab {
    let name = format!("crate-{name}-{}", std::process::id());
    Lab::create(&name, underlay()).expect("this test needs root: it makes network namespaces")
}

#[test]
fn hosts_reach_each_other() {
    let lab = create("reach");
    let (left, right) = (lab.host("left").unwrap(), lab.host("right").unwrap());
    let listener =
        right.run_here(|| std::net::TcpListener::bind("172.31.0.2:80")).unwrap().unwrap();
    let stream = left
        .run_here(|| {
            let to = "172.31.0.2:80".parse().expect("an address");
            std::net::TcpStream::connect_timeout(&to, LIMIT)
        })
        .unwrap()
        .unwrap();
    let (_, peer) = listener.accept().unwrap();
    assert_eq!(peer, stream.local_addr().unwrap());
    assert_eq!(peer.ip(), left.address);
}

#[test]
fn the_machines_own_network_stays_as_it_is() {
    let mut own = Rtnetlink::open().unwrap();
    let names = |own: &mut Rtnetlink| -> Vec<String> {
        own.links().unwrap().into_iter().map(|link| link.name).collect()
    };
    let before = (names(&mut own), own.addresses().unwrap(), own.routes().unwrap());
    let lab = create("own");
    let during = (names(&mut own), own.addresses().unwrap(), own.routes().unwrap());
    assert_eq!(during, before);
    drop(lab);
}

#[test]
fn everything_goes_with_the_lab() {
    let mut lab = create("goes");
    let directory = lab.directory().clone();
    let mut sleeper = Command::new("sh");
    // The grandchild in a session of its own is caught too.
    sleeper.args(["-c", "setsid sleep 100 & exec sleep 100"]);
    lab.start("left", "sleeper", sleeper).unwrap();
    let process = lab.daemons()[0].process.try_clone().unwrap();
    let removed = lab.down().unwrap();
    assert!(removed.processes >= 1, "{removed}");
    assert_eq!(removed.namespaces, 3, "{removed}");
    assert!(process.has_ended().unwrap());
    assert!(!directory.exists());
    assert!(!directory.cgroup().unwrap().exists());
    assert!(Netns::open(&directory.netns("left")).is_err());
    assert!(take_down(directory.name()).unwrap().is_empty(), "down is idempotent");
}

#[test]
fn a_running_lab_is_neither_made_twice_nor_cleared() {
    let lab = create("twice");
    let name = lab.directory().name().to_owned();
    let refused = Lab::create(&name, underlay()).unwrap_err();
    assert!(matches!(&refused, Error::Running { pid, .. } if *pid == std::process::id()));
    let record = Record::of_running(&Directory::of(&name).unwrap()).unwrap();
    record.host(lab.directory(), "left").unwrap().run(&["true"], LIMIT).unwrap();
    let unknown = record.host(lab.directory(), "centre").unwrap_err().to_string();
    assert!(unknown.contains("left, right"), "{unknown}");
}

#[test]
fn commands_are_bounded() {
    let lab = create("bounded");
    let left = lab.host("left").unwrap();
    let output = left.run(&["sh", "-c", "echo out; echo err >&2; exit 3"], LIMIT).unwrap();
    assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("out", "err"));
    assert_eq!(output.status.code(), Some(3));
    let error = left.run(&["sleep", "100"], Duration::from_millis(50)).unwrap_err();
    assert!(matches!(error, Error::TooSlow { .. }), "{error}");
}
