//! Where everything is measured: a node between a client pod, an outside host and the pods of the whole
//! cluster, each a network namespace, joined by routed veth pairs.
//!
//! ```text
//!   client (a pod) ──┐
//!                    node ── pods           addresses of endpoints are local there,
//!   outside ─────────┘  └── other ── far    and those of one Service here: another node, with its pods
//! ```

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, ensure};
use kernel::cgroup::Cgroup;
use kernel::netns::Netns;
use kernel::route::{NextHop, Route, Rtnetlink, VethEnd};
use kernel::sysctl;
use tempfile::TempDir;

use crate::cluster::{ENDPOINT_RANGE, FAR_RANGE, NODE_ADDRESS};
use crate::interrupt::{self, Left};

/// The client's address: a pod's.
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 250, 0, 1);
/// The outside host's address.
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
/// The node, as pods see it.
const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// An address of the pods' namespace itself.
const PODS: Ipv4Addr = Ipv4Addr::new(10, 251, 0, 1);
/// The other node's address, and one of its pods' namespace itself.
const OTHER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 3);
const FAR: Ipv4Addr = Ipv4Addr::new(10, 252, 0, 1);
/// `RTPROT_STATIC`.
const STATIC: u8 = 4;

/// The namespaces; removed when dropped.
pub(crate) struct Site {
    /// A pod that connects.
    pub(crate) client: Client,
    /// The node that is measured.
    pub(crate) node: Netns,
    /// Its endpoints.
    pub(crate) pods: Netns,
    /// Those of another node.
    pub(crate) far: Netns,
    /// A host that is no part of the cluster.
    pub(crate) outside: Client,
    /// The control group of what runs in pods, for who treats sockets by that.
    cgroup: Cgroup,
    names: Vec<PathBuf>,
    directory: TempDir,
}

/// Where connections begin.
pub(crate) struct Client {
    netns: Netns,
    /// The control group of whoever connects, if it is one of the node's.
    cgroup: Option<Cgroup>,
}

impl Client {
    /// Runs something there, on a thread of its own.
    pub(crate) fn run<T: Send>(&self, body: impl FnOnce() -> T + Send) -> kernel::Result<T> {
        self.netns.run(|| {
            if let Some(cgroup) = &self.cgroup {
                cgroup.add_this_thread()?;
            }
            Ok(body())
        })?
    }
}

impl Site {
    /// Makes the namespaces and the links between them.
    pub(crate) fn new() -> anyhow::Result<Self> {
        let directory = tempfile::tempdir().context("make a temporary directory")?;
        interrupt::add(Left::Directory(directory.path().to_owned()));
        let mut names = Vec::new();
        let mut make = |name: &str| -> anyhow::Result<Netns> {
            let path = directory.path().join(name);
            let netns = Netns::create(&path).context("make a network namespace: it needs root")?;
            interrupt::add(Left::Namespace(path.clone()));
            names.push(path);
            netns.run(|| Rtnetlink::open()?.set_up("lo"))??;
            Ok(netns)
        };
        let (client, node) = (make("client")?, make("node")?);
        let (pods, outside) = (make("pods")?, make("outside")?);
        let (other, far) = (make("other")?, make("far")?);
        for router in [&node, &other] {
            router.run(|| sysctl::write("net/ipv4/ip_forward", "1"))??;
        }
        attach(&node, "client", &client, CLIENT, GATEWAY)?;
        attach(&node, "pods", &pods, PODS, GATEWAY)?;
        attach(&node, "outside", &outside, OUTSIDE, NODE_ADDRESS)?;
        attach(&node, "other", &other, OTHER, NODE_ADDRESS)?;
        attach(&other, "far", &far, FAR, GATEWAY)?;
        // A node has a default route. What goes there is not answered.
        route(&node, "0.0.0.0/0", OUTSIDE)?;
        route(&node, ENDPOINT_RANGE, PODS)?;
        route(&node, FAR_RANGE, OTHER)?;
        route(&other, FAR_RANGE, FAR)?;
        let cgroup = new_cgroup()?;
        let client = Client { netns: client, cgroup: Some(cgroup.clone()) };
        let outside = Client { netns: outside, cgroup: None };
        let site = Self { client, node, pods, far, outside, cgroup, names, directory };
        for (netns, range) in [(&site.pods, ENDPOINT_RANGE), (&site.far, FAR_RANGE)] {
            site.run(netns, &["ip", "route", "add", "local", range, "dev", "lo"])?;
        }
        Ok(site)
    }

