//! Addresses that are this host's by a route alone: no link has them, and packets to them are delivered
//! here all the same.
//!
//! They stand in the table `local`, as the routes do that the kernel makes for the addresses of links.

use std::net::IpAddr;

use ipnet::IpNet;
use nix::libc;

use super::{RefusedAddress, Rtnetlink, family, ip, malformed, octets};
use crate::Result;
use crate::netlink::{Encoder, Pipeline, attributes, flags};

/// Length of `struct rtmsg`.
const HEADER: usize = 12;

/// An address that is delivered here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LocalRoute {
    /// The address.
    pub address: IpAddr,
    /// The source of what this host itself sends there, an address that a link of it has; `None` for
    /// the address itself.
    pub source: Option<IpAddr>,
}

impl Rtnetlink {
    /// The local routes of one address by the link of this index that were made with `protocol`.
    pub fn local_routes(&mut self, index: u32, protocol: u8) -> Result<Vec<LocalRoute>> {
        let operation = "list local routes";
        let messages = self.socket.dump(operation, libc::RTM_GETROUTE, &[0; HEADER])?;
        let mut found = Vec::new();
        for message in messages.iter().filter(|m| m.kind == libc::RTM_NEWROUTE) {
            let route = parse(&message.payload, index, protocol);
            found.extend(route.ok_or_else(|| malformed(operation))?);
        }
        Ok(found)
    }

    /// Has addresses delivered here, by the link of this index, which has to be up; one that is already
    /// is no error. Answers those that were refused: they keep no other from being added.
    ///
    /// # Errors
    /// It is not known which were added.
    pub fn add_local_routes(
        &mut self,
        index: u32,
        protocol: u8,
        routes: &[LocalRoute],
    ) -> Result<Vec<RefusedAddress>> {
        let how = flags::CREATE | flags::REPLACE;
        self.change_local_routes(libc::RTM_NEWROUTE, how, &[], index, protocol, routes)
    }

    /// Has addresses delivered here no more; one that is not is no error. Answers those that were
    /// refused.
    ///
    /// # Errors
    /// It is not known which were deleted.
    pub fn delete_local_routes(
        &mut self,
        index: u32,
        protocol: u8,
        routes: &[LocalRoute],
    ) -> Result<Vec<RefusedAddress>> {
        let gone = [libc::ESRCH, libc::ENODEV];
        self.change_local_routes(libc::RTM_DELROUTE, 0, &gone, index, protocol, routes)
    }

    fn change_local_routes(
        &mut self,
        kind: u16,
        how: u16,
        harmless: &[i32],
        index: u32,
        protocol: u8,
        routes: &[LocalRoute],
    ) -> Result<Vec<RefusedAddress>> {
        let operation = "change local routes";
        let mut pipeline = Pipeline::new(&mut self.socket, operation);
        for route in routes {
            let request = encode(index, protocol, route);
            pipeline.push(kind, how, |message| message.raw(&request))?;
        }
        let refused = pipeline.finish()?.into_iter();
        let refused = refused.filter(|(_, verdict)| !harmless.contains(&verdict.errno));
        let refused = refused.filter_map(|(position, verdict)| {
            let net = IpNet::from(routes[position].address);
            let error = verdict.into_result(&format!("{operation}: {net}")).err()?;
            Some(RefusedAddress { net, error })
        });
        Ok(refused.collect())
    }
}

fn encode(index: u32, protocol: u8, route: &LocalRoute) -> Vec<u8> {
    let address = octets(route.address);
    let mut header = [0; HEADER];
    header[0] = family(route.address);
    header[1] = IpNet::from(route.address).prefix_len();
    header[4] = libc::RT_TABLE_LOCAL;
    header[5] = protocol;
    header[6] = libc::RT_SCOPE_HOST;
    header[7] = libc::RTN_LOCAL;
    let mut request = Encoder::new();
    request.raw(&header);
    request.attribute(libc::RTA_DST, &address);
    request.u32(libc::RTA_OIF, index);
    if let Some(source) = route.source {
        request.attribute(libc::RTA_PREFSRC, &octets(source));
    }
    request.into_bytes()
}

/// Reads a listed route. `Some(None)` is another one than those that are meant.
fn parse(payload: &[u8], index: u32, protocol: u8) -> Option<Option<LocalRoute>> {
    let header = payload.first_chunk::<HEADER>()?;
    let (mut table, mut link) = (u32::from(header[4]), None);
    let (mut address, mut source) = (None, None);
    for attribute in attributes(&payload[HEADER..]) {
        match attribute.kind {
            libc::RTA_TABLE => table = attribute.u32()?,
            libc::RTA_DST => address = Some(ip(attribute)?),
            libc::RTA_OIF => link = attribute.u32(),
            libc::RTA_PREFSRC => source = Some(ip(attribute)?),
            _ => {}
        }
    }
    let is_meant = table == u32::from(libc::RT_TABLE_LOCAL)
        && header[7] == libc::RTN_LOCAL
        && header[5] == protocol
        && link == Some(index);
    let of_one = |address: &IpAddr| IpNet::from(*address).prefix_len() == header[1];
    let route = address.filter(of_one).map(|address| LocalRoute { address, source });
    Some(route.filter(|_| is_meant))
}
