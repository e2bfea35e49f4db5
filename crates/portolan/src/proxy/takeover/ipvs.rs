//! What a kube-proxy in IPVS mode leaves: virtual servers, the link that their addresses are bound to,
//! and ipsets. IPVS has one list of servers for all programs, so it is told here whose they are.

use std::collections::HashSet;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::process::Command;

use anyhow::Context;
use dataplane::NODE_PORTS;
use kernel::ipvs::{Ipvs, Operation, VirtualServerKey};
use kernel::route::Rtnetlink;

use super::PREFIX;

/// The link that virtual addresses are bound to. Nobody but kube-proxy has it.
const LINK: &str = "kube-ipvs0";

/// Removes virtual servers, and then the link by which they are known. Without the link there is nothing,
/// and the kernel is not asked for IPVS, which would load it.
pub(super) fn virtual_servers() -> anyhow::Result<Vec<String>> {
    let mut links = Rtnetlink::open()?;
    let Some(link) = links.link(LINK)? else { return Ok(Vec::new()) };
    let (bound, others): (Vec<_>, Vec<_>) =
        links.addresses()?.into_iter().partition(|address| address.index == link.index);
    let addresses = |list: Vec<kernel::route::Address>| -> HashSet<IpAddr> {
        list.into_iter().map(|address| address.net.addr()).collect()
    };
    let (mut bound, mut own) = (addresses(bound), addresses(others));
    // Our own data plane may have taken its servers over: then all of these are ours.
    let ours = dataplane::ipvs::virtual_addresses()?;
    if !ours.is_empty() {
        bound.retain(|address| !ours.contains(address));
        own.clear();
    }
    let mut removed = Vec::new();
    if let Some(mut ipvs) = Ipvs::open().context("look for virtual servers")? {
        let servers = ipvs.servers()?.into_iter().map(|server| server.key());
        let gone: Vec<Operation> =
            kube_proxys(servers, &bound, &own).map(Operation::DeleteServer).collect();
        let refused = ipvs.apply(&gone)?;
        // The link stays with them: it is what they are known by the next time.
        if let Some(first) = refused.first() {
            anyhow::bail!("{} of {} virtual servers: {}", refused.len(), gone.len(), first.error);
        }
        if !gone.is_empty() {
            removed.push(format!("{} virtual servers of IPVS", gone.len()));
        }
    }
    links.delete_link(LINK)?;
    removed.push(format!("link {LINK} with {} addresses", bound.len()));
    Ok(removed)
}

/// The virtual servers that are kube-proxy's: those at addresses `bound` to its link, and those at the
/// node's `own` addresses whose port is a node port. It has none by mark.
fn kube_proxys(
    servers: impl Iterator<Item = VirtualServerKey>,
    bound: &HashSet<IpAddr>,
    own: &HashSet<IpAddr>,
) -> impl Iterator<Item = VirtualServerKey> {
    servers.filter(|server| match server {
        VirtualServerKey::Address { address, .. } => {
            let is_node_port = NODE_PORTS.contains(&address.port());
            bound.contains(&address.ip()) || is_node_port && own.contains(&address.ip())
        }
        VirtualServerKey::Mark { .. } => false,
    })
}

/// Removes the ipsets that rules of this mode look into. The rules have to be gone.
pub(super) fn sets() -> anyhow::Result<Vec<String>> {
    let ipset = |arguments: &[&str]| -> anyhow::Result<Option<String>> {
        let command = || format!("ipset {}", arguments.join(" "));
        let output = match Command::new("ipset").args(arguments).output() {
            Ok(output) => output,
            // kube-proxy brings its own; without one here they can't be seen. They lead nothing.
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(anyhow::Error::new(error).context(command())),
        };
        let said = String::from_utf8_lossy(&output.stderr);
        anyhow::ensure!(output.status.success(), "{}: {}", command(), said.trim());
        Ok(Some(String::from_utf8_lossy(&output.stdout).into_owned()))
    };
    let names = ipset(&["list", "-name"])?.unwrap_or_default();
    let mut removed = Vec::new();
    let mut failure = None;
    for name in kube_proxys_sets(&names) {
        match ipset(&["destroy", name]) {
            Ok(_) => removed.push(name),
            Err(error) => failure = Some(error),
        }
    }
    if let Some(error) = failure {
        return Err(error);
    }
    Ok(removed.into_iter().map(|name| format!("ipset {name}")).collect())
}

