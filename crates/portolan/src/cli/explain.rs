//! `portolan explain` and `portolan dump`.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use dataplane::Backend;
use dataplane::nftables::Nftables;

use super::planning::Planning;
use crate::control::Agent;
use crate::explain::{Dump, Proxy, explain};
use crate::proxy::plan_for;
use crate::runtime;

/// Explain the way of a connection, step by step, or the first thing that stands in it.
///
/// FROM is a pod (NAMESPACE/NAME), a node (node/NAME), an address, or "outside". TO is a Service
/// (NAMESPACE/NAME or its DNS name), a pod (pod/NAMESPACE/NAME), a node or an address, with :PORT and
/// /udp. The exit status is 0 if the connection reaches an endpoint, and 1 if not.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    portolan explain default/client default/nginx-service:80\n  \
    portolan explain outside node/node-1:30001\n  \
    portolan explain --dump cluster.json node/node-1 10.96.0.10:53/udp -o json")]
pub(crate) struct Args {
    /// Who connects.
    #[arg(value_name = "FROM")]
    from: String,
    /// To what.
    #[arg(value_name = "TO:PORT[/PROTOCOL]")]
    to: String,
    /// How to reach the API server [default: as kubectl finds it].
    #[arg(long, value_name = "FILE", env = "KUBECONFIG")]
    kubeconfig: Option<PathBuf>,
    /// Explain from a file that `portolan dump` wrote, instead of asking the API.
    #[arg(long, value_name = "FILE")]
    dump: Option<PathBuf>,
    /// The node that the connection comes to [default: the source's, or that of the address].
    #[arg(long, value_name = "NODE")]
    via: Option<String>,
    #[command(flatten)]
    planning: Planning,
    /// The socket of the proxy to ask [default: that of the deciding node, if it is of this host or of
    /// the kubeconfig's lab].
    #[arg(long, value_name = "FILE")]
    socket: Option<PathBuf>,
    /// Also compare what the kernel of that node holds with what it should hold.
    ///
    /// The proxy does it, or this program itself where no proxy answers: then it has to run on the
    /// node.
    #[arg(long)]
    verify: bool,
    /// How to print it.
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    output: Format,
}

/// Write what a cluster's packets depend on to a file, for `portolan explain --dump`.
///
/// That is Services, EndpointSlices, nodes, pods and ServiceCIDRs, as the API gives them: read it before
/// giving it to others.
#[derive(Debug, clap::Args)]
pub(crate) struct DumpArgs {
    /// How to reach the API server [default: as kubectl finds it].
    #[arg(long, value_name = "FILE", env = "KUBECONFIG")]
    kubeconfig: Option<PathBuf>,
    /// Where to write it [default: standard output].
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub(super) enum Format {
    Text,
    Json,
}

pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let is_live = args.dump.is_none();
    let dump = runtime::run(Dump::from(args.dump, args.kubeconfig.clone()))?;
    let agent_of = |node: &str| match &args.socket {
        Some(path) => Some(Agent::at(path.clone())),
        None if is_live => Agent::of_node(node, args.kubeconfig.as_deref()),
        None => None,
    };
    let proxy = |node: &str| {
        let status = agent_of(node).and_then(|agent| agent.status(false).ok());
        match status {
            Some(status) => Proxy {
                settings: status.settings.settings(node),
                asks_sockets: status.asks_sockets,
            },
            None => Proxy { settings: args.planning.settings(node), asks_sockets: false },
        }
    };
    let mut explanation = explain(&dump, &proxy, &args.from, &args.to, args.via.as_deref())
        .map_err(anyhow::Error::msg)?;
    let agent = explanation.node().and_then(agent_of);
    if let Some(question) = explanation.question() {
        match &agent {
            Some(agent) => explanation.hear(&agent.trace(question)?),
            None if is_live => explanation.hear_nothing(),
            None => {}
        }
    }
    if let (true, Some(node)) = (args.verify, explanation.node()) {
        let differences = match &agent {
            Some(agent) => agent.verify()?,
            None => {
                let plan = plan_for(&dump.world(), args.planning.settings(node));
                let whole = dataplane::sync::whole(&plan, &BTreeMap::new());
                Nftables::open()?.verify(&whole).context("compare with the kernel")?
            }
        };
        explanation.compare(differences);
    }
    match args.output {
        Format::Text => print!("{explanation}"),
        Format::Json => println!("{}", serde_json::to_string_pretty(&explanation)?),
    }
    Ok(if explanation.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

pub(crate) fn run_dump(args: DumpArgs) -> anyhow::Result<()> {
    let dump = runtime::run(async { Dump::take(args.kubeconfig.as_deref()).await })?;
    let text = serde_json::to_string_pretty(&dump)? + "\n";
    match args.file {
        Some(file) => {
            std::fs::write(&file, text).with_context(|| format!("write {}", file.display()))
        }
        None => std::io::stdout().write_all(text.as_bytes()).context("write the dump"),
    }
}
