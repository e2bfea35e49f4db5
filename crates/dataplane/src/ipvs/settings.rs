//! Kernel parameters of IPVS (Documentation/networking/ipvs-sysctl.rst).

use kernel::sysctl;

/// What they are set to, and what the kernel has without anybody setting them.
const SETTINGS: [(&str, &str, &str); 3] = [
    // Connections are tracked, so that the companion can rewrite their sources.
    ("net/ipv4/vs/conntrack", "1", "0"),
    // A connection whose destination was taken away ends, instead of being silent.
    ("net/ipv4/vs/expire_nodest_conn", "1", "0"),
    // A client with affinity does not stay on a destination that takes no connections any more.
    ("net/ipv4/vs/expire_quiescent_template", "1", "0"),
];

/// Where a client's port that comes again is treated as a new connection, so that no client of a rolling
/// update is led to an endpoint that is gone.
const REUSE: &str = "net/ipv4/vs/conn_reuse_mode";

/// All that are set.
pub fn parameters() -> impl Iterator<Item = &'static str> {
    SETTINGS.into_iter().map(|(name, ..)| name).chain([REUSE])
}

/// Sets them in the calling thread's network namespace.
pub(super) fn set() -> kernel::Result<()> {
    for (name, value, _) in SETTINGS {
        sysctl::write(name, value)?;
    }
    // Before 5.9 such a connection waits a second if connections are tracked, and 0 is the lesser evil.
    let value = if is_older_than(5, 9) { "0" } else { "1" };
    sysctl::write(REUSE, value)
}

/// Sets them to what they are without anybody.
pub(super) fn unset() -> kernel::Result<()> {
    SETTINGS.into_iter().try_for_each(|(name, _, value)| sysctl::write(name, value))
}

/// Whether the running kernel is older than a release; not if it does not tell.
fn is_older_than(major: u32, minor: u32) -> bool {
    let release = sysctl::read("kernel/osrelease").unwrap_or_default();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(a)), Some(Ok(b))) => (a, b) < (major, minor),
        _ => false,
    }
}
