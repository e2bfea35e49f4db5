//! `v1` Namespace: that it exists is all that matters here (DNS tells NODATA from NXDOMAIN by it).

use serde::Deserialize;

use super::meta::Meta;

/// A namespace.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Namespace {
    /// Metadata.
    #[serde(rename = "metadata")]
    pub meta: Meta,
}
