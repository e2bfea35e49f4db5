//! `portolan apply`.

use std::path::PathBuf;

use crate::{apply, client, manifest, runtime};

/// Apply manifests: all of them, or with one mistake none.
///
/// A mistake is answered with file, line and field, and what is accepted there.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  portolan apply -f examples/")]
pub(crate) struct Args {
    /// How to reach the API server [default: as kubectl finds it].
    #[arg(long, value_name = "FILE", env = "KUBECONFIG")]
    kubeconfig: Option<PathBuf>,
    /// A file, a directory of .yaml, .yml and .json files, or - for standard input.
    #[arg(short = 'f', long = "filename", value_name = "PATH", required = true)]
    paths: Vec<PathBuf>,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let manifests = manifest::load(&args.paths)?;
    runtime::run(async {
        let client = client::connect(args.kubeconfig.as_deref()).await?;
        for object in apply::apply(&client, &manifests).await? {
            println!("{object} applied");
        }
        Ok(())
    })
}
