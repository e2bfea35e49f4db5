//! Changes of virtual servers and destinations, many at a time.

use std::fmt;
use std::net::SocketAddr;

use super::destination::{Destination, encode_address};
use super::server::{VirtualServer, VirtualServerKey};
use super::{Ipvs, header, uapi};
use crate::netlink::{Encoder, Pipeline};
use crate::{Error, Result};

/// One change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operation {
    /// Makes a virtual server, without destinations; `EEXIST` if there is one with its key.
    AddServer(VirtualServer),
    /// Makes a virtual server that there is like this one; `ESRCH` if there is none. Its
    /// destinations and connections stay.
    ChangeServer(VirtualServer),
    /// Deletes a virtual server with its destinations; `ESRCH` if there is none. What becomes of its
    /// connections is said at `DeleteDestination`.
    DeleteServer(VirtualServerKey),
    /// Gives a virtual server a destination; `EEXIST` if it has it, `ESRCH` if there is no server,
    /// `EINVAL` if the address is not one of a host. In a namespace that has never had an IPv4
    /// address, not even that of a loopback link that is up, no IPv4 address is
    /// (`ip_vs_add_dest()` asks the routing tables).
    AddDestination(VirtualServerKey, Destination),
    /// Makes a destination that there is like this one; `ENOENT` if the server does not have it,
    /// `ESRCH` if there is no server. Its connections stay.
    ChangeDestination(VirtualServerKey, Destination),
    /// Takes a destination from a virtual server; `ENOENT` if the server does not have it, `ESRCH`
    /// if there is no server.
    ///
    /// Packets of its connections are dropped from then on, and go on if it is added again; with
    /// the sysctl `net/ipv4/vs/expire_nodest_conn` at 1, the next packet ends its connection, which
    /// the client is told by a reset.
    DeleteDestination(VirtualServerKey, SocketAddr),
}

/// An operation that the kernel refused, and why.
#[derive(Debug)]
pub struct Refusal {
    /// Index of the operation in the list.
    pub operation: usize,
    /// The kernel's answer, naming the operation.
    pub error: Error,
}

impl Ipvs {
    /// Carries operations out, one after the other, and answers those that were refused, in their
    /// order.
    ///
    /// This is no transaction: packets see each operation as soon as it is done, and a refused one
    /// keeps none of the others from being tried. Only the order is certain. So a server that is to
    /// be reached at once gets its destinations in the same list right behind it, and connections
    /// that come in between are refused for want of a destination.
    ///
    /// A few thousand operations make one system call, during which other users of generic netlink
    /// wait their turn.
    ///
    /// # Errors
    /// It is not known which operations were carried out; the lists tell.
    pub fn apply(&mut self, operations: &[Operation]) -> Result<Vec<Refusal>> {
        let mut pipeline = Pipeline::new(&mut self.socket, "change virtual servers");
        for operation in operations {
            pipeline.push(self.family, 0, |message| operation.encode(message))?;
        }
        let refused = pipeline.finish()?.into_iter();
        let refusals = refused.filter_map(|(operation, verdict)| {
            let error = verdict.into_result(&operations[operation].to_string()).err()?;
            Some(Refusal { operation, error })
        });
        Ok(refusals.collect())
    }
}

impl Operation {
    fn command(&self) -> u8 {
        match self {
            Self::AddServer(_) => uapi::IPVS_CMD_NEW_SERVICE,
            Self::ChangeServer(_) => uapi::IPVS_CMD_SET_SERVICE,
            Self::DeleteServer(_) => uapi::IPVS_CMD_DEL_SERVICE,
            Self::AddDestination(..) => uapi::IPVS_CMD_NEW_DEST,
            Self::ChangeDestination(..) => uapi::IPVS_CMD_SET_DEST,
            Self::DeleteDestination(..) => uapi::IPVS_CMD_DEL_DEST,
        }
    }

