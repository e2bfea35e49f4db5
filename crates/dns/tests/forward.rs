//! Asking others: who is asked, for how long, and what is kept of what they say.

mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use dns::cache::Limits;
use dns::forward::Policy;
use dns::tally::Tallies;
use dns::wire::Name as Domain;
use dns::{Directory, Forward, Resolver, Responder, Server, Upstreams, Zone};
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::rdata::opt::{ClientSubnet, EdnsOption};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::{sleep, timeout};

use support::{any_port, both};

const LIMIT: Duration = Duration::from_secs(10);

/// A server of ours at such a port.
fn bind() -> Server {
    Server::bind(any_port(), 1).unwrap()
}

/// What a server says to a question, of which it is told how many came before; and how long it takes for that.
type Answer = fn(&Message, usize) -> Option<(Message, Duration)>;

/// A server that others run.
struct Other {
    address: SocketAddr,
    asked: Arc<AtomicUsize>,
}

impl Other {
    async fn start(answer: Answer) -> Self {
        let (listener, socket) = both().await;
        let (address, socket) = (listener.local_addr().unwrap(), Arc::new(socket));
        let asked = Arc::new(AtomicUsize::new(0));
        let count = asked.clone();
        tokio::spawn(async move {
            let mut buffer = [0; 4096];
            while let Ok((length, client)) = socket.recv_from(&mut buffer).await {
                let query = Message::from_vec(&buffer[..length]).unwrap();
                // Every server is asked once whether it leads back.
                if query.queries[0].name().to_ascii().ends_with(".invalid.") {
                    continue;
                }
                let before = count.fetch_add(1, Ordering::SeqCst);
                let socket = socket.clone();
                tokio::spawn(async move {
                    let Some((answer, time)) = answer(&query, before) else { return };
                    sleep(time).await;
                    let _ = socket.send_to(&answer.to_vec().unwrap(), client).await;
                });
            }
        });
        let count = asked.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut query = vec![0; stream.read_u16().await.unwrap().into()];
                stream.read_exact(&mut query).await.unwrap();
                let query = Message::from_vec(&query).unwrap();
                let before = count.fetch_add(1, Ordering::SeqCst);
                if let Some((mut answer, _)) = answer(&query, before) {
                    answer.metadata.truncation = false;
                    let answer = answer.to_vec().unwrap();
                    stream.write_u16(answer.len() as u16).await.unwrap();
                    stream.write_all(&answer).await.unwrap();
                }
            }
        });
        Self { address, asked }
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

fn with_address(query: &Message, ttl: u32, last: u8) -> Message {
    let mut response = Message::response(query.metadata.id, OpCode::Query);
    response.add_query(query.queries[0].clone());
    let name = query.queries[0].name().clone();
    let data = RData::A(A::new(192, 0, 2, last));
    response.add_answer(Record::from_rdata(name, ttl, data));
    response
}

fn with_code(query: &Message, code: ResponseCode) -> Message {
    let mut response = Message::response(query.metadata.id, OpCode::Query);
    response.add_query(query.queries[0].clone());
    response.metadata.response_code = code;
    response
}

fn good(query: &Message, _: usize) -> Option<(Message, Duration)> {
    Some((with_address(query, 60, 1), Duration::ZERO))
}

fn silent(_: &Message, _: usize) -> Option<(Message, Duration)> {
    None
}

fn failing(query: &Message, _: usize) -> Option<(Message, Duration)> {
    Some((with_code(query, ResponseCode::ServFail), Duration::ZERO))
}

/// A server of ours, in front of others.
struct Own {
    address: SocketAddr,
    _ending: tokio::sync::watch::Sender<bool>,
}

impl Own {
    fn start(forwards: Vec<Forward>, limits: Limits) -> Self {
        Self::run(bind(), forwards, limits)
    }

    fn run(server: Server, forwards: Vec<Forward>, limits: Limits) -> Self {
        let resolver = Arc::new(Resolver::new(Upstreams::new(forwards), Some(limits)));
        let zone = Zone::new("cluster.local").unwrap();
        let responder = Responder::new(Arc::new(Directory::new()), zone, resolver);
        let address = server.local_addr().unwrap();
        let ending = tokio::sync::watch::Sender::new(false);
        let running = server.run(Arc::new(responder), Tallies::default(), ending.subscribe());
        tokio::spawn(running);
        Self { address, _ending: ending }
    }

    fn before(others: &[&Other]) -> Self {
        let servers = others.iter().map(|other| other.address).collect();
        let forward = Forward { policy: Policy::Sequential, ..Forward::everything(servers) };
        Self::start(vec![forward], Limits::default())
    }

    async fn ask(&self, name: &str) -> Message {
        self.send(query(name, None)).await
    }

    async fn send(&self, query: Message) -> Message {
        let socket = UdpSocket::bind(any_port()).await.unwrap();
        socket.send_to(&query.to_vec().unwrap(), self.address).await.unwrap();
        let mut buffer = [0; 4096];
        let length = timeout(LIMIT, socket.recv(&mut buffer)).await.expect("an answer").unwrap();
        let answer = Message::from_vec(&buffer[..length]).unwrap();
        assert_eq!(answer.metadata.id, query.metadata.id);
        answer
    }

