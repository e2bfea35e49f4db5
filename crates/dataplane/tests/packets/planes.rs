//! The data planes that tests run on: each test is written once, and run on every one.
//!
//! What was run and how it ended is kept where `PORTOLAN_RESULTS` says, and docs/dataplanes.md is made of
//! it. Each line is JSON: the `test` or the `row` (its id in the table of cases, with `family` and
//! `protocol`), the `plane`, the `kernel` (as uname -r says it), and the `outcome` with `why`:
//!
//! | outcome | why |
//! |---|---|
//! | passed | what of it was left out; mostly nothing was |
//! | failed | what was wrong |
//! | not run | what it would take |
//! | not possible | what the data plane can't do |
//!
//! `PORTOLAN_PLANES` names the data planes that are to be tested, as in `nftables,ipvs`; of others nothing
//! is kept.

use std::any::Any;
use std::env;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use dataplane::Backend;
use dataplane::ebpf::Ebpf;
use dataplane::iptables::{Flavour, Iptables};
use dataplane::ipvs::{Ipvs, Scheduler};
use dataplane::nftables::Nftables;
use kernel::cgroup::Cgroup;
use model::{Family, Protocol};
use serde_json::json;

/// All names of data planes, as the matrix calls them, also of those that can't be opened yet.
pub(crate) const NAMES: [&str; 5] = ["nftables", "iptables-nft", "iptables-legacy", "ipvs", "ebpf"];

/// Tests that a data plane can't pass, each with the reason. They are not run on it. What rows of the
/// table are not possible stands in the rows (`not_on`).
const NOT_POSSIBLE: &[(Plane, &str, &str)] = &[
    (
        Plane::Ipvs,
        "a_silent_client_is_forgotten_after_the_timeout",
        "IPVS counts a client's timeout from the end of its last connection, of which it keeps TCP's \
         for two minutes more",
    ),
    (
        Plane::Ipvs,
        "frontends_of_a_port_share_affinity",
        "IPVS remembers clients for each virtual server: a ClusterIP and a node port do not share it",
    ),
    (
        Plane::Ipvs,
        "what_is_forwarded_can_be_filtered",
        "packets come to IPVS as to the node itself, and leave as the node's own: none is forwarded",
    ),
];

/// A data plane, as tests see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Plane {
    Nftables,
    IptablesNft,
    IptablesLegacy,
    Ipvs,
    Ebpf,
}

/// What has an outcome.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Subject<'a> {
    /// A test, by its name.
    Test(&'a str),
    /// A row of the table of cases, in one family and with one protocol for what it leaves open.
    Row { id: &'a str, family: Family, protocol: Protocol },
}

/// How something ended on a data plane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ending {
    /// It is as it should be, as far as it was run: what was left out is said.
    Passed {
        without: Option<String>,
    },
    Failed(String),
    /// Nothing of it was run.
    NotRun(String),
    /// The data plane can't do it, by its nature.
    NotPossible(String),
}

/// Makes a test of each function for every data plane: `name::nftables`, `name::iptables_nft`, ...
macro_rules! on_every_plane {
    ($($name:ident),* $(,)?) => {$(
        mod $name {
            use crate::planes::Plane;

            #[test]
            fn nftables() {
                Plane::Nftables.test(stringify!($name), super::$name);
            }

            #[test]
            fn iptables_nft() {
                Plane::IptablesNft.test(stringify!($name), super::$name);
            }

            #[test]
            fn iptables_legacy() {
                Plane::IptablesLegacy.test(stringify!($name), super::$name);
            }

            #[test]
            fn ipvs() {
                Plane::Ipvs.test(stringify!($name), super::$name);
            }

            #[test]
            fn ebpf() {
                Plane::Ebpf.test(stringify!($name), super::$name);
            }
        }
    )*};
}
pub(crate) use on_every_plane;

impl Plane {
    /// All that are to be tested.
    pub(crate) fn all() -> Vec<Plane> {
        let all =
            [Plane::Nftables, Plane::IptablesNft, Plane::IptablesLegacy, Plane::Ipvs, Plane::Ebpf];
        let is_there = |plane: &Plane| plane.is_wanted() && plane.is_missing().is_none();
        all.into_iter().filter(is_there).collect()
    }

    fn is_wanted(self) -> bool {
        env::var("PORTOLAN_PLANES").map_or(true, |names| is_among(self.name(), &names))
    }

