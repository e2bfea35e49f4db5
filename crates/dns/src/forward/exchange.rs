//! One question to one server in clear text, and its answer.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

use crate::wire::{HEADER, Transport, question_end};

/// Asks a server. The answer has the query's id.
pub(super) async fn exchange(
    server: SocketAddr,
    query: &[u8],
    transport: Transport,
) -> io::Result<Vec<u8>> {
    let mut sent = query.to_vec();
    // An id that whoever has asked us can't know: answers are matched by it.
    let id = (RandomState::new().build_hasher().finish() & 0xffff) as u16;
    sent[..2].copy_from_slice(&id.to_be_bytes());
    let mut response = match transport {
        Transport::Udp => over_udp(server, &sent).await?,
        Transport::Tcp => over_tcp(server, &sent).await?,
    };
    response[..2].copy_from_slice(&query[..2]);
    Ok(response)
}

async fn over_udp(server: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    // A socket of its own, and with it a port that nobody can guess (RFC 5452).
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    socket.send(query).await?;
    let mut buffer = vec![0; 4096];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if answers(query, &buffer[..length]) {
            buffer.truncate(length);
            return Ok(buffer);
        }
    }
}

async fn over_tcp(server: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(query.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes()[..], query].concat()).await?;
    let length = stream.read_u16().await?;
    let mut response = vec![0; usize::from(length)];
    stream.read_exact(&mut response).await?;
    match answers(query, &response) {
        true => Ok(response),
        false => Err(io::Error::other("the answer is to another question")),
    }
}

/// Whether a response is one to this query: same id, a response, same question but for its letters' case. Who could
/// not read the question may leave it out.
pub(super) fn answers(query: &[u8], response: &[u8]) -> bool {
    if response.len() < HEADER || response[..2] != query[..2] || response[2] & 0x80 == 0 {
        return false;
    }
    let Some(end) = question_end(query) else { return false };
    match response[4..6] {
        [0, 0] => true,
        [0, 1] => response
            .get(HEADER..end)
            .is_some_and(|question| question.eq_ignore_ascii_case(&query[HEADER..end])),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_answers_is_taken() {
        let query = b"\x12\x34\x01\x00\0\x01\0\0\0\0\0\0\x03web\0\0\x01\0\x01";
        let mut response = query.to_vec();
        assert!(!answers(query, &response), "it is no response");
        response[2] |= 0x80;
        response[13] = b'W';
        assert!(answers(query, &response));
        for (at, byte) in [(0, 0), (1, 0), (13, b'x'), (5, 2), (18, 28)] {
            let mut other = response.clone();
            other[at] = byte;
            assert!(!answers(query, &other), "{at}");
        }
        assert!(!answers(query, &response[..15]));
        response[5] = 0;
        assert!(answers(query, &response[..HEADER]), "it could not be read");
    }
}
