//! Why a connection gets where it gets, or does not: `plan::trace` with the reasons around it.
//!
//! The plan is that of the node where the connection is decided: its source's, or the node that it
//! enters the cluster by. As the data plane prints the same plan, an explanation can't disagree with
//! it, only the kernel can.

mod diagnosis;
mod dump;
mod place;
#[cfg(test)]
mod tests;
mod text;

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::sync::Arc;

use model::object::{Node, Service};
use model::{Family, ObjectName, Protocol, World};
use plan::trace::{Cause, Fate, Packet, trace};
use plan::{FrontendKey, Group, NodePlan, NodeSettings, Origin, PortId, Rule};
use serde::Serialize;

pub(crate) use dump::Dump;
use place::{Destination, Source, Target};

use crate::control::{FateAnswer, Question, TraceAnswer};
use crate::proxy::plan_for;

/// The way of a connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Explanation {
    from: String,
    to: String,
    /// The node that decides.
    node: Option<Arc<str>>,
    verdict: Verdict,
    /// What stands in the way first.
    #[serde(skip_serializing_if = "Option::is_none")]
    cause: Option<Reason>,
    steps: Vec<Step>,
    /// What a proxy is asked about, and what it should answer.
    #[serde(skip)]
    expected: Option<(Packet, FateAnswer)>,
}

/// The end of the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Verdict {
    /// It reaches an endpoint.
    Reaches,
    /// The client is told at once that nobody is there.
    Refused,
    /// The client is told nothing and waits.
    Lost,
    /// It is no business of Services: routes and hosts decide.
    NotTouched,
    /// It does not begin: there is no such name, or it has no address.
    NoSuchName,
}

/// Differences that are printed at most.
const MAX_DIFFERENCES: usize = 20;

/// Why, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Reason {
    /// One word, the same in every version.
    pub(crate) code: &'static str,
    pub(crate) text: String,
    pub(crate) advice: String,
}

/// One decision on the way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Step {
    stage: Stage,
    text: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    details: Vec<String>,
}

/// What a step decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
enum Stage {
    Name,
    Origin,
    Frontend,
    Policy,
    Endpoints,
    Source,
    WayBack,
    Proxy,
    Kernel,
}

/// What is known of a node's proxy.
#[derive(Debug, Clone)]
pub(crate) struct Proxy {
    /// How it is configured, as far as it changes plans.
    pub(crate) settings: NodeSettings,
    /// Whether its data plane looks at sockets, not at what they send.
    pub(crate) asks_sockets: bool,
}

/// Tells of a node's proxy, by the node's name.
pub(crate) type Proxies<'a> = dyn Fn(&str) -> Proxy + 'a;

/// Explains a connection from `from` to `to`, as they are written on the command line. `via` names
/// the node that decides, where it does not follow from the two. Fails only if one can't be
/// understood.
pub(crate) fn explain(
    dump: &Dump,
    proxies: &Proxies<'_>,
    from: &str,
    to: &str,
    via: Option<&str>,
) -> Result<Explanation, String> {
    let world = dump.world();
    let source = Source::find(&world, from)?;
    let namespace = source.name.strip_prefix("pod ").and_then(|name| name.split_once('/'));
    let namespace = namespace.map_or("default", |(namespace, _)| namespace).to_owned();
    let target = Target::find(&world, to, &namespace)?;
    let explaining =
        Explaining { dump, world: &world, source, target, steps: Vec::new(), expected: None };
    explaining.run(proxies, to, via)
}

struct Explaining<'a> {
    dump: &'a Dump,
    world: &'a World,
    source: Source,
    target: Target,
    steps: Vec<Step>,
    expected: Option<(Packet, FateAnswer)>,
}

