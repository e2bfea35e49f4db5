//! Generic netlink: families of messages that are found by their name.
//!
//! A family gets its number when its module is loaded, so it has to be asked for. Formats are those
//! of `linux/genetlink.h`. This file knows of no family but the one that answers for the others.

use nix::libc;

use crate::netlink::{Encoder, Message, Socket, attributes};
use crate::{Error, Result};

/// Length of `struct genlmsghdr`, which precedes a message's attributes.
pub const HEADER: usize = 4;

const GENL_ID_CTRL: u16 = libc::GENL_ID_CTRL as u16;
const CTRL_CMD_GETFAMILY: u8 = libc::CTRL_CMD_GETFAMILY as u8;
const CTRL_VERSION: u8 = 1;
const CTRL_ATTR_FAMILY_ID: u16 = libc::CTRL_ATTR_FAMILY_ID as u16;
const CTRL_ATTR_FAMILY_NAME: u16 = libc::CTRL_ATTR_FAMILY_NAME as u16;

/// The message type of the family with that name; `None` if the kernel has none. The kernel loads
/// the module `net-pf-16-proto-16-family-NAME` if there is one.
///
/// `socket` is one of [`crate::netlink::Protocol::Generic`].
pub fn family(socket: &mut Socket, name: &str) -> Result<Option<u16>> {
    let operation = format!("look up the netlink family {name}");
    let mut request = Encoder::new();
    request.raw(&header(CTRL_CMD_GETFAMILY, CTRL_VERSION));
    request.text(CTRL_ATTR_FAMILY_NAME, name);
    let answers = match socket.query(&operation, GENL_ID_CTRL, 0, request.bytes()) {
        Ok(answers) => answers,
        Err(error) if error.errno() == Some(libc::ENOENT) => return Ok(None),
        Err(error) => return Err(error),
    };
    let id = answers.first().and_then(family_id);
    let detail = "there is no family number in it".to_owned();
    id.map(Some).ok_or(Error::Malformed { operation, detail })
}

fn family_id(answer: &Message) -> Option<u16> {
    attributes(answer.payload.get(HEADER..)?).find(|a| a.kind == CTRL_ATTR_FAMILY_ID)?.u16()
}

/// What precedes the attributes of a message: `struct genlmsghdr`.
pub const fn header(command: u8, version: u8) -> [u8; HEADER] {
    [command, version, 0, 0]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::Protocol;

    #[test]
    fn families_have_numbers_or_are_not_there() {
        let mut socket = Socket::open(Protocol::Generic).unwrap();
        // The family that answers is one itself, and its number is fixed.
        assert_eq!(family(&mut socket, "nlctrl").unwrap(), Some(GENL_ID_CTRL));
        assert_eq!(family(&mut socket, "no-such-family").unwrap(), None);
    }

    #[test]
    fn an_answer_that_is_cut_has_no_number() {
        let mut payload = Encoder::new();
        payload.raw(&header(1, 2));
        payload.text(CTRL_ATTR_FAMILY_NAME, "IPVS");
        payload.u16(CTRL_ATTR_FAMILY_ID, 35);
        let whole = payload.into_bytes();
        let answer = |length: usize| Message {
            kind: GENL_ID_CTRL,
            flags: 0,
            sequence: 1,
            port: 1,
            payload: whole[..length].to_vec(),
        };
        let end_of_number = whole.len() - 2;
        assert_eq!(family_id(&answer(whole.len())), Some(35));
        assert!((0..end_of_number).all(|length| family_id(&answer(length)).is_none()));
    }
}
