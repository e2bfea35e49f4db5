//! Traffic follows what happens in the cluster, and how fast.

use std::collections::BTreeSet;
use std::io::Read;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::json;

use super::{DEFAULT, Evidence, NGINX, NGINX_PODS, TOUR, Tour, nginx_pods};
use crate::testbed::{CONTROL_PLANE, OUTSIDE, Target};

/// Within this time traffic has to follow.
const FOLLOWS: Duration = Duration::from_secs(1);
/// Within this time a changed endpoint has to be in the kernel.
const PROGRAMMED: Duration = Duration::from_millis(50);
/// Requests that are sent to see who serves.
const SAMPLE: usize = 24;
/// Label of the tour's own Deployment.
const ECHO_PODS: &str = "app=echo";

/// New pods get traffic soon after they are ready.
pub(super) fn scale_up(tour: &Tour) -> anyhow::Result<Evidence> {
    scale(tour, 4)?;
    let pods = tour.wait_for_pods(TOUR, ECHO_PODS, 4)?;
    let ready = Instant::now();
    let names: BTreeSet<String> = pods.into_iter().map(|pod| pod.name).collect();
    let mut served = BTreeSet::new();
    while served != names {
        ensure!(ready.elapsed() < FOLLOWS, "after {FOLLOWS:?} only {served:?} serve");
        served.insert(serving(tour)?);
    }
    Ok(Evidence::timed(format!("{} pods serve", names.len()), ready.elapsed()))
}

/// Pods that are told to end get no more traffic.
pub(super) fn scale_down(tour: &Tour) -> anyhow::Result<Evidence> {
    scale(tour, 1)?;
    let pods = tour.wait_for_pods(TOUR, ECHO_PODS, 1)?;
    let begin = Instant::now();
    // The last answer of another pod is the end of its traffic.
    let (mut last, mut same) = (begin, 0);
    while same < SAMPLE {
        match serving(tour) {
            Ok(name) if name == pods[0].name => same += 1,
            _ => (last, same) = (Instant::now(), 0),
        }
        ensure!(last - begin < FOLLOWS, "after {FOLLOWS:?} others still serve");
    }
    Ok(Evidence::timed(format!("only {} serves", pods[0].name), last - begin))
}

fn scale(tour: &Tour, replicas: u32) -> anyhow::Result<()> {
    tour.patch::<Deployment>(TOUR, "echo", &json!({ "spec": { "replicas": replicas } }))
}

/// Name of the pod that serves one request from outside.
fn serving(tour: &Tour) -> anyhow::Result<String> {
    let service = tour.service(TOUR, "echo-any")?;
    let nodes = tour.nodes();
    let node = nodes.last().context("the lab has nodes")?;
    let answer = tour.curl(&Target::host(OUTSIDE), &service.node_url(node)?)?;
    Ok(answer.body.split_whitespace().next().unwrap_or_default().to_owned())
}

/// A deleted pod comes back under another address, and its Service works.
pub(super) fn replaced_pod(tour: &Tour) -> anyhow::Result<Evidence> {
    let before = nginx_pods(tour)?;
    let begin = Instant::now();
    tour.delete_pod(&before[0])?;
    let after = tour.eventually(|| {
        let pods = tour.ready_pods(DEFAULT, NGINX_PODS)?;
        ensure!(pods.len() == before.len() && !pods.contains(&before[0]), "not yet replaced");
        Ok(pods)
    })?;
    let took = begin.elapsed();
    let new = after.iter().find(|pod| !before.contains(pod)).context("a new pod is there")?;
    ensure!(new.address != before[0].address, "it has the same address, {}", new.address);
    let url = tour.service(DEFAULT, NGINX)?.url();
    let node = Target::host(&tour.nodes()[0].name);
    for _ in 0..SAMPLE {
        tour.curl(&node, &url)?;
    }
    Ok(Evidence::timed(format!("{} is now {}", before[0].address, new.address), took))
}

/// From the API's answer to a changed EndpointSlice to the first connection that meets the new
/// endpoint; connections are tried without pause.
pub(super) fn endpoint(tour: &Tour) -> anyhow::Result<Evidence> {
    let service = tour.service(TOUR, "manual")?;
    let to: SocketAddr = format!("{}:{}", service.address, service.port).parse()?;
    let client = tour.host(&tour.nodes()[0].name)?;
    let mut slowest = Duration::ZERO;
    let _servers = [greet(tour, CONTROL_PLANE)?, greet(tour, OUTSIDE)?];
    for name in [CONTROL_PLANE, OUTSIDE, CONTROL_PLANE, OUTSIDE, CONTROL_PLANE] {
        let address = tour.host(name)?.address;
        let change = json!({ "endpoints": [{ "addresses": [address] }] });
        tour.patch::<EndpointSlice>(TOUR, "manual-1", &change)?;
        let accepted = Instant::now();
        let met = client.run_here(|| {
            loop {
                if greeting(to).is_ok_and(|said| said == name) {
                    return Some(accepted.elapsed());
                }
                if accepted.elapsed() > FOLLOWS {
                    return None;
                }
            }
        })?;
        let met = met.with_context(|| format!("{to} does not lead to {address}"))?;
        slowest = slowest.max(met);
    }
    ensure!(slowest < PROGRAMMED, "took {slowest:?}");
    Ok(Evidence::timed("slowest of 5 changes, met by a connection", slowest))
}

/// Port of the servers that greet, as the tour's EndpointSlice has it.
const GREETING_PORT: u16 = 7777;

/// A server on a host that says the host's name to everybody, until it is dropped.
fn greet(tour: &Tour, name: &'static str) -> anyhow::Result<Greeter> {
    let host = tour.host(name)?;
    let address = SocketAddr::new(host.address, GREETING_PORT);
    let listener = host.run_here(|| TcpListener::bind(address))??;
    let serve = listener.try_clone()?;
    std::thread::spawn(move || {
        for stream in serve.incoming() {
            let Ok(mut stream) = stream else { return };
            // A client that has gone needs no greeting.
            let _ = std::io::Write::write_all(&mut stream, name.as_bytes());
        }
    });
    Ok(Greeter(listener))
}

/// Stops accepting when dropped.
struct Greeter(TcpListener);

impl Drop for Greeter {
    fn drop(&mut self) {
        use std::os::fd::AsRawFd;
        // Ends the thread that accepts; that it may have ended already is no error.
        let _ = nix::sys::socket::shutdown(self.0.as_raw_fd(), nix::sys::socket::Shutdown::Both);
    }
}

fn greeting(to: SocketAddr) -> std::io::Result<String> {
    let limit = Duration::from_millis(200);
    let mut stream = TcpStream::connect_timeout(&to, limit)?;
    stream.set_read_timeout(Some(limit))?;
    let mut said = String::new();
    stream.read_to_string(&mut said)?;
    Ok(said)
}
