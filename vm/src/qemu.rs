//! The machine itself: QEMU, which imitates a whole computer, so that it needs nothing of the one it
//! runs on.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::signalfd::SignalFd;

use crate::init::{EXIT, FAILED, STARTED};

/// How long a kernel may take to start the first process. It takes seconds; this is for a machine
/// that has much else to do.
const BOOT: Duration = Duration::from_secs(120);

/// How often is looked whether there is something new.
const PATIENCE: u16 = 20;

/// What alarming messages of the kernel have in them. The last two are of a processor, and of a process, that does
/// not get on.
const ALARMS: [&str; 6] =
    ["BUG: ", "Oops: ", "WARNING: ", "Out of memory: ", "rcu: INFO: ", "INFO: task "];

/// How much of the console is shown when something fails.
const LINES: usize = 60;

/// A machine to be started.
#[derive(Debug)]
pub(crate) struct Machine<'a> {
    pub(crate) kernel: &'a Path,
    pub(crate) initramfs: &'a Path,
    pub(crate) cpus: u32,
    /// In megabytes.
    pub(crate) memory: u32,
    /// A directory for what is said on the serial ports.
    pub(crate) directory: &'a Path,
    /// How long it may run.
    pub(crate) limit: Duration,
}

/// How a run ended that did not fail by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The program ended with this code.
    Code(u8),
    /// Somebody wants it to end.
    Interrupted(Signal),
}

/// What the first process has said (see [`crate::init`]).
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Nothing,
    Started,
    Failed(String),
    Exit(u8),
}

/// A running machine; it ends when dropped.
struct Running {
    child: Child,
}

impl Machine<'_> {
    /// The file that the kernel's console goes to.
    pub(crate) fn console(&self) -> PathBuf {
        self.directory.join("console")
    }

    /// The file with the files that were asked for, as the first process sends them.
    pub(crate) fn files(&self) -> PathBuf {
        self.directory.join("files")
    }

    /// Runs it to its end. What the program writes goes to `out` as it comes.
    pub(crate) fn run(&self, signals: &SignalFd, out: &mut impl Write) -> anyhow::Result<Ended> {
        let (output, verdict) = (self.directory.join("output"), self.directory.join("verdict"));
        for file in [&output, &verdict, &self.console(), &self.files()] {
            File::create(file).with_context(|| format!("create {}", file.display()))?;
        }
        let mut output = File::open(&output).context("read what the program writes")?;
        let started = Instant::now();
        let mut running = self.start()?;
        loop {
            if let Some(signal) = wait(signals)? {
                return Ok(Ended::Interrupted(signal));
            }
            let status = running.child.try_wait().context("wait for QEMU")?;
            copy(&mut output, out)?;
            let text = fs::read_to_string(&verdict).context("read how the program ended")?;
            let verdict = Verdict::of(&text);
            match (verdict, status) {
                // It says this after all output and files have gone out.
                (Verdict::Exit(code), _) => {
                    copy(&mut output, out)?;
                    return Ok(Ended::Code(code));
                }
                (Verdict::Failed(why), _) => bail!("{why}"),
                (verdict, Some(status)) => return Err(self.explain(&verdict, status)),
                (Verdict::Nothing, None) if started.elapsed() > BOOT.min(self.limit) => {
                    let limit = BOOT.min(self.limit).as_secs();
                    bail!(
                        "the kernel did not start the first process within {limit} s{}",
                        self.last_words()
                    );
                }
                (Verdict::Started, None) if started.elapsed() > self.limit => {
                    let limit = self.limit.as_secs();
                    bail!("the program did not end within {limit} s{}", self.last_words());
                }
                (Verdict::Nothing | Verdict::Started, None) => {}
            }
        }
    }

    fn start(&self) -> anyhow::Result<Running> {
        let file = |name: &str| format!("file:{}", self.directory.join(name).display());
        // Whatever becomes of this program, QEMU does not outlive it.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "qemu-system-x86_64"]);
        command.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
        // Hardware virtualisation is not asked for: where it is offered inside another virtual
        // machine it may hang.
        command.args(["-accel", "tcg,thread=multi", "-cpu", CPU]);
        command.args(["-smp", &self.cpus.to_string(), "-m", &self.memory.to_string()]);
        command.arg("-kernel").arg(self.kernel).arg("-initrd").arg(self.initramfs);
        command.args(["-append", KERNEL_COMMAND_LINE]);
        for name in ["console", "output", "verdict", "files"] {
            command.args(["-serial", &file(name)]);
        }
        let complaints = File::create(self.complaints()).context("create a file for QEMU")?;
        command.stdin(Stdio::null()).stdout(complaints.try_clone()?).stderr(complaints);
        let child = command.spawn().context("start setpriv, of util-linux")?;
        Ok(Running { child })
    }

    /// The file that QEMU's own messages go to.
    fn complaints(&self) -> PathBuf {
        self.directory.join("qemu")
    }

    /// Why the machine has ended before the program did.
    fn explain(&self, verdict: &Verdict, status: ExitStatus) -> anyhow::Error {
        if !status.success() {
            let said = fs::read_to_string(self.complaints()).unwrap_or_default();
            let how = match status.signal() {
                Some(signal) => format!("signal {signal}"),
                None => status.to_string(),
            };
            return anyhow::anyhow!("QEMU failed ({how}): {}", said.trim());
        }
        let console = self.said();
        let when = match verdict {
            Verdict::Nothing => "before the first process was started",
            _ => "while the program ran",
        };
        let what = match panic_of(&console) {
            Some(panic) => format!("the kernel panicked {when}: {panic}"),
            None => format!("the machine ended {when}"),
        };
        anyhow::anyhow!("{what}{}", self.last_words())
    }

    /// What the kernel has said that nobody should overlook, whatever the program makes of it.
    pub(crate) fn alarms(&self) -> Vec<String> {
        self.said().lines().filter(|line| is_alarm(line)).map(str::to_owned).collect()
    }

    /// What the kernel has said until now.
    fn said(&self) -> String {
        // If it can't be read, there is still what it was to explain.
        let console = fs::read(self.console()).unwrap_or_default();
        String::from_utf8_lossy(&console).into_owned()
    }

    /// What of all that the kernel has said tells most, for a message.
    fn last_words(&self) -> String {
        telling(&self.said())
    }
}

