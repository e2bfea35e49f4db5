//! Object metadata: identity, labels, and whether deletion has begun.

use std::sync::Arc;

use serde::{Deserialize, Deserializer};

use super::labels::Labels;
use super::wire;
use crate::ObjectName;
use crate::intern::shared;

/// The metadata that most objects carry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Meta {
    /// Name, unique in its namespace and kind.
    pub name: Arc<str>,
    /// Namespace, empty for cluster-scoped kinds.
    pub namespace: Arc<str>,
    /// Identity across re-creation under the same name.
    pub uid: Arc<str>,
    /// Labels; of a Service, those that something here reads.
    pub labels: Labels,
    /// RFC 3339 time at which deletion was asked for, if it was.
    pub deletion_timestamp: Option<Arc<str>>,
}

impl Meta {
    /// Namespace and name together.
    pub fn object_name(&self) -> ObjectName {
        ObjectName { namespace: self.namespace.clone(), name: self.name.clone() }
    }

    /// With the labels that are wanted.
    pub(super) fn of(wire: &wire::Meta<'_>, is_wanted: impl Fn(&str) -> bool) -> Self {
        Self {
            name: Arc::from(&*wire.name),
            namespace: shared(&wire.namespace),
            uid: Arc::from(&*wire.uid),
            labels: Labels::of(&wire.labels, is_wanted),
            deletion_timestamp: wire.deletion_timestamp.as_deref().map(Arc::from),
        }
    }
}

impl<'de> Deserialize<'de> for Meta {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        wire::Meta::deserialize(deserializer).map(|wire| Self::of(&wire, |_| true))
    }
}
