//! Datagrams: one question, one answer.

use std::sync::Arc;

use tokio::net::UdpSocket;

use super::{Knowledge, at_once};
use crate::message::Transport;

/// Questions are small; longer ones are cut and found malformed.
const BUFFER: usize = 4096;

pub(super) async fn serve(socket: UdpSocket, knowledge: Arc<Knowledge>) {
    let socket = Arc::new(socket);
    let mut buffer = vec![0; BUFFER];
    loop {
        let (length, client) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(error) => {
                // An earlier answer that could not be delivered is reported here (ip(7)).
                tracing::debug!(%error, "receive");
                continue;
            }
        };
        let query = &buffer[..length];
        match at_once(&knowledge, query, Transport::Udp) {
            Ok(None) => {}
            Ok(Some(answer)) => {
                // Whoever asked may be gone; others wait.
                let _ = socket.send_to(&answer, client).await;
            }
            Err(open) => {
                let (socket, knowledge) = (socket.clone(), knowledge.clone());
                tokio::spawn(async move {
                    let answer = knowledge.ask(open).await;
                    let _ = socket.send_to(&answer, client).await;
                });
            }
        }
    }
}
