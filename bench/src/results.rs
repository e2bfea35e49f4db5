//! What a run has measured, as a file.

use std::fs;
use std::path::Path as FilePath;
use std::process::Command;

use anyhow::Context;
use serde::{Deserialize, Serialize};

use crate::control::Control;
use crate::path::{Path, Way};

/// A run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Results {
    /// The commit that was measured, as far as git knows.
    pub(crate) commit: String,
    /// When, as date(1) says it in UTC.
    pub(crate) date: String,
    /// It took a few minutes only: short runs and few of them.
    pub(crate) is_quick: bool,
    /// Where.
    pub(crate) machine: Machine,
    /// What programming costs.
    pub(crate) control: Vec<Control>,
    /// What a connection costs.
    pub(crate) paths: Vec<Path>,
}

/// The machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Machine {
    /// Name of its processor.
    pub(crate) processor: String,
    /// Number of processors.
    pub(crate) processors: usize,
    /// Memory, in bytes.
    pub(crate) memory_bytes: u64,
    /// Release of its kernel.
    pub(crate) kernel: String,
    /// A program imitates it, so that only ratios between its figures mean something.
    #[serde(default)]
    pub(crate) is_imitated: bool,
}

/// What a run can't find out by itself.
#[derive(Debug, Clone, Default)]
pub(crate) struct About {
    /// The commit that is measured; `None` to ask git.
    pub(crate) commit: Option<String>,
    /// It took a few minutes only.
    pub(crate) is_quick: bool,
    /// The machine is imitated.
    pub(crate) is_imitated: bool,
}

impl Results {
    /// What was measured on this machine, now.
    pub(crate) fn new(about: About, control: Vec<Control>, paths: Vec<Path>) -> Self {
        let say = |program: &str, arguments: &[&str]| {
            let output = Command::new(program).args(arguments).output().ok()?;
            let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
            (output.status.success() && !text.is_empty()).then_some(text)
        };
        let unknown = || "unknown".to_owned();
        let field = |file: &str, name: &str| {
            let text = fs::read_to_string(file).unwrap_or_default();
            let line = text.lines().find(|line| line.starts_with(name)).map(str::to_owned);
            line.and_then(|line| Some(line.split_once(':')?.1.trim().to_owned()))
        };
        let memory = field("/proc/meminfo", "MemTotal");
        let kibibytes = memory.and_then(|text| text.split(' ').next()?.parse::<u64>().ok());
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease");
        Self {
            commit: about
                .commit
                .or_else(|| say("git", &["describe", "--always", "--dirty"]))
                .unwrap_or_else(unknown),
            date: say("date", &["-u", "+%Y-%m-%d"]).unwrap_or_else(unknown),
            is_quick: about.is_quick,
            machine: Machine {
                processor: field("/proc/cpuinfo", "model name").unwrap_or_else(unknown),
                processors: std::thread::available_parallelism().map_or(1, usize::from),
                memory_bytes: kibibytes.unwrap_or(0) * 1024,
                kernel: kernel.map_or_else(|_| unknown(), |text| text.trim().to_owned()),
                is_imitated: about.is_imitated,
            },
            control,
            paths,
        }
    }

    /// Reads a file that [`Results::write`] wrote.
    pub(crate) fn read(path: &FilePath) -> anyhow::Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        serde_json::from_str(&text)
            .with_context(|| format!("{}: these are no results of the bench", path.display()))
    }

    /// Writes it as JSON.
    pub(crate) fn write(&self, path: &FilePath) -> anyhow::Result<()> {
        let text = serde_json::to_string_pretty(self)? + "\n";
        fs::write(path, text).with_context(|| format!("write {}", path.display()))
    }

    /// What was measured of a proxy with so many Services.
    pub(crate) fn control(&self, proxy: &str, services: u32) -> Option<&Control> {
        self.control.iter().find(|c| c.proxy == proxy && c.services == services)
    }

    /// A way under the rules of a proxy.
    pub(crate) fn path(&self, rules: &str, services: u32, way: Way) -> Option<&Path> {
        let is_it = |p: &&Path| p.rules == rules && p.services == services && p.way == way;
        self.paths.iter().find(is_it)
    }
}
