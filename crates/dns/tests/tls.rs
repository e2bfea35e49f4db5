//! Asking others by TLS: who is believed, and what becomes of connections.

mod support;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use dns::cache::Limits;
use dns::forward::{Address, NameServer, Policy, TlsOptions};
use dns::tally::Tallies;
use dns::{Directory, Forward, Resolver, Responder, Server, Upstreams, Zone};
use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use support::{any_port, both};

const LIMIT: Duration = Duration::from_secs(10);
/// What a connection begins with that is to be one of TLS.
const HANDSHAKE: u8 = 22;

/// An authority, and what it has signed.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    files: TempDir,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let files = tempfile::tempdir().unwrap();
        let certificate = params.self_signed(&key).unwrap().pem();
        std::fs::write(files.path().join("ca"), certificate).unwrap();
        Self { issuer: Issuer::new(params, key), files }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.files.path().join(name)
    }

    /// Signs a certificate, and answers its file and that of its key.
    fn sign(&self, name: &str, usage: ExtendedKeyUsagePurpose) -> (PathBuf, PathBuf) {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.extended_key_usages = vec![usage];
        let own = KeyPair::generate().unwrap();
        let signed = params.signed_by(&own, &self.issuer).unwrap();
        let (certificate, key) = (self.file(name), self.file(&format!("{name}.key")));
        std::fs::write(&certificate, signed.pem()).unwrap();
        std::fs::write(&key, own.serialize_pem()).unwrap();
        (certificate, key)
    }

    /// How a server shows that it is `name`; it may want to know who asks.
    fn server(&self, name: &str, wants_clients: bool) -> TlsAcceptor {
        let (certificate, key) = self.sign(name, ExtendedKeyUsagePurpose::ServerAuth);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.file("ca")).unwrap()).unwrap();
        let clients =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap();
        let config = match wants_clients {
            true => config.with_client_cert_verifier(clients.build().unwrap()),
            false => config.with_no_client_auth(),
        };
        let certificate = CertificateDer::from_pem_file(certificate).unwrap();
        let key = PrivateKeyDer::from_pem_file(key).unwrap();
        Arc::new(config.with_single_cert(vec![certificate], key).unwrap()).into()
    }

    /// What servers have to show.
    fn options(&self, server_name: Option<&str>) -> TlsOptions {
        TlsOptions {
            server_name: server_name.map(|name| name.parse().unwrap()),
            authorities: Some(self.file("ca")),
            identity: None,
        }
    }
}

/// A connection to a server, of which it is told how many came before.
struct Connection {
    stream: TlsStream<TcpStream>,
    before: usize,
}

impl Connection {
    /// The next question, but for the one that every server is asked once: whether it leads back.
    async fn question(&mut self) -> Option<Message> {
        loop {
            let length = self.stream.read_u16().await.ok()?;
            let mut query = vec![0; length.into()];
            self.stream.read_exact(&mut query).await.ok()?;
            let query = Message::from_vec(&query).unwrap();
            if !query.queries[0].name().to_ascii().ends_with(".invalid.") {
                assert!(length.is_multiple_of(128), "it can be told from others: {length}");
                return Some(query);
            }
            self.say(&with_addresses(&query, 0)).await;
        }
    }

    async fn say(&mut self, answer: &Message) {
        let answer = answer.to_vec().unwrap();
        let sent = [&(answer.len() as u16).to_be_bytes()[..], &answer].concat();
        let _ = self.stream.write_all(&sent).await;
        let _ = self.stream.flush().await;
    }

    /// Answers all that is asked.
    async fn answer(mut self) {
        while let Some(query) = self.question().await {
            self.say(&with_addresses(&query, 1)).await;
        }
    }
}

/// A server that is asked by TLS.
struct Other {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    /// How often it was asked in clear text.
    in_clear: Arc<AtomicUsize>,
}

