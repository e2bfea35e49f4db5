//! Links: veth pairs, bridges and dummies made, changed, listed, deleted.

use std::fmt;
use std::os::fd::{AsFd, AsRawFd};

use nix::libc;

use super::{Rtnetlink, malformed, was_there};
use crate::netlink::{Encoder, Message, attributes, flags};
use crate::netns::Netns;
use crate::{Error, Result};

/// Length of `struct ifinfomsg`.
const HEADER: usize = 16;
/// Attribute of a veth's data: the other end, a whole link message (`linux/veth.h`).
const VETH_INFO_PEER: u16 = 1;

/// A link-layer address of Ethernet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// A link as the kernel lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Index, unique in the namespace.
    pub index: u32,
    /// Name, at most 15 bytes.
    pub name: String,
    /// Kind of a virtual link (`veth`, `bridge`, `dummy`); `None` for hardware and loopback.
    pub kind: Option<String>,
    /// Link-layer address, if it is an Ethernet one.
    pub mac: Option<Mac>,
    /// Largest packet, in bytes.
    pub mtu: u32,
    /// `IFF_*` flags.
    pub flags: u32,
    /// Index of the bridge that it is a port of.
    pub master: Option<u32>,
    /// Its other end is in another network namespace.
    pub is_joined_elsewhere: bool,
    /// Name of its queueing discipline; `noqueue` lets packets out as they come.
    pub qdisc: String,
}

impl Link {
    /// Whether it was set up (it may have no carrier).
    pub fn is_up(&self) -> bool {
        self.flags & libc::IFF_UP as u32 != 0
    }

    fn parse(payload: &[u8]) -> Option<Self> {
        let header = payload.first_chunk::<HEADER>()?;
        let number = |at: usize| {
            u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
        };
        let mut link = Self {
            index: number(4),
            name: String::new(),
            kind: None,
            mac: None,
            mtu: 0,
            flags: number(8),
            master: None,
            is_joined_elsewhere: false,
            qdisc: String::new(),
        };
        for attribute in attributes(&payload[HEADER..]) {
            match attribute.kind {
                libc::IFLA_IFNAME => link.name = attribute.text()?.to_owned(),
                libc::IFLA_MTU => link.mtu = attribute.u32()?,
                libc::IFLA_MASTER => link.master = attribute.u32(),
                libc::IFLA_QDISC => link.qdisc = attribute.text()?.to_owned(),
                libc::IFLA_LINK_NETNSID => link.is_joined_elsewhere = true,
                libc::IFLA_ADDRESS => link.mac = attribute.value.try_into().ok().map(Mac),
                libc::IFLA_LINKINFO => {
                    link.kind = attribute
                        .nested()
                        .find(|inner| inner.kind == libc::IFLA_INFO_KIND)
                        .and_then(|kind| kind.text().map(str::to_owned));
                }
                _ => {}
            }
        }
        Some(link)
    }
}

/// One end of a veth pair to be made.
#[derive(Debug, Clone, Copy)]
pub struct VethEnd<'a> {
    /// Its name, unused in its namespace.
    pub name: &'a str,
    /// Its namespace; `None` is that of the socket.
    pub netns: Option<&'a Netns>,
    /// Its MTU in bytes; `None` is the kernel's default, 1500.
    pub mtu: Option<u32>,
    /// Its address; `None` is a random one.
    pub mac: Option<Mac>,
}

impl<'a> VethEnd<'a> {
    /// An end in the socket's namespace with the kernel's defaults.
    pub fn new(name: &'a str) -> Self {
        Self { name, netns: None, mtu: None, mac: None }
    }

    fn encode(&self, to: &mut Encoder) {
        to.text(libc::IFLA_IFNAME, self.name);
        if let Some(netns) = self.netns {
            to.u32(libc::IFLA_NET_NS_FD, descriptor(netns));
        }
        if let Some(mtu) = self.mtu {
            to.u32(libc::IFLA_MTU, mtu);
        }
        if let Some(mac) = self.mac {
            to.attribute(libc::IFLA_ADDRESS, &mac.0);
        }
    }
}

/// A change of a link; what is `None` stays as it is.
#[derive(Debug, Clone, Copy, Default)]
pub struct LinkChange<'a> {
    /// Set up or down.
    pub up: Option<bool>,
    /// Join the bridge of this index; 0 leaves the bridge.
    pub master: Option<u32>,
    /// Rename; the link must be down.
    pub name: Option<&'a str>,
    /// Move to another namespace, which sets it down and takes its addresses.
    pub netns: Option<&'a Netns>,
    /// MTU in bytes.
    pub mtu: Option<u32>,
    /// Link-layer address.
    pub mac: Option<Mac>,
}

impl Rtnetlink {
    /// All links.
    pub fn links(&mut self) -> Result<Vec<Link>> {
        let operation = "list links";
        let messages = self.socket.dump(operation, libc::RTM_GETLINK, &header(0, 0, 0))?;
        let is_link = |m: &&Message| m.kind == libc::RTM_NEWLINK;
        messages
            .iter()
            .filter(is_link)
            .map(|m| Link::parse(&m.payload).ok_or_else(|| malformed(operation)))
            .collect()
    }

