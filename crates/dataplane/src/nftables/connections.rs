//! The frontends that the kernel's tables lead connections from.

use std::collections::HashSet;

use kernel::netlink::Socket;
use model::Family;
use plan::FrontendKey;

use super::family_table::{netfilter_family, table_id};
use super::layout::{SetName, frontend_key};
use super::role::Role;
use super::sets::ENTRY_MAPS;
use crate::Result;

/// All frontends of the tables that the kernel holds, a process' before included.
pub(super) fn frontends(socket: &mut Socket, role: &Role) -> Result<HashSet<FrontendKey>> {
    let mut keys = HashSet::new();
    for family in Family::ALL {
        let table = table_id(netfilter_family(family), role);
        if !kernel::nftables::table_exists(socket, &table)? {
            continue;
        }
        for set in ENTRY_MAPS {
            let elements = kernel::nftables::elements(socket, &table, SetName::as_str(set))?;
            keys.extend(elements.iter().filter_map(|e| frontend_key(set, family, &e.key)));
        }
    }
    Ok(keys)
}
