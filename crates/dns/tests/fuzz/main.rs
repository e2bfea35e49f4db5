//! Whatever comes, nothing breaks: the reader of messages by itself, and a whole server between clients and upstream
//! servers that send what no honest one does. `make fuzz` does it for an hour.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use dns::rewrite::{Pattern, Rewrite};
use dns::tally::Tallies;
use dns::wire::{Code, LARGEST, Name as Part, Query, Response, Transport, records};
use dns::{
    Directory, Forward, Pod, PodWriter, Resolver, Responder, Server, Upstreams, Zone, answer, cache,
};
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query as Question};
use hickory_proto::rr::rdata::{A, CNAME, SOA};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use model::{Event, Kind, Object, World};
use serde_json::json;

/// How long, if nothing is said.
const SECONDS: u64 = 5;
/// What memory may grow by while nothing is kept that was not kept before.
const GROWTH: u64 = 32 << 20;

fn time() -> Duration {
    let given = std::env::var("PORTOLAN_FUZZ_SECONDS").ok();
    Duration::from_secs(given.map_or(SECONDS, |text| text.parse().expect("a number of seconds")))
}

/// Numbers by chance (xorshift64*), the same for the same seed.
#[derive(Clone)]
struct Chance(u64);

impl Chance {
    fn new() -> Self {
        let given = std::env::var("PORTOLAN_SEED").ok().map(|text| text.parse().expect("a number"));
        let now = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let seed = given.unwrap_or_else(|| now().as_nanos() as u64) | 1;
        println!("PORTOLAN_SEED={seed} repeats this run");
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() >> 33) as usize % limit.max(1)
    }

    fn of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }
}

const NAMES: [&str; 15] = [
    "web.default.svc.cluster.local.",
    "WEB.default.SVC.cluster.local.",
    "none.default.svc.cluster.local.",
    "_http._tcp.web.default.svc.cluster.local.",
    "10-244-0-9.web.default.svc.cluster.local.",
    "out.default.svc.cluster.local.",
    "2001-db8--1.default.pod.cluster.local.",
    "7.0.96.10.in-addr.arpa.",
    "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa.",
    "cluster.local.",
    "www.example.com.",
    // As a pod searches, and as they are rewritten.
    "www.example.com.default.svc.cluster.local.",
    "web.default.default.svc.cluster.local.",
    "web.in.example.",
    ".",
];

