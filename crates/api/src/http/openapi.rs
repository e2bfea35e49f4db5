//! OpenAPI documents, as small as clients allow: they name each kind and the query parameters that
//! kubectl looks for. Fields are not described; `fieldValidation` on the server checks them.

use serde_json::{Map, Value, json};

use crate::resource::{Kind, kinds};

/// `/openapi/v3`: where the documents are.
pub(super) fn index() -> Value {
    let mut paths = Map::new();
    for kind in kinds() {
        let path = path(kind);
        let document = json!({"serverRelativeURL": format!("/openapi/v3/{path}?hash=1")});
        paths.insert(path, document);
    }
    json!({"paths": paths})
}

/// `/openapi/v3/GROUP/VERSION`; `None` if there are no such kinds.
pub(super) fn document(group: &str, version: &str) -> Option<Value> {
    let of_version =
        || kinds().iter().filter(|kind| kind.group == group && kind.version == version);
    of_version().next()?;
    let (mut paths, mut schemas) = (Map::new(), Map::new());
    for kind in of_version() {
        schemas.insert(schema_name(kind), schema(kind));
        let base = match kind.namespaced {
            true => format!("/{}/namespaces/{{namespace}}/{}", path(kind), kind.plural),
            false => format!("/{}/{}", path(kind), kind.plural),
        };
        let operation = |action: &str| {
            json!({
                "x-kubernetes-action": action,
                "x-kubernetes-group-version-kind": group_version_kind(kind),
                "parameters": parameters(),
                "responses": {"200": {"description": "OK"}},
            })
        };
        paths.insert(base.clone(), json!({"get": operation("list"), "post": operation("post")}));
        paths.insert(
            format!("{base}/{{name}}"),
            json!({"get": operation("get"), "put": operation("put"), "patch": operation("patch"),
                   "delete": operation("delete")}),
        );
    }
    Some(json!({
        "openapi": "3.0.0", "info": {"title": "Portolan", "version": "v1"}, "paths": paths,
        "components": {"schemas": schemas},
    }))
}

/// `/openapi/v2`, for clients that know no other.
pub(super) fn v2() -> Value {
    let mut definitions = Map::new();
    for kind in kinds() {
        definitions.insert(schema_name(kind), schema(kind));
    }
    json!({"swagger": "2.0", "info": {"title": "Portolan", "version": "v1"}, "paths": {},
           "definitions": definitions})
}

fn path(kind: &Kind) -> String {
    match kind.group {
        "" => format!("api/{}", kind.version),
        group => format!("apis/{group}/{}", kind.version),
    }
}

fn schema_name(kind: &Kind) -> String {
    let group = match kind.group {
        "" => "core",
        group => group.split('.').next().unwrap_or(group),
    };
    format!("io.k8s.api.{group}.{}.{}", kind.version, kind.kind)
}

fn group_version_kind(kind: &Kind) -> Value {
    json!({"group": kind.group, "version": kind.version, "kind": kind.kind})
}

fn schema(kind: &Kind) -> Value {
    json!({
        "type": "object", "x-kubernetes-preserve-unknown-fields": true,
        "description": format!("{} of {}", kind.kind, kind.api_version()),
        "x-kubernetes-group-version-kind": [group_version_kind(kind)],
    })
}

fn parameters() -> Value {
    let parameter = |name: &str| json!({"name": name, "in": "query", "schema": {"type": "string", "uniqueItems": true}});
    ["dryRun", "fieldManager", "fieldValidation", "force", "pretty"].map(parameter).into()
}
