//! What the kernel lets through at most: every datagram is sent back as it is.

use std::net::{SocketAddr, UdpSocket};

use anyhow::Context;

/// Where to listen.
#[derive(Debug, clap::Args)]
pub(crate) struct Echo {
    /// Where to listen.
    address: SocketAddr,
}

/// Sends back until the process is killed.
pub(crate) fn echo(echo: &Echo) -> anyhow::Result<()> {
    let socket = UdpSocket::bind(echo.address).context("listen")?;
    let mut buffer = [0; 4096];
    loop {
        let (length, from) = socket.recv_from(&mut buffer)?;
        // Whoever asked may be gone.
        let _ = socket.send_to(&buffer[..length], from);
    }
}
