//! Rows against the kernel, with packets between network namespaces.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use ::kernel::conntrack::{self, Filter, Transport};
use ::kernel::netlink::{self, Socket};
use ::kernel::nftables;
use dataplane::Delta;
use model::{Family, Protocol};
use plan::{FrontendAddress, FrontendKey};

use super::row::{Manner, Outcome, PacketRow, Row, Step, Target};
use super::scene::{Scene, Variant};
use super::{Tally, has_sockets};
use crate::hosts::{Host, Hosts};
use crate::planes::Plane;
use crate::traffic::{Answer, Conversation};
use crate::whole;

/// What is silent for that long is lost.
const SILENCE: Duration = Duration::from_millis(300);
/// How long an answer may take.
const LIMIT: Duration = Duration::from_secs(2);

/// Namespaces that rows are run in, one after the other.
pub(crate) struct Runner {
    hosts: Hosts,
    plane: Plane,
}

/// The sockets of a row's named clients, and who answered them last.
type Clients = BTreeMap<(String, String), (Conversation, Option<Answer>)>;

impl Runner {
    pub(crate) fn new(plane: Plane) -> Self {
        Self { hosts: Hosts::new(), plane }
    }

    pub(super) fn run(&mut self, row: &Row, variant: Variant, tally: &mut Tally) {
        if !has_sockets(variant.protocol) {
            tally.skip("SCTP: there are no sockets for it here");
            return;
        }
        let mut scene = Scene::new(variant);
        let mut clients = Clients::new();
        let mut backend = self.hosts.node.run(|| self.plane.open());
        self.hosts.node.run(forget_datagrams);
        if !self.plane.tracks() {
            backend.forget_connections().unwrap();
        }
        for (i, step) in row.steps().iter().enumerate() {
            let (changed, node_changed) = scene.follow(step);
            // The first step starts from what the row before has left, as a restarted proxy does.
            let delta = match i {
                0 => whole(&scene.plan),
                _ => Delta {
                    node: node_changed.then_some(&scene.plan),
                    groups: changed
                        .into_iter()
                        .map(|id| (id.clone(), scene.plan.group(&id).cloned()))
                        .collect(),
                },
            };
            match i {
                0 => backend.restore(&delta).unwrap(),
                _ => backend.update(&delta).unwrap(),
            };
            let groups: Vec<Arc<_>> =
                delta.groups.iter().filter_map(|(_, group)| group.clone()).collect();
            backend.forget_stale(&groups).unwrap();
            for address in scene.local() {
                self.hosts.node.add_address(*address);
            }
            let failed = self.check(step, &scene, variant, &mut clients, tally);
            for address in scene.local() {
                self.hosts.node.remove_address(*address);
            }
            tally
                .failures
                .extend(failed.into_iter().map(|what| format!("{} {variant:?}: {what}", row.id)));
        }
    }

    /// Sends all packets of a step. Those that are to be lost are waited for at the same time.
    fn check(
        &self,
        step: &Step,
        scene: &Scene,
        variant: Variant,
        clients: &mut Clients,
        tally: &mut Tally,
    ) -> Vec<String> {
        let mut failures = Vec::new();
        let mut lost = Vec::new();
        for packet in &step.packets {
            let protocol = packet.protocol.unwrap_or(variant.protocol);
            if packet.port.is_some() && !has_sockets(protocol) {
                tally.skip("SCTP: there are no sockets for it here");
                continue;
            }
            tally.packets += 1;
            if packet.outcome == Outcome::Drop {
                lost.push(packet);
                continue;
            }
            let check = Check { runner: self, scene, variant, packet, protocol };
            if let Err(what) = check.run(clients) {
                failures.push(format!("{} but {what}", packet.text));
            }
        }
        let checks = thread::scope(|scope| {
            let spawn = |packet| {
                let packet: &PacketRow = packet;
                let protocol = packet.protocol.unwrap_or(variant.protocol);
                let check = Check { runner: self, scene, variant, packet, protocol };
                let text = packet.text.clone();
                scope.spawn(move || {
                    check.run(&mut Clients::new()).map_err(|what| format!("{text} but {what}"))
                })
            };
            let running: Vec<_> = lost.iter().copied().map(spawn).collect();
            running.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
        });
        failures.extend(checks.into_iter().filter_map(Result::err));
        failures
    }

    fn host(&self, name: &str) -> &Host {
        match name {
            "node" => &self.hosts.node,
            "outside" => &self.hosts.outside,
            "L" => &self.hosts.pod_a,
            "R" => &self.hosts.pod_b,
            "pod" => &self.hosts.pod_c,
            "S" => &self.hosts.pod_d,
            other => panic!("there is no host {other}"),
        }
    }
}

