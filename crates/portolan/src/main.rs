//! Portolan, a Kubernetes service network in one program: the command line and the wiring of the
//! other crates. Decisions live in `model` and `plan`, effects in `kernel`, `dataplane` and `pod`.
//!
//! Start reading at [`node`] for the agent that runs on every node, at [`server`] for the embedded
//! control plane, and at [`testbed`] for a whole cluster on one machine.

mod apply;
mod cli;
mod client;
mod control;
mod controllers;
mod errors;
mod explain;
mod kubeconfig;
mod logging;
mod manifest;
mod nameserver;
mod node;
mod probes;
mod proxy;
mod runtime;
mod server;
mod testbed;
mod tour;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    let done = logging::start(&cli.log_level).and_then(|()| cli::run(cli.command));
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("portolan: {}", errors::sentence(&error));
            ExitCode::FAILURE
        }
    }
}