impl<'a> Explaining<'a> {
    fn run(
        mut self,
        proxies: &Proxies<'_>,
        to: &str,
        via: Option<&str>,
    ) -> Result<Explanation, String> {
        let (address, port, protocol) = match self.resolve() {
            Ok(found) => found,
            Err(reason) => return Ok(self.ended(to, None, Verdict::NoSuchName, Some(reason))),
        };
        let Some(source) = self.source.address(Family::of(address)) else {
            let reason = Reason {
                code: "NoSourceAddress",
                text: format!(
                    "{} has no {} address, and {address} is one",
                    self.source.name,
                    Family::of(address)
                ),
                advice: "use an address of the Service in the client's family, or make the Service dual-stack (ipFamilyPolicy: PreferDualStack)".into(),
            };
            return Ok(self.ended(to, None, Verdict::NoSuchName, Some(reason)));
        };
        let node = self.deciding_node(address, via)?;
        let proxy = proxies(&node.meta.name);
        let plan = plan_for(self.world, proxy.settings);
        let is_local =
            |ip: IpAddr| ip.is_loopback() || node.addresses.iter().any(|own| own.address == ip);
        let is_on_node = self.source.is_node && self.source.node.as_ref() == Some(&node.meta.name);
        let packet = Packet {
            source,
            destination: address,
            port: Some((protocol, port)),
            // Which interface it comes by is only known on the node.
            interface: (!is_on_node).then(|| "?".to_owned()),
            asks_sockets: proxy.asks_sockets,
        };
        let traced = trace(&plan, &packet, is_local);
        self.expected = Some((packet, FateAnswer::of(&traced)));
        self.step(
            Stage::Origin,
            format!(
                "{} ({source}) is {} to the proxy of {}",
                self.source.name,
                match traced.origin {
                    Origin::Pod => "a pod",
                    Origin::Node => "the node itself",
                    Origin::Outside => "outside the cluster",
                },
                node.meta.name
            ),
        );
        let reason = match &traced.frontend {
            Some((key, id)) => self.at_frontend(&plan, traced.origin, key, id, &traced.fate),
            None => diagnosis::without_frontend(
                self.world,
                &plan,
                address,
                port,
                protocol,
                &traced.fate,
                is_local(address),
            ),
        };
        let verdict = match (&traced.fate, &reason) {
            // What the kernel refuses to hold is not there, whatever the plan says.
            (_, Some(reason)) if reason.code == "Quarantined" => Verdict::Refused,
            (Fate::Forward { .. }, _) => Verdict::Reaches,
            (Fate::Reject(_), _) => Verdict::Refused,
            (Fate::Drop(_), _) => Verdict::Lost,
            (Fate::Untouched, _) => Verdict::NotTouched,
        };
        Ok(self.ended(to, Some(node), verdict, reason))
    }

    /// Steps at a frontend that was met; answers what is wrong.
    fn at_frontend(
        &mut self,
        plan: &NodePlan,
        origin: Origin,
        key: &FrontendKey,
        id: &PortId,
        fate: &Fate,
    ) -> Option<Reason> {
        let (group, frontend) = plan.frontend(key)?;
        let (namespace, name) = id.group.split_once('/')?;
        let service = self.world.service(&ObjectName::new(namespace, name))?;
        self.step(
            Stage::Frontend,
            format!(
                "{key} is the {} of Service {}, port {}",
                frontend.rule,
                id.group,
                port_name(id)
            ),
        );
        if let Some(claimants) = plan.contested().get(key) {
            let others: Vec<&str> =
                claimants.iter().map(|id| &**id).filter(|id| **id != *group.id).collect();
            let step = format!("{} asks for it too; the first by name has it", others.join(", "));
            self.step(Stage::Frontend, step);
        }
        if let Some(sources) = &frontend.allowed_sources {
            let sources: Vec<String> = sources.iter().map(ToString::to_string).collect();
            self.step(Stage::Policy, format!("only sources in {} may use it", sources.join(", ")));
        }
        self.step(Stage::Policy, policy(service, frontend.rule, origin));
        if let Some(affinity) = frontend.affinity {
            let seconds = affinity.timeout.as_secs();
            self.step(
                Stage::Policy,
                format!("a client keeps its endpoint until it is silent for {seconds} s"),
            );
        }
        self.endpoints(group, id, fate);
        if let Fate::Forward { masquerade, .. } = fate {
            let (source, back) = match masquerade {
                true => (
                    "the server sees the node's address as the client's",
                    "answers come back to the node, which passes them on",
                ),
                false => (
                    "the server sees the client's own address",
                    "answers go to the client by the way of this node, which puts the Service's address back in",
                ),
            };
            self.step(Stage::Source, source.to_owned());
            self.step(Stage::WayBack, back.to_owned());
        }
        if let Some(message) = self.dump.not_programmed(namespace, name) {
            return Some(Reason {
                code: "Quarantined",
                text: format!("Service {} is not programmed: {message}", id.group),
                advice: "change what the message names; the proxy tries again with every change of the Service".into(),
            });
        }
        match fate {
            Fate::Forward { .. } | Fate::Untouched => None,
            Fate::Reject(cause) | Fate::Drop(cause) => Some(match cause {
                Cause::SourceNotAllowed => Reason {
                    code: "SourceNotAllowed",
                    text: format!(
                        "the source is in none of the loadBalancerSourceRanges of Service {}",
                        id.group
                    ),
                    advice: "add the client's range to spec.loadBalancerSourceRanges, or use another address of the Service".into(),
                },
                _ => diagnosis::without_endpoints(self.world, plan, service, id, *cause_refusal(cause)),
            }),
        }
    }

