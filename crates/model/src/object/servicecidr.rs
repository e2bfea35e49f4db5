//! `networking.k8s.io/v1` ServiceCIDR: the ranges cluster addresses come from.

use ipnet::IpNet;
use serde::{Deserialize, Deserializer};

use super::meta::Meta;
use crate::address::parse_net;

/// Ranges that Service addresses may be allocated from, at most one a family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceCidr {
    /// Metadata.
    pub meta: Meta,
    /// The ranges.
    pub cidrs: Vec<IpNet>,
}

impl<'de> Deserialize<'de> for ServiceCidr {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Wire {
            metadata: Meta,
            #[serde(default)]
            spec: Spec,
        }
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Spec {
            cidrs: Vec<String>,
        }
        Wire::deserialize(deserializer).map(|wire| ServiceCidr {
            meta: wire.metadata,
            cidrs: wire.spec.cidrs.iter().filter_map(|c| parse_net(c)).collect(),
        })
    }
}