    /// As the matrix calls it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Plane::Nftables => "nftables",
            Plane::IptablesNft => "iptables-nft",
            Plane::IptablesLegacy => "iptables-legacy",
            Plane::Ipvs => "ipvs",
            Plane::Ebpf => "ebpf",
        }
    }

    /// Opens it in the calling thread's network namespace.
    pub(crate) fn open(self) -> Box<dyn Backend> {
        match self {
            Plane::Nftables => Box::new(Nftables::open().unwrap()),
            Plane::IptablesNft => Box::new(Iptables::open(Flavour::Nft).unwrap()),
            Plane::IptablesLegacy => Box::new(Iptables::open(Flavour::Legacy).unwrap()),
            Plane::Ipvs => {
                let ipvs = Ipvs::open(Scheduler::RoundRobin).unwrap();
                Box::new(ipvs.expect("the kernel has IPVS"))
            }
            // The sockets of the node and of its pods are those of their cgroup.
            Plane::Ebpf => Box::new(Ebpf::open(Cgroup::current().unwrap()).unwrap()),
        }
    }

    /// A command that makes of our rules those of another version: mostly it adds one that does nothing.
    pub(crate) fn strange_rule(self) -> &'static str {
        match self {
            Plane::Nftables => "nft insert rule ip portolan services counter",
            Plane::IptablesNft => {
                "iptables-nft -t nat -I PORTOLAN-SERVICES -m comment --comment strange"
            }
            Plane::IptablesLegacy => {
                "iptables-legacy -t nat -I PORTOLAN-SERVICES -m comment --comment strange"
            }
            Plane::Ipvs => "nft insert rule ip portolan-ipvs services counter",
            Plane::Ebpf => crate::tampering::OTHER_VERSION,
        }
    }

    /// Why it can't be tried here, if it can't.
    pub(crate) fn is_missing(self) -> Option<&'static str> {
        let has_ipvs = || kernel::ipvs::available().unwrap().is_some();
        (self == Plane::Ipvs && !has_ipvs()).then_some("this kernel has no IPVS")
    }

    /// Whether connections that it translates as packets are tracked by the kernel.
    pub(crate) fn tracks(self) -> bool {
        self != Plane::Ebpf || !kernel::bpf::PacketProgram::is_possible()
    }

    /// Runs a test on it and keeps how it ended, if the data plane is wanted and can pass it.
    pub(crate) fn test(self, name: &str, body: impl FnOnce(Plane)) {
        let subject = Subject::Test(name);
        if !self.is_wanted() {
            say!("{name}: PORTOLAN_PLANES leaves out {}", self.name());
        } else if let Some(why) = self.obstacle(name) {
            say!("{name}: not possible on {}: {why}", self.name());
            self.record(subject, &Ending::NotPossible(why.to_owned()));
        } else if let Some(why) = self.is_missing() {
            say!("{name}: not run here on {}: {why}", self.name());
            self.record(subject, &Ending::NotRun(why.to_owned()));
        } else {
            self.attempt(subject, || {
                body(self);
                Ending::Passed { without: None }
            });
        }
    }

    /// Runs a test of what no other data plane has, if it can be tried here: the matrix has no line for it.
    pub(crate) fn test_of_its_own(self, name: &str, body: impl FnOnce()) {
        if !self.is_wanted() {
            say!("{name}: PORTOLAN_PLANES leaves out {}", self.name());
        } else if let Some(why) = self.is_missing() {
            say!("{name}: not run here on {}: {why}", self.name());
        } else {
            body();
        }
    }

    /// Why it can't pass a test.
    fn obstacle(self, test: &str) -> Option<&'static str> {
        let of_this = |(plane, name, _): &&(Plane, &str, &str)| *plane == self && *name == test;
        NOT_POSSIBLE.iter().find(of_this).map(|(_, _, why)| *why)
    }

    /// Runs something on it and keeps how it ended; a panic is a failure and goes on.
    pub(crate) fn attempt(self, subject: Subject<'_>, body: impl FnOnce() -> Ending) {
        match catch_unwind(AssertUnwindSafe(body)) {
            Ok(ending) => self.record(subject, &ending),
            Err(panic) => {
                self.record(subject, &Ending::Failed(said(&*panic)));
                resume_unwind(panic);
            }
        }
    }

    /// Keeps how something ended on it, for the matrix.
    pub(crate) fn record(self, subject: Subject<'_>, ending: &Ending) {
        let Ok(file) = env::var("PORTOLAN_RESULTS") else { return };
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
        let (outcome, why) = match ending {
            Ending::Passed { without } => ("passed", without.as_ref()),
            Ending::Failed(why) => ("failed", Some(why)),
            Ending::NotRun(why) => ("not run", Some(why)),
            Ending::NotPossible(why) => ("not possible", Some(why)),
        };
        let mut line =
            json!({"plane": self.name(), "kernel": kernel.trim(), "outcome": outcome, "why": why});
        match subject {
            Subject::Test(name) => line["test"] = name.into(),
            Subject::Row { id, family, protocol } => {
                line["row"] = id.into();
                line["family"] = if family == Family::V4 { "IPv4" } else { "IPv6" }.into();
                line["protocol"] = protocol.to_string().into();
            }
        }
        let mut file = OpenOptions::new().create(true).append(true).open(&file).unwrap();
        // In one piece: tests run side by side.
        file.write_all(format!("{line}\n").as_bytes()).unwrap();
    }
}

/// Whether a data plane is in a list of names, which may name no others than there are: whoever mistypes
/// one would take the rest for everything.
fn is_among(name: &str, names: &str) -> bool {
    let names: Vec<&str> = names.split(',').map(str::trim).collect();
    let unknown = names.iter().find(|name| !NAMES.contains(name));
    assert!(unknown.is_none(), "PORTOLAN_PLANES: {unknown:?} is none of {}", NAMES.join(", "));
    names.contains(&name)
}

/// What a panic said.
fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("it panicked").to_owned()
}

#[test]
fn every_test_that_is_not_possible_says_why() {
    for (plane, test, why) in NOT_POSSIBLE {
        assert!(!why.trim().is_empty(), "{test} is not possible on {plane:?}, but why?");
    }
}

#[test]
fn planes_are_chosen_by_their_names() {
    assert!(is_among("ipvs", "nftables, ipvs"));
    assert!(!is_among("iptables-nft", "nftables,ipvs"));
    let mistyped = catch_unwind(|| is_among("nftables", "nftables,iptables")).unwrap_err();
    assert!(said(&*mistyped).contains("iptables-legacy"), "{}", said(&*mistyped));
}

#[test]
fn what_a_test_panicked_with_is_kept() {
    let kept = |body: fn()| said(&*catch_unwind(body).unwrap_err());
    assert_eq!(kept(|| panic!("plain")), "plain");
    assert_eq!(kept(|| panic!("{} words", 2)), "2 words");
    assert_eq!(kept(|| std::panic::panic_any(7)), "it panicked");
}
