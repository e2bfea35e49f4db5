//! Answering over UDP and TCP.

mod log;
mod responder;
mod tcp;
mod udp;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use kernel::sockets::datagrams::{self, DatagramSocket};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::tally::Tallies;
use crate::wire::Transport;
pub use log::QueryLog;
pub use responder::Responder;
use udp::Reader;

/// How long a reader of datagrams takes at most to notice that it is to end.
const PATIENCE: Duration = Duration::from_secs(1);

/// How often another port is tried where any will do.
const ATTEMPTS: usize = 16;

/// How long to wait at the end for answers of others.
const REST: Duration = Duration::from_secs(6);

/// Sockets that wait for questions.
#[derive(Debug)]
pub struct Server {
    /// One for each reader.
    udp: Vec<DatagramSocket>,
    tcp: TcpListener,
}

impl Server {
    /// Binds both transports to one address, for `readers` threads that read datagrams, at least one. Other servers may
    /// have the same address: questions are spread over them. To be called within the runtime.
    ///
    /// # Errors
    ///
    /// One of them can't be bound.
    pub fn bind(address: SocketAddr, readers: usize) -> io::Result<Self> {
        let bound = || Self::bind_once(address, readers);
        let is_taken = |error: &io::Error| error.kind() == io::ErrorKind::AddrInUse;
        let mut result = bound();
        // A port that is chosen for one transport may be in use by the other.
        for _ in 0..ATTEMPTS {
            match &result {
                Err(error) if address.port() == 0 && is_taken(error) => result = bound(),
                _ => break,
            }
        }
        result
    }

    fn bind_once(address: SocketAddr, readers: usize) -> io::Result<Self> {
        let tcp = TcpListener::from_std(datagrams::listen(address)?)?;
        // With port 0, all get the same.
        let address = tcp.local_addr()?;
        let udp = (0..readers.max(1)).map(|_| DatagramSocket::bind(address, PATIENCE));
        Ok(Self { udp: udp.collect::<io::Result<_>>()?, tcp })
    }

    /// The address it is bound to.
    ///
    /// # Errors
    ///
    /// Those of getsockname(2).
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }

    /// Answers until `ending` says that it is to end, and then what has come by then; counts in `tallies`. Other
    /// servers of the same address take what comes after that.
    pub async fn run(
        self,
        responder: Arc<Responder>,
        tallies: Tallies,
        mut ending: watch::Receiver<bool>,
    ) {
        let Ok(at) = self.local_addr().map(|address| address.ip()) else { return };
        let readers = Readers(Arc::new(AtomicBool::new(false)));
        let open = Arc::new(());
        let mut threads = Vec::new();
        for (number, socket) in self.udp.into_iter().enumerate() {
            let reader = Reader {
                socket: Arc::new(socket),
                responder: responder.clone(),
                tally: tallies.add(Transport::Udp, at),
                runtime: Handle::current(),
                open: open.clone(),
            };
            let is_over = readers.0.clone();
            let read = move || reader.serve(&is_over);
            match thread::Builder::new().name(format!("dns-{number}")).spawn(read) {
                Ok(thread) => threads.push(thread),
                Err(error) => tracing::error!(%error, "no thread to answer DNS with"),
            }
        }
        let looking = responder.clone();
        let looking = tokio::spawn(async move { looking.look_for_loops().await });
        let tally = tallies.add(Transport::Tcp, at);
        let serving = tcp::serve(self.tcp, responder, tally, open.clone(), ending.clone());
        tokio::select! {
            () = serving => {}
            () = ended(&mut ending) => {}
        }
        looking.abort();
        readers.end();
        let start = Instant::now();
        let is_done = || threads.iter().all(|t| t.is_finished()) && Arc::strong_count(&open) == 1;
        while !is_done() && start.elapsed() < REST {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// Waits until it is said that it is to end.
async fn ended(ending: &mut watch::Receiver<bool>) {
    if ending.wait_for(|is_ending| *is_ending).await.is_err() {
        // Nobody is left who could say it.
        std::future::pending().await
    }
}

/// Threads that end once this is dropped.
struct Readers(Arc<AtomicBool>);

impl Readers {
    fn end(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        self.end();
    }
}
