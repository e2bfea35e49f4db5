//! What labs there are, and what they cost.

use std::fmt::{self, Write};
use std::fs;

use lab::{Directory, Record};

use super::{API_NOTE, KUBECONFIG_NOTE};

/// Memory of a process of this program.
#[derive(Debug, Clone)]
pub(crate) struct Resident {
    /// Its command, for example `node`.
    pub(crate) command: String,
    /// Resident set, in KiB.
    pub(crate) kibibytes: u64,
}

impl fmt::Display for Resident {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:.1} MB", self.command, self.kibibytes as f64 * 1024.0 / 1e6)
    }
}

/// Resident memory of every process of this program in a lab, the one that runs the lab included.
/// Pages of the program's file are counted in each of them.
pub(crate) fn resident(directory: &Directory, record: &Record) -> anyhow::Result<Vec<Resident>> {
    let mut pids = directory.cgroup()?.child("hosts").processes()?;
    pids.push(record.pid);
    Ok(pids.into_iter().filter_map(resident_of).collect())
}

/// `None` if the process has just ended.
fn resident_of(pid: u32) -> Option<Resident> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes = line.split_whitespace().next()?.parse().ok()?;
    let arguments = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let arguments: Vec<_> =
        arguments.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
    // Options with their values may come before it.
    let is_command = |word: &&str| matches!(*word, "server" | "node" | "lab");
    let command = arguments.iter().map(|word| &**word).find(is_command)?.to_owned();
    Some(Resident { command, kibibytes })
}

/// Describes one lab, or all.
pub(crate) fn status(name: Option<&str>) -> anyhow::Result<String> {
    let names = name.map_or_else(Directory::all, |name| vec![name.to_owned()]);
    if names.is_empty() {
        return Ok("no labs; start one with `portolan lab up`\n".to_owned());
    }
    let mut text = String::new();
    for name in names {
        describe(&Directory::of(&name)?, &mut text)?;
    }
    Ok(text)
}

fn describe(directory: &Directory, text: &mut String) -> anyhow::Result<()> {
    let name = directory.name();
    if !directory.exists() {
        writeln!(text, "lab {name}: not there")?;
        return Ok(());
    }
    if !directory.is_held()? {
        writeln!(text, "lab {name}: dead; remove it with `portolan lab down --name {name}`")?;
        return Ok(());
    }
    let record = Record::read(directory)?;
    writeln!(text, "lab {name}: run by process {}", record.pid)?;
    writeln!(text, "  directory   {}", directory.path().display())?;
    for (label, note) in [("API", API_NOTE), ("kubeconfig", KUBECONFIG_NOTE)] {
        writeln!(text, "  {label:<11} {}", record.note(note).unwrap_or("not yet"))?;
    }
    for host in &record.underlay.hosts {
        writeln!(text, "  {:<13} {}", host.name, host.address)?;
    }
    for process in resident(directory, &record)? {
        writeln!(text, "  resident: {process}")?;
    }
    Ok(())
}
