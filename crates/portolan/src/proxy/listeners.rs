//! Programs of this node that listen where a node port is: what they wait for goes to the Service.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kernel::netlink::Socket;
use kernel::sockets::{self, Listener, Transport};
use model::Protocol;
use plan::{FrontendAddress, Group, GroupId, NodeFacts};
use tokio::sync::Notify;

use super::report::Reporter;
use crate::client::Severity;

/// Reason of the Event on a Service whose node port is listened on.
const CONFLICT: &str = "NodePortConflict";
/// How often listeners are looked for besides at changes.
const PERIOD: Duration = Duration::from_secs(30);
/// How long changes are collected before listeners are looked for.
const DEBOUNCE: Duration = Duration::from_millis(200);

/// The node ports of all Services.
pub(super) struct NodePorts {
    shared: Arc<Shared>,
}

struct Shared {
    ports: Mutex<Ports>,
    changed: Notify,
}

struct Ports {
    node: NodeFacts,
    of_group: HashMap<GroupId, Vec<(Transport, u16)>>,
    owners: HashMap<(Transport, u16), GroupId>,
}

impl NodePorts {
    /// None yet.
    pub(super) fn new(node: NodeFacts) -> Self {
        let ports = Ports { node, of_group: HashMap::new(), owners: HashMap::new() };
        Self { shared: Arc::new(Shared { ports: Mutex::new(ports), changed: Notify::new() }) }
    }

    /// Notes what the node's addresses are, and which of them accept node ports.
    pub(super) fn set_node(&self, node: NodeFacts) {
        self.shared.ports().node = node;
    }

    /// A Service is planned anew; `None` if it is no more.
    pub(super) fn follow(&mut self, id: &GroupId, group: Option<&Group>) {
        if self.shared.ports().follow(id, group) {
            self.shared.changed.notify_one();
        }
    }

    /// Reports conflicts until it is dropped. Has to be called on a thread of the node's network
    /// namespace; fails if the kernel can't be asked for sockets.
    pub(super) fn watch(
        &self,
        reporter: Reporter,
    ) -> kernel::Result<impl Future<Output = ()> + Send + 'static> {
        let mut socket = sockets::open()?;
        sockets::listeners(&mut socket)?;
        Ok(watch(self.shared.clone(), socket, reporter))
    }
}

impl Shared {
    fn ports(&self) -> std::sync::MutexGuard<'_, Ports> {
        self.ports.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ports {
    /// Answers whether there is a port that was not there.
    fn follow(&mut self, id: &GroupId, group: Option<&Group>) -> bool {
        let ports = group.map(node_ports).unwrap_or_default();
        let before = match ports.is_empty() {
            true => self.of_group.remove(id),
            false => self.of_group.insert(id.clone(), ports.clone()),
        }
        .unwrap_or_default();
        if before == ports {
            return false;
        }
        for port in before {
            if self.owners.get(&port) == Some(id) {
                self.owners.remove(&port);
            }
        }
        let is_more = !ports.is_empty();
        self.owners.extend(ports.into_iter().map(|port| (port, id.clone())));
        is_more
    }

    /// The Service that takes what this listener waits for.
    fn conflict(&self, listener: &Listener) -> Option<GroupId> {
        let address = listener.address.ip();
        let is_taken = address.is_unspecified() || self.node.accepts_node_ports(address);
        let owner = self.owners.get(&(listener.transport, listener.address.port()))?;
        is_taken.then(|| owner.clone())
    }
}

/// The node ports of a group that sockets could be bound to.
fn node_ports(group: &Group) -> Vec<(Transport, u16)> {
    let ports = group.frontends.iter().filter_map(|frontend| {
        let transport = match frontend.key.protocol {
            Protocol::Tcp => Transport::Tcp,
            Protocol::Udp => Transport::Udp,
            Protocol::Sctp => return None,
        };
        match frontend.key.address {
            FrontendAddress::AnyOfNode(_) => Some((transport, frontend.key.port.get())),
            FrontendAddress::Ip(_) => None,
        }
    });
    ports.collect::<BTreeSet<_>>().into_iter().collect()
}

async fn watch(shared: Arc<Shared>, mut socket: Socket, reporter: Reporter) {
    let mut reported: BTreeSet<(GroupId, Listener)> = BTreeSet::new();
    loop {
        let look = tokio::task::spawn_blocking(move || {
            let listeners = sockets::listeners(&mut socket);
            (socket, listeners)
        });
        // It has not panicked: then there would be nothing more to look with.
        let Ok((back, listeners)) = look.await else { return };
        socket = back;
        match listeners {
            Ok(listeners) => {
                let conflicts: BTreeSet<_> = {
                    let ports = shared.ports();
                    let conflict = |l: Listener| ports.conflict(&l).map(|id| (id, l));
                    listeners.into_iter().filter_map(conflict).collect()
                };
                for (id, listener) in conflicts.difference(&reported) {
                    report(&reporter, id, *listener).await;
                }
                reported = conflicts;
            }
            Err(error) => tracing::warn!(%error, "listeners at node ports are not noticed"),
        }
        if tokio::time::timeout(PERIOD, shared.changed.notified()).await.is_ok() {
            tokio::time::sleep(DEBOUNCE).await;
        }
    }
}

async fn report(reporter: &Reporter, id: &GroupId, listener: Listener) {
    // Looking through all processes takes a while.
    let owner = tokio::task::spawn_blocking(move || sockets::owner(listener.inode)).await;
    let who = match owner.ok().flatten() {
        Some(owner) => format!("{} (pid {})", owner.name, owner.pid),
        None => "a process that is not visible here".to_owned(),
    };
    let protocol = match listener.transport {
        Transport::Tcp => Protocol::Tcp,
        Transport::Udp => Protocol::Udp,
    };
    let message = format!(
        "{who} listens on {} ({protocol}), which is a node port of this Service: what is sent there goes to the Service. Let it listen elsewhere, or choose another nodePort",
        listener.address
    );
    tracing::warn!(service = %id, "{message}");
    reporter.service(id, Severity::Warning, CONFLICT, message).await;
}

#[cfg(test)]
mod tests {
    use model::Family;
    use plan::{
        Action, Frontend, FrontendKey, LocalDetector, NodePortAddresses, PortId, Refusal, Rule,
    };