    async fn ask_in_a_stream(&self, name: &str) -> Message {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let query = query(name, None).to_vec().unwrap();
        stream.write_u16(query.len() as u16).await.unwrap();
        stream.write_all(&query).await.unwrap();
        let mut answer = vec![0; timeout(LIMIT, stream.read_u16()).await.unwrap().unwrap().into()];
        stream.read_exact(&mut answer).await.unwrap();
        Message::from_vec(&answer).unwrap()
    }
}

fn query(name: &str, edns: Option<Edns>) -> Message {
    let mut query = Message::new(77, MessageType::Query, OpCode::Query);
    query.metadata.recursion_desired = true;
    query.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
    query.edns = edns;
    query
}

fn last_octet(answer: &Message) -> Option<u8> {
    match answer.answers.first().map(|record| &record.data) {
        Some(RData::A(A(ip))) => Some(ip.octets()[3]),
        _ => None,
    }
}

#[tokio::test]
async fn who_does_not_answer_is_not_waited_for() {
    let (first, second) = (Other::start(silent).await, Other::start(good).await);
    let own = Own::before(&[&first, &second]);
    for name in ["a.example.", "b.example."] {
        let start = Instant::now();
        assert_eq!(last_octet(&own.ask(name).await), Some(1));
        assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    }
    // By now it is known not to answer.
    sleep(Duration::from_secs(5)).await;
    let start = Instant::now();
    assert_eq!(last_octet(&own.ask("c.example.").await), Some(1));
    assert!(start.elapsed() < Duration::from_millis(250), "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_lost_datagram_is_sent_again() {
    fn second_time(query: &Message, before: usize) -> Option<(Message, Duration)> {
        (before > 0).then(|| good(query, before)).flatten()
    }
    let other = Other::start(second_time).await;
    assert_eq!(last_octet(&Own::before(&[&other]).ask("a.example.").await), Some(1));
    assert_eq!(other.asked(), 2);
}

#[tokio::test]
async fn who_could_not_find_out_is_not_the_last_word() {
    let (first, second) = (Other::start(failing).await, Other::start(good).await);
    let own = Own::before(&[&first, &second]);
    assert_eq!(last_octet(&own.ask("a.example.").await), Some(1));
    // Alone, it is; and is believed for a while.
    let own = Own::before(&[&first]);
    let before = first.asked();
    for _ in 0..3 {
        let answer = own.ask("a.example.").await;
        assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    }
    assert_eq!(first.asked(), before + 1);
}

#[tokio::test]
async fn where_nobody_answers_that_is_said() {
    let other = Other::start(silent).await;
    let start = Instant::now();
    let answer = Own::before(&[&other]).ask("a.example.").await;
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

#[tokio::test]
async fn all_who_ask_for_the_same_wait_for_one_answer() {
    fn slow(query: &Message, _: usize) -> Option<(Message, Duration)> {
        Some((with_address(query, 60, 1), Duration::from_millis(200)))
    }
    let other = Other::start(slow).await;
    let own = Arc::new(Own::before(&[&other]));
    let mut asking = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let own = own.clone();
        asking.spawn(async move { last_octet(&own.ask("a.example.").await) });
    }
    while let Some(answer) = asking.join_next().await {
        assert_eq!(answer.unwrap(), Some(1));
    }
    assert_eq!(other.asked(), 1);
    assert_eq!(last_octet(&own.ask("A.Example.").await), Some(1));
    assert_eq!(other.asked(), 1, "it is kept");
}

#[tokio::test]
async fn what_was_known_is_answered_while_nobody_knows() {
    fn once(query: &Message, before: usize) -> Option<(Message, Duration)> {
        (before == 0).then(|| (with_address(query, 1, 1), Duration::ZERO))
    }
    let other = Other::start(once).await;
    let limits = Limits { least: Duration::from_secs(1), prefetch: 0, ..Limits::default() };
    let own = Own::start(vec![Forward::everything(vec![other.address])], limits);
    assert_eq!(last_octet(&own.ask("a.example.").await), Some(1));
    sleep(Duration::from_millis(1200)).await;
    let start = Instant::now();
    assert_eq!(last_octet(&own.ask("a.example.").await), Some(1));
    let took = start.elapsed();
    assert!(took > Duration::from_millis(150) && took < Duration::from_secs(1), "{took:?}");
    // What never was known is not.
    let answer = own.ask("b.example.").await;
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
}

#[tokio::test]
async fn what_is_wanted_is_asked_for_again_beforehand() {
    fn numbered(query: &Message, before: usize) -> Option<(Message, Duration)> {
        Some((with_address(query, 3, before as u8), Duration::ZERO))
    }
    let other = Other::start(numbered).await;
    let limits = Limits { least: Duration::from_secs(1), ..Limits::default() };
    let own = Own::start(vec![Forward::everything(vec![other.address])], limits);
    assert_eq!(last_octet(&own.ask("a.example.").await), Some(0));
    assert_eq!(last_octet(&own.ask("a.example.").await), Some(0));
    sleep(Duration::from_millis(1500)).await;
    // Who asks now gets what is known, and has it asked for again.
    assert_eq!(last_octet(&own.ask("a.example.").await), Some(0));
    sleep(Duration::from_millis(300)).await;
    assert_eq!(other.asked(), 2);
    assert_eq!(last_octet(&own.ask("a.example.").await), Some(1));
}

#[tokio::test]
async fn domains_are_asked_of_their_own_servers() {
    fn of_corp(query: &Message, _: usize) -> Option<(Message, Duration)> {
        Some((with_address(query, 60, 2), Duration::ZERO))
    }
    let (all, corp) = (Other::start(good).await, Other::start(of_corp).await);
    let of_domain = |domain: &str, servers| Forward {
        domain: Domain::parse(domain).unwrap(),
        ..Forward::everything(servers)
    };
    let forwards = vec![
        Forward::everything(vec![all.address]),
        of_domain("corp.example", vec![corp.address]),
        of_domain("nobody.corp.example", Vec::new()),
    ];
    let own = Own::start(forwards, Limits::default());
    for (name, expected) in [
        ("a.example.", Some(1)),
        ("corp.example.", Some(2)),
        ("a.CORP.example.", Some(2)),
        ("acorp.example.", Some(1)),
        ("a.nobody.corp.example.", None),
    ] {
        assert_eq!(last_octet(&own.ask(name).await), expected, "{name}");
    }
    let refused = own.ask("a.nobody.corp.example.").await;
    assert_eq!(refused.metadata.response_code, ResponseCode::Refused);
}

#[tokio::test]
async fn options_for_others_go_there_and_what_follows_is_not_kept() {
    /// Says whether it was told of the client's network.
    fn of_subnet(query: &Message, _: usize) -> Option<(Message, Duration)> {
        let edns = query.edns.as_ref()?;
        let is_told = edns.options().get(hickory_proto::rr::rdata::opt::EdnsCode::Subnet).is_some();
        Some((with_address(query, 60, u8::from(is_told)), Duration::ZERO))
    }
    let other = Other::start(of_subnet).await;
    let own = Own::before(&[&other]);
    let mut edns = Edns::new();
    let network = ClientSubnet::new("198.51.100.0".parse().unwrap(), 24, 0);
    edns.options_mut().insert(EdnsOption::Subnet(network));
    for expected in [1, 2] {
        let answer = own.send(query("a.example.", Some(edns.clone()))).await;
        assert_eq!(last_octet(&answer), Some(1));
        assert_eq!(other.asked(), expected);
    }
    assert_eq!(last_octet(&own.ask("a.example.").await), Some(0));
    assert_eq!(other.asked(), 3);
}

#[tokio::test]
async fn what_is_cut_is_asked_for_in_a_stream() {
    fn cut(query: &Message, _: usize) -> Option<(Message, Duration)> {
        let mut answer = with_address(query, 60, 1);
        answer.metadata.truncation = true;
        Some((answer, Duration::ZERO))
    }
    let other = Other::start(cut).await;
    let own = Own::before(&[&other]);
    assert!(own.ask("a.example.").await.metadata.truncation);
    let whole = own.ask_in_a_stream("a.example.").await;
    assert!(!whole.metadata.truncation);
    assert_eq!(last_octet(&whole), Some(1));
    // Now it is known whole.
    assert!(!own.ask("a.example.").await.metadata.truncation);
    assert_eq!(other.asked(), 2);
}

#[tokio::test]
async fn too_many_that_wait_are_refused() {
    let other = Other::start(silent).await;
    let everything = Forward::everything(vec![other.address]);
    let forward = Forward { max_concurrent: 1, ..everything };
    let own = Arc::new(Own::start(vec![forward], Limits::default()));
    let first = own.clone();
    let first = tokio::spawn(async move { first.ask("a.example.").await });
    sleep(Duration::from_millis(100)).await;
    let refused = own.ask("b.example.").await;
    assert_eq!(refused.metadata.response_code, ResponseCode::Refused);
    assert_eq!(first.await.unwrap().metadata.response_code, ResponseCode::ServFail);
}

#[tokio::test]
async fn who_leads_back_here_is_not_asked() {
    let other = Other::start(good).await;
    let server = bind();
    let servers = vec![server.local_addr().unwrap(), other.address];
    let forward = Forward { policy: Policy::Sequential, ..Forward::everything(servers) };
    let own = Own::run(server, vec![forward], Limits::default());
    sleep(Duration::from_millis(500)).await;
    let before = other.asked();
    let start = Instant::now();
    assert_eq!(last_octet(&own.ask("a.example.").await), Some(1));
    assert!(start.elapsed() < Duration::from_millis(250), "{:?}", start.elapsed());
    assert_eq!(other.asked(), before + 1);
}