    /// Which endpoints may be chosen, and why others not.
    fn endpoints(&mut self, group: &Group, id: &PortId, fate: &Fate) {
        let mut details = Vec::new();
        let chosen: &[SocketAddr] = match fate {
            Fate::Forward { backends, .. } => backends,
            _ => &[],
        };
        details
            .extend(chosen.iter().map(|address| format!("{} may be chosen", self.who(*address))));
        let left_out = group.left_out.iter().filter(|left_out| left_out.port == *id);
        details.extend(left_out.map(|left_out| {
            format!("{} is left out: {}", self.who(left_out.address), left_out.reason)
        }));
        let elsewhere = group
            .sets
            .iter()
            .filter(|set| set.id.port == *id)
            .flat_map(|set| &set.backends)
            .filter(|backend| !chosen.contains(&backend.address));
        let mut others: Vec<String> = elsewhere
            .map(|backend| {
                format!("{} takes only connections under another policy", self.who(backend.address))
            })
            .collect();
        others.sort();
        others.dedup();
        details.extend(others);
        let text = match chosen.len() {
            0 => "no endpoint may be chosen".to_owned(),
            1 => "one endpoint may be chosen".to_owned(),
            n => format!("one of {n} endpoints is chosen, each as likely as the others"),
        };
        self.steps.push(Step { stage: Stage::Endpoints, text, details });
    }

    /// An endpoint with the pod that has its address.
    fn who(&self, address: SocketAddr) -> String {
        let pod = self
            .world
            .pods()
            .find(|(_, pod)| pod.ips.contains(&address.ip()) && !pod.is_terminal());
        match pod {
            Some((name, pod)) => match &pod.node_name {
                Some(node) => format!("{address} (pod {name} on {node})"),
                None => format!("{address} (pod {name})"),
            },
            None => address.to_string(),
        }
    }

    /// The address, port and protocol that are meant.
    fn resolve(&mut self) -> Result<(IpAddr, NonZeroU16, Protocol), Reason> {
        let family = self.source.addresses.first().map(|ip| Family::of(*ip));
        let protocol = self.target.protocol.unwrap_or_default();
        let number = self.target.number();
        let needs_port = || Reason {
            code: "NoPort",
            text: "an address means nothing without a port here".into(),
            advice: "add :PORT, a number".into(),
        };
        match self.target.destination.clone() {
            Destination::Address(address) => {
                Ok((address, number.ok_or_else(needs_port)?, protocol))
            }
            Destination::Node(name) => {
                let node = self.world.node(&name);
                let of = |family| node.and_then(|node| node.address(family));
                let address = family.and_then(of).or_else(|| Family::ALL.into_iter().find_map(of));
                let address = address.ok_or_else(|| Reason {
                    code: "NoAddress",
                    text: format!("node {name} has no address"),
                    advice: "see status.addresses of the Node".into(),
                })?;
                Ok((address, number.ok_or_else(needs_port)?, protocol))
            }
            Destination::Pod(name) => {
                let ips = self.world.pod(&name).map(|pod| pod.ips.clone()).unwrap_or_default();
                let address = ips.iter().find(|ip| family.is_none_or(|f| Family::of(**ip) == f));
                let address = *address.or(ips.first()).ok_or_else(|| Reason {
                    code: "NoAddress",
                    text: format!("pod {name} has no address yet"),
                    advice: "see kubectl describe pod".into(),
                })?;
                Ok((address, number.ok_or_else(needs_port)?, protocol))
            }
            Destination::Service(name) => {
                let (address, port, protocol) =
                    diagnosis::resolve_service(self.world, &name, &self.target, family)?;
                self.step(Stage::Name, format!("{name} is {address}, its ClusterIP"));
                Ok((address, port, protocol))
            }
        }
    }

    /// The node whose proxy decides about the connection.
    fn deciding_node(&self, address: IpAddr, via: Option<&str>) -> Result<&'a Node, String> {
        let world = self.world;
        let names = || {
            let names: Vec<&str> = world.nodes().map(|node| &*node.meta.name).collect();
            names.join(", ")
        };
        let holds = |node: &&Node| node.addresses.iter().any(|own| own.address == address);
        let found = match (via, &self.source.node) {
            (Some(name), _) => world.node(name),
            (None, Some(name)) => world.node(name),
            (None, None) => world.nodes().find(holds).or_else(|| world.nodes().next()),
        };
        found.ok_or_else(|| match via {
            Some(name) => format!("there is no node {name}: there are {}", names()),
            None => "the cluster has no nodes".to_owned(),
        })
    }

    fn step(&mut self, stage: Stage, text: String) {
        self.steps.push(Step { stage, text, details: Vec::new() });
    }

    fn ended(
        self,
        to: &str,
        node: Option<&Node>,
        verdict: Verdict,
        cause: Option<Reason>,
    ) -> Explanation {
        Explanation {
            from: self.source.name,
            to: to.to_owned(),
            node: node.map(|node| node.meta.name.clone()),
            verdict,
            cause,
            steps: self.steps,
            expected: self.expected,
        }
    }
}

