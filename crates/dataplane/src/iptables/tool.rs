//! The programs of iptables(8): which flavour this machine uses, and running them.

use std::fmt;
use std::io::{ErrorKind, Write};
use std::process::{Command, Output, Stdio};
use std::str::FromStr;

use kernel::netns::Netns;
use model::Family;

use super::chains::Table;
use super::saved::Saved;

/// With what a program ends that could not get the lock or reach the kernel (`enum xtables_exittype`).
const RESOURCE_PROBLEM: i32 = 4;

/// How long a program waits for the lock of the legacy flavour (`/run/xtables.lock`), in seconds.
const LOCK_SECONDS: &str = "5";

/// The two kernel interfaces that iptables' programs can write to. Rules of both are met by every packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flavour {
    /// `nf_tables`, by way of tables of iptables' own.
    Nft,
    /// `ip_tables`, whose tables are replaced as a whole.
    Legacy,
}

/// The programs of a flavour, for a network namespace.
#[derive(Debug)]
pub(super) struct Tool {
    flavour: Flavour,
    netns: Netns,
}

/// Why a program did not do it.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// It can't be run.
    #[error("run {program}: {source}")]
    NotRun {
        /// Its name.
        program: String,
        /// Why.
        source: std::io::Error,
    },
    /// The network namespace can't be entered.
    #[error("{0}")]
    Namespace(String),
    /// It did not get what it needs, such as the lock. That says nothing about the rules.
    #[error("{program}: {}", .stderr.trim())]
    Busy {
        /// Its name.
        program: String,
        /// What it said.
        stderr: String,
    },
    /// It was run and failed.
    #[error("{program}: {}", .stderr.trim())]
    Failed {
        /// Its name.
        program: String,
        /// What it said.
        stderr: String,
        /// The line of its input that it stopped at, if it told one and that is a rule.
        rule: Option<String>,
    },
}

/// What a rule of ours in a chain that is not ours has.
const OUR_JUMP: &str = "-j PORTOLAN-";

impl fmt::Display for Flavour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A name that is none of a flavour's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no iptables-{0}: accepted are nft and legacy")]
pub struct UnknownFlavour(String);

impl FromStr for Flavour {
    type Err = UnknownFlavour;

    fn from_str(text: &str) -> Result<Self, UnknownFlavour> {
        let found = Self::ALL.into_iter().find(|flavour| flavour.as_str() == text);
        found.ok_or_else(|| UnknownFlavour(text.to_owned()))
    }
}

impl Flavour {
    /// Both.
    pub const ALL: [Flavour; 2] = [Flavour::Nft, Flavour::Legacy];

    /// As iptables(8) calls it: `nft` or `legacy`.
    pub fn as_str(self) -> &'static str {
        match self {
            Flavour::Nft => "nft",
            Flavour::Legacy => "legacy",
        }
    }

    /// The flavour of this machine: the one that the kubelet has left its mark in (KEP-3178), else the
    /// one that `iptables` is. `None` if there is no iptables.
    pub fn of_machine() -> Option<Self> {
        let has_mark = |flavour: &Self| {
            if *flavour == Self::Legacy && !has_legacy(Family::V4, MANGLE) {
                return false;
            }
            let saved = flavour.run(Family::V4, "-save", &["-t", MANGLE], "", drop);
            saved.is_ok_and(|text| KUBELET_CHAINS.iter().any(|chain| text.contains(chain)))
        };
        Self::ALL.into_iter().find(has_mark).or_else(|| {
            let output = Command::new("iptables").arg("--version").output().ok()?;
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            Some(if text.contains("nf_tables") { Self::Nft } else { Self::Legacy })
        })
    }

    /// Whether others than us filter what is forwarded, in the calling thread's network namespace. Who can't be
    /// asked does.
    pub(crate) fn is_forwarding_filtered(self, family: Family) -> bool {
        let is_others = |line: &str| {
            line.starts_with(":FORWARD ") && !line.starts_with(":FORWARD ACCEPT")
                || line.starts_with("-A FORWARD ") && !line.contains(OUR_JUMP)
        };
        let saved = self.run(family, "-save", &["-t", Table::Filter.as_str()], "", drop);
        saved.map_or(true, |text| text.lines().any(is_others))
    }

    /// Runs one of the programs in the calling thread's network namespace. Answers what it prints.
    fn run(
        self,
        family: Family,
        which: &str,
        arguments: &[&str],
        input: &str,
        started: impl FnOnce(u32) + Send,
    ) -> Result<String, Error> {
        let program = format!("{}-{}{which}", tool(family), self.as_str());
        let not_run = |source| Error::NotRun { program: program.clone(), source };
        let mut child = Command::new(&program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(not_run)?;
        started(child.id());
        let stdin = child.stdin.take();
        // It reads all before it prints anything: neither waits for the other.
        let written = stdin.map_or(Ok(()), |mut stdin| stdin.write_all(input.as_bytes()));
        let Output { status, stdout, stderr } = child.wait_with_output().map_err(not_run)?;
        if !status.success() {
            let stderr = String::from_utf8_lossy(&stderr).into_owned();
            return Err(match status.code() {
                Some(RESOURCE_PROBLEM) => Error::Busy { program, stderr },
                _ => Error::Failed { program, stderr, rule: None },
            });
        }
        written.map_err(not_run)?;
        Ok(String::from_utf8_lossy(&stdout).into_owned())
    }
}

