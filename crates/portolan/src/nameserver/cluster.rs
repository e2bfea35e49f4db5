//! What is known of the cluster: a directory, and who keeps it as the API server tells.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use dns::answer::Pods;
use dns::{Directory, Exposure};
use model::{Event, Kind, Touched, World};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::Answers;
use super::pods::{self, Followed};
use crate::client::{self, Client};
use crate::proxy::BACKLOG;

/// How often is looked whether the cluster is known.
const GLANCE: Duration = Duration::from_millis(10);

/// A cluster that is followed, until this is dropped.
#[derive(Debug)]
pub(super) struct Cluster {
    directory: Arc<Directory>,
    needed: Needed,
    is_known: watch::Receiver<bool>,
    tasks: JoinSet<()>,
}

/// What has to be known of a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Needed {
    exposure: Exposure,
    /// Whether pods have to be, and nothing be denied before they are.
    pods: Option<bool>,
}

impl Needed {
    fn for_answers(answers: &Answers) -> Self {
        let zone = &answers.zone;
        // Without them pods search by themselves, and are answered all the same.
        let is_waited_for = zone.pods == Pods::Verified;
        let pods = zone.needs_pods().then_some(is_waited_for);
        Self { exposure: answers.exposure.clone(), pods }
    }
}

impl Cluster {
    /// Follows what these answers are made of.
    pub(super) fn follow(client: &Client, answers: &Answers) -> Self {
        let needed = Needed::for_answers(answers);
        let directory = Arc::new(Directory::exposing(&needed.exposure));
        let mut tasks = JoinSet::new();
        if let Some(is_waited_for) = needed.pods {
            let labels = needed.exposure.labels_of(Kind::Pod).map(ToString::to_string);
            let all = Followed::All { is_waited_for, labels };
            tasks.spawn(pods::follow(client.clone(), directory.clone(), all));
        }
        tasks.spawn(follow(client.clone(), directory.clone(), needed.exposure.clone()));
        let (known, is_known) = watch::channel(false);
        let seen = directory.clone();
        tasks.spawn(async move { match notice(&seen, &known).await {} });
        Self { directory, needed, is_known, tasks }
    }

    /// Whether it is followed as these answers need it.
    pub(super) fn is_for(&self, answers: &Answers) -> bool {
        self.needed == Needed::for_answers(answers)
    }

    /// What is known of it.
    pub(super) fn directory(&self) -> &Arc<Directory> {
        &self.directory
    }

    /// Waits until it is known.
    pub(super) async fn known(&self) {
        // Whoever would say so goes on for ever.
        let _ = self.is_known.clone().wait_for(|is_known| *is_known).await;
    }

    /// Follows it no more, and gives back what it took.
    pub(super) async fn end(mut self) {
        self.tasks.shutdown().await;
        drop(self);
        kernel::machine::trim_memory();
    }

    /// Waits until it is followed no more, which is a mistake of ours.
    pub(super) async fn ended(&mut self) {
        self.tasks.join_next().await;
    }
}

/// Says when the cluster is known.
async fn notice(directory: &Directory, known: &watch::Sender<bool>) -> Infallible {
    while !directory.is_synced() {
        tokio::time::sleep(GLANCE).await;
    }
    // Lists as they come are larger than what is kept of them.
    kernel::machine::trim_memory();
    tracing::info!("the cluster is known");
    known.send_replace(true);
    std::future::pending().await
}

/// Tells a directory what the API server tells, as far as it is exposed.
async fn follow(client: Client, directory: Arc<Directory>, exposure: Exposure) {
    client::wait_for(&client).await;
    let mut feeds = JoinSet::new();
    let (events, mut incoming) = mpsc::channel::<Event>(BACKLOG);
    for kind in exposure.kinds() {
        let labels = exposure.labels_of(kind).map(ToString::to_string);
        let (client, events) = (client.clone(), events.clone());
        match kind {
            Kind::EndpointSlice if exposure.has_pod_names => {
                feeds.spawn(client::feed_slices_with_pod_names(client, labels, events));
            }
            _ => _ = feeds.spawn(client::feed(client, kind, labels, events)),
        }
    }
    drop(events);
    let mut world = World::new();
    if let Some(event) = exposure.first() {
        world.apply(event);
    }
    while let Some(event) = incoming.recv().await {
        let mut touched: BTreeSet<Touched> = BTreeSet::new();
        let mut next = Some(event);
        while let Some(event) = next {
            let exposed = exposure.narrow(event);
            touched.extend(exposed.into_iter().flat_map(|event| world.apply(event)));
            next = incoming.try_recv().ok();
        }
        directory.update(&world, &touched);
    }
}
