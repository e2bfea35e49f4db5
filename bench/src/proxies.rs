//! The proxies that can be measured, and how each is started and watched.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::ValueEnum;

use crate::cluster::{NODE, POD_RANGE};
use crate::effect::{Listener, Observer, Packets, Servers};
use crate::site::Site;

/// A proxy.
#[derive(Debug, Clone)]
pub(crate) enum Proxy {
    /// This project's.
    Portolan(PathBuf, DataPlane),
    /// kube-proxy.
    KubeProxy(PathBuf, Mode),
}

/// Portolan's data planes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum DataPlane {
    /// nftables.
    Nftables,
    /// iptables that writes to nf_tables.
    IptablesNft,
    /// Legacy iptables.
    IptablesLegacy,
    /// IPVS, where the kernel has it.
    Ipvs,
    /// eBPF.
    Ebpf,
}

impl DataPlane {
    /// All that this kernel can be programmed with.
    pub(crate) fn of_this_kernel() -> anyhow::Result<Vec<Self>> {
        let mut all = vec![Self::Nftables, Self::IptablesNft, Self::IptablesLegacy, Self::Ebpf];
        if has_ipvs()? {
            all.push(Self::Ipvs);
        }
        Ok(all)
    }

    /// Fails if this kernel can't be programmed with it.
    pub(crate) fn check(self) -> anyhow::Result<()> {
        ensure!(
            self != Self::Ipvs || has_ipvs()?,
            "--dataplanes ipvs: this kernel has no IPVS (module ip_vs); `make bench-vm` measures it \
             under one that has it, in a virtual machine"
        );
        Ok(())
    }
}

/// Whether the kernel has IPVS, which it loads if so.
fn has_ipvs() -> anyhow::Result<bool> {
    let version = kernel::ipvs::available().context("ask for IPVS: it needs root")?;
    Ok(version.is_some())
}

/// kube-proxy's data planes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    /// nftables, from 1.29 on.
    Nftables,
    /// iptables.
    Iptables,
}

impl Proxy {
    /// Its name in results.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Proxy::Portolan(_, DataPlane::Nftables) => "portolan",
            Proxy::Portolan(_, DataPlane::IptablesNft) => "portolan-iptables-nft",
            Proxy::Portolan(_, DataPlane::IptablesLegacy) => "portolan-iptables-legacy",
            Proxy::Portolan(_, DataPlane::Ipvs) => "portolan-ipvs",
            Proxy::Portolan(_, DataPlane::Ebpf) => "portolan-ebpf",
            Proxy::KubeProxy(_, Mode::Nftables) => "kube-proxy-nftables",
            Proxy::KubeProxy(_, Mode::Iptables) => "kube-proxy-iptables",
        }
    }

    /// Whether it is worth the time to measure it with so many Services: with more, whatever writes
    /// iptables takes seconds for one change, and a kube-proxy minutes. IPVS is there to be compared with
    /// them.
    pub(crate) fn can_have(&self, services: u32) -> bool {
        matches!(self, Proxy::Portolan(_, DataPlane::Nftables | DataPlane::Ebpf))
            || services <= 10_000
    }

    /// How its changes are seen at a site.
    /// `patience` is how long a packet's answer may take.
    pub(crate) fn observer<'s>(
        &self,
        site: &'s Site,
        patience: Duration,
    ) -> anyhow::Result<Observer<'s>> {
        match self {
            // Of maps nobody is told.
            Proxy::KubeProxy(_, Mode::Iptables)
            | Proxy::Portolan(_, DataPlane::IptablesLegacy | DataPlane::Ebpf) => {
                Ok(Observer::Packets(Packets::of(site, patience)))
            }
            Proxy::Portolan(_, DataPlane::Ipvs) => {
                Ok(Observer::Servers(Servers::open(&site.node)?))
            }
            _ => Ok(Observer::Notifications(Listener::open(&site.node)?)),
        }
    }

    /// What starts it at a site, where files that it needs go too.
    pub(crate) fn command(&self, kubeconfig: &Path, site: &Site) -> anyhow::Result<Command> {
        let directory = site.directory();
        match self {
            Proxy::Portolan(program, data_plane) => {
                let mut command = Command::new(program);
                command
                    .args(["proxy", "--hostname-override", NODE, "--cluster-cidr", POD_RANGE])
                    .args(["--healthz-bind-address", "127.0.0.1:10256"])
                    .args(["--metrics-bind-address", "127.0.0.1:10249"])
                    .args(["--conntrack-max-per-core", "0", "--conntrack-min", "0"])
                    .arg("--socket")
                    .arg(directory.join("portolan.sock"))
                    .arg("--kubeconfig")
                    .arg(kubeconfig)
                    .args(match data_plane {
                        DataPlane::Nftables => ["--proxy-mode=nftables"].as_slice(),
                        DataPlane::IptablesNft => {
                            &["--proxy-mode=iptables", "--iptables-backend=nft"]
                        }
                        DataPlane::IptablesLegacy => {
                            &["--proxy-mode=iptables", "--iptables-backend=legacy"]
                        }
                        DataPlane::Ipvs => &["--proxy-mode=ipvs"],
                        DataPlane::Ebpf => &["--proxy-mode=ebpf"],
                    })
                    .arg("--cgroup")
                    .arg(site.cgroup());
                Ok(command)
            }
            Proxy::KubeProxy(program, mode) => {
                let mode = match mode {
                    Mode::Nftables => "nftables",
                    Mode::Iptables => "iptables",
                };
                let path = directory.join("kube-proxy.yaml");
                // JSON, which is what the source serves, and no limit on requests. What the node's
                // connection tracking has as limits stays.
                let config = format!(
                    "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nmode: {mode}\nclusterCIDR: {POD_RANGE}\nhostnameOverride: {NODE}\nclientConnection:\n  kubeconfig: {}\n  contentType: application/json\n  acceptContentTypes: application/json\n  qps: 1000\n  burst: 1000\nconntrack:\n  maxPerCore: 0\n  min: 0\n  tcpEstablishedTimeout: 0s\n  tcpCloseWaitTimeout: 0s\nhealthzBindAddress: 127.0.0.1:10256\nmetricsBindAddress: 127.0.0.1:10249\n",
                    kubeconfig.display()
                );
                fs::write(&path, config).with_context(|| format!("write {}", path.display()))?;
                let mut command = Command::new(program);
                command.arg("--config").arg(path);
                if mode == "iptables" {
                    // It runs what is called iptables. The shapes are loaded into the legacy kind, too.
                    command.env("PATH", legacy_iptables(directory)?);
                }
                Ok(command)
            }
        }
    }
}

/// A PATH on which `iptables` and its kind are those of legacy iptables.
fn legacy_iptables(directory: &Path) -> anyhow::Result<String> {
    let programs = directory.join("bin");
    let failed = || format!("make {}", programs.display());
    fs::create_dir_all(&programs).with_context(failed)?;
    for family in ["iptables", "ip6tables"] {
        for kind in ["", "-save", "-restore"] {
            let link = programs.join(format!("{family}{kind}"));
            let target = format!("/usr/sbin/{family}-legacy{kind}");
            if !link.exists() {
                std::os::unix::fs::symlink(target, link).with_context(failed)?;
            }
        }
    }
    let others = std::env::var("PATH").unwrap_or_default();
    Ok(format!("{}:{others}:/usr/sbin:/sbin", programs.display()))
}