    /// The link of that name, if there is one.
    pub fn link(&mut self, name: &str) -> Result<Option<Link>> {
        let operation = format!("look up link {name}");
        let mut request = Encoder::new();
        request.raw(&header(0, 0, 0));
        request.text(libc::IFLA_IFNAME, name);
        match self.socket.query(&operation, libc::RTM_GETLINK, 0, request.bytes()) {
            Ok(answers) => {
                let answer = answers.first().ok_or_else(|| malformed(&operation))?;
                Link::parse(&answer.payload).map(Some).ok_or_else(|| malformed(&operation))
            }
            Err(error) if error.errno() == Some(libc::ENODEV) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The link of that name, which has to exist.
    pub fn expect_link(&mut self, name: &str) -> Result<Link> {
        self.link(name)?
            .ok_or_else(|| Error::os(format!("look up link {name}"), nix::errno::Errno::ENODEV))
    }

    /// Makes a veth pair, each end directly in its namespace under its final name; both are down.
    pub fn add_veth(&mut self, end: VethEnd<'_>, peer: VethEnd<'_>) -> Result<()> {
        let mut request = Encoder::new();
        request.raw(&header(0, 0, 0));
        end.encode(&mut request);
        request.nested(libc::IFLA_LINKINFO, |info| {
            info.text(libc::IFLA_INFO_KIND, "veth");
            info.nested(libc::IFLA_INFO_DATA, |data| {
                data.nested(VETH_INFO_PEER, |other| {
                    other.raw(&header(0, 0, 0));
                    // Without a namespace of its own the peer would follow the first end.
                    peer.encode(other);
                });
            });
        });
        self.add(&format!("add veth {} with peer {}", end.name, peer.name), request)
    }

    /// Makes a bridge, down and without ports.
    pub fn add_bridge(&mut self, name: &str) -> Result<()> {
        self.add_plain("bridge", name)
    }

    /// Makes a dummy link if there is none of that name, down: it carries nothing, and makes the
    /// addresses that it is given the host's own. Answers what there is.
    ///
    /// # Errors
    /// `EEXIST` if a link of another kind has the name.
    pub fn ensure_dummy(&mut self, name: &str) -> Result<Link> {
        const KIND: &str = "dummy";
        match self.add_plain(KIND, name) {
            Err(error) if error.errno() != Some(libc::EEXIST) => return Err(error),
            _ => {}
        }
        let link = self.expect_link(name)?;
        if link.kind.as_deref() == Some(KIND) {
            return Ok(link);
        }
        let kind = link.kind.as_deref().unwrap_or("hardware");
        let operation = format!("add {KIND} {name}, which is the name of a {kind} link");
        Err(Error::os(operation, nix::errno::Errno::EEXIST))
    }

    /// Makes a link of a kind that needs to be told nothing but its name.
    fn add_plain(&mut self, kind: &str, name: &str) -> Result<()> {
        let mut request = Encoder::new();
        request.raw(&header(0, 0, 0));
        request.text(libc::IFLA_IFNAME, name);
        request.nested(libc::IFLA_LINKINFO, |info| info.text(libc::IFLA_INFO_KIND, kind));
        self.add(&format!("add {kind} {name}"), request)
    }

    fn add(&mut self, operation: &str, request: Encoder) -> Result<()> {
        let how = flags::CREATE | flags::EXCLUSIVE;
        self.socket.request(operation, libc::RTM_NEWLINK, how, request.bytes())
    }

    /// Changes the link of that index.
    pub fn change_link(&mut self, index: u32, change: LinkChange<'_>) -> Result<()> {
        let (state, mask) = match change.up {
            Some(up) => (if up { libc::IFF_UP as u32 } else { 0 }, libc::IFF_UP as u32),
            None => (0, 0),
        };
        let mut request = Encoder::new();
        request.raw(&header(index, state, mask));
        if let Some(master) = change.master {
            request.u32(libc::IFLA_MASTER, master);
        }
        if let Some(name) = change.name {
            request.text(libc::IFLA_IFNAME, name);
        }
        if let Some(netns) = change.netns {
            request.u32(libc::IFLA_NET_NS_FD, descriptor(netns));
        }
        if let Some(mtu) = change.mtu {
            request.u32(libc::IFLA_MTU, mtu);
        }
        if let Some(mac) = change.mac {
            request.attribute(libc::IFLA_ADDRESS, &mac.0);
        }
        let operation = format!("change link {index}");
        self.socket.request(&operation, libc::RTM_NEWLINK, 0, request.bytes())
    }

    /// Sets the link of that name up and answers what it is.
    pub fn set_up(&mut self, name: &str) -> Result<Link> {
        let link = self.expect_link(name)?;
        self.change_link(link.index, LinkChange { up: Some(true), ..LinkChange::default() })?;
        Ok(link)
    }

    /// Deletes the link of that name, with its peer if it is a veth. Answers whether there was one.
    pub fn delete_link(&mut self, name: &str) -> Result<bool> {
        let mut request = Encoder::new();
        request.raw(&header(0, 0, 0));
        request.text(libc::IFLA_IFNAME, name);
        let operation = format!("delete link {name}");
        let result = self.socket.request(&operation, libc::RTM_DELLINK, 0, request.bytes());
        was_there(result, &[libc::ENODEV])
    }
}

/// `struct ifinfomsg`: family and type are left open.
fn header(index: u32, state: u32, mask: u32) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&state.to_ne_bytes());
    header[12..16].copy_from_slice(&mask.to_ne_bytes());
    header
}

fn descriptor(netns: &Netns) -> u32 {
    u32::try_from(netns.as_fd().as_raw_fd()).expect("an open descriptor is not negative")
}
