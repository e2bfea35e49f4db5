//! Reading what the packet filter holds.

use std::collections::{BTreeSet, HashSet};
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;

use super::object::{BaseChain, Element, ElementRef, Rule};
use super::{Family, Name, Table, header, message_type, uapi};
use crate::netlink::{Attribute, Encoder, Message, Socket, attributes};
use crate::{Error, Result};

/// How often a list that changed while it was read is read again; the pause before the n-th attempt
/// is n milliseconds.
const LIST_ATTEMPTS: u64 = 30;

/// A chain as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainState {
    /// Its name.
    pub name: Name,
    /// Where packets enter it.
    pub base: Option<BaseChain>,
    /// Whether packets that no rule has decided about go on; always, where others lead to it.
    pub accepts: bool,
}

/// A rule as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleState {
    /// The chain that holds it.
    pub chain: Name,
    /// Number that identifies it in the table.
    pub handle: u64,
    /// Its comment, if it has one.
    pub comment: Option<String>,
}

/// The generation of the namespace's packet filter: every transaction, of whatever table, makes the
/// next one.
pub fn generation(socket: &mut Socket) -> Result<u32> {
    let operation = "read the generation of the packet filter";
    let kind = message_type(uapi::NFT_MSG_GETGEN);
    let answers = socket.query(operation, kind, 0, &header(0, 0))?;
    let answer = answers.first().ok_or_else(|| malformed(operation, "no answer"))?;
    find(answer, uapi::NFTA_GEN_ID)
        .and_then(Attribute::be32)
        .ok_or_else(|| malformed(operation, "no generation"))
}

