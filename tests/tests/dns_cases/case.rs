//! What a row of the table says.

/// The namespace that nearly all is in.
const DOMAIN: &str = "shop.svc.cluster.local";

/// Who is asked, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum At {
    /// A server with nothing said, that has nobody to ask about names of others.
    Usual,
    /// One where pods have no names.
    NoPods,
    /// One whose answers may be kept for an hour.
    Long,
    /// One that asks others, but not about addresses.
    KeptReverse,
    /// One that asks another one about `corp.example`, which it does not keep, and about `silent.example` nobody who is
    /// there.
    Forwarding,
    /// One where namespaces, Services and slices are selected by labels, endpoints called like their pods, and Services
    /// without them passed over.
    Selected,
    /// The same, after the labels of namespaces have changed.
    Relabelled,
    /// One where namespaces are named, and endpoints have no names.
    Alone,
    /// The usual one, after the cluster has changed.
    Changed,
    /// One that has never reached the API server.
    Unsynced,
}

/// A question, and what is to be answered.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Case {
    pub(crate) what: &'static str,
    pub(crate) at: At,
    /// Arguments of dig. Here and below `~` is [`DOMAIN`].
    pub(crate) dig: &'static str,
    pub(crate) status: &'static str,
    pub(crate) flags: &'static str,
    /// What the server says of itself.
    pub(crate) edns: &'static str,
    /// Records of each section, in order of their text.
    pub(crate) answer: &'static [&'static str],
    pub(crate) authority: &'static [&'static str],
    pub(crate) additional: &'static [&'static str],
}

pub(crate) const EDNS: &str = "version: 0, flags:; udp: 1232";
/// With what it is said that there is nothing.
pub(crate) const SOA: &str = "cluster.local. 30 IN SOA ns.dns.cluster.local. hostmaster.cluster.local. SERIAL 7200 1800 86400 30";
pub(crate) const SOA_V4: &str = "in-addr.arpa. 30 IN SOA ns.dns.cluster.local. hostmaster.cluster.local. SERIAL 7200 1800 86400 30";
pub(crate) const SOA_V6: &str =
    "ip6.arpa. 30 IN SOA ns.dns.cluster.local. hostmaster.cluster.local. SERIAL 7200 1800 86400 30";

pub(crate) const SOA_CAPITAL: &str = "CLUSTER.local. 30 IN SOA ns.dns.CLUSTER.local. hostmaster.CLUSTER.local. SERIAL 7200 1800 86400 30";
pub(crate) const SOA_LONG: &str = "cluster.local. 300 IN SOA ns.dns.cluster.local. hostmaster.cluster.local. SERIAL 7200 1800 86400 3600";
pub(crate) const SOA_CORP: &str =
    "corp.example. 7 IN SOA ns.dns.corp.example. hostmaster.corp.example. SERIAL 7200 1800 86400 7";
/// What the longest names lead to.
pub(crate) const PTR_BOTH: &str =
    "2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.6.9.0.0.0.0.d.f.ip6.arpa. 30 IN PTR both.~.";
pub(crate) const PTR_TWIN: &str = "1.0.0.0.3.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.4.4.2.0.0.0.d.f.ip6.arpa. 30 IN PTR twin-0.twin.~.";

/// There are these records.
pub(crate) const fn found(
    what: &'static str,
    dig: &'static str,
    answer: &'static [&'static str],
) -> Case {
    let (status, flags, at) = ("NOERROR", "qr aa rd", At::Usual);
    Case { what, at, dig, status, flags, edns: EDNS, answer, authority: &[], additional: &[] }
}

/// There is such a name, but nothing of this type.
pub(crate) const fn empty(what: &'static str, dig: &'static str) -> Case {
    Case { authority: &[SOA], ..found(what, dig, &[]) }
}

/// There is no such name.
pub(crate) const fn missing(what: &'static str, dig: &'static str) -> Case {
    Case { status: "NXDOMAIN", ..empty(what, dig) }
}

/// It is not answered.
pub(crate) const fn failed(what: &'static str, dig: &'static str, status: &'static str) -> Case {
    Case { status, flags: "qr rd", ..found(what, dig, &[]) }
}

impl Case {
    pub(crate) const fn at(self, at: At) -> Self {
        Self { at, ..self }
    }

    pub(crate) const fn flags(self, flags: &'static str) -> Self {
        Self { flags, ..self }
    }

    pub(crate) const fn edns(self, edns: &'static str) -> Self {
        Self { edns, ..self }
    }

    pub(crate) const fn answer(self, answer: &'static [&'static str]) -> Self {
        Self { answer, ..self }
    }

    pub(crate) const fn authority(self, authority: &'static [&'static str]) -> Self {
        Self { authority, ..self }
    }

    pub(crate) const fn additional(self, additional: &'static [&'static str]) -> Self {
        Self { additional, ..self }
    }
}

/// A text of the table, as it is meant.
pub(crate) fn whole(text: &str) -> String {
    text.replace('~', DOMAIN)
}
