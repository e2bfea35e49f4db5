//! From the cluster to this node: what each Service means for packets here, every policy decided.
//!
//! [`plan_service`] reads a [`model::World`] and answers a [`Group`] of frontends; a [`NodePlan`]
//! holds the groups, and [`trace`](trace::trace) explains what it does to a packet. A data plane prints a
//! `NodePlan`; it never asks what a Service is.
//!
//! Pure and deterministic: no I/O, no clock, no lock, and the same World gives the same plan.
//! Whatever Kubernetes decides about traffic (policies, topology, readiness, masquerading) is
//! decided in this crate and nowhere else.
//!
//! Start reading at [`frontend`] for the shape, then [`service`] for how it comes about.

mod claims;
pub mod endpoints;
pub mod frontend;
pub mod node;
pub mod node_plan;
pub mod routes;
pub mod service;
pub mod trace;

pub use frontend::{
    Action, Affinity, Backend, EndpointSet, Frontend, FrontendAddress, FrontendKey, Group, GroupId,
    HealthCheck, Origin, PortId, Refusal, Rule, Scope, SetId, UdpPort,
};
pub use node::{LocalDetector, NodeFacts, NodePortAddresses, NodeSettings};
pub use node_plan::NodePlan;
pub use routes::{Route, plan_routes};
pub use service::plan_service;
