//! Which data plane programs a node, as users choose it.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use kernel::cgroup::Cgroup;

use crate::ebpf::Ebpf;
use crate::iptables::{Flavour, Iptables, MASQUERADE_BIT};
use crate::ipvs::{Ipvs, Scheduler};
use crate::nftables::Nftables;
use crate::{Backend, Error, Result};

/// The data planes, by the names that kube-proxy's `mode` has for them, and one that it does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mode {
    /// `nftables`.
    Nftables,
    /// `iptables`, of either flavour.
    Iptables,
    /// `ipvs`.
    Ipvs,
    /// `ebpf`.
    Ebpf,
}

/// What a data plane may be told besides the plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The flavour of iptables; `None` for the one that this machine uses.
    pub iptables: Option<Flavour>,
    /// The bit of packet marks, from 0, that iptables tells connections by whose source is to be
    /// rewritten.
    pub masquerade_bit: u8,
    /// How IPVS chooses an endpoint.
    pub scheduler: Scheduler,
    /// The directory of the control group whose processes are this node's and its pods'; `None` for that
    /// of all processes.
    pub cgroup: Option<PathBuf>,
}

impl Default for Options {
    /// kube-proxy's.
    fn default() -> Self {
        Self {
            iptables: None,
            masquerade_bit: MASQUERADE_BIT,
            scheduler: Scheduler::RoundRobin,
            cgroup: None,
        }
    }
}

impl Mode {
    /// All of them.
    pub const ALL: [Mode; 4] = [Mode::Nftables, Mode::Iptables, Mode::Ipvs, Mode::Ebpf];

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Mode::Nftables => "nftables",
            Mode::Iptables => "iptables",
            Mode::Ipvs => "ipvs",
            Mode::Ebpf => "ebpf",
        }
    }

    /// Opens it in the calling thread's network namespace. Changes nothing.
    pub fn open(self, options: &Options) -> Result<Box<dyn Backend>> {
        Ok(match self {
            Mode::Nftables => Box::new(Nftables::open()?),
            Mode::Iptables => {
                let flavour = options.iptables.or_else(Flavour::of_machine);
                let flavour = flavour.ok_or_else(|| Error::Iptables(NO_IPTABLES.into()))?;
                Box::new(Iptables::open(flavour)?.masquerading_by(options.masquerade_bit))
            }
            Mode::Ipvs => match Ipvs::open(options.scheduler)? {
                Some(ipvs) => Box::new(ipvs),
                None => return Err(Error::NoIpvs),
            },
            Mode::Ebpf => {
                let cgroup = match &options.cgroup {
                    Some(path) => Cgroup::at(path)?,
                    None => Cgroup::root()?,
                };
                Box::new(Ebpf::open(cgroup)?)
            }
        })
    }
}

/// What is said where there is no iptables.
const NO_IPTABLES: &str = "there is no iptables here: install it, or use nftables";

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A name that is none of a data plane's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no data plane {0}: accepted are nftables, iptables, ipvs, ebpf")]
pub struct UnknownMode(String);

impl FromStr for Mode {
    type Err = UnknownMode;

    fn from_str(text: &str) -> Result<Self, UnknownMode> {
        let found = Self::ALL.into_iter().find(|mode| mode.as_str() == text);
        found.ok_or_else(|| UnknownMode(text.to_owned()))
    }
}
