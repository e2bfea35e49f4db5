//! What tables hold: chains, rules, sets and their elements.

use std::time::Duration;

use super::expression::{Expression, Verdict, encode_value, milliseconds};
use super::{Name, uapi};
use crate::netlink::{Attribute, Encoder};

/// A list of rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// Its name.
    pub name: Name,
    /// Where packets enter it; `None` if only from other chains.
    pub base: Option<BaseChain>,
}

/// How packets enter a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BaseChain {
    /// What its rules may do.
    pub chain_type: ChainType,
    /// At which point of a packet's way.
    pub hook: Hook,
    /// Order among the chains of a hook, lower first. NAT of destinations is -100, filtering 0, NAT
    /// of sources 100.
    pub priority: i32,
}

/// What the rules of a base chain may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChainType {
    /// Accept, drop, reject.
    Filter,
    /// Translate addresses; sees only the first packet of a connection.
    Nat,
}

/// A point of a packet's way through the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// Arrived, not yet routed.
    Prerouting,
    /// For this host.
    Input,
    /// For another host.
    Forward,
    /// Made on this host.
    Output,
    /// About to leave.
    Postrouting,
}

/// A rule; it goes to the end of its chain.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Rule {
    /// Shown by `nft` and handed back by [`rules`](super::rules()); at most 120 bytes.
    pub comment: String,
    /// Its instructions.
    pub expressions: Vec<Expression>,
}

/// A set, or a map if it has values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set {
    /// Its name.
    pub name: Name,
    /// Bytes of each field of the key. In registers and keys a field is padded to four bytes.
    pub key: Vec<u32>,
    /// The last field of elements is a range. Needs at least two fields.
    pub is_interval: bool,
    /// What elements map to.
    pub value: SetValue,
    /// Elements come from packets, and go after this time.
    pub timeout: Option<Duration>,
    /// Type numbers that `nft` shows key and value by: its own codes, 0 for bytes.
    pub shown_as: (u32, u32),
}

/// What the elements of a set map to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetValue {
    /// Nothing.
    Nothing,
    /// Data of so many bytes, at most 64.
    Data(u32),
    /// A verdict.
    Verdict,
}

/// An element of a set.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Element {
    /// The key, or its lower end in an interval set.
    pub key: Box<[u8]>,
    /// The upper end, in interval sets; inclusive.
    pub key_end: Option<Box<[u8]>>,
    /// What it maps to.
    pub value: Value,
}

/// An element whose parts are somewhere else, and whose value is no verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ElementRef<'a> {
    /// The key, or its lower end in an interval set.
    pub key: &'a [u8],
    /// The upper end, in interval sets; inclusive.
    pub key_end: Option<&'a [u8]>,
    /// What it maps to; empty if the set is no map.
    pub data: &'a [u8],
}

impl ElementRef<'_> {
    pub(super) fn encode(&self, list: &mut Encoder) {
        list.nested(uapi::NFTA_LIST_ELEM, |e| {
            encode_value(e, uapi::NFTA_SET_ELEM_KEY, self.key);
            if let Some(end) = self.key_end {
                encode_value(e, uapi::NFTA_SET_ELEM_KEY_END, end);
            }
            if !self.data.is_empty() {
                encode_value(e, uapi::NFTA_SET_ELEM_DATA, self.data);
            }
        });
    }
}

/// What an element maps to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Value {
    /// Nothing: the set is no map.
    Nothing,
    /// Data.
    Data(Box<[u8]>),
    /// A verdict.
    Verdict(Verdict),
}

impl Chain {
    pub(super) fn encode(&self, e: &mut Encoder) {
        e.text(uapi::NFTA_CHAIN_NAME, &self.name);
        if let Some(base) = self.base {
            e.nested(uapi::NFTA_CHAIN_HOOK, |hook| {
                hook.be32(uapi::NFTA_HOOK_HOOKNUM, base.hook.number());
                hook.be32(uapi::NFTA_HOOK_PRIORITY, base.priority.cast_unsigned());
            });
            e.be32(uapi::NFTA_CHAIN_POLICY, uapi::NF_ACCEPT.cast_unsigned());
            e.text(uapi::NFTA_CHAIN_TYPE, base.chain_type.name());
        }
    }
}

