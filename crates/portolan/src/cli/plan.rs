//! `portolan plan`.

use std::path::PathBuf;

use super::planning::Planning;
use crate::{proxy, runtime};

/// Print what a node is to do with packets, from the API.
///
/// Each frontend with what happens to connections from pods, from the node and from outside, and the
/// endpoints that are left out, with the reason. It is computed as the agent of that node does it;
/// nothing is changed.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  portolan plan --node-name node-1 default/nginx-service")]
pub(crate) struct Args {
    /// How to reach the API server [default: as kubectl finds it].
    #[arg(long, value_name = "FILE", env = "KUBECONFIG")]
    kubeconfig: Option<PathBuf>,
    /// Name of the Node.
    #[arg(long, value_name = "NAME")]
    node_name: String,
    #[command(flatten)]
    planning: Planning,
    /// Only these Services.
    #[arg(value_name = "NAMESPACE/NAME")]
    services: Vec<String>,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let kubeconfig = args.kubeconfig.as_deref();
    let settings = args.planning.settings(&args.node_name);
    let plan = runtime::run(proxy::plan_once(kubeconfig, settings))?;
    print!("{}", proxy::describe(&plan, &args.services));
    Ok(())
}
