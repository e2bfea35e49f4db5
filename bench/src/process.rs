//! The measured process: its start and end, its processor time and memory as the kernel accounts them
//! (proc(5)).

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use kernel::netns::Netns;

use crate::interrupt::{self, Left};

/// A running process; killed when dropped.
pub(crate) struct Measured {
    child: Child,
    /// When it was started.
    pub(crate) started: Instant,
}

/// Processor time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cpu {
    /// In the process's own code, in seconds.
    pub(crate) user: f64,
    /// In the kernel for it, in seconds.
    pub(crate) system: f64,
}

impl Measured {
    /// Starts a command in a namespace; what it says goes to `log`.
    pub(crate) fn start(netns: &Netns, command: &mut Command, log: &Path) -> anyhow::Result<Self> {
        let file = fs::File::create(log).with_context(|| format!("create {}", log.display()))?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let started = Instant::now();
        let child = netns.run(|| command.spawn())?;
        let name = command.get_program().to_string_lossy().into_owned();
        let child = child.with_context(|| format!("start {name}"))?;
        interrupt::add(Left::Process(child.id()));
        Ok(Self { child, started })
    }

    /// Whether it still runs.
    pub(crate) fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Fails if it has ended.
    pub(crate) fn check(&mut self) -> anyhow::Result<()> {
        ensure!(self.is_running(), "it has ended by itself");
        Ok(())
    }

    /// Processor time that it and the children it has waited for have used.
    pub(crate) fn cpu(&self) -> anyhow::Result<Cpu> {
        // Fields 14 to 17 of proc_pid_stat(5).
        let [user, system, child_user, child_system] = self.times()?;
        Ok(Cpu { user: user + child_user, system: system + child_system })
    }

    /// Fields 14 to 17 of proc_pid_stat(5), in seconds.
    fn times(&self) -> anyhow::Result<[f64; 4]> {
        let stat = self.read("stat")?;
        // The name of the program, in parentheses, may hold anything.
        let rest = stat.rsplit_once(')').context("the name in /proc/PID/stat")?.1;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let seconds = |field: usize| -> anyhow::Result<f64> {
            let ticks: f64 = fields.get(field).context("a field of /proc/PID/stat")?.parse()?;
            Ok(ticks / TICKS)
        };
        // The first here is field 3.
        Ok([seconds(11)?, seconds(12)?, seconds(13)?, seconds(14)?])
    }

    /// Time on a processor of all its threads that are there, to the nanosecond, and of the children
    /// it has waited for.
    pub(crate) fn on_cpu(&self) -> anyhow::Result<Duration> {
        let mut nanoseconds = 0;
        let directory = format!("/proc/{}/task", self.child.id());
        for task in fs::read_dir(&directory).with_context(|| format!("read {directory}"))? {
            // A thread may end meanwhile.
            if let Ok(text) = fs::read_to_string(task?.path().join("schedstat")) {
                let first = text.split_whitespace().next().unwrap_or_default();
                nanoseconds += first.parse::<u64>().unwrap_or(0);
            }
        }
        let [_, _, user, system] = self.times()?;
        Ok(Duration::from_nanos(nanoseconds) + Duration::from_secs_f64(user + system))
    }

    /// Whether programs that it has started run.
    pub(crate) fn has_children(&self) -> bool {
        let directory = format!("/proc/{}/task", self.child.id());
        let tasks = fs::read_dir(directory).into_iter().flatten().flatten();
        let children = |task: fs::DirEntry| fs::read_to_string(task.path().join("children")).ok();
        tasks.filter_map(children).any(|children| !children.trim().is_empty())
    }

    /// Resident memory in bytes: now, and the most there ever was.
    pub(crate) fn memory(&self) -> anyhow::Result<(u64, u64)> {
        let status = self.read("status")?;
        let bytes = |name: &str| -> anyhow::Result<u64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let value = line.with_context(|| format!("{name} in /proc/PID/status"))?;
            let number = value.split_whitespace().next().unwrap_or_default();
            Ok(number.parse::<u64>()? * 1024)
        };
        Ok((bytes("VmRSS:")?, bytes("VmHWM:")?))
    }

    fn read(&self, file: &str) -> anyhow::Result<String> {
        let path = format!("/proc/{}/{file}", self.child.id());
        fs::read_to_string(&path).with_context(|| format!("read {path}"))
    }

    /// What it wrote to its log last, for the message of a run that failed.
    pub(crate) fn last_words(&self, log: &Path) -> String {
        let text = fs::read_to_string(log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        format!("it said last:\n{}", lines[lines.len().saturating_sub(5)..].join("\n"))
    }

    /// Kills it and waits for its end.
    pub(crate) fn kill(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
        interrupt::forget(&Left::Process(self.child.id()));
    }
}

impl Drop for Measured {
    fn drop(&mut self) {
        self.kill();
    }
}

/// `sysconf(_SC_CLK_TCK)` of Linux on every architecture that we build for.
pub(crate) const TICKS: f64 = 100.0;

/// Memory of the kernel that is neither user's nor cache, in bytes: slabs that can't be reclaimed and
/// what is allocated in virtual memory.
pub(crate) fn kernel_memory() -> anyhow::Result<u64> {
    let text = fs::read_to_string("/proc/meminfo").context("read /proc/meminfo")?;
    let kibibytes = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    let sum = ["SUnreclaim:", "VmallocUsed:"].into_iter().filter_map(kibibytes).sum::<u64>();
    Ok(sum * 1024)
}
