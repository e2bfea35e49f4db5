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

/// A data plane as users ask for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// This one.
    Only(Mode),
    /// eBPF where this machine can have all of it, else nftables.
    Auto,
}

impl Wish {
    /// The data plane of this machine. Where eBPF was looked for and can't be had, says why.
    pub fn resolve(self, options: &Options) -> (Mode, Option<Error>) {
        match self {
            Wish::Only(mode) => (mode, None),
            Wish::Auto => match options.cgroup().and_then(Ebpf::probe) {
                Ok(()) => (Mode::Ebpf, None),
                Err(reason) => (Mode::Nftables, Some(reason)),
            },
        }
    }
}

impl fmt::Display for Wish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Wish::Only(mode) => mode.fmt(f),
            Wish::Auto => f.write_str(AUTO),
        }
    }
}

impl FromStr for Wish {
    type Err = UnknownMode;

    fn from_str(text: &str) -> Result<Self, UnknownMode> {
        if text == AUTO {
            return Ok(Wish::Auto);
        }
        text.parse().map(Wish::Only).map_err(|_| UnknownMode::new(text, ", auto"))
    }
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
    /// eBPF ends TCP connections of sockets whose endpoint has left its Service.
    pub ends_connections: bool,
}

impl Default for Options {
    /// kube-proxy's.
    fn default() -> Self {
        Self {
            iptables: None,
            masquerade_bit: MASQUERADE_BIT,
            scheduler: Scheduler::RoundRobin,
            cgroup: None,
            ends_connections: false,
        }
    }
}

impl Options {
    /// The control group whose sockets are this node's.
    pub fn cgroup(&self) -> Result<Cgroup> {
        Ok(match &self.cgroup {
            Some(path) => Cgroup::at(path)?,
            None => Cgroup::root()?,
        })
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
                let ebpf = Ebpf::open(options.cgroup()?)?;
                Box::new(ebpf.ending_connections(options.ends_connections))
            }
        })
    }
}

/// Asks for what suits this machine.
const AUTO: &str = "auto";

/// What is said where there is no iptables.
const NO_IPTABLES: &str = "there is no iptables here: install it, or use nftables";

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A name that is none of a data plane's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no data plane {name}: accepted are nftables, iptables, ipvs, ebpf{besides}")]
pub struct UnknownMode {
    name: String,
    /// What else is accepted.
    besides: &'static str,
}

impl UnknownMode {
    fn new(name: &str, besides: &'static str) -> Self {
        Self { name: name.to_owned(), besides }
    }
}

impl FromStr for Mode {
    type Err = UnknownMode;

    fn from_str(text: &str) -> Result<Self, UnknownMode> {
        let found = Self::ALL.into_iter().find(|mode| mode.as_str() == text);
        found.ok_or_else(|| UnknownMode::new(text, ""))
    }
}
