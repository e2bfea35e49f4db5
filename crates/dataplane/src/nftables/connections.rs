//! Tracked connections that the table has translated.

use std::collections::HashSet;

use kernel::conntrack::{Entry, Filter, Transport};
use kernel::nftables::{Family, Table};

use super::layout::{Fields, SetName};
use super::sets::ENTRY_MAPS;
use super::{Nftables, family_table};
use crate::Result;

impl Nftables {
    /// Forgets the connections that were led to endpoints by the tables that the kernel holds, those
    /// of a process before included; answers how many. Before a cleanup it makes connection tracking
    /// what it was: a client that goes on is told by whoever has the address now.
    pub fn forget_connections(&mut self) -> Result<usize> {
        let mut forgotten = 0;
        for family in [Family::Ipv4, Family::Ipv6] {
            let table = family_table::table_id(family);
            if !kernel::nftables::table_exists(self.socket(), &table)? {
                continue;
            }
            let frontends = self.frontend_keys(&table)?;
            let has = |key: Fields| frontends.contains(&*key.finish());
            for transport in [Transport::Tcp, Transport::Udp] {
                let filter = Filter::all(family, transport);
                let is_ours = |entry: &Entry| {
                    let (address, port) =
                        (entry.original.destination.ip(), entry.original.destination.port());
                    let number = [entry.transport.number()];
                    entry.reply.source != entry.original.destination
                        && (has(Fields::new().ip(address).bytes(&number).port(port))
                            || has(Fields::new().bytes(&number).port(port)))
                };
                forgotten += kernel::conntrack::delete_stale(self.socket(), &filter, is_ours)?;
            }
        }
        Ok(forgotten)
    }

    /// Keys of all frontends, those of node ports without address.
    fn frontend_keys(&mut self, table: &Table) -> Result<HashSet<Box<[u8]>>> {
        let mut keys = HashSet::new();
        for set in ENTRY_MAPS {
            let elements = kernel::nftables::elements(self.socket(), table, SetName::as_str(set))?;
            keys.extend(elements.into_iter().map(|element| element.key));
        }
        Ok(keys)
    }
}
