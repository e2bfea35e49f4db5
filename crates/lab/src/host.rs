//! Running commands on a host of the lab.

use std::io::Read;
use std::net::IpAddr;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use kernel::netns::Netns;

use crate::{Error, Result};

/// How often a running command is looked at.
const POLL: Duration = Duration::from_millis(2);

/// A host: a network namespace with a name. Files and processes are those of the machine.
#[derive(Debug)]
pub struct Host {
    /// Its name.
    pub name: String,
    /// Its address.
    pub address: IpAddr,
    pub(crate) netns: Netns,
}

/// What a command said.
#[derive(Debug, Clone)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// Standard output, trimmed at the end.
    pub stdout: String,
    /// Standard error, trimmed at the end.
    pub stderr: String,
    /// How long it took.
    pub took: Duration,
}

impl Output {
    /// Exit status 0.
    pub fn success(&self) -> bool {
        self.status.success()
    }
}

impl Host {
    /// Starts a command on this host.
    pub fn spawn(&self, command: &mut Command) -> Result<Child> {
        let program = command.get_program().to_string_lossy().into_owned();
        let spawned = self.netns.run(|| command.spawn())?;
        spawned.map_err(|source| Error::Spawn { program, host: self.name.clone(), source })
    }

    /// Runs `body` on a thread of this host: sockets that it opens are this host's.
    pub fn run_here<T: Send>(&self, body: impl FnOnce() -> T + Send) -> Result<T> {
        Ok(self.netns.run(body)?)
    }

    /// Runs a command on this host to its end and collects what it says; kills it after `limit`.
    pub fn run(&self, command: &[&str], limit: Duration) -> Result<Output> {
        run_bounded(&self.name, &command.join(" "), limit, || {
            let (program, arguments) = command.split_first().unwrap_or((&"true", &[]));
            let mut command = Command::new(program);
            command.args(arguments).stdin(Stdio::null());
            self.spawn(command.stdout(Stdio::piped()).stderr(Stdio::piped()))
        })
    }
}

/// Waits for a started command with piped output, and kills it after `limit`. `place` and `line`
/// name it in errors.
pub fn run_bounded(
    place: &str,
    line: &str,
    limit: Duration,
    start: impl FnOnce() -> Result<Child>,
) -> Result<Output> {
    let failed = |source| Error::Spawn { program: line.to_owned(), host: place.to_owned(), source };
    let begin = Instant::now();
    let mut child = start()?;
    let stdout = collect(child.stdout.take());
    let stderr = collect(child.stderr.take());
    let status = loop {
        if let Some(status) = child.try_wait().map_err(failed)? {
            break status;
        }
        if begin.elapsed() > limit {
            // It may end by itself between the look and the kill.
            let _ = child.kill();
            child.wait().map_err(failed)?;
            let (command, host) = (line.to_owned(), place.to_owned());
            return Err(Error::TooSlow { command, host, limit });
        }
        thread::sleep(POLL);
    };
    let took = begin.elapsed();
    let text = |reader: thread::JoinHandle<String>| {
        reader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    };
    Ok(Output { status, stdout: text(stdout), stderr: text(stderr), took })
}

fn collect(pipe: Option<impl Read + Send + 'static>) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            // A pipe that breaks has said what it had to say.
            let _ = pipe.read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).trim_end().to_owned()
    })
}
