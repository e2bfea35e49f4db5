//! The sockets that the API server accepts connections on, and the names it is reached by.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;

use anyhow::Context;
use nix::sys::socket::{getsockopt, sockopt};
use tokio::net::TcpListener;

use super::Settings;
use super::bootstrap::{API_ADDRESS, address_at};

/// The server's own socket, and the one that it was started with as standard input, if any.
pub(super) async fn listeners(own: SocketAddr) -> anyhow::Result<Vec<TcpListener>> {
    let bound = TcpListener::bind(own).await.with_context(|| format!("listen on {own}"))?;
    let mut listeners = vec![bound];
    listeners.extend(inherited().context("take over the socket at standard input")?);
    Ok(listeners)
}

/// Standard input, if it is a listening socket: inetd(8) in `wait` mode and systemd's
/// `StandardInput=socket` hand one over like that. It may belong to another network namespace.
fn inherited() -> io::Result<Option<TcpListener>> {
    let stdin = io::stdin();
    if !getsockopt(&stdin, sockopt::AcceptConn).unwrap_or(false) {
        return Ok(None);
    }
    let listener = std::net::TcpListener::from(stdin.as_fd().try_clone_to_owned()?);
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener).map(Some)
}

/// The address that others reach the server by: as set, or the one it listens on, or that of the
/// first link.
pub(super) fn advertised(settings: &Settings) -> anyhow::Result<IpAddr> {
    if let Some(address) = settings.advertise_address {
        return Ok(address);
    }
    if !settings.bind_address.is_unspecified() {
        return Ok(settings.bind_address);
    }
    let own = crate::node::own_addresses()?;
    own.first().copied().context("this machine has no address (pass --advertise-address)")
}

/// Every name and address that a client may know the server by.
pub(super) fn names(settings: &Settings, advertised: IpAddr) -> Vec<String> {
    let service = "kubernetes.default";
    let mut names: Vec<String> =
        ["localhost", "kubernetes", service, "kubernetes.default.svc"].map(str::to_owned).into();
    names.push(format!("{service}.svc.{}", settings.cluster_domain));
    let mut addresses =
        vec![advertised, [127, 0, 0, 1].into(), std::net::Ipv6Addr::LOCALHOST.into()];
    if !settings.bind_address.is_unspecified() {
        addresses.push(settings.bind_address);
    }
    addresses.extend(settings.service_cidrs.iter().map(|range| address_at(*range, API_ADDRESS)));
    addresses.sort();
    addresses.dedup();
    names.extend(addresses.iter().map(IpAddr::to_string));
    names
}
