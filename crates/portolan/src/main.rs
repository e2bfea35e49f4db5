//! Portolan, a Kubernetes service network in one program: the command line and the wiring of the
//! other crates. Decisions live in `model` and `plan`, effects in `kernel`, `dataplane` and `pod`.
//!
//! Start reading at [`node`] for the agent that runs on every node, at [`server`] for the embedded
//! control plane, and at [`testbed`] for a whole cluster on one machine.

mod apply;
mod cli;
mod client;
mod controllers;
mod kubeconfig;
mod logging;
mod manifest {
    use std::path::PathBuf;
    pub(crate) struct Manifest {
        pub(crate) api_version: String,
        pub(crate) kind: String,
        pub(crate) namespace: Option<String>,
        pub(crate) name: String,
        pub(crate) value: serde_json::Value,
    }
    impl Manifest {
        pub(crate) fn position(&self, f: &str) -> String {
            format!("{} {}/{}", f, self.kind, self.name)
        }
    }
    pub(crate) fn load(paths: &[PathBuf]) -> anyhow::Result<Vec<Manifest>> {
        let mut all = Vec::new();
        for p in paths {
            let files: Vec<PathBuf> = if p.is_dir() {
                let mut v: Vec<_> = std::fs::read_dir(p)?.map(|e| e.unwrap().path()).collect();
                v.sort();
                v
            } else {
                vec![p.clone()]
            };
            for f in files {
                let text = std::fs::read_to_string(&f)?;
                for doc in text.split("\n---\n") {
                    let value: serde_json::Value = serde_saphyr::from_str(doc)?;
                    let t = |v: &serde_json::Value| v.as_str().unwrap_or_default().to_owned();
                    all.push(Manifest {
                        api_version: t(&value["apiVersion"]),
                        kind: t(&value["kind"]),
                        namespace: value["metadata"]["namespace"].as_str().map(str::to_owned),
                        name: t(&value["metadata"]["name"]),
                        value,
                    });
                }
            }
        }
        Ok(all)
    }
}
mod node;
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
            eprintln!("portolan: {error:#}");
            ExitCode::FAILURE
        }
    }
}
