//! What a proxy sets on the host besides rules: limits and timeouts of connection tracking, node
//! ports that no program gets by chance, and the process's own chance to survive when memory runs out.
//!
//! What was there before is remembered until the machine restarts, so that `portolan cleanup` can put
//! it back.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::Context;
use dataplane::NODE_PORTS;
use kernel::sysctl;

use super::config::{Conntrack, GoDuration};
use crate::errors::sentence;

/// Where values from before are remembered, beside the socket: `/run` forgets them when the kernel does.
const BEFORE: &str = "sysctls.json";
const MAX: &str = "net/netfilter/nf_conntrack_max";
/// Ports that a program which asks for any does not get (ip-sysctl).
const RESERVED: &str = "net/ipv4/ip_local_reserved_ports";
const HASH_SIZE: &str = "/sys/module/nf_conntrack/parameters/hashsize";
/// More than this kube-proxy never asks for.
const MOST: i64 = 1 << 20;

/// Sets what `config` asks for, and remembers in `directory` what was there. What can't be set is said
/// and left.
pub(crate) fn tune(config: &Conntrack, oom_score_adj: i32, directory: &Path) {
    if let Err(error) = fs::write("/proc/self/oom_score_adj", oom_score_adj.to_string()) {
        tracing::warn!(oom_score_adj, %error, "oomScoreAdj is not set");
    }
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    for (name, value) in wanted(config, cores) {
        if let Err(error) = set(name, &value, directory) {
            tracing::warn!("{}", sentence(&error));
        }
    }
    if let Err(error) = reserve_node_ports(directory) {
        tracing::warn!("{}", sentence(&error));
    }
    // As kube-proxy, it leaves that to whoever makes the pod network.
    if sysctl::read("net/ipv4/ip_forward").is_ok_and(|value| value == "0") {
        tracing::warn!(
            "net.ipv4.ip_forward is 0: clients elsewhere reach no pod through this node"
        );
    }
    if let Some(max) = max(config, cores) {
        grow_hash_table(max / 4, directory);
    }
}

/// Puts back what was there before the first start; goes on after a failure, and keeps in mind what
/// failed. Succeeds if nothing was ever set.
pub(crate) fn restore(directory: &Path) -> anyhow::Result<()> {
    let path = directory.join(BEFORE);
    let Ok(text) = fs::read(&path) else { return Ok(()) };
    let mut before: BTreeMap<String, String> = serde_json::from_slice(&text)
        .with_context(|| format!("read {}, written by another version?", path.display()))?;
    let mut failures = Vec::new();
    before.retain(|name, value| match put_back(name, value) {
        Ok(()) => false,
        Err(error) => {
            failures.push(sentence(&error));
            true
        }
    });
    if !failures.is_empty() {
        fs::write(&path, serde_json::to_vec(&before)?)?;
        anyhow::bail!("{}", failures.join("; "));
    }
    fs::remove_file(path)?;
    // Others may have files there.
    let _ = fs::remove_dir(directory);
    Ok(())
}

/// Sets a kernel parameter, or that of a module by its path, where it is not so already: one that could not be set
/// can't be set now.
fn put_back(name: &str, value: &str) -> anyhow::Result<()> {
    if !name.starts_with('/') {
        return match sysctl::read(name)?.trim() == value {
            true => Ok(()),
            false => Ok(sysctl::write(name, value)?),
        };
    }
    match fs::read_to_string(name).with_context(|| format!("read {name}"))?.trim() == value {
        true => Ok(()),
        false => fs::write(name, value).with_context(|| format!("set {name} to {value}")),
    }
}

/// Parameters with their values; what is zero is left as it is.
fn wanted(config: &Conntrack, cores: usize) -> Vec<(&'static str, String)> {
    let mut wanted = Vec::new();
    if let Some(max) = max(config, cores) {
        wanted.push((MAX, max.to_string()));
    }
    let mut timeout = |name, duration: Option<&GoDuration>| {
        let seconds = duration.and_then(GoDuration::get).map_or(0, |duration| duration.as_secs());
        if seconds > 0 {
            wanted.push((name, seconds.to_string()));
        }
    };
    timeout(
        "net/netfilter/nf_conntrack_tcp_timeout_established",
        config.tcp_established_timeout.as_ref(),
    );
    timeout(
        "net/netfilter/nf_conntrack_tcp_timeout_close_wait",
        config.tcp_close_wait_timeout.as_ref(),
    );
    timeout("net/netfilter/nf_conntrack_udp_timeout", Some(&config.udp_timeout));
    timeout("net/netfilter/nf_conntrack_udp_timeout_stream", Some(&config.udp_stream_timeout));
    if config.tcp_be_liberal {
        wanted.push(("net/netfilter/nf_conntrack_tcp_be_liberal", "1".to_owned()));
    }
    wanted
}

/// Connections that may be tracked: `maxPerCore` for each core, `min` at least; `None` to leave it.
fn max(config: &Conntrack, cores: usize) -> Option<i64> {
    let per_core = config.max_per_core.filter(|per_core| *per_core > 0)?;
    let cores = i64::try_from(cores).unwrap_or(i64::MAX);
    Some(per_core.saturating_mul(cores).max(config.min.unwrap_or(0)).min(MOST))
}

