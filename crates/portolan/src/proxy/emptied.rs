//! The tables and chains that iptables-nft makes for whoever writes the first rule into them, and leaves
//! when the last one is gone. Those that were ours alone go with our rules.

use dataplane::iptables::chains::{PREFIX, Table as Name};
use kernel::netlink::{Protocol, Socket};
use kernel::nftables::{self, Batch, ChainState, Family, Operation, Refused, Table};

/// How often a table is looked at that others change meanwhile.
const ATTEMPTS: usize = 3;

/// Tables of iptables-nft that chains of ours are in, and that may be empty without them. None if they
/// can't be read: what is empty does no harm.
pub(super) fn to_be() -> Vec<Table> {
    let find = || -> kernel::Result<Vec<Table>> {
        let mut socket = Socket::open(Protocol::Netfilter)?;
        let mut found = Vec::new();
        for family in [Family::Ipv4, Family::Ipv6] {
            for name in Name::ALL {
                let table = Table { family, name: name.as_str().into() };
                let chains = nftables::chains(&mut socket, &table)?;
                if chains.iter().any(|chain| chain.name.starts_with(PREFIX)) {
                    found.push(table);
                }
            }
        }
        Ok(found)
    };
    find().unwrap_or_else(|error| {
        tracing::debug!(%error, "tables of iptables are not looked at");
        Vec::new()
    })
}

/// Removes what is empty now of the tables, or all of them. What has come to be another's stays, and so
/// does what can't be removed.
pub(super) fn remove(tables: Vec<Table>) {
    if tables.is_empty() {
        return;
    }
    let remove = || -> Result<(), Refused> {
        let mut socket = Socket::open(Protocol::Netfilter)?;
        for table in tables {
            for _ in 0..ATTEMPTS {
                match remove_empty(&mut socket, &table) {
                    Err(Refused::Stale) => {}
                    result => {
                        result?;
                        break;
                    }
                }
            }
        }
        Ok(())
    };
    if let Err(error) = remove() {
        tracing::debug!(%error, "something empty of iptables is left");
    }
}

fn remove_empty(socket: &mut Socket, table: &Table) -> Result<(), Refused> {
    // Whoever adds something after this makes another generation.
    let generation = nftables::generation(socket)?;
    if !nftables::table_exists(socket, table)? {
        return Ok(());
    }
    let chains = nftables::chains(socket, table)?;
    let rules = nftables::rules(socket, table)?;
    let does_nothing = |chain: &&ChainState| {
        let is_empty = !rules.iter().any(|rule| rule.chain == chain.name);
        is_empty && chain.accepts && chain.base.is_some()
    };
    let empty: Vec<&ChainState> = chains.iter().filter(does_nothing).collect();
    let mut batch = Batch::new();
    match empty.len() == chains.len() && nftables::sets(socket, table)?.is_empty() {
        true => batch.push(Operation::DeleteTable(table.clone())),
        false => {
            for chain in empty {
                batch.push(Operation::DeleteChain(table.clone(), chain.name.clone()));
            }
        }
    }
    batch.run(socket, Some(generation))
}
