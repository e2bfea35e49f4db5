//! A list of operations that takes effect as one transaction, or not at all.

use std::fmt;

use super::object::{Chain, Element, Rule, Set};
use super::transaction::{Failure, Transaction};
use super::{Name, Table, uapi};
use crate::netlink::{Encoder, Socket, Verdict, flags};
use crate::{Error, Result};

/// Elements in one message: a list is an attribute, which has at most 64 KiB, and an element here
/// takes up to 160 bytes.
const ELEMENTS_PER_MESSAGE: usize = 400;

/// A change of the packet filter. Printable, and without effect until it is run.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Batch {
    operations: Vec<Operation>,
}

/// One step of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// Makes a table, if it does not exist.
    AddTable(Table),
    /// Deletes a table with all it holds.
    DeleteTable(Table),
    /// Makes a chain, if it does not exist.
    AddChain(Table, Chain),
    /// Deletes a chain with its rules; nothing may refer to it.
    DeleteChain(Table, Name),
    /// Deletes all rules of a chain.
    FlushChain(Table, Name),
    /// Adds a rule at the end of a chain.
    AddRule(Table, Name, Rule),
    /// Makes a set.
    AddSet(Table, Set),
    /// Deletes a set; no rule may refer to it.
    DeleteSet(Table, Name),
    /// Adds elements to a set.
    AddElements(Table, Name, Vec<Element>),
    /// Deletes elements, which must be there.
    DeleteElements(Table, Name, Vec<Element>),
}

/// An operation that the kernel refused, and why.
#[derive(Debug)]
pub struct Refusal {
    /// Index of the operation in the batch.
    pub operation: usize,
    /// The kernel's answer, naming the operation.
    pub error: Error,
}

/// Why a batch had no effect.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// Somebody has changed the packet filter since the generation that the batch was made for.
    #[error("the packet filter was changed by others meanwhile")]
    Stale,
    /// The kernel refused operations.
    #[error("{}", summary(.0))]
    Operations(Vec<Refusal>),
    /// The batch was not sent, or its outcome is not known.
    #[error(transparent)]
    Failed(#[from] Error),
}

impl Batch {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends an operation; one without elements is left out.
    pub fn push(&mut self, operation: Operation) {
        match &operation {
            Operation::AddElements(_, _, elements) | Operation::DeleteElements(_, _, elements)
                if elements.is_empty() => {}
            _ => self.operations.push(operation),
        }
    }

    /// The operations, in order.
    pub fn operations(&self) -> &[Operation] {
        &self.operations
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }

    /// Carries the batch out. With `generation`, only if the packet filter of the namespace still
    /// has that generation; a batch that takes effect makes the next one.
    pub fn run(&self, socket: &mut Socket, generation: Option<u32>) -> Result<(), Refused> {
        if self.is_empty() {
            return Ok(());
        }
        let transaction = self.encode(generation, socket.next_sequence());
        match transaction.commit(socket) {
            Ok(()) => Ok(()),
            Err(Failure::Stale) => Err(Refused::Stale),
            Err(Failure::Other(error)) => Err(Refused::Failed(error)),
            Err(Failure::Messages(messages)) => Err(Refused::Operations(self.refusals(messages))),
        }
    }

    /// The operations that messages were part of, each once, with the first verdict on it.
    fn refusals(&self, messages: Vec<(usize, Verdict)>) -> Vec<Refusal> {
        let owners: Vec<usize> = (self.operations.iter().enumerate())
            .flat_map(|(index, operation)| std::iter::repeat_n(index, operation.messages()))
            .collect();
        let mut refusals: Vec<Refusal> = Vec::new();
        for (message, verdict) in messages {
            let operation = owners[message];
            if refusals.last().is_none_or(|last| last.operation != operation) {
                let name = self.operations[operation].to_string();
                let error = verdict.into_result(&name).expect_err("it carries an errno");
                refusals.push(Refusal { operation, error });
            }
        }
        refusals
    }

