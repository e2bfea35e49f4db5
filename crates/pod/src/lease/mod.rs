//! Addresses of one node's pod range, leased to network interfaces and remembered on disk.
//!
//! A lease is durable before anybody hears of it, and what a crash leaves behind counts as taken:
//! an address may leak until [`Leases::collect`], but is never given twice. Files are those of the
//! CNI plugin `host-local`: one a leased address, holding `<container>\r\n<interface>`, and a
//! cursor. Addresses are given in turn, so a freed one rests until the range wraps.

mod range;
mod store;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::net::IpAddr;
use std::path::Path;

use ipnet::IpNet;

use crate::{Error, Result};
use range::Range;
use store::Store;

/// Who holds a lease: an interface of a container (or sandbox).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Owner {
    /// Id of the container.
    pub container: String,
    /// Name of the interface in it.
    pub interface: String,
}

/// The leases of one range, in one directory. Any number of processes may use them at a time.
#[derive(Debug)]
pub struct Leases {
    range: Range,
    store: Store,
}

impl Leases {
    /// Opens the leases on addresses of `range` in `directory`, which is made if missing. Leases
    /// that were made before the last boot are dropped: no interface outlives the kernel.
    ///
    /// # Errors
    /// A range with host bits or fewer than four addresses.
    pub fn open(directory: &Path, range: IpNet) -> Result<Self> {
        let range = Range::new(range)?;
        let store = Store::open(directory, &boot_id()?)?;
        Ok(Self { range, store })
    }

    /// Leases the next free address. Network, broadcast and the first (gateway) address are never
    /// given.
    ///
    /// # Errors
    /// [`Error::AlreadyLeased`] if the owner holds an address of the range, [`Error::Exhausted`].
    pub fn lease(&self, owner: &Owner) -> Result<IpAddr> {
        let locked = self.store.lock()?;
        let entries = locked.entries()?;
        let own = entries
            .iter()
            .find(|e| self.range.contains(e.address) && e.owner.as_ref() == Some(owner));
        if let Some(own) = own {
            return Err(Error::AlreadyLeased {
                container: owner.container.clone(),
                interface: owner.interface.clone(),
                address: own.address,
            });
        }
        let taken: HashSet<IpAddr> = entries.into_iter().map(|e| e.address).collect();
        for address in self.range.after(locked.cursor(), taken.len()) {
            if !taken.contains(&address) && locked.reserve(address, owner)? {
                return Ok(address);
            }
        }
        let (first, last) = self.range.bounds();
        Err(Error::Exhausted { first, last })
    }

    /// Gives back all that the owner holds, and answers what it was; nothing held is no error.
    /// Addresses outside of the range, from before the node's range changed, are given back too.
    pub fn release(&self, owner: &Owner) -> Result<Vec<IpAddr>> {
        self.drop_where(|held| held == Some(owner))
    }

    /// Gives back everything that is not held by one of `live`, with what crashes left behind.
    pub fn collect(&self, live: &HashSet<Owner>) -> Result<Vec<IpAddr>> {
        self.drop_where(|held| held.is_none_or(|owner| !live.contains(owner)))
    }

    fn drop_where(&self, condition: impl Fn(Option<&Owner>) -> bool) -> Result<Vec<IpAddr>> {
        let locked = self.store.lock()?;
        let mut dropped = Vec::new();
        for entry in locked.entries()? {
            if condition(entry.owner.as_ref()) {
                locked.free(entry.address)?;
                dropped.push(entry.address);
            }
        }
        Ok(dropped)
    }

    /// All leases; those without an owner are left by a crash.
    pub fn held(&self) -> Result<Vec<(IpAddr, Option<Owner>)>> {
        let entries = self.store.lock()?.entries()?;
        Ok(entries.into_iter().map(|entry| (entry.address, entry.owner)).collect())
    }
}

/// Names this run of the kernel (proc_sys_kernel(5), `random/boot_id`).
pub(crate) fn boot_id() -> Result<String> {
    Ok(kernel::sysctl::read("kernel/random/boot_id")?)
}
