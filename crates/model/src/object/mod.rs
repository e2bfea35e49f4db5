//! Slim decodes of API objects: only the fields that something in Portolan reads.
//!
//! Everything is optional on the wire; a missing field takes the default that the API documents.
//! Addresses that can't be read are dropped here, so that one bad value never stops an object.

mod endpointslice;
mod labels;
mod meta;
mod namespace;
mod node;
mod pod;
mod service;
mod servicecidr;
mod wire;

pub use endpointslice::{
    AddressType, Endpoint, EndpointConditions, EndpointPort, EndpointSlice, HEADLESS_LABEL,
    SERVICE_NAME_LABEL, SliceWithPodNames,
};
pub use labels::Labels;
pub use meta::Meta;
pub use namespace::Namespace;
pub use node::{Node, NodeAddress, Taint, ZONE_LABEL};
pub use pod::{Pod, PodCondition, PodPhase};
pub use service::{
    IpMode, OWN_ANNOTATIONS, PROXY_NAME_LABEL, Service, ServicePort, ServiceType, SessionAffinity,
    TargetPort, TrafficPolicy,
};
pub use servicecidr::ServiceCidr;