    fn encode(&self, generation: Option<u32>, first: u32) -> Transaction {
        let mut transaction = Transaction::begin(first, generation);
        for operation in &self.operations {
            operation.encode(|kind, flags, family, body| {
                transaction.push(kind, flags, family, body);
            });
        }
        transaction
    }
}

impl Operation {
    /// How many messages it takes.
    fn messages(&self) -> usize {
        match self {
            Operation::AddElements(_, _, elements) | Operation::DeleteElements(_, _, elements) => {
                elements.len().div_ceil(ELEMENTS_PER_MESSAGE)
            }
            _ => 1,
        }
    }

    /// Hands each message to `send`: its type, flags, family, and what writes its attributes, given
    /// a number unique in the batch.
    fn encode(&self, mut send: impl FnMut(u8, u16, u8, &dyn Fn(&mut Encoder, u32))) {
        let family = self.table().family.number();
        let table = &*self.table().name;
        match self {
            Operation::AddTable(_) => {
                send(uapi::NFT_MSG_NEWTABLE, flags::CREATE, family, &|e, _| {
                    e.text(uapi::NFTA_TABLE_NAME, table);
                })
            }
            Operation::DeleteTable(_) => send(uapi::NFT_MSG_DELTABLE, 0, family, &|e, _| {
                e.text(uapi::NFTA_TABLE_NAME, table);
            }),
            Operation::AddChain(_, chain) => {
                send(uapi::NFT_MSG_NEWCHAIN, flags::CREATE, family, &|e, _| {
                    e.text(uapi::NFTA_CHAIN_TABLE, table);
                    chain.encode(e);
                });
            }
            Operation::DeleteChain(_, chain) => {
                send(uapi::NFT_MSG_DELCHAIN, 0, family, &|e, _| {
                    e.text(uapi::NFTA_CHAIN_TABLE, table);
                    e.text(uapi::NFTA_CHAIN_NAME, chain);
                });
            }
            Operation::FlushChain(_, chain) => send(uapi::NFT_MSG_DELRULE, 0, family, &|e, _| {
                e.text(uapi::NFTA_RULE_TABLE, table);
                e.text(uapi::NFTA_RULE_CHAIN, chain);
            }),
            Operation::AddRule(_, chain, rule) => {
                let flags = flags::CREATE | flags::APPEND;
                send(uapi::NFT_MSG_NEWRULE, flags, family, &|e, _| {
                    e.text(uapi::NFTA_RULE_TABLE, table);
                    e.text(uapi::NFTA_RULE_CHAIN, chain);
                    rule.encode(e);
                });
            }
            Operation::AddSet(_, set) => {
                send(uapi::NFT_MSG_NEWSET, flags::CREATE, family, &|e, id| {
                    e.text(uapi::NFTA_SET_TABLE, table);
                    set.encode(e, id);
                });
            }
            Operation::DeleteSet(_, set) => send(uapi::NFT_MSG_DELSET, 0, family, &|e, _| {
                e.text(uapi::NFTA_SET_TABLE, table);
                e.text(uapi::NFTA_SET_NAME, set);
            }),
            Operation::AddElements(_, set, elements)
            | Operation::DeleteElements(_, set, elements) => {
                let (kind, flags) = match self {
                    Operation::AddElements(..) => (uapi::NFT_MSG_NEWSETELEM, flags::CREATE),
                    _ => (uapi::NFT_MSG_DELSETELEM, 0),
                };
                for chunk in elements.chunks(ELEMENTS_PER_MESSAGE) {
                    send(kind, flags, family, &|e, _| {
                        e.text(uapi::NFTA_SET_ELEM_LIST_TABLE, table);
                        e.text(uapi::NFTA_SET_ELEM_LIST_SET, set);
                        e.nested(uapi::NFTA_SET_ELEM_LIST_ELEMENTS, |list| {
                            for element in chunk {
                                element.encode(list);
                            }
                        });
                    });
                }
            }
        }
    }

