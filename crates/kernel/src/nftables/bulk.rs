//! Adding elements, as many as there are, without holding them.
//!
//! A list of half a million elements is tens of megabytes as values, again as a message, and again in
//! the kernel until it is taken. Here each element is written to its message at once, and messages go
//! to the kernel in transactions of a few megabytes.

use super::batch::{Refusal, Refused};
use super::object::ElementRef;
use super::transaction::{Failure, OPERATION, Transaction};
use super::{Name, Table, uapi};
use crate::netlink::{Encoder, Socket, flags};

/// A list of elements is an attribute, which has at most 64 KiB; an element has up to 200 bytes.
const LIST: usize = 60 << 10;
/// Bytes of a transaction.
const TRANSACTION: usize = 2 << 20;

/// Elements on their way into sets of one table.
#[derive(Debug)]
pub struct Bulk<'s> {
    socket: &'s mut Socket,
    table: Table,
    /// Elements of each set that are not in a message yet.
    lists: Vec<(Name, Encoder)>,
    /// The one that is being written.
    transaction: Option<Transaction>,
    committed: u32,
}

impl<'s> Bulk<'s> {
    /// Nothing yet.
    pub fn new(socket: &'s mut Socket, table: Table) -> Self {
        Self { socket, table, lists: Vec::new(), transaction: None, committed: 0 }
    }

    /// Adds an element, in the end if not at once. One that is there must be the same.
    pub fn add(&mut self, set: &str, element: ElementRef<'_>) -> Result<(), Refused> {
        let place = match self.lists.iter().position(|(name, _)| &**name == set) {
            Some(place) => place,
            None => {
                self.lists.push((set.into(), Encoder::new()));
                self.lists.len() - 1
            }
        };
        let list = &mut self.lists[place].1;
        element.encode(list);
        if list.len() >= LIST {
            self.finish_list(place)?;
        }
        Ok(())
    }

    /// Adds what is left, and answers the number of transactions it took in all.
    pub fn finish(mut self) -> Result<u32, Refused> {
        for place in 0..self.lists.len() {
            self.finish_list(place)?;
        }
        self.commit()?;
        Ok(self.committed)
    }

    /// Writes the message of a set's list.
    fn finish_list(&mut self, place: usize) -> Result<(), Refused> {
        let (set, list) = &mut self.lists[place];
        if list.is_empty() {
            return Ok(());
        }
        let begin = || Transaction::begin(self.socket.next_sequence(), None);
        let transaction = self.transaction.get_or_insert_with(begin);
        let family = self.table.family.number();
        transaction.push(uapi::NFT_MSG_NEWSETELEM, flags::CREATE, family, |e, _| {
            e.text(uapi::NFTA_SET_ELEM_LIST_TABLE, &self.table.name);
            e.text(uapi::NFTA_SET_ELEM_LIST_SET, set);
            e.nested(uapi::NFTA_SET_ELEM_LIST_ELEMENTS, |e| e.raw(list.bytes()));
        });
        list.clear();
        if transaction.len() >= TRANSACTION {
            self.commit()?;
        }
        Ok(())
    }

    fn commit(&mut self) -> Result<(), Refused> {
        let Some(transaction) = self.transaction.take() else { return Ok(()) };
        match transaction.commit(self.socket) {
            Ok(()) => {
                self.committed += 1;
                Ok(())
            }
            Err(Failure::Stale) => Err(Refused::Stale),
            Err(Failure::Other(error)) => Err(Refused::Failed(error)),
            Err(Failure::Messages(mut refused)) => {
                let (_, verdict) = refused.swap_remove(0);
                let operation = format!("{OPERATION}: add elements to {}", self.table);
                let error = verdict.into_result(&operation).expect_err("it carries an errno");
                Err(Refused::Operations(vec![Refusal { operation: 0, error }]))
            }
        }
    }
}
