//! The data planes that tests run on: each test is written once, and run on every one.
//!
//! What was run and how it ended is kept where `PORTOLAN_RESULTS` says, one line of JSON for each test and
//! data plane; docs/dataplanes.md is made of it.

use std::fs::OpenOptions;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use dataplane::Backend;
use dataplane::iptables::{Flavour, Iptables};
use dataplane::ipvs::{Ipvs, Scheduler};
use dataplane::nftables::Nftables;
use serde_json::json;

/// A data plane, as tests see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Plane {
    Nftables,
    IptablesNft,
    IptablesLegacy,
    Ipvs,
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
        }
    )*};
}
pub(crate) use on_every_plane;

impl Plane {
    /// All that can be tried here.
    pub(crate) fn all() -> Vec<Plane> {
        let all = [Plane::Nftables, Plane::IptablesNft, Plane::IptablesLegacy, Plane::Ipvs];
        all.into_iter().filter(|plane| plane.is_missing().is_none()).collect()
    }

    /// As the matrix calls it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Plane::Nftables => "nftables",
            Plane::IptablesNft => "iptables-nft",
            Plane::IptablesLegacy => "iptables-legacy",
            Plane::Ipvs => "ipvs",
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
        }
    }

    /// A command that adds a rule which no version of ours has, and which does nothing.
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
        }
    }

    /// Why it can't be tried here, if it can't.
    pub(crate) fn is_missing(self) -> Option<&'static str> {
        let has_ipvs = || kernel::ipvs::available().unwrap().is_some();
        (self == Plane::Ipvs && !has_ipvs()).then_some("this kernel has no IPVS")
    }

    /// Runs a test on it and keeps how it ended.
    pub(crate) fn test(self, name: &str, body: impl FnOnce(Plane)) {
        if let Some(why) = self.is_missing() {
            say!("{name} on {}: not run here: {why}", self.name());
            return self.record(name, "not run", Some(why));
        }
        match catch_unwind(AssertUnwindSafe(|| body(self))) {
            Ok(()) => self.record(name, "passed", None),
            Err(panic) => {
                self.record(name, "failed", None);
                resume_unwind(panic);
            }
        }
    }

    /// Keeps how something ended on it, for the matrix.
    pub(crate) fn record(self, what: &str, outcome: &str, why: Option<&str>) {
        let Ok(file) = std::env::var("PORTOLAN_RESULTS") else { return };
        let line = json!({"what": what, "plane": self.name(), "outcome": outcome, "why": why});
        let mut file = OpenOptions::new().create(true).append(true).open(&file).unwrap();
        // In one piece: tests run side by side.
        file.write_all(format!("{line}\n").as_bytes()).unwrap();
    }
}
