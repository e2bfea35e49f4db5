//! A server that is asked by TLS and sends nonsense in it, cuts what TLS is made of, and in the end is right.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use dns::forward::{Address, NameServer, TlsOptions};
use dns::tally::Tallies;
use dns::{Forward, Resolver, Responder, Server, Upstreams, Zone};
use hickory_proto::op::{Message, MessageType, OpCode, Query as Question};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use crate::odd::{Chance, broken, response, time};
use crate::{GROWTH, alone, directory, memory};

/// How long it may take to be believed again.
const LIMIT: Duration = Duration::from_secs(10);
/// Clients that ask at the same time.
const CLIENTS: usize = 8;

/// An authority in a file, and how a server shows what that has signed for 127.0.0.1.
fn certified() -> (TempDir, TlsOptions, TlsAcceptor) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let files = tempfile::tempdir().unwrap();
    let file = files.path().join("ca");
    std::fs::write(&file, params.self_signed(&key).unwrap().pem()).unwrap();
    let own = KeyPair::generate().unwrap();
    let signed = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let signed = signed.signed_by(&own, &Issuer::new(params, key)).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth();
    let own = PrivateKeyDer::try_from(own.serialize_der()).unwrap();
    let config = config.with_single_cert(vec![signed.der().clone()], own).unwrap();
    let options = TlsOptions { authorities: Some(file), ..TlsOptions::default() };
    (files, options, Arc::new(config).into())
}

/// A stream that ends after so many bytes have been written, wherever that is, or has one of them wrong.
struct Cut {
    stream: TcpStream,
    /// Bytes until then; `None` for never.
    left: Option<usize>,
    /// It does not end then.
    is_only_wrong: bool,
}

