//! What Portolan knows of a Kubernetes cluster: typed names, slim decodes of the API objects (only
//! the fields that something here reads), the [`World`] made of them, and pure deciders.
//!
//! This crate does no I/O, holds no clock and no lock, and is deterministic. It knows nothing of
//! the kernel, of packets' paths or of how objects arrive.
//!
//! Start reading at [`World`]; the objects are in [`object`], who gives out addresses in [`alloc`].

pub mod address;
pub mod alloc;
mod intern;
pub mod name;
pub mod object;
mod selector;
pub mod slices;
pub mod spelling;
mod world;

pub use name::{Family, ObjectName, Protocol};
pub use selector::{BadSelector, LabelSelector};
pub use world::{Event, Kind, Object, Touched, World};