impl Other {
    async fn start<F>(acceptor: TlsAcceptor, serve: fn(Connection) -> F) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (listener, datagrams) = both().await;
        let address = listener.local_addr().unwrap();
        let (connections, in_clear) =
            (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let clear = in_clear.clone();
        tokio::spawn(async move {
            while datagrams.recv(&mut [0; 512]).await.is_ok() {
                clear.fetch_add(1, Ordering::SeqCst);
            }
        });
        let (count, clear) = (connections.clone(), in_clear.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let mut first = [HANDSHAKE];
                let _ = stream.peek(&mut first).await;
                if first != [HANDSHAKE] {
                    clear.fetch_add(1, Ordering::SeqCst);
                }
                let before = count.fetch_add(1, Ordering::SeqCst);
                let accepting = acceptor.accept(stream);
                tokio::spawn(async move {
                    if let Ok(stream) = accepting.await {
                        serve(Connection { stream, before }).await;
                    }
                });
            }
        });
        Self { address, connections, in_clear }
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// It, as somebody who is asked.
    fn by(&self, options: &TlsOptions) -> NameServer {
        NameServer::all(&[Address::Tls(self.address)], options).unwrap().remove(0)
    }
}

fn with_addresses(query: &Message, count: u8) -> Message {
    let mut response = Message::response(query.metadata.id, OpCode::Query);
    response.add_query(query.queries[0].clone());
    for last in 0..count {
        let name = query.queries[0].name().clone();
        let data = RData::A(A::new(192, 0, 2, last));
        response.add_answer(Record::from_rdata(name, 60, data));
    }
    response
}

/// A server of ours, in front of others.
struct Own {
    address: SocketAddr,
    _ending: tokio::sync::watch::Sender<bool>,
}

impl Own {
    fn before(servers: Vec<NameServer>) -> Self {
        let forward = Forward { policy: Policy::Sequential, ..Forward::everything(servers) };
        // A port may be taken for datagrams alone.
        let server = (0..10).find_map(|_| Server::bind(any_port(), 1).ok()).unwrap();
        let upstreams = Upstreams::new(vec![forward]);
        let resolver = Arc::new(Resolver::new(upstreams, Some(Limits::default())));
        let zone = Zone::new("cluster.local").unwrap();
        let responder = Responder::new(Arc::new(Directory::new()), zone, resolver);
        let address = server.local_addr().unwrap();
        let ending = tokio::sync::watch::Sender::new(false);
        tokio::spawn(server.run(Arc::new(responder), Tallies::default(), ending.subscribe()));
        Self { address, _ending: ending }
    }

    async fn ask(&self, name: &str) -> Message {
        let socket = UdpSocket::bind(any_port()).await.unwrap();
        socket.send_to(&query(name), self.address).await.unwrap();
        let mut buffer = [0; 4096];
        let length = timeout(LIMIT, socket.recv(&mut buffer)).await.expect("an answer").unwrap();
        Message::from_vec(&buffer[..length]).unwrap()
    }

    async fn ask_in_a_stream(&self, name: &str) -> Message {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let query = query(name);
        stream.write_u16(query.len() as u16).await.unwrap();
        stream.write_all(&query).await.unwrap();
        let mut answer = vec![0; timeout(LIMIT, stream.read_u16()).await.unwrap().unwrap().into()];
        stream.read_exact(&mut answer).await.unwrap();
        Message::from_vec(&answer).unwrap()
    }

    /// How many addresses a name has.
    async fn count(&self, name: &str) -> usize {
        self.ask(name).await.answers.len()
    }
}

fn query(name: &str) -> Vec<u8> {
    let mut query = Message::new(77, MessageType::Query, OpCode::Query);
    query.metadata.recursion_desired = true;
    query.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
    query.to_vec().unwrap()
}

#[tokio::test]
async fn questions_share_a_connection_to_a_server_that_is_who_it_is_to_be() {
    let authority = Authority::new();
    for (name, expected) in [("dns.example", Some("dns.example")), ("127.0.0.1", None)] {
        let other = Other::start(authority.server(name, false), Connection::answer).await;
        let own = Own::before(vec![other.by(&authority.options(expected))]);
        for name in ["a.example.", "b.example.", "c.example."] {
            assert_eq!(own.count(name).await, 1, "{name}");
        }
        assert_eq!((other.connections(), other.in_clear.load(Ordering::SeqCst)), (1, 0));
    }
}