    /// The directory of the control group of what runs in pods.
    pub(crate) fn cgroup(&self) -> &Path {
        self.cgroup.path()
    }

    /// Where files of the site may be.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Runs a command in one of the namespaces; it has to succeed.
    pub(crate) fn run(&self, netns: &Netns, command: &[&str]) -> anyhow::Result<String> {
        let line = command.join(" ");
        let (program, arguments) = command.split_first().context("an empty command")?;
        let run = || Command::new(program).args(arguments).stdin(Stdio::null()).output();
        let output = netns.run(run)?.with_context(|| format!("run `{line}`"))?;
        let message = String::from_utf8_lossy(&output.stderr);
        // One mistake in a large file is told a thousand times.
        let begin: Vec<&str> = message.lines().take(5).collect();
        ensure!(output.status.success(), "`{line}` failed: {}", begin.join("\n"));
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        for name in &self.names {
            // It ends with its last user; the name is what would be left behind.
            if let Err(error) = Netns::delete(name) {
                eprintln!("bench: {error}");
            }
            interrupt::forget(&Left::Namespace(name.clone()));
        }
        // What was attached to the group ends with it, but its names don't.
        if let Ok(metadata) = fs::metadata(self.cgroup.path()) {
            let _ = fs::remove_dir_all(format!("/sys/fs/bpf/portolan/{}", metadata.ino()));
        }
        let _ = fs::remove_dir("/sys/fs/bpf/portolan");
        if let Err(error) = fs::remove_dir(self.cgroup.path()) {
            eprintln!("bench: remove {}: {error}", self.cgroup.path().display());
        }
        interrupt::forget(&Left::Directory(self.cgroup.path().to_owned()));
        // The directory goes with this value.
        interrupt::forget(&Left::Directory(self.directory.path().to_owned()));
    }
}

/// A control group below the one of this process, for threads of it.
fn new_cgroup() -> anyhow::Result<Cgroup> {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let name = format!("portolan-bench-{}-{number}", std::process::id());
    let cgroup = Cgroup::current()?.child(name);
    interrupt::add(Left::Directory(cgroup.path().to_owned()));
    cgroup.create()?;
    cgroup.make_threaded()?;
    Ok(cgroup)
}

fn route(netns: &Netns, destination: &str, gateway: Ipv4Addr) -> anyhow::Result<()> {
    let hop = NextHop::Gateway { address: gateway.into(), link: None, onlink: false };
    Rtnetlink::open_in(netns)?.replace_route(&Route::new(destination.parse()?, hop, STATIC))?;
    Ok(())
}

/// Joins a host to the node by a veth pair named after it, with a default route to the node.
fn attach(
    node: &Netns,
    name: &str,
    host: &Netns,
    address: Ipv4Addr,
    gateway: Ipv4Addr,
) -> anyhow::Result<()> {
    let host_net = |ip: Ipv4Addr| IpAddr::from(ip).into();
    let mut on_node = Rtnetlink::open_in(node)?;
    on_node.add_veth(VethEnd::new(name), VethEnd { netns: Some(host), ..VethEnd::new("eth0") })?;
    let link = on_node.set_up(name)?.index;
    on_node.add_address(link, host_net(gateway))?;
    on_node.replace_route(&Route::new(host_net(address), NextHop::Link(link), STATIC))?;
    let mut on_host = Rtnetlink::open_in(host)?;
    let eth0 = on_host.set_up("eth0")?.index;
    on_host.add_address(eth0, host_net(address))?;
    on_host.replace_route(&Route::new(host_net(gateway), NextHop::Link(eth0), STATIC))?;
    let hop = NextHop::Gateway { address: gateway.into(), link: Some(eth0), onlink: true };
    on_host.replace_route(&Route::new("0.0.0.0/0".parse()?, hop, STATIC))?;
    Ok(())
}
