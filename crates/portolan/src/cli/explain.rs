//! `portolan explain` and `portolan dump`.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;

use super::planning::Planning;
use crate::explain::{Dump, explain};
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
enum Format {
    Text,
    Json,
}

pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let dump = runtime::run(Dump::from(args.dump, args.kubeconfig))?;
    let settings = |name: &str| args.planning.settings(name);
    let explanation = explain(&dump, &settings, &args.from, &args.to, args.via.as_deref())
        .map_err(anyhow::Error::msg)?;
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
