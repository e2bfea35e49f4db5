//! Ports for tests.

use std::net::{Ipv4Addr, SocketAddr};

use tokio::net::{TcpListener, UdpSocket};

pub(crate) fn any_port() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

/// A port for streams and datagrams; one may be taken for those alone.
pub(crate) async fn both() -> (TcpListener, UdpSocket) {
    loop {
        let listener = TcpListener::bind(any_port()).await.unwrap();
        if let Ok(socket) = UdpSocket::bind(listener.local_addr().unwrap()).await {
            return (listener, socket);
        }
    }
}
