//! Taking away everything that the agent ever puts into the kernel of this node.

use std::path::Path;

use kernel::route::Rtnetlink;
use pod::runner;
use pod::wiring::NodeRoutes;

use crate::errors::sentence;
use crate::proxy;

/// Removes pods, packet filter and routes; goes on after a failure and reports all of them. The
/// agent must not run.
pub(crate) fn clean_up(
    name: &str,
    data_dir: &Path,
    pod_cgroup: &Path,
    cgroup: Option<&Path>,
    runtime: &Path,
) -> anyhow::Result<()> {
    let config = runner::Config {
        cgroup: pod_cgroup.to_owned(),
        ..runner::Config::new(name, data_dir.join("pods"))
    };
    let mut failures: Vec<anyhow::Error> =
        runner::cleanup(&config).into_iter().map(Into::into).collect();
    let (forgotten, left) = proxy::dataplane::forget_connections(cgroup);
    if forgotten > 0 {
        tracing::info!(forgotten, "connections to Services");
    }
    failures.extend(left);
    failures.extend(proxy::dataplane::clean_up(cgroup));
    // After them: what they have set they set to the kernel's defaults, at most.
    failures.extend(proxy::host::restore(runtime).err());
    match clean_routes() {
        Ok(refused) => failures.extend(refused.into_iter().map(Into::into)),
        Err(error) => failures.push(error.into()),
    }
    if failures.is_empty() {
        tracing::info!("nothing of portolan is left on this node");
        return Ok(());
    }
    let all: Vec<String> = failures.iter().map(sentence).collect();
    anyhow::bail!("left behind: {}", all.join("; "))
}

fn clean_routes() -> kernel::Result<Vec<pod::Error>> {
    let mut kernel = Rtnetlink::open()?;
    let changes = NodeRoutes::default().diff(&kernel.routes()?);
    Ok(changes.apply(&mut kernel).err().unwrap_or_default())
}
