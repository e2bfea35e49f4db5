//! How a row of the table is written.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use model::{Family, Protocol};
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::planes;

/// A case: a cluster, packets, and what becomes of them; then changes and more packets.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Row {
    pub(crate) id: String,
    pub(crate) says: String,
    /// Only in this family, 4 or 6.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    family: Option<u8>,
    #[serde(default)]
    node: NodeRow,
    #[serde(default)]
    services: Vec<ServiceRow>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    health_checks: BTreeMap<u16, usize>,
    #[serde(default)]
    packets: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    then: Vec<StepRow>,
    /// What is no matter of packets is tested elsewhere: `FILE FUNCTION`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) tested_by: Option<String>,
    /// Why it can't be run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) cannot: Option<String>,
    /// Data planes that can't do it, by name, and why. It is not run on them.
    #[serde(
        default,
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "reasons_by_plane"
    )]
    pub(crate) not_on: BTreeMap<String, String>,
}

/// A change and what packets do after it. What is not given stays.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StepRow {
    node: Option<NodeRow>,
    services: Option<Vec<ServiceRow>>,
    health_checks: Option<BTreeMap<u16, usize>>,
    packets: Vec<String>,
}

/// The node n1 and how its proxy is configured.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub(crate) struct NodeRow {
    pub(crate) zone: Option<String>,
    pub(crate) masquerade_all: bool,
    pub(crate) node_port_addresses: Vec<String>,
    /// Which external addresses are served; all if nothing is said.
    #[serde(rename = "allowExternalIPs")]
    pub(crate) allow_external_ips: Option<Vec<String>>,
    pub(crate) detector: DetectorRow,
    /// Addresses that the node has besides its own two.
    pub(crate) local: Vec<String>,
}

/// How pods are told.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum DetectorRow {
    /// By the pods' range.
    #[default]
    Range,
    /// Not at all.
    None,
    /// By the interface that they are on.
    Interface(String),
    /// By what that interface's name begins with.
    Prefix(String),
}

/// A Service and its slices. Fields are the API's; `web` at VIP:80 if nothing is said.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ServiceRow {
    #[serde(default = "web")]
    pub(crate) name: String,
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub(crate) metadata: Value,
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub(crate) spec: Value,
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub(crate) status: Value,
    /// The endpoints of one slice that has all ports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) endpoints: Option<Vec<EndpointRow>>,
    /// Slices in full.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) slices: Vec<SliceRow>,
}

/// A slice of the Service it stands at.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SliceRow {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) labels: BTreeMap<String, String>,
    /// The Service's, if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ports: Option<Vec<Value>>,
    pub(crate) endpoints: Vec<EndpointRow>,
}

/// An endpoint: a place, or a place with more.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum EndpointRow {
    Ready(String),
    Full(FullEndpointRow),
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FullEndpointRow {
    pub(crate) at: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ready: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) serving: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) terminating: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) node: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) zones: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) nodes: Vec<String>,
}

/// One state of the cluster with its packets.
#[derive(Debug, Clone)]
pub(crate) struct Step {
    pub(crate) node: NodeRow,
    pub(crate) services: Vec<ServiceRow>,
    pub(crate) health_checks: Option<BTreeMap<u16, usize>>,
    pub(crate) packets: Vec<PacketRow>,
}

/// `FROM[CLIENT] as SOURCE -> TO:PORT/PROTOCOL = OUTCOME`.
#[derive(Debug, Clone)]
pub(crate) struct PacketRow {
    pub(crate) text: String,
    pub(crate) from: String,
    /// A socket that lives through all steps.
    pub(crate) client: Option<String>,
    /// The source address, where it is not the place's own.
    pub(crate) source: Option<String>,
    pub(crate) to: String,
    /// `None` for ping.
    pub(crate) port: Option<u16>,
    pub(crate) protocol: Option<Protocol>,
    pub(crate) outcome: Outcome,
}

/// What becomes of a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It reaches one of these.
    Reaches(Vec<Target>, Manner),
    /// Refused.
    Reject,
    /// Lost.
    Drop,
    /// It reaches whoever has the address, with its own source.
    Untouched,
    /// The same as the last time this client asked.
    AsBefore,
}