/// Keeps node ports from being given to programs that ask for any port. Ports that are reserved
/// already stay so.
pub(crate) fn reserve_node_ports(directory: &Path) -> anyhow::Result<()> {
    let reserved = sysctl::read(RESERVED)?;
    set(RESERVED, &with_range(&reserved, NODE_PORTS.into_inner()), directory)
}

/// A list of ports and ranges, as the kernel writes it, with one range more.
fn with_range(list: &str, (first, last): (u16, u16)) -> String {
    let number = |text: &str| text.trim().parse::<u16>().ok();
    let mut ranges: Vec<(u16, u16)> = list
        .split(',')
        .filter_map(|part| match part.split_once('-') {
            Some((first, last)) => Some((number(first)?, number(last)?)),
            None => number(part).map(|port| (port, port)),
        })
        .collect();
    ranges.push((first, last));
    ranges.sort_unstable();
    let mut merged: Vec<(u16, u16)> = Vec::new();
    for (first, last) in ranges {
        match merged.last_mut() {
            Some(before) if first <= before.1.saturating_add(1) => before.1 = before.1.max(last),
            _ => merged.push((first, last)),
        }
    }
    let text = |(first, last): &(u16, u16)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    };
    merged.iter().map(text).collect::<Vec<_>>().join(",")
}

fn set(name: &str, value: &str, directory: &Path) -> anyhow::Result<()> {
    let before = sysctl::read(name)?;
    if before == value {
        return Ok(());
    }
    // In this order: what can't be put back is not changed.
    remember(name, before, directory).with_context(|| {
        format!("{name} is not set: its value can't be remembered in {}", directory.display())
    })?;
    Ok(sysctl::write(name, value)?)
}

/// Remembers parameters as they are, because somebody is about to set them.
pub(crate) fn note(
    names: impl IntoIterator<Item = &'static str>,
    directory: &Path,
) -> anyhow::Result<()> {
    names.into_iter().try_for_each(|name| remember(name, sysctl::read(name)?, directory))
}

/// Remembers the value of the first time only: later ones are ours.
fn remember(name: &str, before: String, directory: &Path) -> anyhow::Result<()> {
    let path = directory.join(BEFORE);
    let mut all: BTreeMap<String, String> = match fs::read(&path) {
        Ok(text) => serde_json::from_slice(&text).unwrap_or_default(),
        Err(_) => BTreeMap::new(),
    };
    if all.contains_key(name) {
        return Ok(());
    }
    all.insert(name.to_owned(), before);
    fs::create_dir_all(directory)?;
    let unfinished = path.with_extension("new");
    fs::write(&unfinished, serde_json::to_vec(&all)?)?;
    Ok(fs::rename(unfinished, path)?)
}

/// Only the first network namespace may, and only growing makes sense.
fn grow_hash_table(buckets: i64, directory: &Path) {
    let Ok(held) = fs::read_to_string(HASH_SIZE) else { return };
    let held = held.trim();
    if held.parse::<i64>().is_ok_and(|held| held < buckets) {
        let grown = remember(HASH_SIZE, held.to_owned(), directory)
            .and_then(|()| Ok(fs::write(HASH_SIZE, buckets.to_string())?));
        if let Err(error) = grown {
            tracing::info!(buckets, %error, "the table of connections keeps its size");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_there_is_put_back_once() {
        let directory = tempfile::tempdir().unwrap();
        let parameter = directory.path().join("parameter");
        let name = parameter.to_str().unwrap();
        let runtime = directory.path().join("run");
        fs::write(&parameter, "7\n").unwrap();
        restore(&runtime).unwrap();
        remember(name, "7".into(), &runtime).unwrap();
        fs::write(&parameter, "8").unwrap();
        // A second start finds what the first has set.
        remember(name, "8".into(), &runtime).unwrap();
        remember("/nowhere/at/all", "1".into(), &runtime).unwrap();
        let error = restore(&runtime).unwrap_err().to_string();
        assert!(error.contains("/nowhere/at/all"), "{error}");
        assert_eq!(fs::read_to_string(&parameter).unwrap(), "7");
        assert_eq!(
            fs::read_to_string(runtime.join(BEFORE)).unwrap(),
            "{\"/nowhere/at/all\":\"1\"}"
        );
        fs::write(runtime.join(BEFORE), "{}").unwrap();
        restore(&runtime).unwrap();
        assert!(!runtime.exists());
    }

    #[test]
    fn node_ports_join_what_is_reserved() {
        let reserved = |list| with_range(list, (30000, 32767));
        assert_eq!(reserved(""), "30000-32767");
        assert_eq!(reserved("30000-32767"), "30000-32767");
        assert_eq!(reserved("8080,32768-33000"), "8080,30000-33000");
        assert_eq!(reserved("29000-40000"), "29000-40000");
        assert_eq!(reserved("65535,1-5"), "1-5,30000-32767,65535");
    }

    #[test]
    fn limits_follow_the_cores_within_bounds() {
        let mut config = Conntrack::default();
        assert_eq!(max(&config, 2), Some(131_072), "min");
        assert_eq!(max(&config, 8), Some(262_144));
        assert_eq!(max(&config, 1000), Some(MOST));
        let names: Vec<&str> = wanted(&config, 8).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names.len(), 3, "UDP timeouts of zero are left: {names:?}");
        config.max_per_core = Some(0);
        config.tcp_be_liberal = true;
        assert_eq!(max(&config, 8), None);
        assert!(wanted(&config, 8).iter().any(|(name, _)| name.ends_with("be_liberal")));
    }
}
