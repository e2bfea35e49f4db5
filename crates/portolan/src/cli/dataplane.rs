//! Flags that choose a data plane.

use dataplane::Mode;
use dataplane::iptables::Flavour;
use dataplane::mode::Options;

use crate::proxy::dataplane::Choice;

/// What programs Services.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(super) struct DataPlane {
    /// What programs Services: nftables or iptables.
    #[arg(long = "dataplane", value_name = "NAME", default_value = "nftables")]
    mode: Mode,
    /// Which kernel interface iptables writes to, nft or legacy [default: what this machine uses].
    #[arg(long, value_name = "NAME")]
    iptables_backend: Option<Flavour>,
}

impl DataPlane {
    /// What was chosen.
    pub(super) fn choice(&self) -> Choice {
        let options = Options { iptables: self.iptables_backend, ..Options::default() };
        Choice { mode: self.mode, options }
    }

    /// The same as arguments of a command line.
    pub(super) fn arguments(&self) -> Vec<String> {
        let mut arguments = vec![format!("--dataplane={}", self.mode)];
        let flavour = self.iptables_backend.map(|flavour| format!("--iptables-backend={flavour}"));
        arguments.extend(flavour);
        arguments
    }
}
