//! Virtual addresses: local routes by a dummy link of our own.
//!
//! IPVS takes what is delivered to this host, so its virtual addresses have to be this host's. A route in
//! the table `local` makes them so as an address of the link would, and costs the same at any number;
//! the source of what the host itself sends there is said too.

use std::collections::BTreeSet;
use std::net::IpAddr;

use kernel::route::{LocalRoute, Rtnetlink};
use model::Family;

/// Name of the link.
pub(super) const LINK: &str = "portolan-ipvs";

/// The link that a kube-proxy binds the same addresses to: they are no more this host's own than on ours.
const KUBE_PROXYS: &str = "kube-ipvs0";

/// Who made the routes (`RTPROT_*`), a number of nobody in `/etc/iproute2/rt_protos`.
const PROTOCOL: u8 = 155;

/// The link of a network namespace.
#[derive(Debug)]
pub(super) struct Link {
    rtnetlink: Rtnetlink,
}

impl Link {
    /// Opens it in the calling thread's network namespace. Changes nothing.
    pub(super) fn open() -> kernel::Result<Self> {
        Ok(Self { rtnetlink: Rtnetlink::open()? })
    }

    /// The addresses of all other links.
    pub(super) fn own_addresses(&mut self) -> kernel::Result<BTreeSet<IpAddr>> {
        let kube_proxys = self.rtnetlink.link(KUBE_PROXYS)?.map(|link| link.index);
        let virtual_links = [self.index()?, kube_proxys];
        let addresses = self.rtnetlink.addresses()?.into_iter();
        let own = addresses.filter(|a| !virtual_links.contains(&Some(a.index)));
        Ok(own.map(|a| a.net.addr()).collect())
    }

    /// The virtual addresses that there are.
    pub(super) fn addresses(&mut self) -> kernel::Result<BTreeSet<IpAddr>> {
        Ok(self.routes()?.into_iter().map(|route| route.address).collect())
    }

    fn routes(&mut self) -> kernel::Result<Vec<LocalRoute>> {
        match self.index()? {
            Some(index) => self.rtnetlink.local_routes(index, PROTOCOL),
            None => Ok(Vec::new()),
        }
    }

    /// Whether the link is there.
    pub(super) fn exists(&mut self) -> kernel::Result<bool> {
        Ok(self.index()?.is_some())
    }

    fn index(&mut self) -> kernel::Result<Option<u32>> {
        Ok(self.rtnetlink.link(LINK)?.map(|link| link.index))
    }

    /// Makes the link and sets it up, if that is not so yet. Answers its index.
    fn ensure(&mut self) -> kernel::Result<u32> {
        let is_ready =
            |link: &kernel::route::Link| link.is_up() && link.kind.as_deref() == Some("dummy");
        if let Some(link) = self.rtnetlink.link(LINK)?.filter(is_ready) {
            return Ok(link.index);
        }
        let link = self.rtnetlink.ensure_dummy(LINK)?;
        self.rtnetlink.set_up(LINK)?;
        Ok(link.index)
    }

    /// Adds virtual addresses, and the link if it is not there. `sources` are the host's addresses that
    /// it sends to them with. Answers how many were added, and those that were refused with the reason.
    pub(super) fn add(
        &mut self,
        addresses: &BTreeSet<IpAddr>,
        sources: &[IpAddr],
    ) -> kernel::Result<Vec<(IpAddr, String)>> {
        if addresses.is_empty() {
            return Ok(Vec::new());
        }
        let index = self.ensure()?;
        let source = |address: IpAddr| {
            sources.iter().copied().find(|source| Family::of(*source) == Family::of(address))
        };
        let route = |address: &IpAddr| LocalRoute { address: *address, source: source(*address) };
        let routes: Vec<LocalRoute> = addresses.iter().map(route).collect();
        let refused = self.rtnetlink.add_local_routes(index, PROTOCOL, &routes)?;
        Ok(refused.into_iter().map(|r| (r.net.addr(), r.error.to_string())).collect())
    }

    /// Takes virtual addresses away.
    pub(super) fn remove(&mut self, addresses: &BTreeSet<IpAddr>) -> kernel::Result<()> {
        if addresses.is_empty() {
            return Ok(());
        }
        let Some(index) = self.index()? else { return Ok(()) };
        // Whatever its source is. They are not listed, which would take longer the more there are.
        let route = |address: &IpAddr| LocalRoute { address: *address, source: None };
        let routes: Vec<LocalRoute> = addresses.iter().map(route).collect();
        let refused = self.rtnetlink.delete_local_routes(index, PROTOCOL, &routes)?;
        refused.into_iter().next().map_or(Ok(()), |refused| Err(refused.error))
    }

    /// Removes the link with all its routes.
    pub(super) fn delete(&mut self) -> kernel::Result<()> {
        self.rtnetlink.delete_link(LINK).map(drop)
    }
}