/// Asks again if a datagram is lost: rows give hosts addresses and take them back, and one whose
/// neighbours are looking for it at that moment may miss what was sent to it. What the rules drop is
/// lost twice. (Losses are what `load` is about.)
fn ask_twice(conversation: &mut Conversation, limit: Duration) -> io::Result<Answer> {
    match conversation.ask(limit) {
        Err(error) if error.kind() == ErrorKind::WouldBlock && limit == LIMIT => {
            conversation.ask(limit)
        }
        other => other,
    }
}

/// Forgets all UDP connections of the calling thread's network namespace: a client's port may be one
/// that a client of the row before had, whose endpoint still serves.
fn forget_datagrams() {
    let mut socket = Socket::open(netlink::Protocol::Netfilter).unwrap();
    for family in [nftables::Family::Ipv4, nftables::Family::Ipv6] {
        conntrack::delete_stale(&mut socket, &Filter::all(family, Transport::Udp), |_| true)
            .unwrap();
    }
}

/// A packet and all that its outcome is seen by.
struct Check<'a> {
    runner: &'a Runner,
    scene: &'a Scene,
    variant: Variant,
    packet: &'a PacketRow,
    protocol: Protocol,
}

impl Check<'_> {
    fn run(&self, clients: &mut Clients) -> Result<(), String> {
        let Some(port) = self.packet.port else { return self.ping() };
        let to = SocketAddr::new(self.variant.address(&self.packet.to), port);
        match &self.packet.outcome {
            Outcome::Reaches(targets, _) if self.packet.client.is_some() => {
                self.matches(&self.ask_as_client(to, clients)?, targets)
            }
            Outcome::Reaches(targets, manner) => self.reaches(to, targets, *manner),
            Outcome::AsBefore => {
                let key = self.client().expect("only a named client has a before");
                let before = clients.get(&key).and_then(|(_, answer)| answer.clone());
                let now = self.ask_as_client(to, clients)?;
                let before = before.ok_or("it was never answered before")?;
                if now == before { Ok(()) } else { Err(format!("it is now {now:?}")) }
            }
            Outcome::Reject => match self.ask(to, clients, LIMIT) {
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(()),
                other => Err(format!("it is {other:?}")),
            },
            Outcome::Drop => match self.ask(to, clients, SILENCE) {
                Err(error) if is_silence(&error) => Ok(()),
                // What this node drops on its way out it says to the sender of a datagram.
                Err(error)
                    if error.kind() == ErrorKind::PermissionDenied
                        && self.packet.from == "node" =>
                {
                    Ok(())
                }
                other => Err(format!("it is {other:?}")),
            },
            Outcome::Untouched => self.untouched(to, clients),
        }
    }

    fn client(&self) -> Option<(String, String)> {
        let client = self.packet.client.clone()?;
        Some((format!("{} {}", self.packet.from, client), self.packet.to.clone()))
    }

    fn open(&self, to: SocketAddr, limit: Duration) -> io::Result<Conversation> {
        let from = self.packet.source.as_ref().map(|name| self.variant.address(name));
        self.runner.host(&self.packet.from).open(self.protocol, to, from, limit)
    }

    /// Asks with a socket of its own, or that of the named client.
    fn ask(&self, to: SocketAddr, clients: &mut Clients, limit: Duration) -> io::Result<Answer> {
        let Some(key) = self.client() else {
            return ask_twice(&mut self.open(to, limit)?, limit);
        };
        if !clients.contains_key(&key) {
            clients.insert(key.clone(), (self.open(to, limit)?, None));
        }
        let (conversation, last) = clients.get_mut(&key).expect("it was put there");
        let answer = conversation.ask(limit)?;
        *last = Some(answer.clone());
        Ok(answer)
    }

    fn ask_as_client(&self, to: SocketAddr, clients: &mut Clients) -> Result<Answer, String> {
        self.ask(to, clients, LIMIT).map_err(|error| format!("there is {error}"))
    }

    /// Whether an answer is one of those expected.
    fn matches(&self, answer: &Answer, targets: &[Target]) -> Result<(), String> {
        let server: IpAddr = answer.server.parse().map_err(|error| format!("{error}"))?;
        let (place, port) = self.scene.target(SocketAddr::new(server, answer.port));
        let target = targets
            .iter()
            .find(|target| (&target.place, target.port) == (&place, port))
            .ok_or_else(|| format!("{place}:{port} answers"))?;
        let seen: IpAddr = answer.client.parse().map_err(|error| format!("{error}"))?;
        let own = self.variant.address(self.packet.source.as_ref().unwrap_or(&self.packet.from));
        // What the node itself sends has one of its addresses in any case, and what it receives is
        // delivered before sources are rewritten.
        let is_right = match (self.packet.from.as_str(), place.as_str()) {
            ("node", _) => !server.is_loopback(),
            (_, "NODE") => seen == own,
            // Its socket was given the endpoint, so that nobody else's address is needed.
            _ if self.is_given() => {
                // A client that was there before the Service is led as a packet.
                seen == own || self.packet.client.is_some() && target.masqueraded
            }
            _ => (seen == own) != target.masqueraded,
        };
        if is_right { Ok(()) } else { Err(format!("{target} sees {seen}")) }
    }

    /// Whether a socket here learns its endpoint when it connects.
    fn is_given(&self) -> bool {
        let is_here = ["pod", "L"].contains(&self.packet.from.as_str());
        if self.runner.plane != Plane::Ebpf || !is_here {
            return false;
        }
        let Some(port) = self.packet.port.and_then(NonZeroU16::new) else { return false };
        let to = self.variant.address(&self.packet.to);
        let key = |address| FrontendKey { address, protocol: self.protocol, port };
        let plan = &self.scene.plan;
        let at_address = plan.frontend(&key(FrontendAddress::Ip(to)));
        let found =
            at_address.or_else(|| plan.frontend(&key(FrontendAddress::AnyOfNode(Family::of(to)))));
        found.is_some_and(|(_, frontend)| frontend.allowed_sources.is_none())
    }

    /// Asks until everybody has answered, and never anybody else.
    fn reaches(&self, to: SocketAddr, targets: &[Target], manner: Manner) -> Result<(), String> {
        let ask = || -> Result<String, String> {
            let ask = || ask_twice(&mut self.open(to, LIMIT)?, LIMIT);
            let answer = ask().map_err(|error: io::Error| format!("there is {error}"))?;
            self.matches(&answer, targets)?;
            Ok(format!("{}:{}", answer.server, answer.port))
        };
        match manner {
            Manner::Sticky => {
                let first = ask()?;
                for _ in 0..8 {
                    let next = ask()?;
                    if next != first {
                        return Err(format!("{next} answers after {first}"));
                    }
                }
                Ok(())
            }
            Manner::Any => {
                let mut seen = BTreeSet::from([ask()?]);
                let mut asked = 1;
                while seen.len() < targets.len() {
                    seen.insert(ask()?);
                    asked += 1;
                    if asked > 40 * targets.len() {
                        return Err(format!("only {seen:?} answer"));
                    }
                }
                ask().map(drop)
            }
            Manner::Evenly => {
                let total = 100 * targets.len();
                let mut counts: BTreeMap<String, usize> = BTreeMap::new();
                for _ in 0..total {
                    *counts.entry(ask()?).or_default() += 1;
                }
                // Each has 100 on average; 60 is farther off than one run in a million.
                if counts.len() == targets.len() && counts.values().all(|n| (55..=150).contains(n))
                {
                    Ok(())
                } else {
                    Err(format!("it is {counts:?}"))
                }
            }
        }
    }

    /// Whoever has the address answers. If nobody has it here, a host beyond the node is given it.
    fn untouched(&self, to: SocketAddr, clients: &mut Clients) -> Result<(), String> {
        let is_held = self.variant.place(to.ip()) != to.ip().to_string();
        let is_served = is_held && [8080, 8081].contains(&to.port());
        let beyond = !self.scene.is_local(to.ip()) && !is_held;
        let host = match beyond {
            true => &self.runner.hosts.outside,
            false => &self.runner.hosts.node,
        };
        if beyond {
            host.add_address(to.ip());
        }
        let server = (!is_served).then(|| host.serve(to));
        let mut answer = self.ask(to, clients, LIMIT);
        // A named client is not asked twice by itself, and this address has come just now.
        if beyond && answer.as_ref().is_err_and(|error| error.kind() == ErrorKind::WouldBlock) {
            answer = self.ask(to, clients, LIMIT);
        }
        drop(server);
        if beyond {
            host.remove_address(to.ip());
        }
        let answer = answer.map_err(|error| format!("there is {error}"))?;
        let is_right = answer.server == to.ip().to_string()
            && answer.port == to.port()
            && (self.packet.from == "node"
                || answer.client == self.variant.address(&self.packet.from).to_string());
        if is_right { Ok(()) } else { Err(format!("it is {answer:?}")) }
    }

    fn ping(&self) -> Result<(), String> {
        let address = self.variant.address(&self.packet.to).to_string();
        let output = self.runner.host(&self.packet.from).run(|| {
            let mut ping = Command::new("ping");
            ping.args(["-n", "-c", "1", "-W", "1", &address]).output().expect("ping is installed")
        });
        let text = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        let is_unreachable = text.contains("nreachable") || text.contains("not permitted");
        match self.packet.outcome {
            Outcome::Reject if !output.status.success() && is_unreachable => Ok(()),
            Outcome::Drop if !output.status.success() && !is_unreachable => Ok(()),
            _ => Err(format!("it is {text}")),
        }
    }
}

fn is_silence(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::WouldBlock)
}
