//! What the lines of `kubernetes` mean: which cluster it is, and what of it has names.

mod api_server;
#[cfg(test)]
mod tests;

use std::time::Duration;

use model::LabelSelector;
use model::spelling::dns_label;

use super::lines::Directive;
use super::plugins::{Reader, Reason, duration, name, number, only, text_of};
use crate::answer::Pods;
use crate::exposure::Exposure;
use crate::wire::Name;
pub use api_server::{ApiServer, ClientFiles};

/// What is accepted, for messages.
const ACCEPTED: &str = "endpoint, endpoint_pod_names, fallthrough, ignore, kubeconfig, labels, namespace_labels, \
                        namespaces, noendpoints, pods, startup_timeout, tls, ttl";
/// How long CoreDNS has cluster names kept.
const TTL: u32 = 5;
/// How long at most.
const LONGEST_TTL: u32 = 3600;

/// `kubernetes`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kubernetes {
    /// The cluster's domain.
    pub domain: String,
    /// Whether pods have names.
    pub pods: Pods,
    /// What else has.
    pub exposure: Exposure,
    /// How long clients may keep answers, in seconds.
    pub ttl: u32,
    /// Addresses that the cluster does not know are asked of others.
    pub reverse_falls_through: bool,
    /// How to reach the API server; `None` for what every client finds.
    pub api_server: Option<ApiServer>,
    /// How long to wait for the cluster to be known before answering.
    pub startup_timeout: Option<Duration>,
}

impl Reader {
    pub(super) fn kubernetes(
        &mut self,
        zones: &[Name],
        directive: &Directive,
    ) -> Result<(), Reason> {
        if self.corefile.kubernetes.is_some() {
            return Err("there is one cluster: kubernetes comes once".to_owned());
        }
        let mut kubernetes = of_zones(zones, directive.arguments())?;
        self.each(directive, |inner| kubernetes.read(inner));
        match api_server::of(directive.inner()) {
            Ok(api_server) => kubernetes.api_server = api_server,
            Err(refusal) => self.refused.push(refusal),
        }
        self.corefile.kubernetes = Some(kubernetes);
        Ok(())
    }
}

/// One with nothing said but the zones that it is for.
fn of_zones(of_block: &[Name], given: &[String]) -> Result<Kubernetes, Reason> {
    let given = given.iter().map(|word| name(word)).collect::<Result<Vec<Name>, Reason>>()?;
    let zones = if given.is_empty() { of_block.to_vec() } else { given };
    let (reverse, mut domains): (Vec<Name>, Vec<Name>) = zones.into_iter().partition(is_reverse);
    let domain = match (domains.pop(), domains.is_empty()) {
        (Some(domain), true) if domain.labels() > 0 => domain,
        _ => {
            return Err("accepted is one domain of the cluster, besides in-addr.arpa and ip6.arpa, such as kubernetes cluster.local in-addr.arpa ip6.arpa".to_owned());
        }
    };
    Ok(Kubernetes {
        domain: domain.to_string(),
        pods: Pods::Disabled,
        exposure: Exposure::default(),
        ttl: TTL,
        // Where reverse zones are not named they are not the cluster's alone.
        reverse_falls_through: reverse.is_empty(),
        api_server: None,
        startup_timeout: None,
    })
}

fn is_reverse(zone: &Name) -> bool {
    ["in-addr.arpa.", "ip6.arpa."].contains(&&*zone.to_string())
}

impl Kubernetes {
    /// Reads a line of its block.
    fn read(&mut self, line: &Directive) -> Result<(), Reason> {
        let arguments = line.arguments();
        match line.name() {
            "pods" => self.pods = only(arguments)?.parse().map_err(text_of)?,
            "ttl" => {
                let ttl = number(only(arguments)?)?;
                if ttl > LONGEST_TTL {
                    return Err(format!("accepted are 0 to {LONGEST_TTL} seconds"));
                }
                self.ttl = ttl;
            }
            "fallthrough" => {
                let zones = arguments.iter().map(|word| name(word));
                let zones = zones.collect::<Result<Vec<Name>, Reason>>()?;
                if zones.is_empty() || !zones.iter().all(is_reverse) {
                    return Err("names of the cluster are not asked of others: accepted is fallthrough in-addr.arpa ip6.arpa".to_owned());
                }
                self.reverse_falls_through = true;
            }
            // They are read together.
            "kubeconfig" | "endpoint" | "tls" => {}
            "startup_timeout" => self.startup_timeout = Some(duration(only(arguments)?)?),
            "multicluster" => {
                return Err(format!(
                    "Services of several clusters (ServiceImport) are not known here: accepted are {ACCEPTED}"
                ));
            }
            _ => return narrow(&mut self.exposure, line),
        }
        Ok(())
    }
}

/// Reads a line that says what has no names, or other ones.
fn narrow(exposure: &mut Exposure, line: &Directive) -> Result<(), Reason> {
    const NAMESPACES: &str = "it is said by their names or by their labels which namespaces have names: accepted is one of namespaces and namespace_labels";
    const EMPTY: &str = "where endpoints are not known each Service would be empty: accepted is one of noendpoints and ignore empty_service";
    let arguments = line.arguments();
    match line.name() {
        "namespaces" if exposure.namespace_labels.is_some() => return Err(NAMESPACES.to_owned()),
        "namespace_labels" if !exposure.namespaces.is_empty() => return Err(NAMESPACES.to_owned()),
        "noendpoints" if exposure.ignores_empty_services => return Err(EMPTY.to_owned()),
        "ignore" if exposure.is_without_endpoints => return Err(EMPTY.to_owned()),
        "namespaces" => exposure.namespaces.extend(namespaces(arguments)?),
        "namespace_labels" => {
            exposure.namespace_labels = Some(selector(exposure.namespace_labels.as_ref(), line)?);
        }
        "labels" => exposure.labels = Some(selector(exposure.labels.as_ref(), line)?),
        "endpoint_pod_names" => exposure.has_pod_names = alone(line)?,
        "noendpoints" => exposure.is_without_endpoints = alone(line)?,
        "ignore" => match arguments {
            [what] if what == "empty_service" => exposure.ignores_empty_services = true,
            _ => return Err("accepted is ignore empty_service".to_owned()),
        },
        other => return Err(format!("{other} is not known here: accepted are {ACCEPTED}")),
    }
    Ok(())
}

/// That a line is there, which says no more.
fn alone(line: &Directive) -> Result<bool, Reason> {
    match line.arguments() {
        [] => Ok(true),
        _ => Err(format!("accepted is {} alone", line.name())),
    }
}

/// Names of namespaces, at least one.
fn namespaces(arguments: &[String]) -> Result<Vec<String>, Reason> {
    if arguments.is_empty() {
        return Err(
            "accepted is namespaces NAME..., such as namespaces shop kube-system".to_owned()
        );
    }
    for name in arguments {
        dns_label(name).map_err(|why| format!("{name} is no name of a namespace: {why}"))?;
    }
    Ok(arguments.to_vec())
}

/// A selector, which may have blanks. One that was given before would not count.
fn selector(before: Option<&LabelSelector>, line: &Directive) -> Result<LabelSelector, Reason> {
    match (before, line.arguments()) {
        (Some(before), _) => Err(format!(
            "{0} comes once, and {before} was said before: accepted is {0} {before},...",
            line.name()
        )),
        (None, []) => Err(format!(
            "accepted is {} EXPRESSION, such as tier in (front, back),app=web,!canary",
            line.name()
        )),
        (None, words) => words.join(" ").parse().map_err(text_of),
    }
}
