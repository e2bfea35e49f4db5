//! The command line: what a user can ask for, and nothing else.

mod apply;
mod cleanup;
mod dataplane;
#[cfg(test)]
mod deploy_tests;
mod dns;
mod explain;
mod lab;
mod node;
mod place;
mod plan;
mod planning;
mod proxy;
mod server;
mod status;
mod switch;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::logging;

/// A Kubernetes service network in one program: pod addresses, ClusterIPs, NodePorts and cluster
/// DNS, with a small API server for clusters that have no other.
#[derive(Debug, Parser)]
#[command(
    name = "portolan",
    version,
    propagate_version = true,
    after_help = "Examples:\n  \
        portolan lab up -f examples/          a whole cluster on this machine, until Ctrl-C\n  \
        portolan lab exec outside -- curl http://172.31.0.11:30001/\n  \
        portolan node --kubeconfig FILE       the agent of a node of a real cluster\n  \
        portolan proxy --config FILE          in the place of kube-proxy\n  \
        portolan dns --kubeconfig FILE        in the place of CoreDNS\n  \
        portolan plan --node-name node-1      what a node is to do with packets\n  \
        portolan explain outside node/node-1:30001\n  \
        \x20                                     why a connection gets through, or not"
)]
pub(crate) struct Cli {
    /// Least severe log messages to print, or directives as RUST_LOG takes them.
    #[arg(long, global = true, default_value = "info", value_name = "LEVEL",
        value_parser = logging::parse_level)]
    pub(crate) log_level: String,

    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Server(server::Args),
    Node(node::Args),
    // Its flags are many.
    Proxy(Box<proxy::Args>),
    Dns(Box<dns::Args>),
    /// Run a whole cluster on this machine, made of network namespaces.
    #[command(subcommand)]
    Lab(lab::Command),
    Apply(apply::Args),
    Plan(plan::Args),
    Explain(explain::Args),
    Dump(explain::DumpArgs),
    Status(status::Args),
    SwitchDataplane(switch::Args),
    Cleanup(cleanup::Args),
    /// Print the version.
    Version,
}

/// Carries a command out.
pub(crate) fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Server(args) => server::run(args)?,
        Command::Node(args) => node::run(args)?,
        Command::Proxy(args) => proxy::run(&args)?,
        Command::Dns(args) => dns::run(*args)?,
        Command::Lab(command) => return lab::run(command),
        Command::Apply(args) => apply::run(&args)?,
        Command::Plan(args) => plan::run(&args)?,
        Command::Explain(args) => return explain::run(args),
        Command::Status(args) => return status::run(&args),
        Command::SwitchDataplane(args) => switch::run(&args)?,
        Command::Dump(args) => explain::run_dump(args)?,
        Command::Cleanup(args) => cleanup::run(&args)?,
        Command::Version => println!("portolan {}", env!("CARGO_PKG_VERSION")),
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