impl BaseChain {
    /// Reads a chain's hook and type back.
    pub(super) fn decode(hook: Attribute<'_>, chain_type: &str) -> Option<Self> {
        let number = |kind| hook.nested().find(|a| a.kind == kind)?.be32();
        let hook_number = number(uapi::NFTA_HOOK_HOOKNUM)?;
        let hooks = [Hook::Prerouting, Hook::Input, Hook::Forward, Hook::Output, Hook::Postrouting];
        Some(Self {
            chain_type: [ChainType::Filter, ChainType::Nat]
                .into_iter()
                .find(|t| t.name() == chain_type)?,
            hook: hooks.into_iter().find(|h| h.number() == hook_number)?,
            priority: number(uapi::NFTA_HOOK_PRIORITY)?.cast_signed(),
        })
    }
}

impl ChainType {
    fn name(self) -> &'static str {
        match self {
            ChainType::Filter => "filter",
            ChainType::Nat => "nat",
        }
    }
}

impl Hook {
    fn number(self) -> u32 {
        match self {
            Hook::Prerouting => 0,
            Hook::Input => 1,
            Hook::Forward => 2,
            Hook::Output => 3,
            Hook::Postrouting => 4,
        }
    }
}

impl Rule {
    pub(super) fn encode(&self, e: &mut Encoder) {
        e.nested(uapi::NFTA_RULE_EXPRESSIONS, |list| {
            for expression in &self.expressions {
                expression.encode(list);
            }
        });
        // A type, a length, and the text with its NUL: what `nft` writes for a comment.
        let length = u8::try_from(self.comment.len() + 1).expect("a comment is below 120 bytes");
        let mut comment = vec![uapi::NFTNL_UDATA_RULE_COMMENT, length];
        comment.extend_from_slice(self.comment.as_bytes());
        comment.push(0);
        e.attribute(uapi::NFTA_RULE_USERDATA, &comment);
    }

    /// The comment in a rule's user data.
    pub(super) fn decode_comment(userdata: &[u8]) -> Option<String> {
        let (&[uapi::NFTNL_UDATA_RULE_COMMENT, length], rest) = userdata.split_first_chunk()?
        else {
            return None;
        };
        let text = rest.get(..usize::from(length))?.strip_suffix(&[0])?;
        String::from_utf8(text.to_vec()).ok()
    }
}

impl Set {
    /// Bytes of a key in registers.
    pub fn key_length(&self) -> u32 {
        self.key.iter().map(|field| field.next_multiple_of(4)).sum()
    }

    fn is_concatenated(&self) -> bool {
        self.key.len() > 1
    }

    /// `id` is unique within the batch.
    pub(super) fn encode(&self, e: &mut Encoder, id: u32) {
        e.text(uapi::NFTA_SET_NAME, &self.name);
        e.be32(uapi::NFTA_SET_FLAGS, self.flags());
        e.be32(uapi::NFTA_SET_KEY_TYPE, self.shown_as.0);
        e.be32(uapi::NFTA_SET_KEY_LEN, self.key_length());
        e.be32(uapi::NFTA_SET_ID, id);
        match self.value {
            SetValue::Nothing => {}
            SetValue::Data(length) => {
                e.be32(uapi::NFTA_SET_DATA_TYPE, self.shown_as.1);
                e.be32(uapi::NFTA_SET_DATA_LEN, length);
            }
            SetValue::Verdict => {
                e.be32(uapi::NFTA_SET_DATA_TYPE, uapi::NFT_DATA_VERDICT);
                e.be32(uapi::NFTA_SET_DATA_LEN, 0);
            }
        }
        // Since 6.5 the kernel wants both the description and the flag, or neither.
        if self.is_concatenated() {
            e.nested(uapi::NFTA_SET_DESC, |description| {
                description.nested(uapi::NFTA_SET_DESC_CONCAT, |fields| {
                    for length in &self.key {
                        fields.nested(uapi::NFTA_LIST_ELEM, |field| {
                            field.be32(uapi::NFTA_SET_FIELD_LEN, *length);
                        });
                    }
                });
            });
        }
        if let Some(timeout) = self.timeout {
            e.be64(uapi::NFTA_SET_TIMEOUT, milliseconds(timeout));
        }
    }

    /// Flags of `enum nft_set_flags`.
    pub(super) fn flags(&self) -> u32 {
        let flag = |condition, flag| if condition { flag } else { 0 };
        flag(self.is_interval, uapi::NFT_SET_INTERVAL)
            | flag(self.is_concatenated(), uapi::NFT_SET_CONCAT)
            | flag(self.value != SetValue::Nothing, uapi::NFT_SET_MAP)
            | flag(self.timeout.is_some(), uapi::NFT_SET_TIMEOUT | uapi::NFT_SET_EVAL)
    }
}

impl Element {
    /// A key without a value.
    pub fn member(key: impl Into<Box<[u8]>>) -> Self {
        Self { key: key.into(), key_end: None, value: Value::Nothing }
    }

