//! Objects as rows of a `meta.k8s.io/v1` Table, which `kubectl get` prints.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::resource::Kind;

/// How much of each object a row carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Include {
    /// Nothing.
    None,
    /// Its metadata; the default.
    Metadata,
    /// All of it.
    Object,
}

impl Include {
    pub(super) fn parse(text: &str) -> Self {
        match text {
            "None" => Include::None,
            "Object" => Include::Object,
            _ => Include::Metadata,
        }
    }
}

/// A table of objects. `metadata` is that of the list.
pub(super) fn table<'v>(
    kind: &Kind,
    objects: impl Iterator<Item = &'v Value>,
    metadata: Value,
    include: Include,
    with_columns: bool,
) -> Value {
    let now = Timestamp::now();
    let rows: Vec<Value> = objects.map(|object| row(kind, object, include, now)).collect();
    let mut table = json!({
        "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata,
        "columnDefinitions": null, "rows": rows,
    });
    if with_columns {
        let column = |c: &crate::resource::Column| {
            json!({"name": c.name, "type": c.kind, "format": c.format, "priority": c.priority,
                   "description": ""})
        };
        table["columnDefinitions"] = kind.strategy.columns().iter().map(column).collect();
    }
    table
}

fn row(kind: &Kind, object: &Value, include: Include, now: Timestamp) -> Value {
    let cells = kind.strategy.cells(object, now);
    let carried = match include {
        Include::None => return json!({"cells": cells}),
        Include::Object => object.clone(),
        Include::Metadata => json!({
            "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1",
            "metadata": object["metadata"],
        }),
    };
    json!({"cells": cells, "object": carried})
}