/// From what `ipset list -name` prints to kube-proxy's.
fn kube_proxys_sets(names: &str) -> impl Iterator<Item = &str> {
    names.lines().map(str::trim).filter(|name| name.starts_with(PREFIX))
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use kernel::ipvs::{Scheduler, Transport, VirtualServer};
    use kernel::nftables::Family;

    use super::*;

    fn server(transport: Transport, address: &str) -> VirtualServerKey {
        VirtualServerKey::Address { transport, address: address.parse().unwrap() }
    }

    #[test]
    fn servers_of_others_stay() {
        let addresses =
            |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<HashSet<_>>();
        let bound = addresses(&["10.96.0.1", "fd00:96::1"]);
        let own = addresses(&["192.0.2.1", "127.0.0.1", "2001:db8::1"]);
        let (tcp, udp) = (Transport::Tcp, Transport::Udp);
        let theirs = [
            server(tcp, "10.96.0.1:443"),
            server(udp, "10.96.0.1:53"),
            server(tcp, "[fd00:96::1]:443"),
            server(tcp, "192.0.2.1:30000"),
            server(Transport::Sctp, "192.0.2.1:32767"),
            server(udp, "[2001:db8::1]:30053"),
        ];
        let others = [
            server(tcp, "10.96.0.2:443"),
            server(tcp, "192.0.2.1:80"),
            server(tcp, "192.0.2.1:29999"),
            server(tcp, "192.0.2.1:32768"),
            server(tcp, "192.0.2.2:30000"),
            VirtualServerKey::Mark { family: Family::Ipv4, mark: NonZeroU32::new(0x4000).unwrap() },
        ];
        let all = theirs.into_iter().chain(others);
        let found: Vec<VirtualServerKey> = kube_proxys(all, &bound, &own).collect();
        assert_eq!(found, theirs);
    }

    /// In a network namespace of its own: needs root, and a kernel with IPVS, else it says so.
    #[test]
    fn a_kernel_is_left_without_kube_proxys_servers() {
        let run = || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)
                .expect("this test needs root: it makes a network namespace");
            let Some(mut ipvs) = Ipvs::open().unwrap() else {
                eprintln!("not run here: this kernel has no IPVS");
                return;
            };
            let mut links = Rtnetlink::open().unwrap();
            let node = links.set_up("lo").unwrap();
            links.add_address(node.index, "192.0.2.1/32".parse().unwrap()).unwrap();
            let add = |ipvs: &mut Ipvs, servers: &[VirtualServerKey]| {
                let server =
                    |key: &VirtualServerKey| VirtualServer::new(*key, Scheduler::RoundRobin);
                let add: Vec<_> =
                    servers.iter().map(|key| Operation::AddServer(server(key))).collect();
                assert!(ipvs.apply(&add).unwrap().is_empty());
            };
            let keys = |ipvs: &mut Ipvs| {
                let servers = ipvs.servers().unwrap();
                servers.iter().map(|server| server.key()).collect::<HashSet<_>>()
            };
            let others = [
                server(Transport::Tcp, "192.0.2.1:80"),
                server(Transport::Tcp, "198.51.100.1:443"),
            ];
            let theirs = [
                server(Transport::Tcp, "10.96.0.1:443"),
                server(Transport::Udp, "[fd00:96::1]:53"),
                server(Transport::Tcp, "192.0.2.1:30080"),
            ];
            add(&mut ipvs, &others);
            add(&mut ipvs, &theirs);
            assert!(virtual_servers().unwrap().is_empty(), "without the link all are others'");
            assert_eq!(keys(&mut ipvs).len(), 5);

            let link = links.ensure_dummy(LINK).unwrap();
            for net in ["10.96.0.1/32", "fd00:96::1/128"] {
                links.add_address(link.index, net.parse().unwrap()).unwrap();
            }
            let removed = virtual_servers().unwrap();
            let lines = ["3 virtual servers of IPVS", "link kube-ipvs0 with 2 addresses"];
            assert_eq!(removed, lines);
            assert_eq!(keys(&mut ipvs), HashSet::from(others));
            assert!(links.link(LINK).unwrap().is_none());
            assert!(virtual_servers().unwrap().is_empty());
        };
        std::thread::scope(|scope| scope.spawn(run).join().unwrap());
    }

    #[test]
    fn sets_of_others_stay() {
        let names = "KUBE-CLUSTER-IP\nblocked\nKUBE-6-LOOP-BACK\nMY-KUBE-SET\n";
        let found: Vec<&str> = kube_proxys_sets(names).collect();
        assert_eq!(found, ["KUBE-CLUSTER-IP", "KUBE-6-LOOP-BACK"]);
        assert_eq!(kube_proxys_sets("").count(), 0);
    }
}
