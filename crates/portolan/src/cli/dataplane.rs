//! Flags that choose a data plane.

use dataplane::Mode;
use dataplane::iptables::Flavour;
use dataplane::ipvs::Scheduler;
use dataplane::mode::Options;

use crate::proxy::dataplane::Choice;

/// What programs Services.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(super) struct DataPlane {
    /// What programs Services: nftables, iptables or ipvs.
    #[arg(long = "dataplane", value_name = "NAME", default_value = "nftables")]
    mode: Mode,
    /// Which kernel interface iptables writes to, nft or legacy [default: what this machine uses].
    #[arg(long, value_name = "NAME")]
    iptables_backend: Option<Flavour>,
    /// How IPVS chooses an endpoint: rr, wrr, lc, wlc, sh, mh, sed or nq.
    #[arg(long, value_name = "NAME", default_value = "rr")]
    ipvs_scheduler: Scheduler,
}

impl DataPlane {
    /// What was chosen.
    pub(super) fn choice(&self) -> Choice {
        let options = Options {
            iptables: self.iptables_backend,
            scheduler: self.ipvs_scheduler,
            ..Options::default()
        };
        Choice { mode: self.mode, options }
    }

    /// The same as arguments of a command line.
    pub(super) fn arguments(&self) -> Vec<String> {
        let mut arguments = vec![format!("--dataplane={}", self.mode)];
        let flavour = self.iptables_backend.map(|flavour| format!("--iptables-backend={flavour}"));
        arguments.extend(flavour);
        arguments.push(format!("--ipvs-scheduler={}", self.ipvs_scheduler));
        arguments
    }
}
