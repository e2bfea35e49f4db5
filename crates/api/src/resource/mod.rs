//! What the API server knows about each kind it serves.
//!
//! A [`Kind`] is the static description (names, scope, subresources); its [`Strategy`] holds the
//! rules: defaults, validation, allocation, printer columns. Objects travel as JSON values so that
//! fields this server does not interpret survive a round trip.
//!
//! Nothing here knows HTTP or the store; nothing outside knows a rule of a kind.

mod cells;
mod endpoints;
mod endpointslice;
mod kinds;
mod namespace;
mod node;
mod plain;
mod pod;
mod service;
mod strict;
mod workload;

use serde_json::Value;

use crate::field::FieldError;
use crate::names::{self, NameRule};
use crate::status::Status;
pub(crate) use kinds::{find, kinds};

/// Static description of one served kind.
pub(crate) struct Kind {
    /// API group; empty for the core group.
    pub group: &'static str,
    /// API version, for example `v1`.
    pub version: &'static str,
    /// Kind in CamelCase, for example `Service`.
    pub kind: &'static str,
    /// Plural used in URLs, for example `services`.
    pub plural: &'static str,
    /// Singular used by clients, for example `service`.
    pub singular: &'static str,
    /// Whether objects live in a namespace.
    pub namespaced: bool,
    /// Short names accepted by kubectl, for example `svc`.
    pub short_names: &'static [&'static str],
    /// Categories such as `all`.
    pub categories: &'static [&'static str],
    /// Whether `/status` is served.
    pub status_subresource: bool,
    /// Whether PUT to a missing object creates it.
    pub create_on_update: bool,
    /// Whether `metadata.generation` is maintained (bumped when anything but metadata and status changes).
    pub generation: bool,
    /// Whether DELETE answers with the deleted object (else a `Status`).
    pub delete_returns_object: bool,
    /// The rules of this kind.
    pub strategy: &'static dyn Strategy,
}

/// Context of a write: what a strategy may consult besides the object itself.
pub(crate) struct Write<'a> {
    /// What has been given out of addresses and node ports; changes are kept only if the write
    /// succeeds.
    pub allocations: &'a mut crate::allocation::Allocations,
}

/// The rules of one kind. All methods are deterministic and do no I/O.
pub(crate) trait Strategy: Send + Sync {
    /// Checks types and finds unknown fields: an error for a field of a wrong type, and the paths
    /// of fields this API version does not have (for `fieldValidation`).
    fn decode(&self, object: &Value) -> Result<Vec<String>, String>;

    /// Sets the defaults that every write of this kind applies.
    fn default(&self, _object: &mut Value) {}

    /// Prepares an object for creation: clears what clients may not set, allocates what the server gives out.
    fn prepare_create(&self, _object: &mut Value, _write: &mut Write<'_>) -> Result<(), Status> {
        Ok(())
    }

    /// Prepares a replacement: keeps allocated values, drops what the type no longer has, allocates and releases.
    fn prepare_update(
        &self,
        _object: &mut Value,
        _old: &Value,
        _write: &mut Write<'_>,
    ) -> Result<(), Status> {
        Ok(())
    }

    /// Gives back what the object holds, when it is finally removed.
    fn release(&self, _object: &Value, _write: &mut Write<'_>) {}

    /// All the rules the object breaks; `old` is present on update.
    fn validate(&self, _object: &Value, _old: Option<&Value>) -> Vec<FieldError> {
        Vec::new()
    }

    /// What names of this kind may look like; most are DNS subdomains.
    fn name_rule(&self) -> NameRule {
        names::dns_subdomain
    }

    /// Warnings for the client (`Warning: 299`), none by default.
    fn warnings(&self, _object: &Value) -> Vec<String> {
        Vec::new()
    }

    /// Value of a selectable field, or `None` if this kind does not support selecting by it.
    /// `metadata.name` and `metadata.namespace` are handled by the caller.
    fn field(&self, _object: &Value, _path: &str) -> Option<String> {
        None
    }

    /// Printer columns of `kubectl get`.
    fn columns(&self) -> &'static [Column];

    /// One cell per column. `now` is the server's time, for ages.
    fn cells(&self, object: &Value, now: jiff::Timestamp) -> Vec<Value>;

    /// Whether DELETE first marks the object (grace period, finalizers of the kind itself); the
    /// default removes it at once unless `metadata.finalizers` is set.
    /// Returns the grace period in seconds to record, or `None` to remove at once.
    fn grace_period(&self, _object: &Value, _asked: Option<i64>) -> Option<i64> {
        None
    }
}

/// A printer column of a Table.
pub(crate) struct Column {
    /// Heading.
    pub name: &'static str,
    /// OpenAPI type: `string`, `integer`.
    pub kind: &'static str,
    /// OpenAPI format: `name` for the name column, else empty.
    pub format: &'static str,
    /// 0 is always shown, 1 only with `-o wide`.
    pub priority: u8,
}

impl Kind {
    /// How messages name the resource: plural, with the group if there is one.
    pub(crate) fn resource(&self) -> String {
        dotted(self.plural, self.group)
    }

    /// How messages name the kind, with the group if there is one.
    pub(crate) fn qualified_kind(&self) -> String {
        dotted(self.kind, self.group)
    }

    /// `apiVersion` of its objects.
    pub(crate) fn api_version(&self) -> String {
        match self.group {
            "" => self.version.to_owned(),
            group => format!("{group}/{}", self.version),
        }
    }
}

fn dotted(name: &str, group: &str) -> String {
    match group {
        "" => name.to_owned(),
        group => format!("{name}.{group}"),
    }
}
