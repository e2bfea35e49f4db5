//! Object metadata: identity, labels, and whether deletion has begun.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;

use crate::ObjectName;

/// The metadata every object carries.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Meta {
    /// Name, unique in its namespace and kind.
    pub name: Arc<str>,
    /// Namespace, empty for cluster-scoped kinds.
    pub namespace: Arc<str>,
    /// Identity across re-creation under the same name.
    pub uid: Arc<str>,
    /// Opaque version for watches.
    pub resource_version: Arc<str>,
    /// Labels.
    pub labels: BTreeMap<Arc<str>, Arc<str>>,
    /// Annotations.
    pub annotations: BTreeMap<Arc<str>, Arc<str>>,
    /// RFC 3339 time at which deletion was asked for, if it was.
    pub deletion_timestamp: Option<Arc<str>>,
}

impl Meta {
    /// Namespace and name together.
    pub fn object_name(&self) -> ObjectName {
        ObjectName { namespace: self.namespace.clone(), name: self.name.clone() }
    }
}