impl Explanation {
    /// Whether the connection gets where it should.
    pub(crate) fn is_good(&self) -> bool {
        self.verdict == Verdict::Reaches && self.cause.is_none()
    }

    /// The node whose proxy decides.
    pub(crate) fn node(&self) -> Option<&str> {
        self.node.as_deref()
    }

    /// What to ask the proxy of that node.
    pub(crate) fn question(&self) -> Option<Question> {
        self.expected.as_ref().and_then(|(packet, _)| Question::about(packet))
    }

    /// Adds what the proxy itself says: it may not have caught up, or be refused by the kernel.
    pub(crate) fn hear(&mut self, answer: &TraceAnswer) {
        let Some((_, expected)) = &self.expected else { return };
        let node = self.node.as_deref().unwrap_or_default();
        if let Some(why) = &answer.quarantined {
            self.verdict = Verdict::Refused;
            self.cause = Some(Reason {
                code: "Quarantined",
                text: format!("the kernel of {node} refuses this Service: {why}"),
                advice: "change what the message names; the proxy tries again with every change of the Service".into(),
            });
        } else if answer.fate != *expected {
            let waiting = match (&answer.failure, answer.pending_seconds) {
                (Some(failure), _) => format!(": its last transaction failed: {failure}"),
                (None, Some(seconds)) => format!(": a change has been waiting for {seconds:.1} s"),
                (None, None) => String::new(),
            };
            self.cause = Some(Reason {
                code: "NotCaughtUp",
                text: format!(
                    "the API says otherwise than the proxy of {node}, which {} (transaction {}){waiting}",
                    answer.fate, answer.generation
                ),
                advice: "see its log, and whether it reaches the API server".into(),
            });
        }
        let agrees = if answer.fate == *expected { "says the same" } else { "says otherwise" };
        let text = format!("that of {node} {agrees} (transaction {})", answer.generation);
        self.steps.push(Step { stage: Stage::Proxy, text, details: Vec::new() });
    }

    /// Adds that nobody could be asked.
    pub(crate) fn hear_nothing(&mut self) {
        let node = self.node.as_deref().unwrap_or("that node");
        let text =
            format!("that of {node} can't be asked from here: all this is from the API alone");
        self.steps.push(Step { stage: Stage::Proxy, text, details: Vec::new() });
    }

    /// Adds in which ways the kernel differs from what it should hold.
    pub(crate) fn compare(&mut self, differences: Vec<String>) {
        let text = match differences.len() {
            0 => "it holds exactly what it should".to_owned(),
            1 => "it differs from what it should hold".to_owned(),
            n => format!("it differs in {n} ways from what it should hold"),
        };
        if let Some(first) = differences.first() {
            self.cause = Some(Reason {
                code: "Drifted",
                text: format!("the kernel does not hold what it should: {first}"),
                advice: "something else changed it and no proxy put it right: start portolan, or see its log".into(),
            });
        }
        let details = differences.into_iter().take(MAX_DIFFERENCES).collect();
        self.steps.push(Step { stage: Stage::Kernel, text, details });
    }
}

/// The name of a Service port, for people.
fn port_name(id: &PortId) -> String {
    match id.name.is_empty() {
        true => format!("the only one ({})", id.protocol),
        false => format!("{} ({})", id.name, id.protocol),
    }
}

fn cause_refusal(cause: &Cause) -> &plan::Refusal {
    match cause {
        Cause::Refusal(refusal) => refusal,
        _ => &plan::Refusal::NoEndpoints,
    }
}

/// Which policy chooses the endpoints, in a sentence.
fn policy(service: &Service, rule: Rule, origin: Origin) -> String {
    use model::object::TrafficPolicy::{Cluster, Local};
    match (rule, service.internal_traffic_policy, service.external_traffic_policy, origin) {
        (Rule::ClusterIp, Cluster, ..) => "any endpoint of the cluster may serve it".into(),
        (Rule::ClusterIp, Local, ..) => {
            "internalTrafficPolicy is Local: only endpoints of this node may serve it".into()
        }
        (_, _, Cluster, _) => "externalTrafficPolicy is Cluster: any endpoint may serve it".into(),
        (_, _, Local, Origin::Outside) => {
            "externalTrafficPolicy is Local: only endpoints of this node may serve clients from outside".into()
        }
        (_, _, Local, Origin::Pod | Origin::Node) => {
            "externalTrafficPolicy is Local, but a client in the cluster may use any endpoint".into()
        }
    }
}
