//! Datagrams: one question, one answer. As many as are there are read at once, and answered at once.

use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use kernel::sockets::datagrams::{Batch, Correspondent, DatagramSocket};
use tokio::runtime::Handle;

use super::responder::{Open, Reply, Responder};
use crate::tally::{Seen, Tally};
use crate::wire::{LARGEST, Transport};

/// Questions are small; longer ones are cut and found malformed.
const LONGEST: usize = 4096;
/// How many are read at once.
const BATCH: usize = 32;

/// A socket, and what its questions are answered from.
#[derive(Debug)]
pub(super) struct Reader {
    pub(super) socket: Arc<DatagramSocket>,
    pub(super) responder: Arc<Responder>,
    pub(super) tally: Arc<Tally>,
    pub(super) runtime: Handle,
    /// One for each question that others are asked about.
    pub(super) open: Arc<()>,
}

impl Reader {
    /// Answers until it is over, and what has come by then.
    pub(super) fn serve(&self, is_over: &AtomicBool) {
        let mut batch = Batch::new(BATCH, LONGEST, LARGEST);
        let mut turn = 0;
        while !is_over.load(Ordering::Relaxed) {
            match batch.receive(&self.socket) {
                Ok(_) => self.answer(&mut batch, &mut turn),
                // An earlier answer that could not be delivered is reported here (ip(7)).
                Err(error) if !is_usual(&error) => tracing::debug!(%error, "receive"),
                Err(_) => {}
            }
        }
        if let Err(error) = self.socket.leave() {
            tracing::debug!(%error, "leave");
        }
        while batch.receive_rest(&self.socket).is_ok() {
            self.answer(&mut batch, &mut turn);
        }
    }

    fn answer(&self, batch: &mut Batch, turn: &mut usize) {
        let start = Instant::now();
        for (question, from, answer, length) in batch.each() {
            *turn = turn.wrapping_add(1);
            let client = from.address().map(|address| address.ip().to_canonical());
            let (seen, reply) =
                self.responder.reply(question, Transport::Udp, client, answer, *turn, start);
            match reply {
                Reply::None => continue,
                Reply::Written(written) => *length = written,
                Reply::WrittenOnce(written, open) => {
                    *length = written;
                    let responder = self.responder.clone();
                    self.runtime.spawn(async move { responder.ask_again(&open) });
                }
                Reply::Open(open) => {
                    self.answer_later(open, from.clone(), seen, start);
                    continue;
                }
            }
            let (answer, took) = (&answer[..*length], start.elapsed());
            self.tally.count(seen, question.len(), answer, took);
            self.responder.log.note(question, Transport::Udp, from.address(), answer, took);
        }
        batch.send(&self.socket);
    }

    fn answer_later(&self, open: Open, from: Correspondent, seen: Option<Seen>, start: Instant) {
        let (socket, responder, tally) =
            (self.socket.clone(), self.responder.clone(), self.tally.clone());
        let open_one = self.open.clone();
        self.runtime.spawn(async move {
            let _open = open_one;
            let answer = responder.ask(&open).await;
            // Whoever asked may be gone.
            let _ = socket.send(&answer, &from);
            let took = start.elapsed();
            tally.count(seen, open.message.len(), &answer, took);
            responder.log.note(&open.message, Transport::Udp, from.address(), &answer, took);
        });
    }
}

/// Nobody has asked, or a signal came.
fn is_usual(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}
