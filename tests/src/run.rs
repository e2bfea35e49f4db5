//! Running a command with a time limit, and what it said.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::NamedTempFile;

/// What a command said.
#[derive(Debug, Clone)]
pub struct Output {
    /// The command line, for messages.
    pub command: String,
    /// Exit status 0.
    pub success: bool,
    /// Standard output, trimmed at the end.
    pub stdout: String,
    /// Standard error, trimmed at the end.
    pub stderr: String,
    /// How long it took.
    pub took: Duration,
}

impl Output {
    /// Standard output of a command that has to succeed.
    #[track_caller]
    pub fn expect_success(self) -> String {
        assert!(self.success, "`{}` failed\n{}\n{}", self.command, self.stdout, self.stderr);
        self.stdout
    }

    /// Everything a command said that has to fail.
    #[track_caller]
    pub fn expect_failure(self) -> String {
        assert!(!self.success, "`{}` succeeded\n{}", self.command, self.stdout);
        format!("{}\n{}", self.stdout, self.stderr)
    }

    /// Standard output if it succeeded, for polling.
    pub fn ok(self) -> Result<String, String> {
        match self.success {
            true => Ok(self.stdout),
            false => Err(format!("`{}`: {}\n{}", self.command, self.stdout, self.stderr)),
        }
    }
}

/// Runs a command to its end; kills it and panics after `limit`.
pub fn run(mut command: Command, limit: Duration) -> Output {
    let line = format!("{command:?}");
    let start = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("`{line}` did not start: {error}"));
    let stdout = collect(child.stdout.take().expect("stdout is piped"));
    let stderr = collect(child.stderr.take().expect("stderr is piped"));
    let status = loop {
        if let Some(status) = child.try_wait().expect("a child can be waited for") {
            break status;
        }
        if start.elapsed() > limit {
            child.kill().expect("a running child can be killed");
            child.wait().expect("a killed child ends");
            panic!("`{line}` did not end within {limit:?}");
        }
        thread::sleep(Duration::from_millis(2));
    };
    let took = start.elapsed();
    let text = |reader: thread::JoinHandle<String>| {
        reader.join().expect("the reader does not panic").trim_end().to_owned()
    };
    Output {
        command: line,
        success: status.success(),
        stdout: text(stdout),
        stderr: text(stderr),
        took,
    }
}

fn collect(mut pipe: impl Read + Send + 'static) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // A pipe that breaks has said what it had to say.
        let _ = pipe.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ is in the repository")
}

/// A file with a manifest given as text, for kubectl; gone when dropped.
pub(crate) fn manifest_file(manifest: &str) -> NamedTempFile {
    let file = tempfile::Builder::new().suffix(".yaml").tempfile().expect("a temporary file");
    fs::write(file.path(), manifest).expect("a temporary file can be written");
    file
}

/// The binary under test: `$PORTOLAN`, or the debug build.
pub fn portolan_path() -> PathBuf {
    built("PORTOLAN", "target/debug/portolan", "cargo build -p portolan")
}

/// The bench: `$BENCH`, or the debug build.
pub fn bench_path() -> PathBuf {
    built("BENCH", "target/debug/bench", "cargo build -p bench")
}

/// The kubectl to test with: `$KUBECTL`, or the one that the Makefile fetches.
pub fn kubectl_path() -> PathBuf {
    built("KUBECTL", "target/tools/kubectl", "scripts/fetch-kubectl")
}

/// A file of the repository's `examples/`.
pub(crate) fn examples() -> PathBuf {
    repository().join("examples")
}

fn built(variable: &str, default: &str, how: &str) -> PathBuf {
    let path = std::env::var_os(variable).map_or_else(|| repository().join(default), PathBuf::from);
    assert!(path.exists(), "{} is missing: run `{how}` or set {variable}", path.display());
    path
}
