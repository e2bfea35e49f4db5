//! The rules of a kube-proxy that ran here before. They are removed once ours are in place, so that no
//! Service is ever without.

mod ipvs;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, Stdio};

use anyhow::Context;
use kernel::netlink::{Protocol, Socket};
use kernel::nftables::{self, Batch, Family, Operation, Table};

use crate::errors::sentence;

/// The flavours of iptables that a kernel may hold rules of.
const IPTABLES: [&str; 4] =
    ["iptables-legacy", "iptables-nft", "ip6tables-legacy", "ip6tables-nft"];
/// Chains and ipsets that begin so are kube-proxy's,
const PREFIX: &str = "KUBE-";
/// except for those of the kubelet.
const KUBELETS: [&str; 3] = ["KUBE-IPTABLES-HINT", "KUBE-KUBELET-CANARY", "KUBE-FIREWALL"];

/// Removes what it finds in the calling thread's network namespace. Answers a line for each thing
/// that was removed, and what could not be.
pub(crate) fn remove_kube_proxy() -> (Vec<String>, Vec<anyhow::Error>) {
    let (mut removed, mut failures) = (Vec::new(), Vec::new());
    let mut note = |result: anyhow::Result<Vec<String>>| match result {
        Ok(lines) => removed.extend(lines),
        Err(error) => failures.push(error),
    };
    note(nftables_tables());
    for tool in IPTABLES {
        note(iptables_chains(tool));
    }
    note(ipvs::virtual_servers());
    // No set can go as long as a rule asks it.
    note(ipvs::sets());
    (removed, failures)
}

/// As [`remove_kube_proxy`], with the result in the log.
pub(super) fn take_over() {
    let (removed, failures) = remove_kube_proxy();
    for line in removed {
        tracing::info!("removed what kube-proxy has left: {line}");
    }
    for error in failures {
        tracing::warn!("left by kube-proxy and not removed: {}", sentence(&error));
    }
}

fn nftables_tables() -> anyhow::Result<Vec<String>> {
    let mut socket = Socket::open(Protocol::Netfilter)?;
    let mut removed = Vec::new();
    for (family, name) in [(Family::Ipv4, "ip"), (Family::Ipv6, "ip6")] {
        let table = Table { family, name: "kube-proxy".into() };
        if nftables::table_exists(&mut socket, &table)? {
            let mut batch = Batch::new();
            batch.push(Operation::DeleteTable(table));
            batch.run(&mut socket, None).map_err(|refused| anyhow::anyhow!("{refused}"))?;
            removed.push(format!("nftables table {name} kube-proxy"));
        }
    }
    Ok(removed)
}

fn iptables_chains(tool: &str) -> anyhow::Result<Vec<String>> {
    let saved = match Command::new(format!("{tool}-save")).output() {
        Ok(output) if output.status.success() => output,
        Ok(output) => anyhow::bail!(
            "{tool}-save: {} (the legacy flavour needs CAP_NET_RAW)",
            String::from_utf8_lossy(&output.stderr).trim()
        ),
        // Without the tool there are no rules of its either.
        Err(_) => return Ok(Vec::new()),
    };
    let plan = removal(&String::from_utf8_lossy(&saved.stdout));
    if plan.is_empty() {
        return Ok(Vec::new());
    }
    let input: String = plan.values().map(|table| &*table.input).collect();
    let mut restore = Command::new(format!("{tool}-restore"))
        .args(["--noflush", "--wait", "5"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("run {tool}-restore"))?;
    if let Some(mut stdin) = restore.stdin.take() {
        stdin.write_all(input.as_bytes())?;
    }
    let output = restore.wait_with_output()?;
    anyhow::ensure!(
        output.status.success(),
        "{tool}-restore: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    let line = |(name, table): (&String, &TableRemoval)| {
        format!("{} chains and {} jumps to them in {tool} table {name}", table.chains, table.jumps)
    };
    Ok(plan.iter().map(line).collect())
}

/// What is to be removed from one table of iptables.
#[derive(Debug, Default, PartialEq, Eq)]
struct TableRemoval {
    chains: usize,
    jumps: usize,
    /// For iptables-restore(8).
    input: String,
}

/// From the text of iptables-save(8) to what removes kube-proxy's chains, and nothing else.
fn removal(saved: &str) -> BTreeMap<String, TableRemoval> {
    let mut tables = BTreeMap::new();
    let is_ours = |chain: &str| chain.starts_with(PREFIX) && !KUBELETS.contains(&chain);
    for section in saved.split("\n*").map(|section| section.trim_start_matches('*')) {
        let mut lines = section.lines().skip_while(|line| line.starts_with('#'));
        let Some(name) = lines.next().map(|line| line.trim_start_matches('*')) else { continue };
        let (mut chains, mut jumps) = (Vec::new(), Vec::new());
        for line in lines {
            if let Some(chain) = line.strip_prefix(':').and_then(|l| l.split(' ').next()) {
                if is_ours(chain) {
                    chains.push(chain);
                }
            } else if let Some(rule) = line.strip_prefix("-A ") {
                let mut words = rule.split(' ');
                let from = words.next().unwrap_or_default();
                let target = words.skip_while(|word| *word != "-j" && *word != "-g").nth(1);
                if !is_ours(from) && target.is_some_and(is_ours) {
                    jumps.push(rule);
                }
            }
        }
        if chains.is_empty() {
            continue;
        }
        // A chain that is named again is emptied.
        let mut input = format!("*{name}\n");
        for chain in &chains {
            let _ = writeln!(input, ":{chain} - [0:0]");
        }
        for jump in &jumps {
            let _ = writeln!(input, "-D {jump}");
        }
        for chain in &chains {
            let _ = writeln!(input, "-X {chain}");
        }
        input.push_str("COMMIT\n");
        let table = TableRemoval { chains: chains.len(), jumps: jumps.len(), input };
        tables.insert(name.to_owned(), table);
    }
    tables
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_kube_proxys_chains_and_the_jumps_to_them_go() {
        let saved = "# Generated\n*mangle\n:PREROUTING ACCEPT [0:0]\n:KUBE-IPTABLES-HINT - [0:0]\nCOMMIT\n\
            # Completed\n# Generated\n*nat\n:PREROUTING ACCEPT [10:600]\n:DOCKER - [0:0]\n\
            :KUBE-SERVICES - [0:0]\n:KUBE-SVC-ABC - [0:0]\n\
            -A PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
            -A PREROUTING -j DOCKER\n-A KUBE-SERVICES -d 10.96.0.1/32 -j KUBE-SVC-ABC\nCOMMIT\n";
        let plan = removal(saved);
        assert_eq!(plan.keys().collect::<Vec<_>>(), ["nat"]);
        assert_eq!(
            plan["nat"].input,
            "*nat\n:KUBE-SERVICES - [0:0]\n:KUBE-SVC-ABC - [0:0]\n\
             -D PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
             -X KUBE-SERVICES\n-X KUBE-SVC-ABC\nCOMMIT\n"
        );
        assert!(removal("").is_empty());
    }
}
