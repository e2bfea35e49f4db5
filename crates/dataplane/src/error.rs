//! What programming a plan can fail with.

use plan::GroupId;

/// Why a plan was not programmed. Nothing of the attempt is in the kernel then.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refuses what these groups ask for; without them the rest can go in.
    #[error("the kernel refuses {}", describe(.0))]
    Refused(Vec<(GroupId, String)>),
    /// A program of iptables failed, with what it said.
    #[error("{0}")]
    Iptables(String),
    /// The kernel has no IPVS.
    #[error("this kernel has no IPVS (module ip_vs): use nftables or iptables")]
    NoIpvs,
    /// The kernel could not be read or written.
    #[error(transparent)]
    Kernel(#[from] kernel::Error),
}

/// Result of programming a plan.
pub type Result<T, E = Error> = std::result::Result<T, E>;

fn describe(groups: &[(GroupId, String)]) -> String {
    let one = |(group, reason): &(GroupId, String)| format!("{group}: {reason}");
    groups.iter().map(one).collect::<Vec<_>>().join("; ")
}