    /// A key with data.
    pub fn data(key: impl Into<Box<[u8]>>, value: impl Into<Box<[u8]>>) -> Self {
        Self { key: key.into(), key_end: None, value: Value::Data(value.into()) }
    }

    /// A key with a verdict.
    pub fn verdict(key: impl Into<Box<[u8]>>, verdict: Verdict) -> Self {
        Self { key: key.into(), key_end: None, value: Value::Verdict(verdict) }
    }

    pub(super) fn encode(&self, list: &mut Encoder) {
        let Value::Verdict(verdict) = &self.value else {
            return self.as_ref().encode(list);
        };
        list.nested(uapi::NFTA_LIST_ELEM, |e| {
            encode_value(e, uapi::NFTA_SET_ELEM_KEY, &self.key);
            verdict.encode(e, uapi::NFTA_SET_ELEM_DATA);
        });
    }

    /// Its parts, without a verdict.
    fn as_ref(&self) -> ElementRef<'_> {
        let data = match &self.value {
            Value::Data(data) => data,
            Value::Nothing | Value::Verdict(_) => &[][..],
        };
        ElementRef { key: &self.key, key_end: self.key_end.as_deref(), data }
    }

    pub(super) fn decode(item: Attribute<'_>) -> Option<Self> {
        let find = |kind| item.nested().find(|a| a.kind == kind);
        let value_of = |a: Attribute<'_>| {
            let value = a.nested().find(|a| a.kind == uapi::NFTA_DATA_VALUE)?;
            Some(Box::<[u8]>::from(value.value))
        };
        let value = match find(uapi::NFTA_SET_ELEM_DATA) {
            None => Value::Nothing,
            Some(data) => match data.nested().find(|a| a.kind == uapi::NFTA_DATA_VERDICT) {
                Some(verdict) => {
                    let find = |kind| verdict.nested().find(|a| a.kind == kind);
                    let code = find(uapi::NFTA_VERDICT_CODE)?.be32()?;
                    let chain = find(uapi::NFTA_VERDICT_CHAIN).and_then(Attribute::text);
                    Value::Verdict(Verdict::decode(code, chain)?)
                }
                None => Value::Data(value_of(data)?),
            },
        };
        Some(Self {
            key: value_of(find(uapi::NFTA_SET_ELEM_KEY)?)?,
            key_end: find(uapi::NFTA_SET_ELEM_KEY_END).and_then(value_of),
            value,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::attributes;

    #[test]
    fn elements_read_back_as_written() {
        let elements = [
            Element::member(*b"\x0a\x60\x00\x01"),
            Element::data(*b"\x01\x02\x03\x04\x05\x06\x07\x08", *b"abcd"),
            Element::verdict([1, 0, 0, 0], Verdict::Goto("n-10".into())),
            Element::verdict([2, 0, 0, 0], Verdict::Drop),
            Element { key_end: Some([9; 8].into()), ..Element::member([1; 8]) },
        ];
        for element in elements {
            let mut encoder = Encoder::new();
            element.encode(&mut encoder);
            let item = attributes(encoder.bytes()).next().unwrap();
            assert_eq!(Element::decode(item), Some(element));
        }
    }

    #[test]
    fn a_member_is_a_nest_of_key_and_data() {
        let mut encoder = Encoder::new();
        Element::member([10, 96, 0, 1]).encode(&mut encoder);
        let expected: &[u8] = &[16, 0, 1, 0x80, 12, 0, 1, 0x80, 8, 0, 1, 0, 10, 96, 0, 1];
        assert_eq!(encoder.bytes(), expected);
    }

    #[test]
    fn fields_of_a_key_are_padded() {
        let set = Set {
            name: "frontends".into(),
            key: vec![4, 1, 2],
            is_interval: false,
            value: SetValue::Data(16),
            timeout: None,
            shown_as: (0, 0),
        };
        assert_eq!(set.key_length(), 12);
        assert_eq!(set.flags(), uapi::NFT_SET_MAP | uapi::NFT_SET_CONCAT);
    }

    #[test]
    fn comments_read_back() {
        let rule = Rule { comment: "10 endpoints".to_owned(), expressions: vec![] };
        let mut encoder = Encoder::new();
        rule.encode(&mut encoder);
        let userdata =
            attributes(encoder.bytes()).find(|a| a.kind == uapi::NFTA_RULE_USERDATA).unwrap();
        assert_eq!(Rule::decode_comment(userdata.value), Some(rule.comment));
        assert_eq!(Rule::decode_comment(&[0, 9, b'x']), None);
    }
}