#[tokio::test]
async fn who_is_somebody_else_is_told_nothing() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let options = authority.options(Some("dns.example"));
    let good = Other::start(authority.server("dns.example", false), Connection::answer).await;
    for acceptor in [
        authority.server("other.example", false),
        authority.server("127.0.0.1", false),
        stranger.server("dns.example", false),
    ] {
        let bad = Other::start(acceptor, |_| async { panic!("it was believed") }).await;
        let own = Own::before(vec![bad.by(&options)]);
        let answer = own.ask("a.example.").await;
        assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
        // Another one is asked at once: one that is silent is waited for for two seconds.
        let start = Instant::now();
        assert_eq!(Own::before(vec![bad.by(&options), good.by(&options)]).count("a.").await, 1);
        assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
        // Whether it answers again is asked by TLS, too.
        let again = async {
            while bad.connections() < 4 {
                sleep(Duration::from_millis(100)).await;
            }
        };
        timeout(LIMIT, again).await.expect("it is asked again and again");
        assert_eq!(bad.in_clear.load(Ordering::SeqCst), 0);
    }
}

#[tokio::test]
async fn a_server_that_wants_to_know_who_asks_is_shown() {
    let authority = Authority::new();
    let other = Other::start(authority.server("dns.example", true), Connection::answer).await;
    let unnamed = authority.options(Some("dns.example"));
    let answer = Own::before(vec![other.by(&unnamed)]).ask("a.example.").await;
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    let identity = authority.sign("client.example", ExtendedKeyUsagePurpose::ClientAuth);
    let named = TlsOptions { identity: Some(identity), ..unnamed };
    assert_eq!(Own::before(vec![other.by(&named)]).count("a.example.").await, 1);
}

#[tokio::test]
async fn answers_come_in_any_order() {
    async fn backwards(mut connection: Connection) {
        let mut queries = Vec::new();
        while queries.len() < 2 {
            queries.push(connection.question().await.expect("two questions at a time"));
        }
        // Nobody has asked for this, and it is passed over.
        let mut odd = queries[0].clone();
        odd.metadata.id ^= 0x5555;
        connection.say(&with_addresses(&odd, 9)).await;
        while let Some(query) = queries.pop() {
            let count = query.queries[0].name().num_labels();
            connection.say(&with_addresses(&query, count)).await;
        }
        connection.answer().await;
    }
    let authority = Authority::new();
    let other = Other::start(authority.server("127.0.0.1", false), backwards).await;
    let own = Own::before(vec![other.by(&authority.options(None))]);
    let counts = tokio::join!(own.count("a.example."), own.count("long.b.example."));
    assert_eq!(counts, (2, 3));
    assert_eq!(own.count("c.example.").await, 1);
    assert_eq!(other.connections(), 1);
}

#[tokio::test]
async fn a_connection_that_ends_is_replaced() {
    /// The first one ends with its first question, the second one after that.
    async fn ending(mut connection: Connection) {
        let Some(query) = connection.question().await else { return };
        if connection.before > 0 {
            connection.say(&with_addresses(&query, 1)).await;
        }
        if connection.before > 1 {
            connection.answer().await;
        }
    }
    let authority = Authority::new();
    let other = Other::start(authority.server("127.0.0.1", false), ending).await;
    let own = Own::before(vec![other.by(&authority.options(None))]);
    assert_eq!(own.count("a.example.").await, 1);
    assert_eq!(other.connections(), 2);
    sleep(Duration::from_millis(100)).await;
    for name in ["b.example.", "c.example."] {
        assert_eq!(own.count(name).await, 1, "{name}");
    }
    assert_eq!(other.connections(), 3);
}

#[tokio::test]
async fn a_connection_on_which_nothing_comes_is_replaced() {
    async fn silent_at_first(mut connection: Connection) {
        match connection.before {
            0 => while connection.question().await.is_some() {},
            _ => connection.answer().await,
        }
    }
    let authority = Authority::new();
    let other = Other::start(authority.server("127.0.0.1", false), silent_at_first).await;
    let own = Own::before(vec![other.by(&authority.options(None))]);
    assert_eq!(own.count("a.example.").await, 1);
    assert_eq!(other.connections(), 2);
}