    use super::*;

    fn group(id: &str, node_port: u16) -> Group {
        let mut group = Group::empty(id.into());
        let refuse = || Action::Reject(Refusal::NoEndpoints);
        group.frontends.push(Frontend {
            key: FrontendKey {
                address: FrontendAddress::AnyOfNode(Family::V4),
                protocol: Protocol::Tcp,
                port: node_port.try_into().unwrap(),
            },
            port: PortId {
                group: id.into(),
                name: String::new().into(),
                protocol: Protocol::Tcp,
                family: Family::V4,
            },
            rule: Rule::NodePort,
            pod: refuse(),
            node: refuse(),
            outside: refuse(),
            allowed_sources: None,
            affinity: None,
        });
        group
    }

    #[test]
    fn listeners_on_node_ports_are_conflicts() {
        let node = NodeFacts {
            settings: plan::NodeSettings {
                node_name: "n1".into(),
                local_detector: LocalDetector::None,
                masquerade_all: false,
                node_port_addresses: NodePortAddresses::Ranges(vec![
                    "192.0.2.0/24".parse().unwrap(),
                ]),
                allowed_external_ips: Vec::new(),
                primary_address: None,
            },
            zone: None,
            addresses: Vec::new(),
        };
        let mut ports = Ports { node, of_group: HashMap::new(), owners: HashMap::new() };
        let web = GroupId::from("default/web");
        assert!(ports.follow(&web, Some(&group(&web, 30001))));
        assert!(!ports.follow(&web, Some(&group(&web, 30001))), "nothing is new");
        let conflict = |ports: &Ports, address: &str| {
            let address = address.parse().unwrap();
            ports.conflict(&Listener { transport: Transport::Tcp, address, inode: 1 })
        };
        for taken in ["0.0.0.0:30001", "[::]:30001", "192.0.2.1:30001"] {
            assert_eq!(conflict(&ports, taken), Some(web.clone()), "{taken}");
        }
        for free in ["127.0.0.1:30001", "198.51.100.1:30001", "0.0.0.0:30002"] {
            assert_eq!(conflict(&ports, free), None, "{free}");
        }
        assert!(ports.follow(&web, Some(&group(&web, 30002))));
        assert_eq!(conflict(&ports, "0.0.0.0:30001"), None);
        assert!(!ports.follow(&web, None));
        assert_eq!(conflict(&ports, "0.0.0.0:30002"), None);
    }
}
