//! Traffic: a server, and clients that measure connections, answers and bytes.
//!
//! Server and clients have a processor each. Both are single threads without a runtime, so that the
//! least is spent beside the path that is measured.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use kernel::netns::Netns;
use nix::errno::Errno;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, connect, socket};
use nix::unistd::Pid;

use crate::cluster::ENDPOINT_PORT;

/// What endpoints do with a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Service {
    /// They answer it with one byte, and end it.
    Short,
    /// They send back what they get.
    Echo,
    /// They take in what they get.
    Sink,
}

/// Connections under way at the same time.
const IN_FLIGHT: usize = 32;
/// A connection that takes longer is lost. Until then its first packet is sent again, after one second and after three: one
/// may meet what a flush of tracked connections has left at its end.
const LOST_AFTER: Duration = Duration::from_secs(5);

/// Processor of the clients.
const CLIENT_CPU: usize = 0;
/// Processor of the servers.
const SERVER_CPU: usize = 1;

/// Keeps the calling thread on a processor, where there are two.
fn pin(cpu: usize) {
    let mut set = CpuSet::new();
    // On a machine with one processor the kernel refuses, and there is nothing to keep apart.
    if set.set(cpu).is_ok() {
        let _ = sched_setaffinity(Pid::from_raw(0), &set);
    }
}

/// All endpoints of a namespace; they serve until the program ends.
pub(super) struct Endpoints {
    service: Arc<AtomicU8>,
}

impl Endpoints {
    /// Serves the endpoints' port.
    pub(super) fn serve(netns: &Netns) -> anyhow::Result<Self> {
        let listener = netns.run(|| TcpListener::bind(("0.0.0.0", ENDPOINT_PORT)))??;
        let service = Arc::new(AtomicU8::new(Service::Short as u8));
        let current = service.clone();
        thread::spawn(move || {
            pin(SERVER_CPU);
            for mut stream in listener.incoming().flatten() {
                let serve = match current.load(Ordering::Relaxed) {
                    echo if echo == Service::Echo as u8 => serve_echo,
                    sink if sink == Service::Sink as u8 => serve_sink,
                    _ => {
                        // A client that is gone needs no answer.
                        let _ = stream.write_all(&[1]);
                        continue;
                    }
                };
                thread::spawn(move || serve(stream));
            }
        });
        Ok(Self { service })
    }

    fn will(&self, service: Service) {
        self.service.store(service as u8, Ordering::Relaxed);
    }
}

fn serve_echo(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut byte = [0];
    while stream.read(&mut byte)? == 1 {
        stream.write_all(&byte)?;
    }
    Ok(())
}

fn serve_sink(mut stream: TcpStream) -> io::Result<()> {
    let mut buffer = vec![0; 256 << 10];
    while stream.read(&mut buffer)? > 0 {}
    Ok(())
}

/// Makes connections for so long, each as soon as one has ended; answers how many were answered.
pub(super) fn connections(
    endpoints: &Endpoints,
    to: SocketAddrV4,
    duration: Duration,
) -> anyhow::Result<u64> {
    endpoints.will(Service::Short);
    pin(CLIENT_CPU);
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    let mut open: Vec<Option<(OwnedFd, Instant)>> = (0..IN_FLIGHT).map(|_| None).collect();
    for (slot, place) in open.iter_mut().enumerate() {
        *place = Some((begin(&epoll, to, slot)?, Instant::now()));
    }
    let mut events = [EpollEvent::empty(); IN_FLIGHT];
    let (start, mut answered) = (Instant::now(), 0);
    while start.elapsed() < duration {
        let timeout = EpollTimeout::from(100u8);
        let ready = match epoll.wait(&mut events, timeout) {
            Err(Errno::EINTR) => continue,
            ready => ready.context("wait for answers")?,
        };
        for event in &events[..ready] {
            let slot = event.data() as usize;
            let Some((fd, _)) = open[slot].take() else { continue };
            let mut byte = [0];
            let length = nix::unistd::read(&fd, &mut byte)
                .with_context(|| format!("an answer from {to}"))?;
            ensure!(length == 1, "{to} ends connections without an answer");
            answered += 1;
            drop(fd);
            open[slot] = Some((begin(&epoll, to, slot)?, Instant::now()));
        }
        if ready == 0 {
            let oldest = open.iter().flatten().map(|(_, begun)| begun.elapsed()).max();
            ensure!(oldest.is_none_or(|age| age < LOST_AFTER), "a connection to {to} was lost");
        }
    }
    Ok(answered)
}

fn begin(epoll: &Epoll, to: SocketAddrV4, slot: usize) -> anyhow::Result<OwnedFd> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let fd = socket(AddressFamily::Inet, SockType::Stream, flags, None)?;
    match connect(fd.as_raw_fd(), &SockaddrIn::from(to)) {
        Ok(()) | Err(Errno::EINPROGRESS) => {}
        Err(errno) => return Err(errno).with_context(|| format!("connect to {to}")),
    }
    epoll.add(&fd, EpollEvent::new(EpollFlags::EPOLLIN, slot as u64))?;
    Ok(fd)
}

/// Asks one byte and waits for it, for so long; answers the time of each answer in microseconds.
pub(super) fn answers(
    endpoints: &Endpoints,
    to: SocketAddrV4,
    duration: Duration,
) -> anyhow::Result<Vec<f64>> {
    endpoints.will(Service::Echo);
    pin(CLIENT_CPU);
    let mut stream = connected(to)?;
    let start = Instant::now();
    let mut times = Vec::new();
    let mut byte = [7];
    while start.elapsed() < duration {
        let asked = Instant::now();
        stream.write_all(&byte)?;
        stream.read_exact(&mut byte)?;
        times.push(asked.elapsed().as_secs_f64() * 1e6);
    }
    Ok(times)
}

/// Sends for so long; answers bytes a second.
pub(super) fn throughput(
    endpoints: &Endpoints,
    to: SocketAddrV4,
    duration: Duration,
) -> anyhow::Result<f64> {
    endpoints.will(Service::Sink);
    pin(CLIENT_CPU);
    let mut stream = connected(to)?;
    let buffer = vec![7; 256 << 10];
    let (start, mut sent) = (Instant::now(), 0);
    while start.elapsed() < duration {
        stream.write_all(&buffer)?;
        sent += buffer.len();
    }
    Ok(sent as f64 / start.elapsed().as_secs_f64())
}

fn connected(to: SocketAddrV4) -> anyhow::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&SocketAddr::V4(to), LOST_AFTER)
        .with_context(|| format!("connect to {to}"))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(LOST_AFTER))?;
    Ok(stream)
}