#[tokio::test]
async fn a_connection_that_is_not_understood_any_more_is_replaced() {
    async fn out_of_step_at_first(mut connection: Connection) {
        if connection.before > 0 {
            return connection.answer().await;
        }
        // The length of more than all that follows. Among this is also whether it answers again.
        let _ = connection.stream.write_all(&[0xff, 0xff]).await;
        while let Ok(length) = connection.stream.read_u16().await {
            let mut query = vec![0; length.into()];
            connection.stream.read_exact(&mut query).await.unwrap();
            connection.say(&with_addresses(&Message::from_vec(&query).unwrap(), 1)).await;
        }
    }
    let authority = Authority::new();
    let other = Other::start(authority.server("127.0.0.1", false), out_of_step_at_first).await;
    let own = Arc::new(Own::before(vec![other.by(&authority.options(None))]));
    let start = Instant::now();
    // Something comes all the time.
    for number in 0.. {
        if other.connections() > 1 {
            break;
        }
        assert!(start.elapsed() < LIMIT, "it is asked on the same connection again and again");
        let own = own.clone();
        tokio::spawn(async move { own.count(&format!("{number}.example.")).await });
        sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(own.count("last.example.").await, 1);
}

#[tokio::test]
async fn what_nobody_asks_on_is_closed() {
    async fn until_closed(mut connection: Connection) {
        let start = Instant::now();
        while let Some(query) = connection.question().await {
            connection.say(&with_addresses(&query, 1)).await;
        }
        let took = start.elapsed();
        assert!(took > Duration::from_secs(9) && took < Duration::from_secs(13), "{took:?}");
        CLOSED.fetch_add(1, Ordering::SeqCst);
    }
    static CLOSED: AtomicUsize = AtomicUsize::new(0);
    let authority = Authority::new();
    let other = Other::start(authority.server("127.0.0.1", false), until_closed).await;
    let own = Own::before(vec![other.by(&authority.options(None))]);
    assert_eq!(own.count("a.example.").await, 1);
    sleep(Duration::from_secs(12)).await;
    assert_eq!(CLOSED.load(Ordering::SeqCst), 1);
    assert_eq!(own.count("b.example.").await, 1);
    assert_eq!(other.connections(), 2);
}

#[tokio::test]
async fn long_answers_are_whole_for_who_can_take_them() {
    async fn at_length(mut connection: Connection) {
        while let Some(query) = connection.question().await {
            connection.say(&with_addresses(&query, 200)).await;
        }
    }
    let authority = Authority::new();
    let other = Other::start(authority.server("127.0.0.1", false), at_length).await;
    let own = Own::before(vec![other.by(&authority.options(None))]);
    let cut = own.ask("a.example.").await;
    assert!(cut.metadata.truncation && cut.answers.is_empty());
    let whole = own.ask_in_a_stream("a.example.").await;
    assert!(!whole.metadata.truncation);
    assert_eq!(whole.answers.len(), 200);
}

#[test]
fn files_that_can_not_be_used_are_named() {
    let authority = Authority::new();
    std::fs::write(authority.file("empty"), "").unwrap();
    let (certificate, key) = authority.sign("a.example", ExtendedKeyUsagePurpose::ClientAuth);
    let (_, other_key) = authority.sign("b.example", ExtendedKeyUsagePurpose::ClientAuth);
    let options = authority.options(None);
    let with = |identity| TlsOptions { identity: Some(identity), ..options.clone() };
    for (options, named) in [
        (TlsOptions { authorities: Some(authority.file("no")), ..options.clone() }, "no"),
        (TlsOptions { authorities: Some(authority.file("empty")), ..options.clone() }, "empty"),
        (with((authority.file("gone"), key)), "gone"),
        (with((certificate.clone(), authority.file("empty"))), "empty"),
        (with((certificate, other_key.clone())), "b.example.key"),
    ] {
        let address: Address = "tls://192.0.2.1".parse().unwrap();
        let error = NameServer::all(&[address], &options).unwrap_err().to_string();
        assert!(error.contains(&authority.file(named).display().to_string()), "{error}");
        // They are nothing to who is asked in clear text.
        let address: Address = "192.0.2.1".parse().unwrap();
        assert!(NameServer::all(&[address], &options).is_ok());
    }
}