/// A plain one, since each feature that kernels make use of has to be imitated, with random numbers, so
/// that nobody waits for them. Without cmpxchg16b: where it has no lock prefix, QEMU 7.2 spoils the
/// flags, and Linux 6.12 allocates memory by it.
const CPU: &str = "qemu64,+rdrand,cx16=off";

/// A panic ends the machine at once. All processors have one clock, which Linux 6.1 does not believe.
/// Defences against what other processes may see are of no use here and take time. By its memory it would have room for
/// 8192 tracked connections, and those of a test under load stay for two minutes: like a larger machine, it has for 262,144.
const KERNEL_COMMAND_LINE: &str = "console=ttyS0 loglevel=5 panic=-1 rdinit=/init tsc=reliable \
    mitigations=off nokaslr audit=0 apparmor=0 nf_conntrack.hashsize=32768";

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Verdict {
    /// Of all that was said, as far as lines are complete.
    fn of(text: &str) -> Self {
        let complete = text.rsplit_once('\n').map_or("", |(lines, _)| lines);
        let Some(last) = complete.lines().last() else { return Self::Nothing };
        if let Some(why) = last.strip_prefix(FAILED) {
            return Self::Failed(why.to_owned());
        }
        match last.strip_prefix(EXIT).map(str::parse) {
            Some(Ok(code)) => Self::Exit(code),
            _ if last == STARTED => Self::Started,
            _ => Self::Failed(format!("the first process said {last:?}, which means nothing")),
        }
    }
}

/// What the kernel gave as the reason, if it panicked.
fn panic_of(console: &str) -> Option<&str> {
    let (_, rest) = console.split_once("Kernel panic - not syncing: ")?;
    rest.lines().next()
}

fn is_alarm(line: &str) -> bool {
    ALARMS.iter().any(|alarm| line.contains(alarm))
}

/// The first alarm on a console and what follows it: what comes later is often only what it led to. Without an alarm,
/// the end.
fn telling(console: &str) -> String {
    let lines: Vec<&str> = console.lines().collect();
    let (says, from) = match lines.iter().position(|line| is_alarm(line)) {
        Some(first) => ("from the first alarm on, the console has", first),
        None => ("the console ends with", lines.len().saturating_sub(LINES)),
    };
    let to = lines.len().min(from + LINES);
    format!("; {says}:\n{}", lines[from..to].join("\n"))
}

/// Waits a moment, or until there is a signal.
fn wait(signals: &SignalFd) -> anyhow::Result<Option<Signal>> {
    let mut fds = [PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
    match poll(&mut fds, PollTimeout::from(PATIENCE)) {
        // It was stopped and goes on.
        Ok(_) | Err(Errno::EINTR) => {}
        Err(error) => return Err(error).context("wait for signals"),
    }
    let Some(signal) = signals.read_signal().context("read a signal")? else { return Ok(None) };
    let number = i32::try_from(signal.ssi_signo).context("the number of a signal")?;
    Ok(Some(Signal::try_from(number)?))
}

/// Hands on what has come since the last time.
fn copy(output: &mut File, out: &mut impl Write) -> anyhow::Result<()> {
    let mut new = Vec::new();
    output.read_to_end(&mut new).context("read what the program writes")?;
    if !new.is_empty() {
        out.write_all(&new).and_then(|()| out.flush()).context("write what the program writes")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_complete_line_counts() {
        assert_eq!(Verdict::of(""), Verdict::Nothing);
        assert_eq!(Verdict::of("star"), Verdict::Nothing);
        assert_eq!(Verdict::of("started\n"), Verdict::Started);
        assert_eq!(Verdict::of("started\nexit 1"), Verdict::Started);
        assert_eq!(Verdict::of("started\nexit 101\n"), Verdict::Exit(101));
        let failed = Verdict::Failed("no module".to_owned());
        assert_eq!(Verdict::of("started\nfailed no module\n"), failed);
        for nonsense in ["x\n", "exit\n", "exit 300\n"] {
            assert!(matches!(Verdict::of(nonsense), Verdict::Failed(_)), "{nonsense}");
        }
    }

    #[test]
    fn the_first_alarm_is_shown_however_much_follows() {
        let noise = "[ 3.0] ? something\n".repeat(2 * LINES);
        let console = format!("[ 1.0] fine\n[ 2.0] watchdog: BUG: soft lockup - CPU#1\n{noise}");
        let told = telling(&console);
        assert!(told.contains("soft lockup") && !told.contains("fine"), "{told}");
        assert_eq!(told.lines().count(), 1 + LINES);
        assert!(telling("[ 1.0] fine\n[ 1.1] the end\n").ends_with("[ 1.1] the end"));
        assert!(is_alarm("[ 9.0] rcu: INFO: rcu_preempt self-detected stall on CPU"));
    }

    #[test]
    fn a_panic_is_found_on_the_console() {
        let console =
            "[ 1.0] fine\n[ 1.1] Kernel panic - not syncing: No init found.\n[ 1.2] CPU\n";
        assert_eq!(panic_of(console), Some("No init found."));
        assert_eq!(panic_of("[ 1.0] fine\n"), None);
    }
}
