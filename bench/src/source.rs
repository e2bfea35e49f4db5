//! An API endpoint that serves list and watch of generated objects as fast as they can be copied, so
//! that who lists and watches is measured and not who serves.
//!
//! It knows the kinds that a service proxy and cluster DNS watch, and accepts and forgets Events.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

use anyhow::Context;
use bytes::Bytes;
use futures_util::stream;
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use kernel::netns::Netns;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::cluster::{self, Size};

type Body = BoxBody<Bytes, Infallible>;

/// A kind that is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `v1` Service.
    Service,
    /// `discovery.k8s.io/v1` EndpointSlice.
    EndpointSlice,
    /// `v1` Node.
    Node,
    /// `networking.k8s.io/v1` ServiceCIDR.
    ServiceCidr,
    /// `v1` Namespace.
    Namespace,
    /// `v1` Pod.
    Pod,
}

impl Kind {
    const ALL: [Kind; 6] = [
        Kind::Service,
        Kind::EndpointSlice,
        Kind::Node,
        Kind::ServiceCidr,
        Kind::Namespace,
        Kind::Pod,
    ];

    /// Path, API version and name of the kind.
    fn names(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Kind::Service => ("/api/v1/services", "v1", "Service"),
            Kind::EndpointSlice => {
                ("/apis/discovery.k8s.io/v1/endpointslices", "discovery.k8s.io/v1", "EndpointSlice")
            }
            Kind::Node => ("/api/v1/nodes", "v1", "Node"),
            Kind::ServiceCidr => {
                ("/apis/networking.k8s.io/v1/servicecidrs", "networking.k8s.io/v1", "ServiceCIDR")
            }
            Kind::Namespace => ("/api/v1/namespaces", "v1", "Namespace"),
            Kind::Pod => ("/api/v1/pods", "v1", "Pod"),
        }
    }
}

/// The objects of a kind and what happened to them.
#[derive(Default)]
struct Objects {
    /// As JSON; what is deleted leaves a hole.
    current: Vec<Option<String>>,
    /// Watch events with the version each made.
    log: Vec<(u64, Bytes)>,
}

struct State {
    version: u64,
    kinds: [Objects; Kind::ALL.len()],
}

impl State {
    fn of(&mut self, kind: Kind) -> &mut Objects {
        &mut self.kinds[kind as usize]
    }
}

struct Shared {
    state: Mutex<State>,
    /// The version reached.
    version: watch::Sender<u64>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A running endpoint; it ends with the program.
pub(crate) struct Source {
    shared: Arc<Shared>,
    address: SocketAddr,
}

/// A change of one object.
pub(crate) struct Change {
    /// Its kind.
    pub(crate) kind: Kind,
    /// Its number; one more than there are makes a new one.
    pub(crate) number: u32,
    /// What it becomes, given its version.
    pub(crate) object: Box<dyn FnOnce(u64) -> String>,
    /// It is deleted; `object` gives its last state.
    pub(crate) deleted: bool,
}

impl Source {
    /// Serves a cluster of that size on the loopback of a namespace.
    pub(crate) fn start(netns: &Netns, size: Size) -> anyhow::Result<Self> {
        let services = size.services;
        let kinds = Kind::ALL.map(|kind| {
            let current = match kind {
                Kind::Service => (0..services).map(|n| Some(cluster::service(n, 1))).collect(),
                Kind::EndpointSlice => {
                    (0..services).map(|n| Some(cluster::slice(n, 1, &size.endpoints(n)))).collect()
                }
                Kind::Node => vec![Some(cluster::node(1))],
                Kind::ServiceCidr => vec![Some(cluster::service_cidr(1))],
                Kind::Namespace => cluster::namespaces().map(Some).collect(),
                Kind::Pod => (0..size.pods).map(|n| Some(cluster::pod(size, n, 1))).collect(),
            };
            Objects { current, log: Vec::new() }
        });
        let shared = Arc::new(Shared {
            state: Mutex::new(State { version: 1, kinds }),
            version: watch::Sender::new(1),
        });
        let listener = netns.run(|| std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))??;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let serving = shared.clone();
        thread::Builder::new().name("source".to_owned()).spawn(move || {
            runtime.block_on(async move {
                let listener = TcpListener::from_std(listener).expect("it is non-blocking");
                serve(listener, serving).await;
            });
        })?;
        Ok(Self { shared, address })
    }

