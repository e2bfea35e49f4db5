//! `portolan switch-dataplane`.

use std::path::PathBuf;

use dataplane::mode::Wish;

use crate::control::{Agent, SOCKET};

/// Have another data plane program Services on this node, while connections go on.
///
/// It is programmed beside the present one, which goes once the other is complete; if that fails,
/// everything stays as it is. The process that is asked keeps it until it ends: what it is started with
/// (mode, --dataplane) says which one is used after that.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    portolan switch-dataplane iptables\n  \
    portolan switch-dataplane nftables --socket /run/portolan/lab/lab/node-1/portolan.sock")]
pub(crate) struct Args {
    /// The data plane: nftables, iptables, ipvs, ebpf, or auto for ebpf where the node can have it and nftables
    /// elsewhere.
    #[arg(value_name = "NAME")]
    wish: Wish,
    /// Where the proxy answers.
    #[arg(long, value_name = "FILE", default_value = SOCKET)]
    socket: PathBuf,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    println!("{}", Agent::at(args.socket.clone()).switch_to(args.wish)?);
    Ok(())
}
