//! Streams: messages with their length before them (RFC 7766), any number of them.

mod buffers;
mod conversation;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};

use super::responder::Responder;
use crate::tally::Tally;
use conversation::Conversation;

/// Connections at the same time; more wait until one ends.
const CONNECTIONS: usize = 256;
/// Pause after a connection could not be accepted.
const RETRY: Duration = Duration::from_millis(50);

/// Accepts connections, for as long as it is polled; what has been accepted goes on by itself, until it is `ending`.
/// Each connection holds `open`.
pub(super) async fn serve(
    listener: TcpListener,
    responder: Arc<Responder>,
    tally: Arc<Tally>,
    open: Arc<()>,
    ending: watch::Receiver<bool>,
) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let from = stream.peer_addr().ok();
                let conversation = Conversation::new(responder.clone(), tally.clone(), from);
                let (open, ending) = (open.clone(), ending.clone());
                tokio::spawn(async move {
                    // How it ends is the client's business.
                    let _ = conversation.hold(stream, ending).await;
                    drop((place, open));
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection was not accepted");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}
