//! The API over HTTPS: from a request to what the store and the kinds' rules do with it.

mod answer;
mod body;
mod discovery;
mod openapi;
mod protobuf;
mod query;
mod read;
mod route;
mod serve;
mod table;
mod watch;
mod write;

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use serde_json::json;

use crate::allocation::Allocations;
use crate::status::{Result, Status};
use crate::store::Store;
use answer::{Answer, Form};
use query::Query;
pub(crate) use read::store_kind;
use route::{Route, Target};
pub(crate) use serve::serve;
pub(crate) use write::ensure;

/// What all requests share.
#[derive(Debug)]
pub(crate) struct Shared {
    /// The objects.
    pub(crate) store: Store,
    /// What has been given out. Changed by writes only, which come one at a time.
    pub(crate) allocations: Arc<Mutex<Allocations>>,
}

/// A request about objects.
struct Call<'a> {
    shared: &'a Arc<Shared>,
    target: Target<'a>,
    query: Query,
    /// How the answer is to look.
    form: Form,
    /// What the body is.
    media_type: &'a str,
    bytes: Bytes,
}

/// Answers one request. `is_known` says whether the client has shown a certificate of this cluster;
/// whoever has may do everything.
pub(crate) async fn handle(
    shared: &Arc<Shared>,
    request: Request<Incoming>,
    is_known: bool,
) -> Answer {
    match answer_or_refuse(shared, request, is_known).await {
        Ok(answer) => answer,
        Err(status) => answer::status(&status),
    }
}

async fn answer_or_refuse(
    shared: &Arc<Shared>,
    request: Request<Incoming>,
    is_known: bool,
) -> Result<Answer> {
    let (parts, incoming) = request.into_parts();
    let route = Route::parse(parts.uri.path());
    let is_public = matches!(route, Route::Health | Route::Version);
    if !is_known && !is_public {
        return Err(Status::unauthorized());
    }
    let form = answer::form(&parts.headers);
    let value = |value| Ok(answer::value(StatusCode::OK, &value));
    let or_unknown = |document: Option<_>| document.ok_or_else(Status::no_such_path);
    match route {
        Route::Health => Ok(answer::text(StatusCode::OK, "ok")),
        Route::Version => value(version()),
        Route::CoreVersions if form == Form::Discovery => discovery_document(true),
        Route::Groups if form == Form::Discovery => discovery_document(false),
        Route::CoreVersions => value(discovery::core_versions()),
        Route::Groups => value(discovery::group_list()),
        Route::Group(group) => value(or_unknown(discovery::group(group))?),
        Route::Resources(group, version) => {
            value(or_unknown(discovery::resources(group, version))?)
        }
        Route::OpenApiV2 => value(openapi::v2()),
        Route::OpenApiIndex => value(openapi::index()),
        Route::OpenApi(group, version) => value(or_unknown(openapi::document(group, version))?),
        Route::Unknown => Err(Status::no_such_path()),
        Route::Objects(target) => {
            let call = Call {
                shared,
                target,
                query: Query::parse(parts.uri.query().unwrap_or_default()),
                form,
                media_type: body::media_type(&parts.headers),
                bytes: body::read(incoming).await?,
            };
            objects(&parts.method, &call).await
        }
    }
}

fn discovery_document(core: bool) -> Result<Answer> {
    const MEDIA_TYPE: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let document = discovery::aggregated(core).to_string();
    Ok(answer::typed(StatusCode::OK, MEDIA_TYPE, document))
}

async fn objects(method: &Method, call: &Call<'_>) -> Result<Answer> {
    let (store, target) = (&call.shared.store, &call.target);
    let refused = || Err(Status::method_not_allowed(method.as_str(), target.kind));
    let is_workload = matches!(target.kind.plural, "deployments" | "replicasets");
    match (method, target.name, target.subresource) {
        (&Method::GET, _, None | Some("status")) if call.query.flag("watch") => {
            watch::watch(store, target, &call.query, call.form)
        }
        (&Method::GET, None, None) => read::list(store, target, &call.query, call.form),
        (&Method::GET, Some(name), Some("scale")) if is_workload => write::get_scale(call, name),
        (&Method::PUT | &Method::PATCH, Some(name), Some("scale")) if is_workload => {
            write::set_scale(call, name).await
        }
        (&Method::GET, Some(_), Some("log")) if target.kind.plural == "pods" => {
            Err(Status::not_implemented(
                "logs are files on the node that runs the pod, below its data directory; this API server does not fetch them",
            ))
        }
        (&Method::POST, Some(name), Some("binding")) if target.kind.plural == "pods" => {
            write::bind(call, name).await
        }
        (&Method::GET, Some(name), None | Some("status")) => {
            read::get(store, target, name, &call.query, call.form)
        }
        (&Method::POST, None, None) => write::create(call).await,
        (&Method::PUT, Some(name), _) => write::update(call, name).await,
        (&Method::PATCH, Some(name), _) => write::patch(call, name).await,
        (&Method::DELETE, Some(name), None) => write::delete(call, name).await,
        (&Method::DELETE, None, None) => write::delete_collection(call).await,
        _ => refused(),
    }
}

/// `/version`: the Kubernetes release whose behaviour this server follows.
fn version() -> serde_json::Value {
    json!({
        "major": "1", "minor": "36",
        "gitVersion": concat!("v1.36.0+portolan.", env!("CARGO_PKG_VERSION")),
        "gitCommit": "", "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "", "compiler": "rustc", "platform": "linux/amd64",
    })
}
