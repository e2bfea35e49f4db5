//! `portolan proxy`.

mod flags;

use std::path::{Path, PathBuf};

use anyhow::Context;
use dataplane::mode::Options;
use plan::NodeSettings;

use crate::control::{self, runtime_directory};
use crate::errors::sentence;
use crate::proxy::config::{self, KubeProxyConfiguration};
use crate::proxy::dataplane::{Choice, resolve};
use crate::proxy::{self, Settings, host, takeover};
use crate::runtime;
pub(crate) use flags::Args;
use flags::from_flags;

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    if args.cleanup {
        return cleanup(args.keep_kube_proxy, args.cgroup.as_deref(), &args.socket);
    }
    let mut config = configuration(args)?;
    if let Some(path) = &args.write_config_to {
        let text = config.to_yaml();
        return std::fs::write(path, text).with_context(|| format!("write {}", path.display()));
    }
    let options = Options {
        cgroup: args.cgroup.clone(),
        ends_connections: args.end_lost_connections,
        ..config.options(args.iptables_backend)
    };
    let mode = resolve(config.wish()?, &options);
    config.mode = mode.to_string();
    for sentence in config.without_meaning() {
        tracing::warn!("{sentence}");
    }
    let given = args.without_meaning.given();
    if !given.is_empty() {
        tracing::warn!("no effect here: {}", given.join(", "));
    }
    host::tune(&config.conntrack, config.oom_score_adj, runtime_directory(&args.socket));
    if args.init_only {
        return Ok(());
    }
    let node_name = match config.hostname_override.trim() {
        "" => nix::unistd::gethostname()
            .context("read the host's name (or pass --hostname-override)")?
            .to_string_lossy()
            .into_owned(),
        name => name.to_owned(),
    }
    .to_lowercase();
    let kubeconfig = Some(config.client_connection.kubeconfig.as_str());
    runtime::run(proxy::run(Settings {
        kubeconfig: kubeconfig.filter(|path| !path.is_empty()).map(PathBuf::from),
        master: args.master.clone(),
        choice: Choice { mode, options },
        node: NodeSettings {
            allowed_external_ips: args.allow_external_ips.clone(),
            ..config.node_settings(&node_name)
        },
        healthz: config.healthz_bind_address.parse().ok(),
        metrics: config.metrics_bind_address.parse().ok(),
        config: config.to_json(),
        detect_by_node: config.detect_local_mode == "NodeCIDR",
        annotate: args.programmed_annotation,
        socket: Some(args.socket.clone()).filter(|path| !path.as_os_str().is_empty()),
        file: args.config.clone(),
        bind_hard_fail: config.bind_address_hard_fail,
    }))
}

/// Removes the rules of all proxies, or of this one alone, and what was set on the host.
fn cleanup(keep_kube_proxy: bool, cgroup: Option<&Path>, socket: &Path) -> anyhow::Result<()> {
    control::remove_socket(socket);
    let (removed, mut failures) = match keep_kube_proxy {
        true => Default::default(),
        false => takeover::remove_kube_proxy(),
    };
    for line in removed {
        tracing::info!("removed {line}");
    }
    // Connections go on: whoever is next on this node finds them tracked.
    failures.extend(proxy::dataplane::clean_up(cgroup));
    failures.extend(host::restore(runtime_directory(socket)).err());
    let all: Vec<String> = failures.iter().map(sentence).collect();
    anyhow::ensure!(all.is_empty(), "left behind: {}", all.join("; "));
    Ok(())
}

/// The configuration in force, valid.
fn configuration(args: &Args) -> anyhow::Result<KubeProxyConfiguration> {
    let mut config = match &args.config {
        Some(path) => from_file(path)?,
        None => from_flags(args),
    };
    if let Some(name) = &args.hostname_override {
        config.hostname_override.clone_from(name);
    }
    config.validate()?;
    config.wish()?;
    Ok(config)
}

fn from_file(path: &Path) -> anyhow::Result<KubeProxyConfiguration> {
    let (config, warnings) = config::read(path)?;
    for warning in warnings {
        tracing::warn!(file = %path.display(), "{warning}");
    }
    Ok(config)
}
