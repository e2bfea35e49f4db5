//! Answers of the API server as bytes: whole, or line by line as they come.

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use kube::client::Body;
use kube::core::Status;

use super::Client;

/// Asks, and collects the whole answer.
pub(super) async fn ask(client: &Client, request: http::Request<Vec<u8>>) -> kube::Result<Bytes> {
    let answer = send(client, request).await?;
    answer.collect_bytes().await
}

/// Asks for an answer that comes line by line.
pub(super) async fn ask_lines(
    client: &Client,
    mut request: http::Request<Vec<u8>>,
) -> kube::Result<Lines> {
    // A compressed line would wait for those that fill its block.
    let identity = http::HeaderValue::from_static("identity");
    request.headers_mut().entry(http::header::ACCEPT_ENCODING).or_insert(identity);
    Ok(Lines { body: send(client, request).await?, received: BytesMut::new(), searched: 0 })
}

async fn send(client: &Client, request: http::Request<Vec<u8>>) -> kube::Result<Body> {
    let answer = client.send(request.map(Body::from)).await?;
    let code = answer.status();
    if !code.is_client_error() && !code.is_server_error() {
        return Ok(answer.into_body());
    }
    let text = answer.into_body().collect_bytes().await?;
    let status: Status = serde_json::from_slice(&text).unwrap_or_else(|_| {
        // What stands between us and an API server answers in its own words.
        Status::failure(String::from_utf8_lossy(&text).trim(), "").with_code(code.as_u16())
    });
    Err(kube::Error::Api(Box::new(status)))
}

/// The lines of an answer.
pub(super) struct Lines {
    body: Body,
    received: BytesMut,
    /// So many bytes of what was received hold no end of a line.
    searched: usize,
}

impl Lines {
    /// Waits for the next line; `None` if the answer has ended, in whatever way a connection ends.
    ///
    /// Cancel safe.
    pub(super) async fn next(&mut self) -> kube::Result<Option<Bytes>> {
        loop {
            let new = &self.received[self.searched..];
            if let Some(end) = new.iter().position(|byte| *byte == b'\n') {
                let line = self.received.split_to(self.searched + end + 1).freeze();
                self.searched = 0;
                return Ok(Some(line));
            }
            self.searched = self.received.len();
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.received.extend_from_slice(&data);
                    }
                }
                Some(Err(error)) => {
                    tracing::debug!(%error, "a watch was cut off");
                    return Ok(None);
                }
                None => return Ok(None),
            }
        }
    }
}
