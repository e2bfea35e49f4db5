//! `portolan cleanup`.

use std::path::PathBuf;

use crate::control::{self, SOCKET, runtime_directory};
use crate::node;

/// Remove everything that Portolan made on this machine.
///
/// That is pods with their links and addresses, rules of every data plane, tracked connections to Services, kernel
/// parameters, and routes; also what `portolan proxy` made. Stop the agent first.
/// What other programs made is left alone; that nothing is there is no error.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where the agent remembers leases and pods.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/portolan/node")]
    data_dir: PathBuf,
    /// Control group of the pods, below the root of the hierarchy.
    #[arg(long, value_name = "PATH", default_value = "portolan/pods")]
    pod_cgroup: PathBuf,
    /// Control group that eBPF programs were attached to, its directory [default: that of all processes].
    #[arg(long, value_name = "DIRECTORY")]
    cgroup: Option<PathBuf>,
    /// Where the agent answered; what was set before its first start is remembered beside it.
    #[arg(long, value_name = "FILE", default_value = SOCKET)]
    socket: PathBuf,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    control::remove_socket(&args.socket);
    let runtime = runtime_directory(&args.socket);
    let cgroup = args.cgroup.as_deref();
    node::clean_up("cleanup", &args.data_dir, &args.pod_cgroup, cgroup, runtime)
}
