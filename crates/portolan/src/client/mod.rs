//! Talks to an API server, real or embedded, and only over the wire: connects, lists and watches,
//! writes, records Events.
//!
//! Knows nothing of what the objects mean; start reading at [`Watch`].

mod answer;
mod backoff;
mod connect;
mod error;
mod events;
mod model_feed;
mod watch;
mod write;

pub(crate) use backoff::Backoff;
pub(crate) use connect::{Access, connect, connect_by, connect_to, wait_for};
pub(crate) use error::Error;
pub(crate) use events::{Recorder, Severity, reference};
pub(crate) use model_feed::{feed, feed_slices_with_pod_names};
pub(crate) use watch::{Change, Page, Source, Step, Watch, Watched};
pub(crate) use write::{
    ApiObject, create, delete, get, patch, patch_status, post_subresource, put_finalized, replace,
};

/// The client everything here is built on; cheap to clone, one pool of connections.
pub(crate) use kube::Client;
