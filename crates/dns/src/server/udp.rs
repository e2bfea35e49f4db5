//! Datagrams: one question, one answer. As many as are there are read at once, and answered at once.

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use kernel::sockets::datagrams::{Batch, DatagramSocket};
use tokio::runtime::Handle;

use super::responder::{Reply, Responder};
use crate::wire::{LARGEST, Transport};

/// Questions are small; longer ones are cut and found malformed.
const LONGEST: usize = 4096;
/// How many are read at once.
const BATCH: usize = 32;

pub(super) fn serve(
    socket: &Arc<DatagramSocket>,
    responder: &Arc<Responder>,
    is_over: &AtomicBool,
    runtime: &Handle,
) {
    let mut batch = Batch::new(BATCH, LONGEST, LARGEST);
    let mut turn = 0_usize;
    while !is_over.load(Ordering::Relaxed) {
        match batch.receive(socket) {
            Ok(_) => {}
            Err(error) => {
                // An earlier answer that could not be delivered is reported here (ip(7)).
                if !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) {
                    tracing::debug!(%error, "receive");
                }
                continue;
            }
        }
        for (question, from, answer, length) in batch.each() {
            turn = turn.wrapping_add(1);
            match responder.reply(question, Transport::Udp, answer, turn) {
                Reply::None => {}
                Reply::Written(written) => *length = written,
                Reply::Open(open) => {
                    let (socket, responder, from) =
                        (socket.clone(), responder.clone(), from.clone());
                    runtime.spawn(async move {
                        let answer = responder.ask(open).await;
                        // Whoever asked may be gone.
                        let _ = socket.send(&answer, &from);
                    });
                }
            }
        }
        batch.send(socket);
    }
}
