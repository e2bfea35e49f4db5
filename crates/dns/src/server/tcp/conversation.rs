//! One connection. Its questions are worked on at the same time, and each is answered as soon as its answer is there,
//! whichever came first (RFC 7766, 6.2.1.1 and 7).
//!
//! It holds a bounded number of questions and of bytes. A client that asks more is not read from until it has taken what
//! it asked for, and one that does not take it is left.

use std::cell::RefCell;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::buffers::{Incoming, Outgoing};
use crate::server::ended;
use crate::server::responder::{Open, Reply, Responder};
use crate::tally::{Seen, Tally};
use crate::wire::Transport;

/// How long a client may be silent while nothing is to be answered, or take to read what is.
const IDLE: Duration = Duration::from_secs(10);
/// Questions of a connection that others are asked about at the same time.
const OUTSTANDING: usize = 32;
/// No more is read while that many bytes are not taken.
const WAITING: usize = 64 << 10;

thread_local! {
    /// Where answers are written first: connections are many.
    static ROOM: RefCell<Box<[u8]>> = RefCell::new(vec![0; usize::from(u16::MAX)].into());
}

/// A connection of a client.
pub(super) struct Conversation {
    responder: Arc<Responder>,
    tally: Arc<Tally>,
    from: Option<SocketAddr>,
    client: Option<IpAddr>,
    incoming: Incoming,
    /// Questions that others are asked about.
    outstanding: FuturesUnordered<BoxFuture<'static, Answered>>,
    outgoing: Outgoing,
    /// Counts questions.
    turn: usize,
    /// When the client last asked or was answered.
    active: Instant,
    idle: Duration,
}

/// An answer of others.
struct Answered {
    question: Open,
    answer: Vec<u8>,
    seen: Option<Seen>,
    start: Instant,
}

impl Conversation {
    pub(super) fn new(
        responder: Arc<Responder>,
        tally: Arc<Tally>,
        from: Option<SocketAddr>,
    ) -> Self {
        let now = Instant::now();
        Self {
            responder,
            tally,
            from,
            client: from.map(|address| address.ip().to_canonical()),
            incoming: Incoming::default(),
            outstanding: FuturesUnordered::new(),
            outgoing: Outgoing::new(now),
            turn: 0,
            active: now,
            idle: IDLE,
        }
    }

    /// The same with less patience.
    #[cfg(test)]
    pub(super) fn with_idle(self, idle: Duration) -> Self {
        Self { idle, ..self }
    }

    /// Answers what is asked on a stream of TCP.
    ///
    /// # Errors
    ///
    /// Those of [`Self::answer`].
    pub(super) async fn hold(
        self,
        mut stream: TcpStream,
        ending: watch::Receiver<bool>,
    ) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let (reading, writing) = stream.split();
        self.answer(reading, writing, ending).await
    }

    /// Answers what is asked, until the client asks no more or it is `ending`, and then what has been asked by then.
    ///
    /// # Errors
    ///
    /// The connection breaks, or the client is silent or does not read for too long.
    pub(super) async fn answer(
        mut self,
        mut reading: impl AsyncRead + Unpin,
        mut writing: impl AsyncWrite + Unpin,
        mut ending: watch::Receiver<bool>,
    ) -> io::Result<()> {
        let mut ended = pin!(ended(&mut ending));
        let (mut is_ending, mut is_all) = (false, false);
        loop {
            self.take_questions()?;
            self.outgoing.begin(Instant::now());
            let deadline = self.deadline();
            let is_reading = self.has_room() && !is_all;
            let (is_waiting, is_sending) = (!self.outstanding.is_empty(), self.outgoing.len() > 0);
            if is_all && !is_waiting && !is_sending {
                return writing.shutdown().await;
            }
            tokio::select! {
                // Answers first: what they have held can be used for further questions.
                biased;
                Some(answered) = self.outstanding.next(), if is_waiting => self.put(answered)?,
                written = writing.write(self.outgoing.rest()), if is_sending => {
                    self.outgoing.advance(written?);
                    self.active = Instant::now();
                }
                () = &mut ended, if !is_ending => is_ending = true,
                read = read(&mut reading, self.incoming.room(), is_ending), if is_reading => {
                    is_all = read? == 0;
                }
                () = sleep_until(deadline) => return Err(io::ErrorKind::TimedOut.into()),
            }
        }
    }

    /// Whether one more question can be taken.
    fn has_room(&self) -> bool {
        self.outstanding.len() < OUTSTANDING && self.outgoing.len() < WAITING
    }

    /// Answers what has come and is known, and has others asked about the rest.
    fn take_questions(&mut self) -> io::Result<()> {
        ROOM.with_borrow_mut(|room| self.take_questions_with(room))
    }

    /// The same with room for an answer.
    fn take_questions_with(&mut self, room: &mut [u8]) -> io::Result<()> {
        while self.has_room() {
            let Some(message) = self.incoming.take() else { break };
            let start = Instant::now();
            (self.turn, self.active) = (self.turn.wrapping_add(1), start);
            let responder = &self.responder;
            let (seen, reply) =
                responder.reply(message, Transport::Tcp, self.client, room, self.turn, start);
            let length = match reply {
                Reply::None => continue,
                Reply::Written(length) => length,
                Reply::WrittenOnce(length, open) => {
                    responder.ask_again(&open);
                    length
                }
                Reply::Open(question) => {
                    let responder = responder.clone();
                    let answered = async move {
                        let answer = responder.ask(&question).await;
                        Answered { question, answer, seen, start }
                    };
                    self.outstanding.push(answered.boxed());
                    continue;
                }
            };
            let (answer, took) = (&room[..length], start.elapsed());
            self.tally.count(seen, message.len(), answer, took);
            responder.log.note(message, Transport::Tcp, self.from, answer, took);
            self.outgoing.put(answer)?;
        }
        Ok(())
    }

    /// Has an answer of others sent.
    fn put(&mut self, answered: Answered) -> io::Result<()> {
        let Answered { question, answer, seen, start } = answered;
        let took = start.elapsed();
        self.tally.count(seen, question.message.len(), &answer, took);
        self.responder.log.note(&question.message, Transport::Tcp, self.from, &answer, took);
        self.outgoing.put(&answer)
    }

    /// Until when the client has to ask, or to have read; `None` while only others are waited for.
    fn deadline(&self) -> Option<Instant> {
        if self.outgoing.len() > 0 {
            return Some(self.outgoing.since() + self.idle);
        }
        self.outstanding.is_empty().then(|| self.active + self.idle)
    }
}

/// Reads, and answers how much; nothing if it `is_ending` and nothing more has come by now.
async fn read(
    reading: &mut (impl AsyncRead + Unpin),
    to: &mut Vec<u8>,
    is_ending: bool,
) -> io::Result<usize> {
    let read = reading.read_buf(to);
    match is_ending {
        true => read.now_or_never().unwrap_or(Ok(0)),
        false => read.await,
    }
}

async fn sleep_until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time.into()).await,
        None => std::future::pending().await,
    }
}
