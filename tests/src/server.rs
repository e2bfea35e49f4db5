//! An API server without a lab: on loopback, in a directory of its own.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::run::{Output, kubectl_path, manifest_file, portolan_path, run};

/// How long a request may take.
const COMMAND_LIMIT: Duration = Duration::from_secs(30);
/// How long the server may take to answer.
const UP_LIMIT: Duration = Duration::from_secs(20);

/// A running `portolan server`; killed when dropped.
pub struct Server {
    process: Child,
    kubeconfig: String,
}

impl Server {
    /// Starts a server on what `directory` holds. `wrapper` is a command line that the server's is
    /// appended to.
    pub fn start(directory: &Path, wrapper: &[&str]) -> Self {
        Self::start_with(directory, wrapper, &[])
    }

    /// Starts a server with more arguments.
    pub fn start_with(directory: &Path, wrapper: &[&str], arguments: &[&str]) -> Self {
        let free = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let port = free.local_addr().expect("a bound socket has an address").port().to_string();
        drop(free);
        let kubeconfig = directory.with_extension("kubeconfig").display().to_string();
        let program = portolan_path().display().to_string();
        let data = directory.display().to_string();
        let mut line = wrapper.to_vec();
        line.extend([&*program, "--log-level", "warn", "server", "--data-dir", &data]);
        line.extend(["--bind-address", "127.0.0.1", "--secure-port", &port]);
        line.extend(["--write-kubeconfig", &kubeconfig]);
        line.extend(arguments);
        let process = Command::new(line[0])
            .args(&line[1..])
            .stdin(Stdio::null())
            .spawn()
            .expect("the binary under test starts");
        let server = Self { process, kubeconfig };
        crate::eventually("the API server answers", UP_LIMIT, || {
            server.kubectl(&["get", "namespace", "default"]).ok()
        });
        server
    }

    /// Runs kubectl against it.
    pub fn kubectl(&self, arguments: &[&str]) -> Output {
        run(self.kubectl_command(arguments), COMMAND_LIMIT)
    }

    /// Applies a manifest given as text, with kubectl.
    pub fn apply(&self, manifest: &str) -> Output {
        let file = manifest_file(manifest);
        self.kubectl(&["apply", "-f", file.path().to_str().expect("the path is UTF-8")])
    }

    /// kubectl against it, not started.
    pub fn kubectl_command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(kubectl_path());
        command.env("KUBECONFIG", &self.kubeconfig).args(arguments);
        command
    }

    /// How it is reached.
    pub fn kubeconfig(&self) -> &Path {
        Path::new(&self.kubeconfig)
    }

    /// A path as the server sees it, which may have mounts of its own.
    pub fn path(&self, path: &Path) -> PathBuf {
        let root = PathBuf::from(format!("/proc/{}/root", self.process.id()));
        root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// Kills it without a chance to finish anything.
    pub fn kill(&mut self) {
        // It may have ended by itself, which the test then finds out.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}