    /// Makes changes, one after the other, and answers the moment before the first was told.
    pub(crate) fn change(&self, changes: impl IntoIterator<Item = Change>) -> Instant {
        let mut state = self.shared.state();
        for change in changes {
            state.version += 1;
            let version = state.version;
            let objects = state.of(change.kind);
            let number = change.number as usize;
            let is_new = objects.current.get(number).is_none_or(Option::is_none);
            let json = (change.object)(version);
            let event = match (change.deleted, is_new) {
                (true, _) => "DELETED",
                (false, true) => "ADDED",
                (false, false) => "MODIFIED",
            };
            let (_, api_version, kind) = change.kind.names();
            let body = json.strip_prefix('{').expect("an object begins so");
            let line = format!(
                "{{\"type\":\"{event}\",\"object\":{{\"kind\":\"{kind}\",\"apiVersion\":\"{api_version}\",{body}}}\n"
            );
            objects.log.push((version, line.into()));
            if objects.current.len() <= number {
                objects.current.resize(number + 1, None);
            }
            objects.current[number] = (!change.deleted).then_some(json);
        }
        let version = state.version;
        drop(state);
        let told = Instant::now();
        self.shared.version.send_replace(version);
        told
    }

    /// A kubeconfig for who is in the same namespace.
    pub(crate) fn kubeconfig(&self) -> String {
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: bench\nclusters:\n- name: bench\n  cluster: {{server: \"http://{}\"}}\nusers:\n- name: bench\n  user: {{}}\ncontexts:\n- name: bench\n  context: {{cluster: bench, user: bench}}\n",
            self.address
        )
    }
}

async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((stream, _)) = listener.accept().await {
        // Events are small and should not wait for each other.
        let _ = stream.set_nodelay(true);
        let shared = shared.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let shared = shared.clone();
                async move { Ok::<_, Infallible>(answer(&shared, request).await) }
            });
            let connection = hyper::server::conn::http1::Builder::new();
            // A connection that breaks is the client's business.
            let _ = connection.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(shared: &Arc<Shared>, request: Request<Incoming>) -> Response<Body> {
    // Of EndpointSlices older clients know v1beta1 (until 1.24), whose fields proxies read are the same.
    let is_old = request.uri().path().contains(OLD);
    let path = request.uri().path().replace(OLD, NEW);
    let query = Query::of(request.uri().query().unwrap_or_default());
    if request.method() == Method::POST || request.method() == Method::PATCH {
        let body = request.into_body().collect().await.map(|body| body.to_bytes());
        return json(StatusCode::CREATED, body.unwrap_or_default());
    }
    let answer = match &*path {
        "/version" => json(StatusCode::OK, r#"{"major":"1","minor":"36","gitVersion":"v1.36.0"}"#),
        "/apis/networking.k8s.io/v1" => json(
            StatusCode::OK,
            r#"{"kind":"APIResourceList","apiVersion":"v1","groupVersion":"networking.k8s.io/v1","resources":[{"name":"servicecidrs","singularName":"servicecidr","namespaced":false,"kind":"ServiceCIDR","verbs":["get","list","watch"]}]}"#,
        ),
        _ => match Kind::ALL.into_iter().find(|kind| kind.names().0 == path) {
            // Clients list instead.
            Some(_) if query.initial_events => json(
                StatusCode::UNPROCESSABLE_ENTITY,
                r#"{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Invalid","code":422,"message":"sendInitialEvents is not served"}"#,
            ),
            Some(kind) if query.watch => follow(shared.clone(), kind, query.version),
            Some(kind) => list(&mut shared.state(), kind, &query),
            None if path == format!("/api/v1/nodes/{}", cluster::NODE) => {
                let state = shared.state();
                json(
                    StatusCode::OK,
                    state.kinds[Kind::Node as usize].current[0].clone().unwrap_or_default(),
                )
            }
            None => json(
                StatusCode::NOT_FOUND,
                r#"{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"NotFound","code":404}"#,
            ),
        },
    };
    if is_old { in_old_version(answer) } else { answer }
}

/// API versions of EndpointSlices in paths and in objects.
const NEW: &str = "discovery.k8s.io/v1/";
const OLD: &str = "discovery.k8s.io/v1beta1/";

/// The same with objects of the old API version.
fn in_old_version(answer: Response<Body>) -> Response<Body> {
    let quoted = |path: &str| format!("\"{}\"", path.trim_end_matches('/'));
    let (new, old) = (quoted(NEW), quoted(OLD));
    answer.map(|body| {
        // Lists and lines of a watch come in frames that are whole.
        let frames = body.map_frame(move |frame| {
            frame.map_data(|data| String::from_utf8_lossy(&data).replace(&new, &old).into())
        });
        BodyExt::boxed(frames)
    })
}

/// The parameters that are understood.
#[derive(Debug, Default)]
struct Query {
    watch: bool,
    initial_events: bool,
    version: u64,
    limit: Option<usize>,
    from: usize,
}

impl Query {
    fn of(text: &str) -> Self {
        let mut query = Self::default();
        for (name, value) in text.split('&').filter_map(|pair| pair.split_once('=')) {
            match name {
                "watch" => query.watch = matches!(value, "true" | "1"),
                "sendInitialEvents" => query.initial_events = value == "true",
                "resourceVersion" => query.version = value.parse().unwrap_or(0),
                "limit" => query.limit = value.parse().ok().filter(|limit| *limit > 0),
                "continue" => query.from = value.parse().unwrap_or(0),
                _ => {}
            }
        }
        query
    }
}

fn json(status: StatusCode, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Full::new(body.into()).boxed());
    *response.status_mut() = status;
    let media_type = http::HeaderValue::from_static("application/json");
    response.headers_mut().insert(http::header::CONTENT_TYPE, media_type);
    response
}

