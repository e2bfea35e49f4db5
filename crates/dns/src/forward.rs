//! Asking others what is not the cluster's.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::wire::{HEADER, Transport};

/// How long one server may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// Questions that may wait for others at the same time.
const CONCURRENT: usize = 1000;

/// Servers that know the rest of the world.
#[derive(Debug)]
pub struct Upstreams {
    servers: Vec<SocketAddr>,
    places: Semaphore,
}

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoAnswer {
    /// There is nobody to ask, or too many ask.
    Refused,
    /// Nobody answered.
    Failed,
}

impl Upstreams {
    /// Asks `servers`, each when the one before does not answer.
    pub fn new(servers: Vec<SocketAddr>) -> Self {
        Self { servers, places: Semaphore::new(CONCURRENT) }
    }

    /// Whether there is anybody to ask.
    pub fn is_empty(&self) -> bool {
        self.servers.is_empty()
    }

    /// Passes a query on and brings the response, with the query's id.
    pub(crate) async fn ask(&self, query: &[u8], how: Transport) -> Result<Vec<u8>, NoAnswer> {
        if self.servers.is_empty() || query.len() < 2 {
            return Err(NoAnswer::Refused);
        }
        let _place = self.places.try_acquire().map_err(|_| NoAnswer::Refused)?;
        // An id that the client can't know: answers are matched by it.
        let id = (RandomState::new().build_hasher().finish() & 0xffff) as u16;
        let mut sent = query.to_vec();
        sent[..2].copy_from_slice(&id.to_be_bytes());
        for server in &self.servers {
            let asked = async {
                match how {
                    Transport::Udp => over_udp(*server, &sent).await,
                    Transport::Tcp => over_tcp(*server, &sent).await,
                }
            };
            match timeout(PATIENCE, asked).await {
                Ok(Ok(mut response)) => {
                    response[..2].copy_from_slice(&query[..2]);
                    return Ok(response);
                }
                Ok(Err(error)) => tracing::debug!(%server, %error, "no answer"),
                Err(_) => tracing::debug!(%server, "no answer in time"),
            }
        }
        Err(NoAnswer::Failed)
    }
}

async fn over_udp(server: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    // A socket of its own, and with it a port that nobody can guess (RFC 5452).
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    socket.send(query).await?;
    let mut buffer = vec![0; usize::from(u16::MAX)];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if answers(query, &buffer[..length]) {
            buffer.truncate(length);
            return Ok(buffer);
        }
    }
}

async fn over_tcp(server: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(query.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes()[..], query].concat()).await?;
    let length = stream.read_u16().await?;
    let mut response = vec![0; usize::from(length)];
    stream.read_exact(&mut response).await?;
    match answers(query, &response) {
        true => Ok(response),
        false => Err(io::Error::other("the answer is to another question")),
    }
}

/// Whether a response is one to this query: same id, a response, same question byte for byte.
fn answers(query: &[u8], response: &[u8]) -> bool {
    let end = question_end(query);
    response.len() >= end.max(HEADER)
        && response[..2] == query[..2]
        && response[2] & 0x80 != 0
        && (response[4..6] != [0, 1]
            || response[HEADER..end].eq_ignore_ascii_case(&query[HEADER..end]))
}

/// Where the only question of a query ends.
fn question_end(query: &[u8]) -> usize {
    let mut at = HEADER;
    while let Some(length) = query.get(at).filter(|length| **length != 0) {
        at += 1 + usize::from(*length);
    }
    // The end of the name, type and class.
    (at + 5).min(query.len())
}
