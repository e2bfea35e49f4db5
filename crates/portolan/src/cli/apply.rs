//! `portolan apply`.

use std::path::PathBuf;

use crate::{apply, client, runtime};

/// Apply manifests: all of them, or with one mistake none.
///
/// A mistake is answered with file, line and field, and what is accepted there.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  portolan apply -f examples/")]
pub(crate) struct Args {
    /// How to reach the API server [default: as kubectl finds it].
    #[arg(long, value_name = "FILE", env = "KUBECONFIG")]
    kubeconfig: Option<PathBuf>,
    /// A file, or a directory of .yaml, .yml and .json files.
    #[arg(short = 'f', long = "filename", value_name = "PATH", required = true)]
    paths: Vec<PathBuf>,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    runtime::run(async {
        let client = client::connect(args.kubeconfig.as_deref()).await?;
        for object in apply::apply(&client, &args.paths).await? {
            println!("{object} applied");
        }
        Ok(())
    })
}
