//! `portolan lab`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Subcommand;
use ipnet::IpNet;
use lab::{Directory, Record, take_down};

use super::dataplane::DataPlane;
use crate::logging;
use crate::runtime;
use crate::testbed::{self, MAX_NODES, Options, Place, Target};

/// Name of a lab if none is given.
const DEFAULT_NAME: &str = "lab";

/// What to do with a lab.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Up(Up),
    Exec(Exec),
    /// Take a lab down, also one whose `lab up` was killed.
    Down(Name),
    /// Say what labs there are, where they are and what memory they take.
    Status(Status),
    /// Print the path of the lab's kubeconfig.
    Kubeconfig(Name),
}

/// Bring a cluster up in the foreground until Ctrl-C, then take it down.
///
/// An API server, nodes and one host outside of the cluster, each in a network namespace of its own.
/// The machine's network is not touched; kubectl reaches the API on 127.0.0.1.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    portolan lab up --nodes 3 -f examples/\n  \
    portolan lab up --tour -f examples/ </dev/null    check everything, print it, and end")]
pub(crate) struct Up {
    #[command(flatten)]
    name: Name,
    /// Number of nodes.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=i64::from(MAX_NODES)))]
    nodes: u8,
    /// Manifests to apply: files, or directories of .yaml and .json files.
    #[arg(short = 'f', long = "filename", value_name = "PATH")]
    manifests: Vec<PathBuf>,
    /// Range of pods.
    #[arg(long, value_name = "CIDR", default_value = "10.244.0.0/16")]
    cluster_cidr: IpNet,
    /// Range of Services.
    #[arg(long, value_name = "CIDR", default_value = "10.96.0.0/16")]
    service_cidr: IpNet,
    #[command(flatten)]
    data_plane: DataPlane,
    /// Port of the API on 127.0.0.1, 0 for any [default: 6443 or the next free one].
    #[arg(long, value_name = "PORT")]
    api_port: Option<u16>,
    /// Check what the service network promises on the manifests of examples/, and print what was
    /// seen. Without a terminal on standard input the lab then goes down; the exit status says
    /// whether all was well.
    #[arg(long)]
    tour: bool,
    /// Log level of the server and the nodes, whose logs are in the lab's directory.
    #[arg(long, value_name = "LEVEL", default_value = "info", value_parser = logging::parse_level)]
    part_log_level: String,
}

/// Which lab.
#[derive(Debug, clap::Args)]
pub(crate) struct Name {
    /// Name of the lab.
    #[arg(long = "name", value_name = "NAME", default_value = DEFAULT_NAME)]
    value: String,
}

/// Which labs.
#[derive(Debug, clap::Args)]
pub(crate) struct Status {
    /// Name of the lab [default: all].
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
}

/// Run a command on a host or in a pod.
///
/// Hosts are `node-1` and so on, `control-plane` and `outside`; pods are `pod/NAME`,
/// `pod/NAMESPACE/NAME` or `pod/NAMESPACE/NAME/CONTAINER`, and the command runs beside the container.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    portolan lab exec outside -- curl -s http://172.31.0.11:30001/\n  \
    portolan lab exec node-1 -- nft list ruleset\n  \
    portolan lab exec pod/default/web/server -- cat /etc/resolv.conf")]
pub(crate) struct Exec {
    #[command(flatten)]
    name: Name,
    /// Host or pod.
    #[arg(value_name = "HOST")]
    target: Target,
    /// Command and arguments [default: a shell].
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

pub(crate) fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Up(up) => return runtime::run(testbed::up(up.into())),
        Command::Exec(exec) => return run_exec(&exec),
        Command::Down(name) => {
            let removed = take_down(&name.value)?;
            println!("lab {} is down: {removed}", name.value);
        }
        Command::Status(status) => print!("{}", testbed::status(status.name.as_deref())?),
        Command::Kubeconfig(name) => println!("{}", testbed::kubeconfig(&name.value)?.display()),
    }
    Ok(ExitCode::SUCCESS)
}

fn run_exec(exec: &Exec) -> anyhow::Result<ExitCode> {
    let directory = Directory::of(&exec.name.value)?;
    let record = Record::of_running(&directory)?;
    let place = Place::find(&directory, &record, &exec.target)?;
    // Standard streams are ours.
    let mut child = place.spawn(&exec.command, |_| {})?;
    let status = child.wait()?;
    // A shell says 128 and the signal's number of a command that a signal ended.
    let signal = std::os::unix::process::ExitStatusExt::signal(&status);
    let code = status.code().or(signal.map(|signal| 128 + signal)).unwrap_or(1);
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
}

impl From<Up> for Options {
    fn from(up: Up) -> Self {
        Self {
            name: up.name.value,
            nodes: up.nodes,
            cluster_cidr: up.cluster_cidr,
            service_cidr: up.service_cidr,
            api_port: up.api_port,
            manifests: up.manifests,
            tour: up.tour,
            log_level: up.part_log_level,
            data_plane: up.data_plane.arguments(),
        }
    }
}
