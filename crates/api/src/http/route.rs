//! What a request's path names.

use crate::resource::{Kind, kinds};

/// A path, understood.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Route<'p> {
    /// `/healthz`, `/livez`, `/readyz` and below.
    Health,
    /// `/version`.
    Version,
    /// `/api`.
    CoreVersions,
    /// `/apis`.
    Groups,
    /// `/apis/GROUP`.
    Group(&'p str),
    /// `/api/v1` and `/apis/GROUP/VERSION`.
    Resources(&'p str, &'p str),
    /// `/openapi/v2`.
    OpenApiV2,
    /// `/openapi/v3`.
    OpenApiIndex,
    /// `/openapi/v3/api/v1` and `/openapi/v3/apis/GROUP/VERSION`.
    OpenApi(&'p str, &'p str),
    /// Objects.
    Objects(Target<'p>),
    /// Anything else.
    Unknown,
}

/// The objects that a path names.
#[derive(Clone, Copy)]
pub(super) struct Target<'p> {
    /// Their kind.
    pub(super) kind: &'static Kind,
    /// The namespace in the path, if any.
    pub(super) namespace: Option<&'p str>,
    /// The name in the path, if any.
    pub(super) name: Option<&'p str>,
    /// What of the object, for example `status`.
    pub(super) subresource: Option<&'p str>,
}

impl PartialEq for Target<'_> {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self.kind, other.kind)
            && (self.namespace, self.name, self.subresource)
                == (other.namespace, other.name, other.subresource)
    }
}

impl<'p> Route<'p> {
    pub(super) fn parse(path: &'p str) -> Self {
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        match parts.as_slice() {
            ["healthz" | "livez" | "readyz", ..] => Route::Health,
            ["version"] => Route::Version,
            ["api"] => Route::CoreVersions,
            ["apis"] => Route::Groups,
            ["apis", group] => Route::Group(group),
            ["openapi", "v2"] => Route::OpenApiV2,
            ["openapi", "v3"] => Route::OpenApiIndex,
            ["openapi", "v3", "api", version] => Route::OpenApi("", version),
            ["openapi", "v3", "apis", group, version] => Route::OpenApi(group, version),
            ["api", version] => Route::Resources("", version),
            ["apis", group, version] => Route::Resources(group, version),
            ["api", version, rest @ ..] => objects("", version, rest),
            ["apis", group, version, rest @ ..] => objects(group, version, rest),
            _ => Route::Unknown,
        }
    }
}

fn objects<'p>(group: &str, version: &str, rest: &[&'p str]) -> Route<'p> {
    let find = |plural: &str| {
        kinds().iter().find(|k| k.group == group && k.version == version && k.plural == plural)
    };
    // Namespaces are objects and prefixes: what follows a name decides.
    let (kind, namespace, rest) = match rest {
        ["namespaces", namespace, plural, rest @ ..]
            if find(plural).is_some_and(|k| k.namespaced) =>
        {
            (find(plural), Some(*namespace), rest)
        }
        [plural, rest @ ..] => (find(plural), None, rest),
        [] => (None, None, rest),
    };
    let (Some(kind), (name, subresource)) = (
        kind,
        match rest {
            [] => (None, None),
            [name] => (Some(*name), None),
            [name, subresource] => (Some(*name), Some(*subresource)),
            _ => return Route::Unknown,
        },
    ) else {
        return Route::Unknown;
    };
    // A namespaced object has to be named with its namespace.
    if kind.namespaced && namespace.is_none() && name.is_some() {
        return Route::Unknown;
    }
    Route::Objects(Target { kind, namespace, name, subresource })
}
