//! Noticing that somebody else changed our virtual servers or took our link away.
//!
//! Of its companion's table the kernel tells. Of virtual servers it tells nobody, so they are listed from time
//! to time, less often the longer that takes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use kernel::ipvs::{self, Operation, VirtualServer, VirtualServerKey, VirtualServerState};
use kernel::route::Rtnetlink;

use super::link::LINK;
use crate::backend::{Watcher, Watching};
use crate::sync::{Update, Updates};

/// How often servers are listed at most.
const INTERVAL: Duration = Duration::from_millis(500);
/// So many times longer than a list takes the next one waits.
const SHARE: u32 = 100;

/// What backend and watcher have in common: what ought to be there.
#[derive(Debug, Clone, Default)]
pub(super) struct Own(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// What is seen meanwhile is neither the old nor the new.
    is_writing: bool,
    servers: BTreeMap<VirtualServerKey, Option<VirtualServer>>,
    has_link: bool,
}

impl Own {
    /// Has something written.
    pub(super) fn writing<T>(&self, write: impl FnOnce() -> T) -> T {
        self.with(|state| state.is_writing = true);
        let result = write();
        self.with(|state| state.is_writing = false);
        result
    }

    /// These servers are there, and no others of ours.
    pub(super) fn begin(
        &self,
        servers: impl Iterator<Item = (VirtualServerKey, Option<VirtualServer>)>,
    ) {
        self.with(|state| state.servers = servers.collect());
    }

    /// These operations were carried out.
    pub(super) fn note(&self, operations: &[Operation]) {
        self.with(|state| {
            for operation in operations {
                match operation {
                    Operation::AddServer(server) | Operation::ChangeServer(server) => {
                        state.servers.insert(server.key, Some(*server));
                    }
                    Operation::DeleteServer(key) => _ = state.servers.remove(key),
                    _ => {}
                }
            }
        });
    }

    /// The link is there, or is not.
    pub(super) fn note_link(&self, is_there: bool) {
        self.with(|state| state.has_link = is_there);
    }

    fn with<T>(&self, body: impl FnOnce(&mut State) -> T) -> T {
        body(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Watches virtual servers and link.
pub(super) struct ServerWatcher {
    ipvs: ipvs::Ipvs,
    rtnetlink: Rtnetlink,
    own: Own,
    companion: Box<dyn Watcher>,
}

impl ServerWatcher {
    /// Opens them in the calling thread's network namespace. `companion` watches the table.
    pub(super) fn new(
        ipvs: ipvs::Ipvs,
        own: Own,
        companion: Box<dyn Watcher>,
    ) -> kernel::Result<Self> {
        Ok(Self { ipvs, rtnetlink: Rtnetlink::open()?, own, companion })
    }
}

/// Servers, and whether there is the link, as they are now.
type Seen = (BTreeMap<VirtualServerKey, Option<VirtualServer>>, bool);

fn look(ipvs: &mut ipvs::Ipvs, rtnetlink: &mut Rtnetlink) -> kernel::Result<Seen> {
    let servers = ipvs.servers()?.into_iter().map(|state| match state {
        VirtualServerState::Plain(server) => (server.key, Some(server)),
        VirtualServerState::Foreign(key) => (key, None),
    });
    Ok((servers.collect(), rtnetlink.link(LINK)?.is_some()))
}

async fn watch(mut ipvs: ipvs::Ipvs, mut rtnetlink: Rtnetlink, own: Own, updates: Updates) {
    let mut pause = INTERVAL;
    loop {
        tokio::time::sleep(pause).await;
        let start = Instant::now();
        let before = own.with(|state| (state.is_writing, state.servers.clone()));
        let Ok((servers, has_link)) = look(&mut ipvs, &mut rtnetlink) else { continue };
        pause = INTERVAL.max(start.elapsed() * SHARE);
        let is_other = own.with(|state| {
            let is_still = !state.is_writing && before == (false, state.servers.clone());
            let differs = |(key, server)| servers.get(key) != Some(server);
            let is_missing = state.servers.iter().any(differs) || state.has_link && !has_link;
            is_still && is_missing
        });
        if is_other && updates.send(Update::Tampered("another program".into())).is_err() {
            return;
        }
    }
}

impl Watcher for ServerWatcher {
    fn run(self: Box<Self>, updates: Updates) -> Watching {
        let servers = watch(self.ipvs, self.rtnetlink, self.own, updates.clone());
        let companion = self.companion.run(updates);
        Box::pin(async move {
            tokio::select! {
                () = servers => {}
                () = companion => {}
            }
        })
    }
}
