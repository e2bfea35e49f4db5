//! Flags that choose a data plane.

use std::path::PathBuf;

use dataplane::iptables::Flavour;
use dataplane::ipvs::Scheduler;
use dataplane::mode::{Options, Wish};

use crate::proxy::dataplane::{Choice, resolve};

/// What programs Services.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct DataPlane {
    /// What programs Services: nftables, iptables, ipvs, ebpf, or auto for ebpf where this machine can have it and
    /// nftables elsewhere.
    #[arg(long = "dataplane", value_name = "NAME", default_value = "nftables")]
    wish: Wish,
    /// Which kernel interface iptables writes to, nft or legacy [default: what this machine uses].
    #[arg(long, value_name = "NAME")]
    iptables_backend: Option<Flavour>,
    /// How IPVS chooses an endpoint: rr, wrr, lc, wlc, sh, mh, sed or nq.
    #[arg(long, value_name = "NAME", default_value = "rr")]
    ipvs_scheduler: Scheduler,
    /// Directory of the control group whose sockets eBPF leads to endpoints [default: that of all processes].
    #[arg(long, value_name = "DIRECTORY")]
    cgroup: Option<PathBuf>,
    /// Have eBPF end TCP connections of sockets to endpoints that have left their Service, with ECONNABORTED.
    ///
    /// A client then notices at once that its pod has gone, and not when its packets time out. Connecting a
    /// TCP socket to a Service costs somewhat more.
    #[arg(long)]
    end_lost_connections: bool,
}

impl DataPlane {
    /// What was chosen, on this machine.
    pub(super) fn choice(&self) -> Choice {
        let options = Options {
            iptables: self.iptables_backend,
            scheduler: self.ipvs_scheduler,
            cgroup: self.cgroup.clone(),
            ends_connections: self.end_lost_connections,
            ..Options::default()
        };
        Choice { mode: resolve(self.wish, &options), options }
    }

    /// The same as arguments of a command line.
    pub(super) fn arguments(&self) -> Vec<String> {
        let mut arguments = vec![format!("--dataplane={}", self.wish)];
        let flavour = self.iptables_backend.map(|flavour| format!("--iptables-backend={flavour}"));
        arguments.extend(flavour);
        arguments.push(format!("--ipvs-scheduler={}", self.ipvs_scheduler));
        arguments.extend(self.cgroup.iter().map(|path| format!("--cgroup={}", path.display())));
        arguments.extend(self.end_lost_connections.then(|| "--end-lost-connections".to_owned()));
        arguments
    }
}