impl Tool {
    /// The programs of a flavour in the calling thread's network namespace.
    pub(super) fn open(flavour: Flavour) -> kernel::Result<Self> {
        Ok(Self { flavour, netns: Netns::current()? })
    }

    /// The flavour.
    pub(super) fn flavour(&self) -> Flavour {
        self.flavour
    }

    /// What a table of a family holds of ours.
    pub(super) fn saved(&self, family: Family, table: Table) -> Result<Saved, Error> {
        self.run(family, "-save", &["-t", table.as_str()], "", drop).map(|text| Saved::read(&text))
    }

    /// The same for who wants nothing of it to be there: without the programs nothing was ever written
    /// here, and a table of the legacy flavour is not made by looking for it.
    pub(super) fn left(&self, family: Family, table: Table) -> Result<Saved, Error> {
        if self.flavour == Flavour::Legacy {
            let has_table = || has_legacy(family, table.as_str());
            let has_table = self.netns.within(has_table);
            if !has_table.map_err(|error| Error::Namespace(error.to_string()))? {
                return Ok(Saved::default());
            }
        }
        match self.saved(family, table) {
            Err(Error::NotRun { source, .. }) if source.kind() == ErrorKind::NotFound => {
                Ok(Saved::default())
            }
            result => result,
        }
    }

    /// Runs `iptables-restore --noflush`. Each table of `input` is changed as a whole or not at all.
    /// `started` is told the number of the process.
    pub(super) fn restore(
        &self,
        family: Family,
        input: &str,
        started: impl FnOnce(u32) + Send,
    ) -> Result<(), Error> {
        let arguments = ["--noflush", "--wait", LOCK_SECONDS];
        match self.run(family, "-restore", &arguments, input, started) {
            Ok(_) => Ok(()),
            Err(Error::Failed { program, stderr, .. }) => {
                let line = failed_line(&stderr).and_then(|number| input.lines().nth(number - 1));
                let rule = line.filter(|line| line.starts_with("-A ")).map(str::to_owned);
                Err(Error::Failed { program, stderr, rule })
            }
            Err(other) => Err(other),
        }
    }

    fn run(
        &self,
        family: Family,
        which: &str,
        arguments: &[&str],
        input: &str,
        started: impl FnOnce(u32) + Send,
    ) -> Result<String, Error> {
        let run = || self.flavour.run(family, which, arguments, input, started);
        self.netns.within(run).map_err(|error| Error::Namespace(error.to_string()))?
    }
}

/// The table of the kubelet's mark.
const MANGLE: &str = "mangle";
/// Its chains by which a kubelet tells which flavour it uses.
const KUBELET_CHAINS: [&str; 2] = [":KUBE-IPTABLES-HINT", ":KUBE-KUBELET-CANARY"];

fn tool(family: Family) -> &'static str {
    match family {
        Family::V4 => "iptables",
        Family::V6 => "ip6tables",
    }
}

/// Whether the legacy flavour has this table in the calling thread's network namespace. To ask
/// iptables-legacy-save(8) for one that is not there makes it, with its hooks, for as long as the
/// namespace is.
fn has_legacy(family: Family, table: &str) -> bool {
    let tables = match family {
        Family::V4 => "ip_tables",
        Family::V6 => "ip6_tables",
    };
    match std::fs::read_to_string(format!("/proc/thread-self/net/{tables}_names")) {
        Ok(names) => names.lines().any(|name| name == table),
        // Without its module the kernel has none of its tables. Else the program may be allowed to know.
        Err(error) => error.kind() != ErrorKind::NotFound,
    }
}

/// The number, from 1, of the line that iptables-restore(8) says it failed at: `Error occurred at line: 7`,
/// `line 7: RULE_APPEND failed`, `line 7 failed`.
fn failed_line(stderr: &str) -> Option<usize> {
    let (_, after) = stderr.rsplit_once("line")?;
    let digits: String =
        after.trim_start_matches([':', ' ']).chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok().filter(|number| *number > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_failed_line_is_found() {
        for (said, line) in [
            (
                "ip6tables-restore v1.8.9 (nf_tables): Bad IP address \"1\"\nError occurred at line: 7\nTry",
                Some(7),
            ),
            ("iptables-restore: line 12 failed", Some(12)),
            ("line 3: RULE_APPEND failed (Invalid argument): rule in chain X", Some(3)),
            ("Another app is currently holding the xtables lock.", None),
        ] {
            assert_eq!(failed_line(said), line, "{said}");
        }
    }
}