impl AsyncRead for Cut {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Cut {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let wrong = [bytes[0] ^ 1];
        let part = match (self.left, self.is_only_wrong) {
            (Some(0), false) => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            (Some(0), true) => &wrong,
            (Some(left), _) => &bytes[..left.min(bytes.len())],
            (None, _) => bytes,
        };
        let written = Pin::new(&mut self.stream).poll_write(context, part);
        if let (Poll::Ready(Ok(length)), Some(left)) = (&written, self.left) {
            self.left = left.checked_sub(*length);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// The other server.
struct Odd {
    acceptor: TlsAcceptor,
    is_right: AtomicBool,
    connections: AtomicU64,
    questions: AtomicU64,
}

impl Odd {
    async fn serve(self: Arc<Self>, listener: TcpListener, mut chance: Chance) {
        while let Ok((stream, _)) = listener.accept().await {
            self.connections.fetch_add(1, Ordering::Relaxed);
            let (odd, chance) = (self.clone(), chance.split());
            // How it ends is the client's business.
            tokio::spawn(async move { odd.converse(stream, chance).await });
        }
    }

    async fn converse(&self, mut stream: TcpStream, mut chance: Chance) -> io::Result<()> {
        let mut left = None;
        if !self.is_right.load(Ordering::Relaxed) {
            match chance.below(10) {
                0 => return Ok(()),
                1 => return stream.write_all(&noise(&mut chance)).await,
                2..6 => left = Some(chance.below(6000)),
                _ => {}
            }
        }
        let is_only_wrong = chance.below(3) == 0;
        let mut stream = self.acceptor.accept(Cut { stream, left, is_only_wrong }).await?;
        loop {
            let mut query = vec![0; stream.read_u16().await?.into()];
            stream.read_exact(&mut query).await?;
            self.questions.fetch_add(1, Ordering::Relaxed);
            let right = framed(&right(&query));
            if self.is_right.load(Ordering::Relaxed) {
                stream.write_all(&right).await?;
                stream.flush().await?;
                continue;
            }
            let answer = response(&mut chance, &query);
            let sent = match chance.below(12) {
                0 => framed(&answer),
                1 => framed(&broken(&mut chance, answer)),
                2 => continue,
                // Of nobody, twice, of another length than it says, of none, none at all.
                3 => framed(&[&(chance.next() as u16).to_be_bytes()[..], &answer[2..]].concat()),
                4 => [&right[..], &right].concat(),
                5 => [&(chance.next() as u16).to_be_bytes()[..], &answer].concat(),
                6 => vec![0; chance.below(2000)],
                7 => noise(&mut chance),
                8 => return stream.shutdown().await,
                9 => {
                    for byte in right {
                        stream.write_all(&[byte]).await?;
                        stream.flush().await?;
                    }
                    continue;
                }
                _ => right,
            };
            stream.write_all(&sent).await?;
            stream.flush().await?;
        }
    }
}

fn noise(chance: &mut Chance) -> Vec<u8> {
    (0..chance.below(3000)).map(|_| chance.next() as u8).collect()
}

fn framed(message: &[u8]) -> Vec<u8> {
    [&(message.len() as u16).to_be_bytes()[..], message].concat()
}

/// The right answer: one address.
fn right(query: &[u8]) -> Vec<u8> {
    let query = Message::from_vec(query).expect("what is asked can be read");
    let mut message = Message::response(query.metadata.id, OpCode::Query);
    message.queries.clone_from(&query.queries);
    let name = query.queries[0].name().clone();
    message.add_answer(Record::from_rdata(name, 60, RData::A(A::new(192, 0, 2, 7))));
    message.to_vec().unwrap()
}

/// Asks about a name that was not asked about before, and answers whether the answer is right.
async fn ask(server: SocketAddr, number: u64) -> bool {
    let mut message = Message::new(number as u16, MessageType::Query, OpCode::Query);
    let name = Name::from_ascii(format!("www-{number}.example.com.")).unwrap();
    message.add_query(Question::query(name, RecordType::A));
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.send_to(&message.to_vec().unwrap(), server).await.unwrap();
    let mut buffer = [0; 512];
    let Ok(Ok(length)) = timeout(LIMIT, socket.recv(&mut buffer)).await else { return false };
    let address = RData::A(A::new(192, 0, 2, 7));
    Message::from_vec(&buffer[..length])
        .is_ok_and(|it| matches!(&it.answers[..], [record] if record.data == address))
}

/// Asks one thing after the other, and counts what is answered rightly in turn.
async fn ask_all(server: SocketAddr, numbers: Arc<AtomicU64>, in_turn: Arc<AtomicU64>) {
    loop {
        let number = numbers.fetch_add(1, Ordering::Relaxed);
        let is_right = timeout(Duration::from_millis(500), ask(server, number)).await;
        match is_right.unwrap_or(false) {
            true => _ = in_turn.fetch_add(1, Ordering::Relaxed),
            false => in_turn.store(0, Ordering::Relaxed),
        }
    }
}

#[test]
fn a_server_that_was_odd_inside_tls_is_believed_when_it_is_right() {
    let _alone = alone();
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(odd_and_right());
}

async fn odd_and_right() {
    let mut chance = Chance::new();
    let (_files, options, acceptor) = certified();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = Address::Tls(listener.local_addr().unwrap());
    let odd = Arc::new(Odd {
        acceptor,
        is_right: AtomicBool::new(false),
        connections: AtomicU64::new(0),
        questions: AtomicU64::new(0),
    });
    tokio::spawn(odd.clone().serve(listener, chance.split()));
    let servers = NameServer::all(&[address], &options).unwrap();
    let upstreams = Upstreams::new(vec![Forward::everything(servers)]);
    let resolver = Arc::new(Resolver::new(upstreams, None));
    let zone = Zone::new("cluster.local").unwrap();
    let responder = Arc::new(Responder::new(Arc::new(directory()), zone, resolver));
    let server = Server::bind("127.0.0.1:0".parse().unwrap(), 1).unwrap();
    let (address, ending) = (server.local_addr().unwrap(), tokio::sync::watch::Sender::new(false));
    tokio::spawn(server.run(responder, Tallies::default(), ending.subscribe()));

    let (numbers, in_turn) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    for _ in 0..CLIENTS {
        tokio::spawn(ask_all(address, numbers.clone(), in_turn.clone()));
    }
    let time = time();
    sleep(time / 5).await;
    let before = memory();
    sleep(time * 4 / 5).await;
    let after = memory();
    println!(
        "{} questions, {} came to the other server, on {} connections; memory {} MB, {} MB at the end",
        numbers.load(Ordering::Relaxed),
        odd.questions.load(Ordering::Relaxed),
        odd.connections.load(Ordering::Relaxed),
        before >> 20,
        after >> 20
    );
    assert!(after < before + GROWTH, "memory grows: {before} {after}");
    odd.is_right.store(true, Ordering::Relaxed);
    let start = Instant::now();
    while in_turn.load(Ordering::Relaxed) < 100 {
        assert!(start.elapsed() < LIMIT, "it is right, and not believed");
        sleep(Duration::from_millis(10)).await;
    }
}