/// Someone who is reached.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Target {
    pub(crate) place: String,
    pub(crate) port: u16,
    /// He sees the node's address.
    pub(crate) masqueraded: bool,
}

/// How one of several is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    Any,
    Evenly,
    Sticky,
}

/// The port that endpoints have unless a row says another.
pub(crate) const TARGET_PORT: u16 = 8080;

fn web() -> String {
    "web".to_owned()
}

impl Default for NodeRow {
    fn default() -> Self {
        Self {
            zone: Some("a".to_owned()),
            masquerade_all: false,
            node_port_addresses: Vec::new(),
            allow_external_ips: None,
            detector: DetectorRow::Range,
            local: Vec::new(),
        }
    }
}

impl Row {
    /// A row of one step.
    pub(crate) fn single(
        id: String,
        node: NodeRow,
        services: Vec<ServiceRow>,
        packets: Vec<String>,
    ) -> Self {
        Self {
            id,
            says: String::new(),
            family: None,
            node,
            services,
            health_checks: BTreeMap::new(),
            packets,
            then: Vec::new(),
            tested_by: None,
            cannot: None,
            not_on: BTreeMap::new(),
        }
    }

    /// Whether there is anything for packets to show.
    pub(crate) fn has_packets(&self) -> bool {
        !self.packets.is_empty()
    }

    /// The families it is meant for.
    pub(crate) fn families(&self) -> impl Iterator<Item = Family> {
        let only = self.family;
        Family::ALL.into_iter().filter(move |family| match family {
            Family::V4 => only != Some(6),
            Family::V6 => only != Some(4),
        })
    }

    /// The states of the cluster, in order.
    pub(crate) fn steps(&self) -> Vec<Step> {
        let packets = |texts: &[String]| {
            let parse = |text: &String| {
                PacketRow::parse(text).unwrap_or_else(|| panic!("{}: {text:?}", self.id))
            };
            texts.iter().map(parse).collect()
        };
        let mut steps = vec![Step {
            node: self.node.clone(),
            services: self.services.clone(),
            health_checks: (!self.health_checks.is_empty()).then(|| self.health_checks.clone()),
            packets: packets(&self.packets),
        }];
        for row in &self.then {
            let before = steps.last().expect("there is a first one");
            let step = Step {
                node: row.node.clone().unwrap_or_else(|| before.node.clone()),
                services: row.services.clone().unwrap_or_else(|| before.services.clone()),
                health_checks: row.health_checks.clone(),
                packets: packets(&row.packets),
            };
            steps.push(step);
        }
        steps
    }

    /// The protocols that what it leaves open is run with; all of them the same if nothing is open.
    pub(crate) fn protocols(&self) -> Vec<Protocol> {
        let is_open = self.steps().iter().any(|step| {
            step.packets.iter().any(|packet| packet.port.is_some() && packet.protocol.is_none())
        });
        match is_open {
            true => vec![Protocol::Tcp, Protocol::Udp, Protocol::Sctp],
            false => vec![Protocol::Tcp],
        }
    }
}

impl EndpointRow {
    pub(crate) fn full(&self) -> FullEndpointRow {
        match self {
            EndpointRow::Ready(at) => FullEndpointRow {
                at: at.clone(),
                ready: Some(true),
                serving: None,
                terminating: None,
                node: None,
                zones: Vec::new(),
                nodes: Vec::new(),
            },
            EndpointRow::Full(full) => full.clone(),
        }
    }
}

impl PacketRow {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (way, outcome) = text.split_once(" = ")?;
        let (from, to) = way.split_once(" -> ")?;
        let (from, source) = match from.split_once(" as ") {
            Some((from, source)) => (from, Some(source.to_owned())),
            None => (from, None),
        };
        let (from, client) = match from.split_once('[') {
            Some((from, client)) => (from, Some(client.strip_suffix(']')?.to_owned())),
            None => (from, None),
        };
        let (to, port, protocol) = match to.strip_suffix(" ping") {
            Some(to) => (to, None, None),
            None => {
                let (to, port) = to.rsplit_once(':')?;
                let (port, protocol) = match port.split_once('/') {
                    Some((port, protocol)) => (port, Some(parse_protocol(protocol)?)),
                    None => (port, None),
                };
                (to, Some(port.parse().ok()?), protocol)
            }
        };
        Some(Self {
            text: text.to_owned(),
            from: from.to_owned(),
            client,
            source,
            to: to.to_owned(),
            port,
            protocol,
            outcome: Outcome::parse(outcome)?,
        })
    }
}

