//! The file's fields and defaults.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::duration::GoDuration;

const API_VERSION: &str = "kubeproxy.config.k8s.io/v1alpha1";
const KIND: &str = "KubeProxyConfiguration";

/// Fields that kube-proxy does not have.
type Unknown = BTreeMap<String, Value>;

/// A section of the file: its fields with their defaults, and what else is there.
macro_rules! section {
    ($(#[$doc:meta])* $name:ident { $($(#[$attribute:meta])* $field:ident: $type:ty = $default:expr,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        #[serde(rename_all = "camelCase", default)]
        pub(crate) struct $name {
            $($(#[$attribute])* pub(crate) $field: $type,)*
            #[serde(flatten)]
            unknown: Unknown,
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $default,)* unknown: Unknown::new() }
            }
        }
    };
}

section! {
    /// The whole file.
    KubeProxyConfiguration {
        api_version: String = API_VERSION.to_owned(),
        kind: String = KIND.to_owned(),
        bind_address: String = "0.0.0.0".to_owned(),
        healthz_bind_address: String = "0.0.0.0:10256".to_owned(),
        metrics_bind_address: String = "127.0.0.1:10249".to_owned(),
        bind_address_hard_fail: bool = false,
        client_connection: ClientConnection = ClientConnection::default(),
        #[serde(rename = "clusterCIDR")]
        cluster_cidr: String = String::new(),
        config_sync_period: GoDuration = GoDuration::seconds(15 * 60),
        conntrack: Conntrack = Conntrack::default(),
        detect_local_mode: String = "ClusterCIDR".to_owned(),
        detect_local: DetectLocal = DetectLocal::default(),
        enable_profiling: bool = false,
        feature_gates: BTreeMap<String, bool> = BTreeMap::new(),
        hostname_override: String = String::new(),
        iptables: Iptables = Iptables::default(),
        ipvs: Ipvs = Ipvs::default(),
        nftables: Nftables = Nftables::default(),
        mode: String = String::new(),
        node_port_addresses: Option<Vec<String>> = None,
        oom_score_adj: i32 = -999,
        port_range: String = String::new(),
        show_hidden_metrics_for_version: String = String::new(),
        logging: Value = Value::Object(serde_json::Map::new()),
        winkernel: Value = Value::Object(serde_json::Map::new()),
        windows_run_as_service: bool = false,
    }
}

section! {
    /// How to reach the API server.
    ClientConnection {
        kubeconfig: String = String::new(),
        accept_content_types: String = String::new(),
        content_type: String = "application/vnd.kubernetes.protobuf".to_owned(),
        qps: f64 = 5.0,
        burst: i32 = 10,
    }
}

section! {
    /// Limits and timeouts of connection tracking.
    Conntrack {
        max_per_core: Option<i64> = Some(32_768),
        min: Option<i64> = Some(131_072),
        tcp_established_timeout: Option<GoDuration> = Some(GoDuration::seconds(86_400)),
        tcp_close_wait_timeout: Option<GoDuration> = Some(GoDuration::seconds(3600)),
        tcp_be_liberal: bool = false,
        udp_timeout: GoDuration = GoDuration::seconds(0),
        udp_stream_timeout: GoDuration = GoDuration::seconds(0),
    }
}

section! {
    /// How pods' packets are told from others.
    DetectLocal {
        bridge_interface: String = String::new(),
        interface_name_prefix: String = String::new(),
    }
}

section! {
    /// Of the iptables mode.
    Iptables {
        masquerade_bit: Option<i32> = Some(14),
        masquerade_all: bool = false,
        localhost_node_ports: Option<bool> = Some(true),
        sync_period: GoDuration = GoDuration::seconds(30),
        min_sync_period: GoDuration = GoDuration::seconds(1),
    }
}

