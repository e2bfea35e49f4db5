//! `portolan dns` on loopback.

use std::net::{TcpListener, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::eventually;
use crate::run::{portolan_path, run};

/// How long a question may take, and a process to be ready and to end.
const LIMIT: Duration = Duration::from_secs(20);

/// A running name server; killed when dropped.
pub struct NameServer {
    process: Child,
    port: u16,
    /// Ports of health, readiness and metrics.
    probes: [u16; 3],
}

/// A port of loopback that nobody has, for datagrams and for streams.
///
/// It is none of those that the kernel gives to clients (ip(7), `ip_local_port_range`): one that asks before the server is
/// there may get the server's port, and reads its own question as the answer.
pub fn free_port() -> u16 {
    const FIRST: u16 = 20_000;
    const COUNT: u32 = 10_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        // Processes begin at different ones.
        let number =
            std::process::id().wrapping_mul(97).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = FIRST + (number % COUNT) as u16;
        let address = ("127.0.0.1", port);
        if UdpSocket::bind(address).is_ok() && TcpListener::bind(address).is_ok() {
            return port;
        }
    }
}

impl NameServer {
    /// Starts one that follows an API server.
    pub fn start(kubeconfig: &Path, arguments: &[&str]) -> Self {
        Self::start_at(free_port(), kubeconfig, arguments)
    }

    /// Starts one at a port, where others may be too.
    pub fn start_at(port: u16, kubeconfig: &Path, arguments: &[&str]) -> Self {
        let probes = [free_port(), free_port(), free_port()];
        let at = |port: u16| format!("127.0.0.1:{port}");
        let [health, ready, metrics] = probes.map(at);
        let listen = at(port);
        let usual = [
            ["--listen", &listen],
            ["--lameduck", "500ms"],
            ["--health-address", &health],
            ["--ready-address", &ready],
            ["--metrics-address", &metrics],
        ];
        let process = Self::spawn(Some(kubeconfig), &[usual.as_flattened(), arguments].concat());
        Self { process, port, probes }
    }

    /// Starts one by a Corefile, which `text` answers for a port and that of readiness; without a kubeconfig it says
    /// where the API server is.
    pub fn start_by<'a>(
        kubeconfig: impl Into<Option<&'a Path>>,
        file: &Path,
        text: impl FnOnce(u16, u16) -> String,
    ) -> Self {
        let (port, ready) = (free_port(), free_port());
        std::fs::write(file, text(port, ready)).expect("the Corefile can be written");
        let process = Self::spawn(kubeconfig.into(), &["--conf", &file.display().to_string()]);
        Self { process, port, probes: [0, ready, 0] }
    }

    fn spawn(kubeconfig: Option<&Path>, arguments: &[&str]) -> Child {
        Command::new(portolan_path())
            .args(["--log-level", "warn", "dns"])
            .args(kubeconfig.map(|file| format!("--kubeconfig={}", file.display())))
            .args(arguments)
            .stdin(Stdio::null())
            .spawn()
            .expect("the binary under test starts")
    }

    /// Where readiness is told.
    pub fn ready_port(&self) -> u16 {
        self.probes[1]
    }

    /// Where it answers.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// What dig says to these arguments.
    pub fn dig(&self, arguments: &[&str]) -> Result<String, String> {
        let mut command = Command::new("dig");
        command
            .args(["@127.0.0.1", "-p", &self.port.to_string(), "+time=2", "+tries=2"])
            .args(arguments);
        run(command, LIMIT).ok()
    }

    /// Waits until it knows the cluster.
    pub fn wait_until_ready(&self) {
        eventually("it is ready", LIMIT, || match self.probe(1, "/ready")? {
            (code, body) if (&*code, &*body) == ("200", "OK") => Ok(()),
            other => Err(format!("{other:?}")),
        });
    }

    /// The code and body of a probe: 0 for health, 1 for readiness, 2 for metrics.
    pub fn probe(&self, which: usize, path: &str) -> Result<(String, String), String> {
        let url = format!("http://127.0.0.1:{}{path}", self.probes[which]);
        let mut command = Command::new("curl");
        command.args(["--silent", "--show-error", "--max-time", "5"]);
        command.args(["--write-out", "\n%{http_code}", &url]);
        let text = run(command, LIMIT).ok()?;
        let (body, code) = text.rsplit_once('\n').unwrap_or(("", &text));
        Ok((code.to_owned(), body.to_owned()))
    }

    /// Asks it to end, and waits until it has.
    pub fn end(&mut self) {
        let mut kill = Command::new("kill");
        kill.arg(self.process.id().to_string());
        run(kill, LIMIT).expect_success();
        let _ = self.process.wait();
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
