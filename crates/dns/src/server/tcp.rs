//! Streams: messages with their length before them (RFC 7766), any number of them.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::responder::{Reply, Responder};
use crate::tally::Tally;
use crate::wire::Transport;

/// How long a client may be silent, or take to read.
const IDLE: Duration = Duration::from_secs(10);
/// Connections at the same time; more wait until one ends.
const CONNECTIONS: usize = 256;
/// Length of the length.
const PREFIX: usize = 2;
/// Pause after a connection could not be accepted.
const RETRY: Duration = Duration::from_millis(50);

pub(super) async fn serve(listener: TcpListener, responder: Arc<Responder>, tally: Arc<Tally>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let (responder, tally) = (responder.clone(), tally.clone());
                tokio::spawn(async move {
                    // How it ends is the client's business.
                    let _ = converse(stream, &responder, &tally).await;
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

async fn converse(mut stream: TcpStream, responder: &Responder, tally: &Tally) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let from = stream.peer_addr().ok();
    let client = from.map(|address| address.ip().to_canonical());
    let mut query = Vec::new();
    // Behind the length of what is there.
    let mut buffer = vec![0; PREFIX + usize::from(u16::MAX)];
    let mut turn = 0_usize;
    loop {
        timeout(IDLE, read(&mut stream, &mut query)).await??;
        turn = turn.wrapping_add(1);
        let start = Instant::now();
        let room = &mut buffer[PREFIX..];
        let (seen, reply) = responder.reply(&query, Transport::Tcp, client, room, turn, start);
        let length = match reply {
            Reply::None => continue,
            Reply::Written(length) => length,
            Reply::WrittenOnce(length, open) => {
                responder.ask_again(&open);
                length
            }
            Reply::Open(open) => {
                let answer = responder.ask(&open).await;
                room[..answer.len()].copy_from_slice(&answer);
                answer.len()
            }
        };
        let took = start.elapsed();
        tally.count(seen, query.len(), &room[..length], took);
        responder.log.note(&query, Transport::Tcp, from, &room[..length], took);
        let prefix = u16::try_from(length).map_err(io::Error::other)?.to_be_bytes();
        buffer[..PREFIX].copy_from_slice(&prefix);
        timeout(IDLE, stream.write_all(&buffer[..PREFIX + length])).await??;
    }
}

async fn read(stream: &mut TcpStream, message: &mut Vec<u8>) -> io::Result<()> {
    let length = stream.read_u16().await?;
    message.resize(usize::from(length), 0);
    stream.read_exact(message).await.map(drop)
}
