//! A server that others run, and whether it answers.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::address::NameServer;
use super::exchange::exchange;
use super::pipeline::Pipeline;
use super::probe::{PAUSE, Probe};
use crate::wire::Transport;

/// How long it may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often one that did not answer is asked whether it does again.
const PROBE_INTERVAL: Duration = Duration::from_millis(500);
/// How long it may take then.
const PROBE_PATIENCE: Duration = Duration::from_secs(1);
/// So many failures in a row, and it is down.
const DOWN: u32 = 2;
/// Asks for the name servers of the root, which everybody knows.
const PROBE: &[u8] = b"\0\0\x01\0\0\x01\0\0\0\0\0\0\0\0\x02\0\x01";

/// One server.
#[derive(Debug)]
pub(super) struct Upstream {
    pub(super) address: SocketAddr,
    /// How it is asked by TLS; `None` to ask in clear text.
    pipeline: Option<Pipeline>,
    /// How often in a row it did not answer.
    failures: AtomicU32,
    is_probed: AtomicBool,
    /// What it is asked comes back here.
    is_self: AtomicBool,
    asked: AtomicU64,
    failed: AtomicU64,
}

impl Upstream {
    pub(super) fn new(server: NameServer) -> Self {
        let (address, pipeline) = match server {
            NameServer::Clear(address) => (address, None),
            NameServer::Tls(address, tls) => (address, Some(Pipeline::new(address, tls))),
        };
        Self {
            address,
            pipeline,
            failures: AtomicU32::new(0),
            is_probed: AtomicBool::new(false),
            is_self: AtomicBool::new(false),
            asked: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        }
    }

    /// Whether it did not answer lately.
    pub(super) fn is_down(&self) -> bool {
        self.failures.load(Ordering::Relaxed) >= DOWN
    }

    /// Whether it is asked by TLS.
    pub(super) fn is_tls(&self) -> bool {
        self.pipeline.is_some()
    }

    /// Whether what it is asked comes back here.
    pub(super) fn is_self(&self) -> bool {
        self.is_self.load(Ordering::Relaxed)
    }

    /// Finds out whether what it is asked comes back here, by its number.
    pub(super) async fn look_for_loop(&self, probe: &Probe, number: usize) {
        let question = probe.question(number);
        loop {
            let asked = timeout(PATIENCE, self.exchange(&question, Transport::Udp)).await;
            if probe.has_come_back(number) {
                self.is_self.store(true, Ordering::Relaxed);
                tracing::error!(
                    server = %self.address,
                    "what is asked of this DNS server comes back here: it is not asked"
                );
                return;
            }
            match asked {
                Ok(Ok(_)) => return,
                _ => sleep(PAUSE).await,
            }
        }
    }

    /// How often it was asked, and how often without an answer.
    pub(super) fn counts(&self) -> (u64, u64) {
        (self.asked.load(Ordering::Relaxed), self.failed.load(Ordering::Relaxed))
    }

    /// Asks it. If it does not answer it is looked after.
    pub(super) async fn ask(
        self: Arc<Self>,
        query: Arc<[u8]>,
        how: Transport,
    ) -> io::Result<Vec<u8>> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let asked = timeout(PATIENCE, self.exchange(&query, how)).await;
        let answer = asked.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        match &answer {
            Ok(_) => self.failures.store(0, Ordering::Relaxed),
            Err(error) => {
                tracing::debug!(server = %self.address, %error, "no answer");
                self.failed.fetch_add(1, Ordering::Relaxed);
                self.fail();
            }
        }
        answer
    }

    /// Sends a question and takes the answer. By TLS it is always a stream.
    async fn exchange(&self, query: &[u8], how: Transport) -> io::Result<Vec<u8>> {
        match &self.pipeline {
            Some(pipeline) => pipeline.exchange(query).await,
            None => exchange(self.address, query, how).await,
        }
    }

    fn fail(self: &Arc<Self>) {
        self.failures.fetch_add(1, Ordering::Relaxed);
        if !self.is_probed.swap(true, Ordering::Relaxed) {
            tokio::spawn(self.clone().probe());
        }
    }

    /// Asks until there is an answer.
    async fn probe(self: Arc<Self>) {
        let mut was_down = false;
        loop {
            sleep(PROBE_INTERVAL).await;
            if self.failures.load(Ordering::Relaxed) == 0 {
                break;
            }
            let asked = self.exchange(PROBE, Transport::Udp);
            if let Ok(Ok(_)) = timeout(PROBE_PATIENCE, asked).await {
                break;
            }
            self.failures.fetch_add(1, Ordering::Relaxed);
            if self.is_down() && !was_down {
                was_down = true;
                tracing::warn!(server = %self.address, "a DNS server does not answer");
            }
        }
        self.failures.store(0, Ordering::Relaxed);
        self.is_probed.store(false, Ordering::Relaxed);
        if was_down {
            tracing::info!(server = %self.address, "a DNS server answers again");
        }
    }
}
