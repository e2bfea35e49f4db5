//! What a data plane has to be able to do.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use plan::{Group, GroupId, NodePlan};

use crate::Result;
use crate::sync::Updates;

/// A part of a plan that is to be programmed.
#[derive(Debug, Clone)]
pub struct Delta<'p> {
    /// The plan that the node's own facts and the service ranges are taken from, if they changed.
    pub node: Option<&'p NodePlan>,
    /// Groups to replace.
    pub groups: Vec<Replacement>,
}

/// A group as it is to be from now on; `None` removes it.
pub type Replacement = (GroupId, Option<Arc<Group>>);

/// One kernel interface that carries plans.
///
/// What a call changes for connections, it changes as a whole or not at all, and there is no moment
/// at which a group that is not part of the call is not programmed.
pub trait Backend: Send {
    /// Name, as users choose it.
    fn name(&self) -> &'static str;

    /// Whether it looks at the sockets of this node, not at what they send.
    fn asks_sockets(&self) -> bool {
        false
    }

    /// Reads what the kernel holds and makes it equal to the groups of `whole`, whatever stood
    /// there before. What is equal already is not touched. `whole.node` must be given.
    ///
    /// Answers the number of operations.
    fn restore(&mut self, whole: &Delta<'_>) -> Result<usize>;

    /// Programs a change on top of the last successful call; `restore` must have been the first.
    /// After a failure only `restore` may follow.
    ///
    /// Answers the number of operations.
    fn update(&mut self, change: &Delta<'_>) -> Result<usize>;

    /// Compares what the kernel holds with `whole`, changes nothing, and answers each difference in a
    /// sentence; none if they are equal. `whole.node` must be given.
    fn verify(&mut self, whole: &Delta<'_>) -> Result<Vec<String>>;

    /// Forgets what connection tracking remembers of UDP clients that it leads to endpoints which do
    /// not serve `groups` any more, or to which no frontend leads any more; what else remembers clients is
    /// treated alike. To be called once the groups are programmed. See [`crate::conntrack`].
    ///
    /// Answers how many it forgot.
    fn forget_stale(&mut self, groups: &[Arc<Group>]) -> Result<usize>;

    /// Who notices when others change what this backend has programmed, from the first restore on. To be
    /// called in the network namespace of the data plane and within a tokio runtime.
    fn watcher(&mut self) -> Result<Box<dyn Watcher>>;

    /// Forgets the connections that were led to endpoints by what the kernel holds of this backend,
    /// programmed by a process before included; answers how many. Before a cleanup it makes connection
    /// tracking what it was: a client that goes on is told by whoever has the address now.
    fn forget_connections(&mut self) -> Result<usize>;

    /// Removes everything this backend ever programs. Succeeds if there is nothing.
    fn cleanup(&mut self) -> Result<()>;

    /// Lets go what only established connections needed, such as endpoints that take no new ones.
    /// Answers whether nothing is left of that; else it is to be called again.
    fn settle(&mut self) -> Result<bool> {
        Ok(true)
    }

    /// Takes no new connections any more, because another backend does, and removes what none of the
    /// established ones needs. Answers whether nothing is left; else it is to be called again.
    ///
    /// Connections that connection tracking translates need nothing.
    fn retire(&mut self) -> Result<bool> {
        self.cleanup().map(|()| true)
    }
}

/// Notices when others change a data plane.
pub trait Watcher: Send {
    /// Hands [`Update::Tampered`](crate::Update::Tampered) to the sync loop when others have changed
    /// something. Ends when the loop does.
    fn run(self: Box<Self>, updates: Updates) -> Watching;
}

/// A watcher at work.
pub type Watching = Pin<Box<dyn Future<Output = ()> + Send>>;