/// Whether a table exists.
pub fn table_exists(socket: &mut Socket, table: &Table) -> Result<bool> {
    let operation = format!("look for table {table}");
    let request = request(table.family, &[(uapi::NFTA_TABLE_NAME, &table.name)]);
    match socket.query(&operation, message_type(uapi::NFT_MSG_GETTABLE), 0, &request) {
        Ok(_) => Ok(true),
        Err(error) if error.errno() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

/// The chains of a table.
pub fn chains(socket: &mut Socket, table: &Table) -> Result<Vec<ChainState>> {
    let operation = format!("list chains of {table}");
    let request = request(table.family, &[]);
    let answers = socket.dump(&operation, message_type(uapi::NFT_MSG_GETCHAIN), &request)?;
    // Kernels list the chains of all tables of the family.
    let of_table = answers.iter().filter(|m| text(m, uapi::NFTA_CHAIN_TABLE) == Some(&table.name));
    of_table
        .map(|message| {
            let name = text(message, uapi::NFTA_CHAIN_NAME);
            let name = name.ok_or_else(|| malformed(&operation, "a chain without a name"))?;
            let hook = find(message, uapi::NFTA_CHAIN_HOOK);
            let base = hook
                .and_then(|hook| BaseChain::decode(hook, text(message, uapi::NFTA_CHAIN_TYPE)?));
            let policy = find(message, uapi::NFTA_CHAIN_POLICY).and_then(Attribute::be32);
            let accepts = policy.is_none_or(|policy| policy == uapi::NF_ACCEPT.cast_unsigned());
            Ok(ChainState { name: name.into(), base, accepts })
        })
        .collect()
}

/// The tables that filter what is forwarded, by their names: each has a base chain there that drops what no rule
/// decides about, or that has rules.
pub fn forwarding_filters(socket: &mut Socket) -> Result<BTreeSet<Name>> {
    let mut found = BTreeSet::new();
    for family in [uapi::NFPROTO_INET, uapi::NFPROTO_IPV4, uapi::NFPROTO_IPV6] {
        let request = header(family, 0);
        let kind = message_type(uapi::NFT_MSG_GETCHAIN);
        let mut chains = HashSet::new();
        for message in socket.dump("list chains", kind, &request)? {
            let (Some(table), Some(chain)) =
                (text(&message, uapi::NFTA_CHAIN_TABLE), text(&message, uapi::NFTA_CHAIN_NAME))
            else {
                continue;
            };
            let hook = find(&message, uapi::NFTA_CHAIN_HOOK).and_then(|hook| {
                attributes(hook.value).find(|a| a.kind == uapi::NFTA_HOOK_HOOKNUM)?.be32()
            });
            if hook != Some(uapi::NF_INET_FORWARD) {
                continue;
            }
            let policy = find(&message, uapi::NFTA_CHAIN_POLICY).and_then(Attribute::be32);
            if policy.is_some_and(|policy| policy != uapi::NF_ACCEPT.cast_unsigned()) {
                found.insert(Name::from(table));
            }
            chains.insert((table.to_owned(), chain.to_owned()));
        }
        if chains.is_empty() {
            continue;
        }
        let kind = message_type(uapi::NFT_MSG_GETRULE);
        socket.stream("list rules", kind, &request, |message| {
            let place = text(&message, uapi::NFTA_RULE_TABLE)
                .zip(text(&message, uapi::NFTA_RULE_CHAIN))
                .map(|(table, chain)| (table.to_owned(), chain.to_owned()));
            found.extend(
                place.filter(|place| chains.contains(place)).map(|(table, _)| Name::from(&*table)),
            );
        })?;
    }
    Ok(found)
}

/// The rules of a table, in the order of their chains and of their place in each.
pub fn rules(socket: &mut Socket, table: &Table) -> Result<Vec<RuleState>> {
    let operation = format!("list rules of {table}");
    let request = request(table.family, &[(uapi::NFTA_RULE_TABLE, &table.name)]);
    let answers = socket.dump(&operation, message_type(uapi::NFT_MSG_GETRULE), &request)?;
    let of_table = answers.iter().filter(|m| text(m, uapi::NFTA_RULE_TABLE) == Some(&table.name));
    of_table
        .map(|message| {
            let rule = || {
                Some(RuleState {
                    chain: text(message, uapi::NFTA_RULE_CHAIN)?.into(),
                    handle: find(message, uapi::NFTA_RULE_HANDLE)?.be64()?,
                    comment: find(message, uapi::NFTA_RULE_USERDATA)
                        .and_then(|userdata| Rule::decode_comment(userdata.value)),
                })
            };
            rule().ok_or_else(|| malformed(&operation, "a rule without chain or handle"))
        })
        .collect()
}

/// A set or map as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetState {
    /// Its name.
    pub name: Name,
    /// Number of its elements, where the kernel tells (since 6.17).
    pub elements: Option<u32>,
}

/// The sets and maps of a table.
pub fn sets(socket: &mut Socket, table: &Table) -> Result<Vec<SetState>> {
    let operation = format!("list sets of {table}");
    let request = request(table.family, &[(uapi::NFTA_SET_TABLE, &table.name)]);
    let answers = socket.dump(&operation, message_type(uapi::NFT_MSG_GETSET), &request)?;
    let set = |message: &Message| {
        Some(SetState {
            name: text(message, uapi::NFTA_SET_NAME)?.into(),
            elements: find(message, uapi::NFTA_SET_COUNT).and_then(Attribute::be32),
        })
    };
    Ok(answers.iter().filter_map(set).collect())
}

/// The elements of a set or map that have these keys, at most 1,000, in their order; `None` if one of
/// them is missing.
///
/// The kernel lists a set from its beginning for each few hundred elements that it hands out, so that
/// listing takes time proportional to the square of their number. Asking takes the same time for each.
pub fn elements_with_keys<'k>(
    socket: &mut Socket,
    table: &Table,
    set: &str,
    keys: impl IntoIterator<Item = &'k [u8]>,
) -> Result<Option<Vec<Element>>> {
    let operation = format!("look for elements of {table} {set}");
    let mut request = Encoder::new();
    request.raw(&header(table.family.number(), 0));
    request.text(uapi::NFTA_SET_ELEM_LIST_TABLE, &table.name);
    request.text(uapi::NFTA_SET_ELEM_LIST_SET, set);
    request.nested(uapi::NFTA_SET_ELEM_LIST_ELEMENTS, |list| {
        for key in keys {
            ElementRef { key, key_end: None, data: &[] }.encode(list);
        }
    });
    let kind = message_type(uapi::NFT_MSG_GETSETELEM);
    match socket.query(&operation, kind, 0, request.bytes()) {
        Ok(answers) => decode_elements(&answers, &operation).map(Some),
        Err(error) if error.errno() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The elements of a set or map, ordered. Not for sets that packets change.
///
/// While a hash table grows in the background, the kernel may list an element twice and leave out
/// another, as often. A list with a repetition is therefore read again.
pub fn elements(socket: &mut Socket, table: &Table, set: &str) -> Result<Vec<Element>> {
    let operation = format!("list elements of {table} {set}");
    for attempt in 0..LIST_ATTEMPTS {
        let mut elements = elements_once(socket, table, set, &operation)?;
        elements.sort_unstable();
        if elements.windows(2).all(|pair| pair[0] != pair[1]) {
            return Ok(elements);
        }
        std::thread::sleep(Duration::from_millis(attempt));
    }
    Err(Error::os(operation, Errno::EAGAIN))
}

fn elements_once(
    socket: &mut Socket,
    table: &Table,
    set: &str,
    operation: &str,
) -> Result<Vec<Element>> {
    let names =
        [(uapi::NFTA_SET_ELEM_LIST_TABLE, &*table.name), (uapi::NFTA_SET_ELEM_LIST_SET, set)];
    let request = request(table.family, &names);
    let answers = socket.dump(operation, message_type(uapi::NFT_MSG_GETSETELEM), &request)?;
    decode_elements(&answers, operation)
}

fn decode_elements(answers: &[Message], operation: &str) -> Result<Vec<Element>> {
    answers
        .iter()
        .filter_map(|message| find(message, uapi::NFTA_SET_ELEM_LIST_ELEMENTS))
        .flat_map(Attribute::nested)
        .map(|item| Element::decode(item).ok_or_else(|| malformed(operation, "an element")))
        .collect()
}

/// A request for what these names select.
fn request(family: Family, names: &[(u16, &str)]) -> Vec<u8> {
    let mut request = Encoder::new();
    request.raw(&header(family.number(), 0));
    for (kind, name) in names {
        request.text(*kind, name);
    }
    request.into_bytes()
}

fn find(message: &Message, kind: u16) -> Option<Attribute<'_>> {
    attributes(message.payload.get(4..)?).find(|a| a.kind == kind)
}

fn text(message: &Message, kind: u16) -> Option<&str> {
    find(message, kind)?.text()
}

fn malformed(operation: &str, detail: &str) -> Error {
    Error::Malformed { operation: operation.to_owned(), detail: detail.to_owned() }
}
