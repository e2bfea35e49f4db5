//! `portolan cleanup`.

use std::path::PathBuf;

use crate::node;

/// Remove everything that the node agent made on this machine.
///
/// That is pods with their links and addresses, nftables tables, and routes. Stop the agent first.
/// What other programs made is left alone; that nothing is there is no error.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where the agent remembers leases and pods.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/portolan/node")]
    data_dir: PathBuf,
    /// Control group of the pods, below the root of the hierarchy.
    #[arg(long, value_name = "PATH", default_value = "portolan/pods")]
    pod_cgroup: PathBuf,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    node::clean_up("cleanup", &args.data_dir, &args.pod_cgroup)
}
