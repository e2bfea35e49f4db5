//! Whatever comes, nothing breaks: the reader of messages by itself, and a whole server between clients and upstream
//! servers that send what no honest one does, also inside TLS. `make fuzz` does it for an hour.

mod odd;
mod tls;

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use dns::rewrite::{Pattern, Rewrite};
use dns::tally::Tallies;
use dns::wire::{Code, LARGEST, Name as Part, Query, Response, Transport, records};
use dns::{
    Directory, Forward, Pod, PodWriter, Resolver, Responder, Server, Upstreams, Zone, answer, cache,
};
use hickory_proto::op::{Message, MessageType, OpCode, Query as Question};
use hickory_proto::rr::{Name, RecordType};
use model::{Event, Kind, Object, World};
use serde_json::json;

use odd::{Chance, broken, question, response, time};

/// What memory may grow by after a fifth of the time. Of five seconds this is less than questions wait for others, and in
/// an hour a byte lost of each message is more.
const GROWTH: u64 = 64 << 20;

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

/// Memory is that of the process: one test measures at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
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
    let _alone = alone();
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
    let mut seeds = (0..4).map(|_| chance.split()).collect::<Vec<_>>().into_iter();
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
