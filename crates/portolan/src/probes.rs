//! A small HTTP server for probes: plain, one answer a path.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use http::{Response, StatusCode};
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::Value;
use tokio::net::TcpListener;

/// Pause before a failed bind is tried again, as kube-proxy has it.
const RETRY: Duration = Duration::from_secs(5);
/// Pause after a connection could not be accepted.
const PAUSE: Duration = Duration::from_millis(50);

/// What is answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) code: StatusCode,
    media_type: &'static str,
    /// One more header.
    header: Option<(&'static str, String)>,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(code: StatusCode, body: &Value) -> Self {
        Self { code, media_type: "application/json", header: None, body: body.to_string() }
    }

    pub(crate) fn text(body: impl Into<String>) -> Self {
        let body = body.into();
        Self { code: StatusCode::OK, media_type: "text/plain; charset=utf-8", header: None, body }
    }

    pub(crate) fn with_code(self, code: StatusCode) -> Self {
        Self { code, ..self }
    }

    pub(crate) fn with_media_type(self, media_type: &'static str) -> Self {
        Self { media_type, ..self }
    }

    pub(crate) fn with_header(self, name: &'static str, value: String) -> Self {
        Self { header: Some((name, value)), ..self }
    }

    /// Nothing is there; `there` is what is.
    pub(crate) fn not_found(there: &str) -> Self {
        let body = format!("nothing is here; there are {there}\n");
        Self { code: StatusCode::NOT_FOUND, media_type: "text/plain", header: None, body }
    }

    fn response(self) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::new(Bytes::from(self.body)));
        *response.status_mut() = self.code;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, http::HeaderValue::from_static(self.media_type));
        headers.insert(X_CONTENT_TYPE_OPTIONS, http::HeaderValue::from_static("nosniff"));
        if let Some((name, value)) = self.header
            && let Ok(value) = http::HeaderValue::from_str(&value)
        {
            headers.insert(name, value);
        }
        response
    }
}

/// Binds to `address` and answers every request by its path. Ends only if it can't be bound and
/// `hard_fail` is set; otherwise it goes on trying.
pub(crate) async fn serve(
    mut address: SocketAddr,
    hard_fail: bool,
    answer: impl Fn(&str) -> Answer + Send + std::marker::Sync + 'static,
) -> std::io::Error {
    let listener = loop {
        match TcpListener::bind(address).await {
            Ok(listener) => break listener,
            Err(error) if is_without_ipv6(address, &error) => {
                address.set_ip(Ipv4Addr::UNSPECIFIED.into());
            }
            Err(error) if hard_fail => return error,
            Err(error) => {
                tracing::error!(%address, %error, "can't listen, trying again");
                tokio::time::sleep(RETRY).await;
            }
        }
    };
    answer_all(listener, |_| true, answer).await
}

/// Whether all addresses could not be listened at since the machine has no IPv6.
pub(crate) fn is_without_ipv6(address: SocketAddr, error: &std::io::Error) -> bool {
    let is_all = address.is_ipv6() && address.ip().is_unspecified();
    is_all && error.raw_os_error() == Some(nix::libc::EAFNOSUPPORT)
}

/// Answers every request by its path, on connections to local addresses that `accepts`.
pub(crate) async fn answer_all<T>(
    listener: TcpListener,
    accepts: impl Fn(IpAddr) -> bool,
    answer: impl Fn(&str) -> Answer + Send + std::marker::Sync + 'static,
) -> T {
    let answer = Arc::new(answer);
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "a connection was not accepted");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        if !stream.local_addr().is_ok_and(|local| accepts(local.ip().to_canonical())) {
            continue;
        }
        let answer = answer.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
                let response = answer(request.uri().path()).response();
                async move { Ok::<_, Infallible>(response) }
            });
            // How it ends is the client's business. Headers have to come within 30 s.
            let _ = http1::Builder::new()
                .timer(TokioTimer::new())
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}