impl Outcome {
    fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "reject" => Self::Reject,
            "drop" => Self::Drop,
            "-" => Self::Untouched,
            "as before" => Self::AsBefore,
            targets => {
                let (targets, manner) = if let Some(targets) = targets.strip_suffix(" evenly") {
                    (targets, Manner::Evenly)
                } else if let Some(targets) = targets.strip_suffix(" sticky") {
                    (targets, Manner::Sticky)
                } else {
                    (targets, Manner::Any)
                };
                let mut targets =
                    targets.split(", ").map(Target::parse).collect::<Option<Vec<_>>>()?;
                targets.sort();
                Self::Reaches(targets, manner)
            }
        })
    }
}

impl Target {
    fn parse(text: &str) -> Option<Self> {
        let (target, masqueraded) = match text.strip_suffix(" snat") {
            Some(target) => (target, true),
            None => (text, false),
        };
        let (place, port) = match target.split_once(':') {
            Some((place, port)) => (place, port.parse().ok()?),
            None => (target, TARGET_PORT),
        };
        Some(Self { place: place.to_owned(), port, masqueraded })
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reaches(targets, manner) => {
                let texts: Vec<String> = targets.iter().map(Target::to_string).collect();
                f.write_str(&texts.join(", "))?;
                f.write_str(match manner {
                    Manner::Any => "",
                    Manner::Evenly => " evenly",
                    Manner::Sticky => " sticky",
                })
            }
            Self::Reject => f.write_str("reject"),
            Self::Drop => f.write_str("drop"),
            Self::Untouched => f.write_str("-"),
            Self::AsBefore => f.write_str("as before"),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.place)?;
        if self.port != TARGET_PORT {
            write!(f, ":{}", self.port)?;
        }
        f.write_str(if self.masqueraded { " snat" } else { "" })
    }
}

/// A reason for each data plane, of which there has to be one.
fn reasons_by_plane<'de, D>(deserializer: D) -> Result<BTreeMap<String, String>, D::Error>
where
    D: Deserializer<'de>,
{
    let reasons = BTreeMap::<String, String>::deserialize(deserializer)?;
    for (plane, why) in &reasons {
        if !planes::NAMES.contains(&plane.as_str()) {
            let names = planes::NAMES.join(", ");
            return Err(D::Error::custom(format!("not_on: {plane} is none of {names}")));
        }
        if why.trim().is_empty() {
            return Err(D::Error::custom(format!("not_on: {plane} has no reason")));
        }
    }
    Ok(reasons)
}

fn parse_protocol(text: &str) -> Option<Protocol> {
    serde_json::from_value(text.to_uppercase().into()).ok()
}

/// Where the table is.
fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases")
}

/// All rows, or those of the file that `PORTOLAN_CASES` names.
pub(crate) fn table() -> Vec<Row> {
    let mut files = match std::env::var_os("PORTOLAN_CASES") {
        Some(file) => vec![PathBuf::from(file)],
        None => std::fs::read_dir(directory())
            .expect("the table is there")
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
            .collect(),
    };
    files.sort();
    let mut rows: Vec<Row> = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let more: Vec<Row> = serde_saphyr::from_str(&text)
            .unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        rows.extend(more);
    }
    rows
}

#[test]
fn a_row_says_why_a_data_plane_can_not_do_it() {
    let read = |not_on: &str| {
        let text = format!("- {{id: A1, says: a word, not_on: {not_on}}}");
        serde_saphyr::from_str::<Vec<Row>>(&text).map_err(|error| error.to_string())
    };
    let rows = read("{ipvs: it has no such thing}").unwrap();
    assert_eq!(rows[0].not_on.get("ipvs").map(String::as_str), Some("it has no such thing"));
    let refused = read("{ipvs: ' '}").unwrap_err();
    assert!(refused.contains("ipvs has no reason"), "{refused}");
    let refused = read("{ipsv: it has no such thing}").unwrap_err();
    assert!(refused.contains("ipsv is none of nftables, "), "{refused}");
}
