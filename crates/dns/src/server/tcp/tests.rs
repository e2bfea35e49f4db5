//! Connections that are pipes, with clients of less patience.

use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use model::{Event, Kind, World};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex, split};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::buffers::{Incoming, Outgoing};
use super::conversation::Conversation;
use crate::server::responder::Responder;
use crate::tally::Tallies;
use crate::wire::Transport;
use crate::{Directory, Forward, Resolver, Upstreams, Zone};

/// How long clients may be silent here.
const IDLE: Duration = Duration::from_millis(300);
/// How much a pipe holds.
const PIPE: usize = 1024;

/// The version of the schema, which is known.
const KNOWN: &[u8] =
    b"\0\x2b\x00\x07\x01\x00\0\x01\0\0\0\0\0\0\x0bdns-version\x07cluster\x05local\0\0\x10\0\x01";
/// Something that another server is asked about.
const FOREIGN: &[u8] = b"\0\x1d\x00\x08\x01\x00\0\x01\0\0\0\0\0\0\x07example\x03com\0\0\x01\0\x01";

/// What comes of a connection.
type Ended = JoinHandle<std::io::Result<()>>;

/// A connection of a server that asks another one, and its end.
fn converse(upstreams: Upstreams) -> (DuplexStream, Ended) {
    let (directory, mut world) = (Directory::new(), World::new());
    for kind in [Kind::Service, Kind::EndpointSlice, Kind::Namespace] {
        let touched = world.apply(Event::listed(kind, Vec::new()));
        directory.update(&world, &touched);
    }
    let resolver = Arc::new(Resolver::new(upstreams, None));
    let zone = Zone::new("cluster.local").unwrap();
    let responder = Arc::new(Responder::new(Arc::new(directory), zone, resolver));
    let tally = Tallies::default().add(Transport::Tcp, Ipv4Addr::LOCALHOST.into());
    let (client, server) = duplex(PIPE);
    let ended = tokio::spawn(async move {
        let (reading, writing) = split(server);
        let ending = watch::Sender::new(false);
        let conversation = Conversation::new(responder, tally, None).with_idle(IDLE);
        conversation.answer(reading, writing, ending.subscribe()).await
    });
    (client, ended)
}

async fn next_id(client: &mut DuplexStream) -> u8 {
    let mut answer = vec![0; client.read_u16().await.unwrap().into()];
    client.read_exact(&mut answer).await.unwrap();
    answer[1]
}

async fn kind_of_end(ended: Ended) -> Option<ErrorKind> {
    ended.await.unwrap().err().map(|error| error.kind())
}

#[tokio::test]
async fn patience_ends_only_while_nothing_is_to_be_answered() {
    // It takes longer to answer than clients may be silent.
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let upstream = Forward::everything(vec![listener.local_addr().unwrap()]);
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut query = vec![0; stream.read_u16().await.unwrap().into()];
        stream.read_exact(&mut query).await.unwrap();
        tokio::time::sleep(3 * IDLE).await;
        query[2] |= 0x80;
        stream.write_u16(query.len() as u16).await.unwrap();
        stream.write_all(&query).await.unwrap();
    });
    let (mut client, ended) = converse(Upstreams::new(vec![upstream]));
    client.write_all(&[FOREIGN, KNOWN].concat()).await.unwrap();
    assert_eq!(next_id(&mut client).await, 7);
    assert_eq!(next_id(&mut client).await, 8);
    let start = Instant::now();
    assert_eq!(kind_of_end(ended).await, Some(ErrorKind::TimedOut));
    assert!(start.elapsed() >= IDLE / 2, "as long as it may be silent after the last answer");
}

#[tokio::test]
async fn who_begins_a_question_and_does_not_end_it_is_left() {
    let (mut client, ended) = converse(Upstreams::default());
    client.write_all(KNOWN).await.unwrap();
    let trickle = async {
        for byte in KNOWN.iter().cycle() {
            if client.write_all(&[*byte]).await.is_err() {
                break;
            }
            tokio::time::sleep(IDLE / 4).await;
        }
    };
    let start = Instant::now();
    trickle.await;
    assert_eq!(kind_of_end(ended).await, Some(ErrorKind::TimedOut));
    assert!(start.elapsed() < 10 * IDLE, "long before the question would have been there");
}

#[tokio::test]
async fn who_does_not_read_is_not_read_from_and_left() {
    let (mut client, ended) = converse(Upstreams::default());
    let mut taken = 0;
    while client.write_all(KNOWN).await.is_ok() {
        taken += KNOWN.len();
        assert!(taken < 512 << 10, "it is to stop");
    }
    assert!(taken > 32 << 10, "it goes on for a while: {taken}");
    assert_eq!(kind_of_end(ended).await, Some(ErrorKind::TimedOut));
}

#[test]
fn messages_are_taken_whole_however_they_come() {
    let long = vec![7; usize::from(u16::MAX)];
    let messages: [&[u8]; 4] = [b"one", b"", &long, b"four"];
    let mut outgoing = Outgoing::new(Instant::now());
    for message in messages {
        outgoing.put(message).unwrap();
    }
    assert!(outgoing.put(&[0; 1 << 16]).is_err(), "its length can't be said");
    for step in [1, 2, 3, 100, 5000, 1 << 20] {
        let mut sent = Outgoing::new(Instant::now());
        for message in messages {
            sent.put(message).unwrap();
        }
        let (mut incoming, mut taken) = (Incoming::default(), Vec::new());
        let total = sent.len();
        let mut passed = 0;
        while sent.len() > 0 {
            sent.begin(Instant::now());
            let piece = &sent.rest()[..step.min(sent.rest().len())];
            incoming.room().extend(piece);
            passed += piece.len();
            let length = piece.len();
            sent.advance(length);
            while let Some(message) = incoming.take() {
                taken.push(message.to_vec());
            }
        }
        assert_eq!((passed, taken.len()), (total, messages.len()), "in pieces of {step}");
        assert!(taken.iter().zip(messages).all(|(taken, message)| taken == message));
    }
}

#[test]
fn how_long_it_takes_to_send_does_not_begin_anew_with_what_is_added() {
    let start = Instant::now();
    let later = start + Duration::from_secs(1);
    let mut outgoing = Outgoing::new(start);
    outgoing.put(b"one").unwrap();
    outgoing.begin(start);
    outgoing.advance(2);
    outgoing.put(b"two").unwrap();
    outgoing.begin(later);
    assert_eq!((outgoing.rest(), outgoing.since(), outgoing.len()), (&b"one"[..], start, 8));
    outgoing.advance(3);
    outgoing.begin(later);
    assert_eq!((outgoing.rest(), outgoing.since()), (&b"\0\x03two"[..], later));
}
