//! Answering over UDP and TCP.

mod responder;
mod tcp;
mod udp;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use kernel::sockets::datagrams::DatagramSocket;
use tokio::net::TcpListener;
use tokio::runtime::Handle;

pub use responder::Responder;

/// How long a reader of datagrams takes at most to notice that it is to end.
const PATIENCE: Duration = Duration::from_secs(1);

/// Sockets that wait for questions.
#[derive(Debug)]
pub struct Server {
    /// One for each reader.
    udp: Vec<DatagramSocket>,
    tcp: TcpListener,
}

impl Server {
    /// Binds both transports to one address, for `readers` threads that read datagrams, at least one.
    ///
    /// # Errors
    ///
    /// One of them can't be bound.
    pub async fn bind(address: SocketAddr, readers: usize) -> io::Result<Self> {
        let tcp = TcpListener::bind(address).await?;
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

    /// Answers until it is dropped.
    pub async fn run(self, responder: Arc<Responder>) {
        let readers = Readers(Arc::new(AtomicBool::new(false)));
        for (number, socket) in self.udp.into_iter().enumerate() {
            let (responder, is_over) = (responder.clone(), readers.0.clone());
            let runtime = Handle::current();
            let read = move || udp::serve(&Arc::new(socket), &responder, &is_over, &runtime);
            let started = thread::Builder::new().name(format!("dns-{number}")).spawn(read);
            if let Err(error) = started {
                tracing::error!(%error, "no thread to answer DNS with");
            }
        }
        tcp::serve(self.tcp, responder).await;
    }
}

/// Threads that end once this is dropped.
struct Readers(Arc<AtomicBool>);

impl Drop for Readers {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
