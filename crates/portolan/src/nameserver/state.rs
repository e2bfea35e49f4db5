//! How a name server is, for whoever asks: in the terms of CoreDNS.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use dns::tally::Tallies;
use dns::{Directory, Resolver};
use http::StatusCode;
use tokio::sync::watch;

use super::metrics::{Current, Metrics};
use crate::probes::Answer;

/// What is told of a name server. Clones tell the same.
#[derive(Clone, Default)]
pub(crate) struct State {
    directory: watch::Sender<Option<Arc<Directory>>>,
    tallies: Tallies,
    current: Current,
    is_ending: Arc<AtomicBool>,
}

impl State {
    /// It answers from this directory now, or will when that is known.
    pub(crate) fn answer_from(&self, directory: Arc<Directory>) {
        self.directory.send_replace(Some(directory));
    }

    /// Where is counted what it answers.
    pub(crate) fn tallies(&self) -> Tallies {
        self.tallies.clone()
    }

    /// It answers about a domain now, and has others asked about the rest.
    pub(crate) fn begin(&self, domain: String, resolver: Arc<Resolver>) {
        self.current.set(domain, resolver);
    }

    /// It is going to end.
    pub(super) fn end(&self) {
        self.is_ending.store(true, Ordering::Relaxed);
    }

    /// Answers a request for `path`, which is one of `/metrics`, `/ready` and `/health`.
    pub(crate) fn tell(&self, path: &str) -> Answer {
        match path {
            "/metrics" => self.metrics(path),
            "/ready" => self.ready(path),
            "/health" => self.health(path),
            _ => Answer::not_found("/metrics, /ready, /health"),
        }
    }

    /// Answers one for `/metrics`.
    pub(super) fn metrics(&self, path: &str) -> Answer {
        match path {
            "/metrics" => Metrics::new(self.tallies.clone(), self.current.clone()).answer(),
            _ => Answer::not_found("/metrics"),
        }
    }

    /// Answers one for `/ready`.
    pub(super) fn ready(&self, path: &str) -> Answer {
        match path {
            "/ready" if self.is_ready() => Answer::text("OK"),
            // What is waited for, as CoreDNS says it.
            "/ready" => Answer::text("kubernetes").with_code(StatusCode::SERVICE_UNAVAILABLE),
            _ => Answer::not_found("/ready"),
        }
    }

    fn is_ready(&self) -> bool {
        self.directory.borrow().as_ref().is_some_and(|directory| directory.is_synced())
    }

    /// Answers one for `/health`.
    pub(super) fn health(&self, path: &str) -> Answer {
        match path {
            "/health" if self.is_ending.load(Ordering::Relaxed) => {
                Answer::text("ending").with_code(StatusCode::SERVICE_UNAVAILABLE)
            }
            "/health" => Answer::text("OK"),
            _ => Answer::not_found("/health"),
        }
    }
}
