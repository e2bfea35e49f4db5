//! Routes to the pods of other nodes: the kernel is compared with what the World asks for, and
//! corrected.

use kernel::route::Rtnetlink;
use model::World;
use pod::wiring::NodeRoutes;

/// Keeps the routes of one node.
#[derive(Debug)]
pub(super) struct Routes {
    kernel: Rtnetlink,
    node: std::sync::Arc<str>,
    last: Option<NodeRoutes>,
}

impl Routes {
    /// Keeps the routes of the namespace that `kernel` was opened in.
    pub(super) fn new(kernel: Rtnetlink, node: std::sync::Arc<str>) -> Self {
        Self { kernel, node, last: None }
    }

    /// Makes the kernel's routes those that `world` asks for. Answers whether they are; if not, it
    /// is worth another try.
    pub(super) fn sync(&mut self, world: &World) -> bool {
        let routes = plan::plan_routes(world, &self.node);
        let wanted = NodeRoutes {
            others: routes.into_iter().map(|route| (route.destination, route.gateway)).collect(),
            own: world.node(&self.node).map(|node| node.pod_cidrs.clone()).unwrap_or_default(),
        };
        if self.last.as_ref() == Some(&wanted) {
            return true;
        }
        let changes = match self.kernel.routes() {
            Ok(held) => wanted.diff(&held),
            Err(error) => {
                tracing::error!(%error, "routes to other nodes");
                return false;
            }
        };
        for line in changes.to_string().lines() {
            tracing::info!("routes: {line}");
        }
        match changes.apply(&mut self.kernel) {
            Ok(()) => {
                self.last = Some(wanted);
                true
            }
            Err(failures) => {
                for error in failures {
                    tracing::warn!(%error, "a route to another node is missing");
                }
                self.last = None;
                false
            }
        }
    }
}
