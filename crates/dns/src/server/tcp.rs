//! Streams: messages with their length before them (RFC 7766), any number of them.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::{Knowledge, at_once};
use crate::message::Transport;

/// How long a client may be silent, or take to read.
const IDLE: Duration = Duration::from_secs(10);
/// Connections at the same time; more wait until one ends.
const CONNECTIONS: usize = 256;
/// Pause after a connection could not be accepted.
const RETRY: Duration = Duration::from_millis(50);

pub(super) async fn serve(listener: TcpListener, knowledge: Arc<Knowledge>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let knowledge = knowledge.clone();
                tokio::spawn(async move {
                    // How it ends is the client's business.
                    let _ = converse(stream, &knowledge).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection was not accepted");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

async fn converse(mut stream: TcpStream, knowledge: &Knowledge) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut query = Vec::new();
    loop {
        timeout(IDLE, read(&mut stream, &mut query)).await??;
        let answer = match at_once(knowledge, &query, Transport::Tcp) {
            Ok(None) => continue,
            Ok(Some(answer)) => answer,
            Err(open) => knowledge.ask(open).await,
        };
        let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
        let framed = [&length.to_be_bytes()[..], &answer].concat();
        timeout(IDLE, stream.write_all(&framed)).await??;
    }
}

async fn read(stream: &mut TcpStream, message: &mut Vec<u8>) -> io::Result<()> {
    let length = stream.read_u16().await?;
    message.resize(usize::from(length), 0);
    stream.read_exact(message).await.map(drop)
}
