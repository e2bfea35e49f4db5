//! Traffic for the end-to-end tests: servers that say who they are, and clients that count.
//!
//! ```text
//! traffic serve PORT [NAME]           TCP and UDP; answers everything with the name, or with the host's
//! traffic connect ADDRESS RATE SECS   new connections, RATE a second; prints what became of them
//! traffic hold ADDRESS SECS           one TCP and one UDP flow; prints who answered each
//! traffic hold-tcp ADDRESS SECS       one TCP flow
//! traffic follow ADDRESS PORT SECS    datagrams from one port; prints each change of who answers
//! ```

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

/// What is not answered by then is lost.
const LIMIT: Duration = Duration::from_secs(3);
/// Threads that share a rate of connections.
const WORKERS: u32 = 16;
/// Pause between questions in a flow.
const PAUSE: Duration = Duration::from_millis(10);

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match *arguments {
        ["serve", port] => {
            let name = std::fs::read_to_string("/proc/sys/kernel/hostname");
            serve(number(port), name.expect("a host has a name"));
        }
        ["serve", port, name] => serve(number(port), format!("{name}\n")),
        ["connect", address, rate, seconds] => {
            connect(self::address(address), number(rate), self::seconds(seconds));
        }
        ["hold", address, seconds] => {
            thread::scope(|scope| {
                scope.spawn(|| hold_udp(self::address(address), self::seconds(seconds)));
                hold_tcp(self::address(address), self::seconds(seconds));
            });
        }
        ["hold-tcp", address, seconds] => {
            hold_tcp(self::address(address), self::seconds(seconds));
        }
        ["follow", address, port, seconds] => {
            follow(self::address(address), number(port), self::seconds(seconds));
        }
        _ => panic!("see the top of tests/src/bin/traffic.rs"),
    }
}

fn address(text: &str) -> SocketAddr {
    text.parse().expect("ADDRESS:PORT")
}

fn number<T: std::str::FromStr>(text: &str) -> T {
    text.parse().unwrap_or_else(|_| panic!("{text} is no number"))
}

fn seconds(text: &str) -> Duration {
    Duration::from_secs(number(text))
}

fn serve(port: u16, name: String) {
    let udp = UdpSocket::bind(("0.0.0.0", port)).expect("the port is free");
    let answer = name.clone();
    thread::spawn(move || {
        let mut buffer = [0; 2048];
        loop {
            if let Ok((_, peer)) = udp.recv_from(&mut buffer) {
                // A client that is gone needs no answer.
                let _ = udp.send_to(answer.as_bytes(), peer);
            }
        }
    });
    let tcp = TcpListener::bind(("0.0.0.0", port)).expect("the port is free");
    for stream in tcp.incoming().flatten() {
        let name = name.clone();
        thread::spawn(move || converse(stream, &name));
    }
}

fn converse(mut stream: TcpStream, name: &str) {
    let mut byte = [0; 1];
    while stream.read_exact(&mut byte).is_ok() {
        if stream.write_all(name.as_bytes()).is_err() {
            return;
        }
    }
}

fn ask(stream: &mut BufReader<TcpStream>) -> io::Result<String> {
    stream.get_mut().write_all(b"?")?;
    let mut line = String::new();
    match stream.read_line(&mut line)? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(line.trim().to_owned()),
    }
}

fn open(to: SocketAddr) -> io::Result<BufReader<TcpStream>> {
    let stream = TcpStream::connect_timeout(&to, LIMIT)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_nodelay(true)?;
    Ok(BufReader::new(stream))
}

/// Prints `tried N lost N slowest-ms N` and, a line each, who answered how often and what failed.
fn connect(to: SocketAddr, rate: u32, duration: Duration) {
    let outcomes: Mutex<BTreeMap<String, u32>> = Mutex::default();
    let slowest = Mutex::new(Duration::ZERO);
    let end = Instant::now() + duration;
    let pause = Duration::from_secs(1) * WORKERS / rate;
    let work = |worker: u32| {
        let mut next = Instant::now() + pause * worker / WORKERS;
        while next < end {
            thread::sleep(next.saturating_duration_since(Instant::now()));
            next += pause;
            let start = Instant::now();
            let outcome = match open(to).and_then(|mut stream| ask(&mut stream)) {
                Ok(server) => server,
                Err(error) => format!("lost: {error}"),
            };
            *outcomes.lock().expect("nobody panics").entry(outcome).or_default() += 1;
            let mut slowest = slowest.lock().expect("nobody panics");
            *slowest = start.elapsed().max(*slowest);
        }
    };
    thread::scope(|scope| {
        for worker in 0..WORKERS {
            scope.spawn(move || work(worker));
        }
    });
    let outcomes = outcomes.into_inner().expect("nobody panics");
    let tried: u32 = outcomes.values().sum();
    let lost: u32 =
        outcomes.iter().filter(|(who, _)| who.starts_with("lost")).map(|(_, n)| n).sum();
    let slowest = slowest.into_inner().expect("nobody panics").as_millis();
    println!("tried {tried} lost {lost} slowest-ms {slowest}");
    for (who, count) in outcomes {
        println!("{count} {who}");
    }
}

/// Prints `PROTOCOL asked N lost N by WHO...`.
fn print_flow(protocol: &str, outcomes: Vec<io::Result<String>>) {
    let asked = outcomes.len();
    let mut by: Vec<String> = outcomes.into_iter().flatten().collect();
    let lost = asked - by.len();
    by.sort();
    by.dedup();
    println!("{protocol} asked {asked} lost {lost} by {}", by.join(" "));
}

fn hold_tcp(to: SocketAddr, duration: Duration) {
    let end = Instant::now() + duration;
    let mut outcomes = Vec::new();
    let mut stream = open(to).expect("the first connection succeeds");
    while Instant::now() < end {
        outcomes.push(ask(&mut stream));
        thread::sleep(PAUSE);
    }
    print_flow("tcp", outcomes);
}

fn hold_udp(to: SocketAddr, duration: Duration) {
    let end = Instant::now() + duration;
    let socket = UdpSocket::bind("0.0.0.0:0").expect("a port is free");
    socket.connect(to).expect("UDP connects at once");
    socket.set_read_timeout(Some(LIMIT)).expect("it is not zero");
    let mut outcomes = Vec::new();
    while Instant::now() < end {
        outcomes.push(exchange(&socket));
        thread::sleep(PAUSE);
    }
    print_flow("udp", outcomes);
}

fn exchange(socket: &UdpSocket) -> io::Result<String> {
    let mut buffer = [0; 2048];
    socket.send(b"?")?;
    let length = socket.recv(&mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[..length]).trim().to_owned())
}

/// Prints a line each time that another answers, `refused` or `silence` included.
fn follow(to: SocketAddr, port: u16, duration: Duration) {
    let socket = UdpSocket::bind(("0.0.0.0", port)).expect("the port is free");
    socket.connect(to).expect("UDP connects at once");
    socket.set_read_timeout(Some(Duration::from_millis(100))).expect("it is not zero");
    let end = Instant::now() + duration;
    let mut last = String::new();
    while Instant::now() < end {
        let now = match exchange(&socket) {
            Ok(server) => server,
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => "refused".to_owned(),
            Err(_) => "silence".to_owned(),
        };
        if now != last {
            // Who started this may have ended.
            if writeln!(io::stdout(), "{now}").is_err() {
                return;
            }
            last = now;
        }
        thread::sleep(PAUSE / 2);
    }
}