section! {
    /// Of the ipvs mode.
    Ipvs {
        sync_period: GoDuration = GoDuration::seconds(30),
        min_sync_period: GoDuration = GoDuration::seconds(0),
        scheduler: String = String::new(),
        #[serde(rename = "excludeCIDRs")]
        exclude_cidrs: Option<Vec<String>> = None,
        #[serde(rename = "strictARP")]
        strict_arp: bool = false,
        tcp_timeout: GoDuration = GoDuration::seconds(0),
        tcp_fin_timeout: GoDuration = GoDuration::seconds(0),
        udp_timeout: GoDuration = GoDuration::seconds(0),
    }
}

section! {
    /// Of the nftables mode.
    Nftables {
        masquerade_bit: Option<i32> = Some(14),
        masquerade_all: bool = false,
        sync_period: GoDuration = GoDuration::seconds(30),
        min_sync_period: GoDuration = GoDuration::seconds(1),
    }
}

/// Reads the text of a file, YAML or JSON. Answers warnings about unknown fields, which kube-proxy
/// too lets pass.
pub(super) fn parse(text: &str) -> Result<(KubeProxyConfiguration, Vec<String>), String> {
    let value: Value = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
    for (field, expected) in [("apiVersion", API_VERSION), ("kind", KIND)] {
        if value[field] != expected {
            return Err(format!("{field} is {}, accepted is {expected:?}", value[field]));
        }
    }
    let config = KubeProxyConfiguration::deserialize(&value).map_err(|error| error.to_string())?;
    let warnings = config.unknown().map(|path| format!("unknown field {path:?} is ignored"));
    let warnings = warnings.collect();
    Ok((config, warnings))
}

impl KubeProxyConfiguration {
    /// Paths of fields that kube-proxy does not have.
    fn unknown(&self) -> impl Iterator<Item = String> {
        let sections = [
            ("", &self.unknown),
            ("clientConnection.", &self.client_connection.unknown),
            ("conntrack.", &self.conntrack.unknown),
            ("detectLocal.", &self.detect_local.unknown),
            ("iptables.", &self.iptables.unknown),
            ("ipvs.", &self.ipvs.unknown),
            ("nftables.", &self.nftables.unknown),
        ];
        sections.into_iter().flat_map(|(section, unknown)| {
            unknown.keys().map(move |field| format!("{section}{field}"))
        })
    }

    /// As `/configz` tells it.
    pub(crate) fn to_json(&self) -> Value {
        serde_json::json!({ "kubeproxy.config.k8s.io": self })
    }

    /// As the text of a file.
    pub(crate) fn to_yaml(&self) -> String {
        // Texts, numbers, lists and maps of texts are always YAML.
        serde_saphyr::to_string(self).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str =
        "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";

    #[test]
    fn a_short_file_has_the_defaults() {
        let (config, warnings) = parse(HEAD).unwrap();
        assert_eq!(config, KubeProxyConfiguration::default());
        assert!(warnings.is_empty());
        assert_eq!(config.conntrack.max_per_core, Some(32_768));
    }

    #[test]
    fn what_is_written_is_read() {
        let text = format!(
            "{HEAD}clusterCIDR: 10.0.0.0/8\nconntrack: {{maxPerCore: 0}}\nnodePortAddresses: [primary]\n"
        );
        let (config, _) = parse(&text).unwrap();
        let (again, warnings) = parse(&config.to_yaml()).unwrap();
        assert_eq!(again, config);
        assert!(warnings.is_empty(), "{warnings:?}");
    }

    #[test]
    fn unknown_fields_are_named() {
        let (_, warnings) =
            parse(&format!("{HEAD}ipvs: {{sheduler: rr}}\nclusterCIDRs: []\n")).unwrap();
        assert_eq!(
            warnings,
            [
                "unknown field \"clusterCIDRs\" is ignored",
                "unknown field \"ipvs.sheduler\" is ignored"
            ]
        );
    }

    #[test]
    fn another_kind_and_wrong_types_are_refused() {
        let error = parse("apiVersion: v1\nkind: Service\n").unwrap_err();
        assert!(error.contains("kubeproxy.config.k8s.io/v1alpha1"), "{error}");
        assert!(parse(&format!("{HEAD}oomScoreAdj: none\n")).is_err());
        assert!(parse(&format!("{HEAD}iptables: {{syncPeriod: soon}}\n")).is_err());
    }
}