fn question(chance: &mut Chance) -> Vec<u8> {
    let kinds = [
        RecordType::A,
        RecordType::AAAA,
        RecordType::SRV,
        RecordType::PTR,
        RecordType::ANY,
        RecordType::TXT,
        RecordType::SOA,
        RecordType::NS,
        RecordType::AXFR,
    ];
    let mut message = Message::new(chance.next() as u16, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = chance.below(2) == 0;
    let name = Name::from_ascii(chance.of(&NAMES)).unwrap();
    message.add_query(Question::query(name, *chance.of(&kinds)));
    if chance.below(2) == 0 {
        let mut edns = Edns::new();
        edns.set_max_payload(chance.next() as u16);
        edns.set_dnssec_ok(chance.below(2) == 0);
        message.set_edns(edns);
    }
    message.to_vec().unwrap()
}

/// What an upstream server may say to a question.
fn response(chance: &mut Chance, to: &[u8]) -> Vec<u8> {
    let Ok(query) = Message::from_vec(to) else { return to.to_vec() };
    let mut message = Message::response(query.metadata.id, OpCode::Query);
    message.queries.clone_from(&query.queries);
    let name = query.queries.first().map_or_else(Name::root, |question| question.name().clone());
    for _ in 0..chance.below(4) {
        let data = match chance.below(2) {
            0 => RData::A(A(Ipv4Addr::from(chance.next() as u32))),
            _ => RData::CNAME(CNAME(Name::from_ascii(chance.of(&NAMES)).unwrap())),
        };
        message.add_answer(Record::from_rdata(name.clone(), chance.below(100) as u32, data));
    }
    if chance.below(3) == 0 {
        let soa = SOA::new(Name::root(), Name::root(), 1, 1, 1, 1, 5);
        message.add_authority(Record::from_rdata(Name::root(), 5, RData::SOA(soa)));
    }
    message.set_edns(Edns::new());
    message.to_vec().unwrap()
}

/// Breaks a message in some places.
fn broken(chance: &mut Chance, mut message: Vec<u8>) -> Vec<u8> {
    for _ in 0..chance.below(4) {
        let length = message.len();
        if length == 0 {
            break;
        }
        let at = chance.below(length);
        match chance.below(6) {
            0 => message[at] ^= 1 << chance.below(8),
            1 => message[at] = *chance.of(&[0, 1, 0x3f, 0x40, 0xc0, 0xff]),
            2 => message.truncate(at),
            3 => message.insert(at, chance.next() as u8),
            // A pointer to anywhere.
            4 if at + 1 < length => {
                message[at] = 0xc0;
                message[at + 1] = chance.below(length) as u8;
            }
            _ => {
                let part = message[at..].to_vec();
                message.extend(&part[..part.len().min(600)]);
            }
        }
    }
    message
}

fn directory() -> Directory {
    let mut world = World::new();
    let directory = Directory::new();
    let mut apply = |event| {
        let touched = world.apply(event);
        directory.update(&world, &touched);
    };
    let service = |name: &str, spec: serde_json::Value| {
        let service = json!({"metadata": {"name": name, "namespace": "default"}, "spec": spec});
        Object::Service(serde_json::from_value(service).unwrap())
    };
    let ports = json!([{"name": "http", "port": 80}]);
    let web = service("web", json!({"clusterIPs": ["10.96.0.7", "fd00:96::7"], "ports": ports}));
    let out = service("out", json!({"type": "ExternalName", "externalName": "www.example.com"}));
    let slice = json!({
        "metadata": {"name": "web-1", "namespace": "default", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4", "ports": [{"name": "http", "port": 8080}],
        "endpoints": [{"addresses": ["10.244.0.9"]}],
    });
    let slice = Object::EndpointSlice(serde_json::from_value(slice).unwrap());
    let namespace = json!({"metadata": {"name": "default"}});
    let namespace = Object::Namespace(serde_json::from_value(namespace).unwrap());
    apply(Event::listed(Kind::Service, vec![web, out]));
    apply(Event::listed(Kind::EndpointSlice, vec![slice]));
    apply(Event::listed(Kind::Namespace, vec![namespace]));
    directory
}

#[test]
fn whatever_is_read_has_an_answer_that_can_be_read() {
    let (directory, zone) = (directory(), Zone::new("cluster.local").unwrap());
    let mut chance = Chance::new();
    let (start, time) = (Instant::now(), time());
    let (mut count, mut read) = (0_u64, 0_u64);
    let mut buffer = vec![0; usize::from(u16::MAX)];
    while start.elapsed() < time {
        let message = question(&mut chance);
        let message = broken(&mut chance, message);
        count += 1;
        for record in records(&message).flatten() {
            let _ = (record.owner(), record.target(), record.minimum(), record.data());
        }
        for transport in [Transport::Udp, Transport::Tcp] {
            let Ok(query) = Query::read(&message, transport) else { continue };
            read += 1;
            let mut response = Response::to(&query, &mut buffer);
            answer(&directory, &zone, &query, &mut response, count as usize);
            let length = response.finish(Code::NO_ERROR);
            assert!(length <= query.limit(), "{message:x?}");
            let answer = Message::from_vec(&buffer[..length]);
            let answer = answer.unwrap_or_else(|error| panic!("{error}: {message:x?}"));
            assert_eq!(answer.queries.len(), 1, "{message:x?}");
            let onward = query.onward();
            let onward = Query::read(&onward, Transport::Udp).unwrap();
            assert_eq!(onward.name, query.name, "{message:x?}");
        }
    }
    println!("{count} messages, {read} of them questions");
    assert!(read > count / 10 && read < 2 * count, "most of them should be broken, and some not");
}

/// Resident memory in bytes.
fn memory() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

/// Asks what is known until there is an answer: in a flood a datagram may be lost.
fn is_well(server: SocketAddr) -> bool {
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    let name = Name::from_ascii("web.default.svc.cluster.local.").unwrap();
    message.add_query(Question::query(name, RecordType::A));
    let message = message.to_vec().unwrap();
    (0..20).any(|_| {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        socket.send_to(&message, server).unwrap();
        let mut buffer = [0; 512];
        let length = socket.recv(&mut buffer).unwrap_or_default();
        Message::from_vec(&buffer[..length]).is_ok_and(|answer| answer.answers.len() == 1)
    })
}

#[test]
fn a_server_between_odd_clients_and_odd_servers_goes_on() {
    let mut chance = Chance::new();
    let upstream = UdpSocket::bind("127.0.0.1:0").unwrap();
    upstream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let everything = Forward::everything(vec![upstream.local_addr().unwrap()]);
    let resolver = Resolver::new(Upstreams::new(vec![everything]), Some(cache::Limits::default()));
    let mut zone = Zone::new("cluster.local").unwrap();
    zone.search = Some(vec![Part::parse("corp.example").unwrap()]);
    let directory = Arc::new(directory());
    // The clients are a pod.
    PodWriter::new(directory.clone(), false).put(Pod {
        uid: "a",
        namespace: "default",
        addresses: &[Ipv4Addr::LOCALHOST.into()],
        is_cluster_first: true,
    });
    let rewrite = Rewrite {
        zones: vec![Part::root()],
        from: Pattern::Suffix(Part::parse("in.example").unwrap()),
        to: Part::parse("default.svc.cluster.local").unwrap(),
    };
    let responder = Responder::new(directory, zone, Arc::new(resolver)).rewriting(vec![rewrite]);
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let server = {
        let _entered = runtime.enter();
        Server::bind("127.0.0.1:0".parse().unwrap(), 2).unwrap()
    };
    let address = server.local_addr().unwrap();
    let ending = tokio::sync::watch::Sender::new(false);
    let tallies = Tallies::default();
    runtime.spawn(server.run(Arc::new(responder), tallies.clone(), ending.subscribe()));
    let (is_over, sent) = (AtomicBool::new(false), AtomicU64::new(0));
    let (is_over, sent) = (&is_over, &sent);
    let mut seeds = (0..4).map(|_| Chance(chance.next() | 1)).collect::<Vec<_>>().into_iter();
    let mut seed = || seeds.next().unwrap();
    thread::scope(|scope| {
        let mut of_upstream = seed();
        scope.spawn(move || {
            let mut buffer = [0; 4096];
            while !is_over.load(Ordering::Relaxed) {
                let Ok((length, from)) = upstream.recv_from(&mut buffer) else { continue };
                let answer = response(&mut of_upstream, &buffer[..length]);
                // Some are right, some are not, some do not come.
                let answer = match of_upstream.below(3) {
                    0 => answer,
                    1 => broken(&mut of_upstream, answer),
                    _ => continue,
                };
                let _ = upstream.send_to(&answer, from);
            }
        });
        for mut chance in [seed(), seed()] {
            scope.spawn(move || {
                let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
                socket.set_nonblocking(true).unwrap();
                let mut buffer = [0; LARGEST];
                while !is_over.load(Ordering::Relaxed) {
                    let message = question(&mut chance);
                    let _ = socket.send_to(&broken(&mut chance, message), address);
                    sent.fetch_add(1, Ordering::Relaxed);
                    while let Ok(length) = socket.recv(&mut buffer) {
                        // What is passed on from others may be as odd as it was.
                        let _ = Message::from_vec(&buffer[..length]);
                    }
                }
            });
        }
        let mut of_streams = seed();
        scope.spawn(move || {
            while !is_over.load(Ordering::Relaxed) {
                let Ok(mut stream) = TcpStream::connect(address) else { continue };
                for _ in 0..of_streams.below(5) {
                    let message = question(&mut of_streams);
                    let message = broken(&mut of_streams, message);
                    let length = match of_streams.below(8) {
                        0 => of_streams.next() as u16,
                        _ => message.len() as u16,
                    };
                    let _ = stream.write_all(&length.to_be_bytes());
                    let _ = stream.write_all(&message);
                }
            }
        });
        let (start, time) = (Instant::now(), time());
        let mut settled = None;
        while start.elapsed() < time {
            thread::sleep(Duration::from_millis(200));
            if !is_well(address) {
                is_over.store(true, Ordering::Relaxed);
                panic!("it does not answer after {} messages", sent.load(Ordering::Relaxed));
            }
            // What is kept comes in the beginning.
            if settled.is_none() && start.elapsed() > time / 5 {
                settled = Some(memory());
            }
        }
        is_over.store(true, Ordering::Relaxed);
        let (before, after) = (settled.unwrap_or_default(), memory());
        println!(
            "{} messages; memory {} MB after a fifth of the time, {} MB at the end",
            sent.load(Ordering::Relaxed),
            before >> 20,
            after >> 20
        );
        assert!(after < before + GROWTH, "memory grows: {before} {after}");
    });
    ending.send_replace(true);
}
