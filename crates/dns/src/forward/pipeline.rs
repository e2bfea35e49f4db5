//! Many questions on one connection by TLS (RFC 7858): each is sent when it comes, and answers are taken in any order
//! (RFC 7766, 7).
//!
//! A connection is a task, that is there while there is something to ask: it connects, sends, and hands out what comes.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, split};
use tokio::net::TcpStream;
use tokio::sync::mpsc::error::SendError;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_rustls::client::TlsStream;

use super::exchange::answers;
use super::tls::Tls;
use crate::wire::padded;

/// How long it may take to connect and to shake hands.
const HANDSHAKE: Duration = Duration::from_secs(2);
/// A connection on which nothing comes for that long, while answers are waited for, is broken.
const SILENCE: Duration = Duration::from_secs(1);
/// And so is one on which something comes, but no answer: after one wrong length nothing is understood any more.
const NONSENSE: Duration = Duration::from_secs(2);
/// One on which nothing is asked for that long is closed.
const IDLE: Duration = Duration::from_secs(10);
/// How often a question is sent at most: a connection that has been kept may be closed by the server at any time.
const ATTEMPTS: usize = 2;
/// Questions that are sent at once.
const BATCH: usize = 64;

/// A way to ask a server by TLS.
#[derive(Debug)]
pub(super) struct Pipeline {
    peer: Arc<Peer>,
    /// To the connection; it is closed if there is none.
    questions: Mutex<UnboundedSender<Question>>,
}

/// Who is asked.
#[derive(Debug)]
struct Peer {
    server: SocketAddr,
    tls: Tls,
    /// It was logged why it can't be asked.
    is_told: AtomicBool,
}

/// A question, and who waits for the answer. Who is told nothing may ask again.
struct Question {
    query: Vec<u8>,
    answer: oneshot::Sender<io::Result<Vec<u8>>>,
}

impl Pipeline {
    pub(super) fn new(server: SocketAddr, tls: Tls) -> Self {
        let peer = Arc::new(Peer { server, tls, is_told: AtomicBool::new(false) });
        Self { peer, questions: Mutex::new(unbounded_channel().0) }
    }

    /// Asks the server. The answer has the query's id.
    pub(super) async fn exchange(&self, query: &[u8]) -> io::Result<Vec<u8>> {
        for _ in 0..ATTEMPTS {
            let (answer, answered) = oneshot::channel();
            self.send(Question { query: padded(query), answer });
            if let Ok(answer) = answered.await {
                let mut response = answer?;
                response[..2].copy_from_slice(&query[..2]);
                return Ok(response);
            }
        }
        let reason = "connections ended before the answer came";
        Err(io::Error::new(io::ErrorKind::ConnectionAborted, reason))
    }

    /// Sends a question on the connection, or on a fresh one.
    fn send(&self, question: Question) {
        let mut sender = self.questions.lock().unwrap_or_else(PoisonError::into_inner);
        let Err(SendError(question)) = sender.send(question) else { return };
        let (fresh, questions) = unbounded_channel();
        *sender = fresh;
        // It can be sent: who receives is here.
        let _ = sender.send(question);
        tokio::spawn(self.peer.clone().connect(questions));
    }
}

impl Peer {
    /// Asks questions, until there are none for a while or the connection breaks.
    async fn connect(self: Arc<Self>, mut questions: UnboundedReceiver<Question>) {
        let connected = timeout(HANDSHAKE, self.tls.connect(self.server)).await;
        let late = || io::Error::new(io::ErrorKind::TimedOut, "the handshake takes too long");
        let stream = match connected.unwrap_or_else(|_| Err(late())) {
            Ok(stream) => stream,
            Err(error) => {
                self.tell(&error);
                questions.close();
                while let Ok(question) = questions.try_recv() {
                    let error = io::Error::new(error.kind(), error.to_string());
                    let _ = question.answer.send(Err(error));
                }
                return;
            }
        };
        let mut waiting = Waiting::default();
        let ended = self.ask(stream, &mut questions, &mut waiting).await;
        // Who is told now that there is no answer asks again, and is not to find this connection.
        drop(questions);
        if let (Err(error), false) = (ended, waiting.has_answered) {
            self.tell(&error);
        }
        drop(waiting);
    }