    fn table(&self) -> &Table {
        match self {
            Operation::AddTable(table)
            | Operation::DeleteTable(table)
            | Operation::AddChain(table, _)
            | Operation::DeleteChain(table, _)
            | Operation::FlushChain(table, _)
            | Operation::AddRule(table, _, _)
            | Operation::AddSet(table, _)
            | Operation::DeleteSet(table, _)
            | Operation::AddElements(table, _, _)
            | Operation::DeleteElements(table, _, _) => table,
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Operation::AddTable(table) => write!(f, "add table {table}"),
            Operation::DeleteTable(table) => write!(f, "delete table {table}"),
            Operation::AddChain(table, chain) => write!(f, "add chain {table} {}", chain.name),
            Operation::DeleteChain(table, chain) => write!(f, "delete chain {table} {chain}"),
            Operation::FlushChain(table, chain) => write!(f, "flush chain {table} {chain}"),
            Operation::AddRule(table, chain, rule) => {
                write!(f, "add rule {table} {chain}, {}", rule.comment)
            }
            Operation::AddSet(table, set) => write!(f, "add set {table} {}", set.name),
            Operation::DeleteSet(table, set) => write!(f, "delete set {table} {set}"),
            Operation::AddElements(table, set, elements) => {
                write!(f, "add {} elements to {table} {set}", elements.len())
            }
            Operation::DeleteElements(table, set, elements) => {
                write!(f, "delete {} elements from {table} {set}", elements.len())
            }
        }
    }
}

impl fmt::Display for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for operation in &self.operations {
            writeln!(f, "{operation}")?;
        }
        Ok(())
    }
}

fn summary(refusals: &[Refusal]) -> String {
    let first = refusals.first().map(|refusal| refusal.error.to_string()).unwrap_or_default();
    match refusals.len() {
        0 | 1 => first,
        n => format!("{first}, and {} more operations refused", n - 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::{Message, attributes};
    use crate::nftables::Family;

    fn table() -> Table {
        Table { family: Family::Ipv4, name: "t".into() }
    }

    #[test]
    fn a_batch_is_framed_and_its_last_message_asks_for_confirmation() {
        let mut batch = Batch::new();
        batch.push(Operation::AddTable(table()));
        batch.push(Operation::DeleteTable(table()));
        let bytes = batch.encode(Some(7), 100).into_bytes();
        let begin: &[u8] = &[28, 0, 0, 0, 0x10, 0, 1, 0, 100, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(&bytes[..16], begin);
        assert_eq!(&bytes[16..20], [0, 0, 0, 10], "the subsystem, big-endian");
        assert_eq!(attributes(&bytes[20..28]).next().unwrap().be32(), Some(7));
        let add: &[u8] = &[28, 0, 0, 0, 0, 10, 1, 4, 101, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0];
        assert_eq!(&bytes[28..48], add);
        let delete: &[u8] = &[28, 0, 0, 0, 2, 10, 5, 0, 102, 0, 0, 0];
        assert_eq!(&bytes[56..68], delete);
        let end: &[u8] = &[20, 0, 0, 0, 0x11, 0, 1, 0, 103, 0, 0, 0];
        assert_eq!(&bytes[84..96], end);
        assert_eq!(bytes.len(), 104);
    }

    #[test]
    fn long_lists_of_elements_take_several_messages_of_one_operation() {
        let elements = (0..1000u32).map(|n| Element::member(n.to_be_bytes())).collect();
        let mut batch = Batch::new();
        batch.push(Operation::AddElements(table(), "s".into(), elements));
        batch.push(Operation::DeleteTable(table()));
        let bytes = batch.encode(None, 1).into_bytes();
        let messages = Message::split(&bytes);
        let sequences: Vec<u32> = messages.map(|message| message.sequence).collect();
        assert_eq!(sequences, [1, 2, 3, 4, 5, 6]);
        let verdict = || Verdict { errno: 17, explanation: String::new() };
        let refusals = batch.refusals(vec![(1, verdict()), (2, verdict()), (3, verdict())]);
        let operations: Vec<usize> = refusals.iter().map(|refusal| refusal.operation).collect();
        assert_eq!(operations, [0, 1]);
    }

    #[test]
    fn operations_without_elements_are_left_out() {
        let mut batch = Batch::new();
        batch.push(Operation::AddElements(table(), "s".into(), vec![]));
        assert!(batch.is_empty());
    }
}