    /// Writes the payload of its message.
    fn encode(&self, to: &mut Encoder) {
        to.raw(&header(self.command()));
        to.nested(uapi::IPVS_CMD_ATTR_SERVICE, |e| match self {
            Self::AddServer(server) | Self::ChangeServer(server) => server.encode(e),
            Self::DeleteServer(key)
            | Self::AddDestination(key, _)
            | Self::ChangeDestination(key, _)
            | Self::DeleteDestination(key, _) => key.encode(e),
        });
        match self {
            Self::AddServer(_) | Self::ChangeServer(_) | Self::DeleteServer(_) => {}
            Self::AddDestination(_, destination) | Self::ChangeDestination(_, destination) => {
                to.nested(uapi::IPVS_CMD_ATTR_DEST, |e| destination.encode(e));
            }
            Self::DeleteDestination(_, address) => {
                to.nested(uapi::IPVS_CMD_ATTR_DEST, |e| encode_address(*address, e));
            }
        }
    }
}

/// What is tried, for errors: `add destination 10.244.1.2:80 to virtual server TCP 10.96.0.1:80`.
impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddServer(server) => {
                write!(f, "add virtual server {} ({})", server.key, server.scheduler)
            }
            Self::ChangeServer(server) => {
                write!(f, "change virtual server {} ({})", server.key, server.scheduler)
            }
            Self::DeleteServer(key) => write!(f, "delete virtual server {key}"),
            Self::AddDestination(key, Destination { address, .. }) => {
                write!(f, "add destination {address} to virtual server {key}")
            }
            Self::ChangeDestination(key, Destination { address, weight }) => {
                write!(f, "change destination {address} of virtual server {key} (weight {weight})")
            }
            Self::DeleteDestination(key, address) => {
                write!(f, "delete destination {address} of virtual server {key}")
            }
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.error, f)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Scheduler, Transport};
    use super::*;
    use crate::genetlink;
    use crate::netlink::attributes;

    #[test]
    fn each_names_what_it_is_about_and_carries_no_more() {
        let key = VirtualServerKey::Address {
            transport: Transport::Tcp,
            address: "10.96.0.1:80".parse().unwrap(),
        };
        let server = VirtualServer::new(key, Scheduler::RoundRobin);
        let address = "10.244.1.2:8080".parse().unwrap();
        let destination = Destination { address, weight: 3 };
        let (service, dest) = (uapi::IPVS_CMD_ATTR_SERVICE, uapi::IPVS_CMD_ATTR_DEST);
        for (operation, command, kinds, text) in [
            (
                Operation::AddServer(server),
                1,
                vec![service],
                "add virtual server TCP 10.96.0.1:80 (rr)",
            ),
            (
                Operation::ChangeServer(server),
                2,
                vec![service],
                "change virtual server TCP 10.96.0.1:80 (rr)",
            ),
            (
                Operation::DeleteServer(key),
                3,
                vec![service],
                "delete virtual server TCP 10.96.0.1:80",
            ),
            (
                Operation::AddDestination(key, destination),
                5,
                vec![service, dest],
                "add destination 10.244.1.2:8080 to virtual server TCP 10.96.0.1:80",
            ),
            (
                Operation::ChangeDestination(key, destination),
                6,
                vec![service, dest],
                "change destination 10.244.1.2:8080 of virtual server TCP 10.96.0.1:80 (weight 3)",
            ),
            (
                Operation::DeleteDestination(key, address),
                7,
                vec![service, dest],
                "delete destination 10.244.1.2:8080 of virtual server TCP 10.96.0.1:80",
            ),
        ] {
            let mut message = Encoder::new();
            operation.encode(&mut message);
            assert_eq!(message.bytes()[..2], [command, uapi::IPVS_GENL_VERSION]);
            let body = attributes(&message.bytes()[genetlink::HEADER..]);
            assert_eq!(body.map(|a| a.kind).collect::<Vec<_>>(), kinds);
            assert_eq!(operation.to_string(), text);
        }
    }
}