    /// Sends questions and takes answers.
    async fn ask(
        &self,
        stream: TlsStream<TcpStream>,
        questions: &mut UnboundedReceiver<Question>,
        waiting: &mut Waiting,
    ) -> io::Result<()> {
        let (mut reading, mut writing) = split(stream);
        let (mut batch, mut received) = (Vec::new(), Vec::new());
        // When something came last, or was first waited for; and when that was an answer.
        let (mut since, mut answered) = (Instant::now(), Instant::now());
        loop {
            let patience = match waiting.is_empty() {
                true => since + IDLE,
                false => (since + SILENCE).min(answered + NONSENSE),
            };
            tokio::select! {
                count = questions.recv_many(&mut batch, BATCH) => {
                    if count == 0 {
                        break;
                    }
                    if waiting.is_empty() {
                        (since, answered) = (Instant::now(), Instant::now());
                    }
                    let sent = batch.drain(..).filter_map(|question| waiting.add(question));
                    let sent = sent.collect::<Vec<_>>().concat();
                    let written = async {
                        writing.write_all(&sent).await?;
                        writing.flush().await
                    };
                    timeout(SILENCE, written).await??;
                }
                read = reading.read_buf(&mut received) => {
                    if read? == 0 {
                        return waiting.ended();
                    }
                    since = Instant::now();
                    while let Some(message) = take(&mut received) {
                        if waiting.answer(message) {
                            answered = since;
                            self.is_told.store(false, Ordering::Relaxed);
                        }
                    }
                }
                () = sleep_until(patience) => {
                    let was_empty = waiting.is_empty();
                    waiting.forget();
                    if was_empty || !waiting.is_empty() {
                        break;
                    }
                }
            }
        }
        // It ends in any case.
        let _ = timeout(SILENCE, writing.shutdown()).await;
        Ok(())
    }

    /// Writes to the log why it can't be asked, once until it can.
    fn tell(&self, error: &io::Error) {
        if !self.is_told.swap(true, Ordering::Relaxed) {
            tracing::warn!(server = %self.server, "a DNS server can't be asked by TLS: {error}");
        }
    }
}

/// Questions that are waiting for their answers on one connection.
#[derive(Default)]
struct Waiting {
    /// By their ids, which they have.
    questions: HashMap<u16, Question>,
    last: u16,
    has_answered: bool,
}

impl Waiting {
    fn is_empty(&self) -> bool {
        self.questions.is_empty()
    }

    /// Adds a question under an id that no other one has, and answers its bytes in the stream.
    fn add(&mut self, mut question: Question) -> Option<Vec<u8>> {
        let is_free = |id: &u16| self.questions.get(id).is_none_or(|it| it.answer.is_closed());
        let id = (1..=u16::MAX).map(|more| self.last.wrapping_add(more)).find(is_free)?;
        self.last = id;
        question.query[..2].copy_from_slice(&id.to_be_bytes());
        let length = u16::try_from(question.query.len()).ok()?;
        let sent = [&length.to_be_bytes()[..], &question.query].concat();
        self.questions.insert(id, question);
        Some(sent)
    }

    /// Hands out an answer, and answers whether it is one. Others are late, or odd.
    fn answer(&mut self, message: Vec<u8>) -> bool {
        let id = message.first_chunk().map(|id| u16::from_be_bytes(*id));
        let is_asked =
            |id: &u16| self.questions.get(id).is_some_and(|it| answers(&it.query, &message));
        let Some(question) = id.filter(is_asked).and_then(|id| self.questions.remove(&id)) else {
            return false;
        };
        self.has_answered = true;
        let _ = question.answer.send(Ok(message));
        true
    }

    /// Forgets questions whose answers nobody waits for any more.
    fn forget(&mut self) {
        self.questions.retain(|_, question| !question.answer.is_closed());
    }

    /// What it means that the server has ended the connection.
    fn ended(&self) -> io::Result<()> {
        match self.is_empty() || self.has_answered {
            true => Ok(()),
            false => Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "it ended the connection before it answered anything",
            )),
        }
    }
}

/// Takes a whole message from the front of what was received.
fn take(received: &mut Vec<u8>) -> Option<Vec<u8>> {
    let (length, rest) = received.split_first_chunk::<2>()?;
    let message = rest.get(..usize::from(u16::from_be_bytes(*length)))?.to_vec();
    received.drain(..2 + message.len());
    Some(message)
}