fn list(state: &mut State, kind: Kind, query: &Query) -> Response<Body> {
    let version = state.version;
    let objects = &state.of(kind).current;
    let to = query.limit.map_or(objects.len(), |limit| (query.from + limit).min(objects.len()));
    let next = if to < objects.len() { to.to_string() } else { String::new() };
    let (_, api_version, kind) = kind.names();
    let page = objects.get(query.from..to).unwrap_or_default();
    let length: usize = page.iter().flatten().map(|object| object.len() + 1).sum();
    let mut body = String::with_capacity(length + 200);
    body.push_str(&format!(
        r#"{{"kind":"{kind}List","apiVersion":"{api_version}","metadata":{{"resourceVersion":"{version}","continue":"{next}"}},"items":["#
    ));
    for (index, object) in page.iter().flatten().enumerate() {
        if index > 0 {
            body.push(',');
        }
        body.push_str(object);
    }
    body.push_str("]}");
    json(StatusCode::OK, body)
}

/// What happens to a kind after `version`, without end.
fn follow(shared: Arc<Shared>, kind: Kind, version: u64) -> Response<Body> {
    let changes = shared.version.subscribe();
    let events =
        stream::unfold((shared, changes, version), move |(shared, mut changes, from)| async move {
            loop {
                changes.borrow_and_update();
                let (events, version) = {
                    let mut state = shared.state();
                    let version = state.version;
                    let log = &state.of(kind).log;
                    let first = log.partition_point(|(version, _)| *version <= from);
                    let events: Vec<Bytes> =
                        log[first..].iter().map(|(_, line)| line.clone()).collect();
                    (events.concat(), version)
                };
                if !events.is_empty() {
                    let frame = Ok::<_, Infallible>(Frame::data(Bytes::from(events)));
                    return Some((frame, (shared, changes, version)));
                }
                if changes.changed().await.is_err() {
                    return None;
                }
            }
        });
    let mut response = Response::new(BodyExt::boxed(StreamBody::new(Box::pin(events))));
    let media_type = http::HeaderValue::from_static("application/json");
    response.headers_mut().insert(http::header::CONTENT_TYPE, media_type);
    response
}

/// Writes the source's kubeconfig to a file.
pub(crate) fn write_kubeconfig(source: &Source, path: &std::path::Path) -> anyhow::Result<()> {
    std::fs::write(path, source.kubeconfig()).with_context(|| format!("write {}", path.display()))
}
