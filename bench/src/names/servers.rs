//! The servers that are asked, each on the first processor alone.

use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use super::Place;
use crate::cluster;
use crate::process::Measured;

/// Where they listen.
pub(super) const PORT: u16 = 5300;
/// How long one may take until it answers.
const LIMIT: Duration = Duration::from_secs(60);

/// A server.
pub(super) enum Server {
    /// Sends back what comes.
    Echo,
    /// This project's.
    Portolan {
        program: PathBuf,
        /// How the API is reached.
        kubeconfig: PathBuf,
        has_autopath: bool,
    },
    /// unbound with so many Services as local data.
    Unbound(u32),
    /// CoreDNS, with how the API is reached.
    CoreDns(PathBuf, PathBuf),
}

/// One that answers.
pub(super) struct Running {
    process: Measured,
    pub(super) name: &'static str,
}

impl Running {
    pub(super) fn on_cpu(&self) -> anyhow::Result<Duration> {
        self.process.on_cpu()
    }

    pub(super) fn memory(&self) -> anyhow::Result<u64> {
        Ok(self.process.memory()?.0)
    }
}

impl Server {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Server::Echo => "echo",
            Server::Portolan { .. } => "portolan",
            Server::Unbound(_) => "unbound",
            Server::CoreDns(..) => "coredns",
        }
    }

    fn command(&self, place: &Place) -> anyhow::Result<Command> {
        let directory = place.directory.path();
        let address = format!("127.0.0.1:{PORT}");
        // A processor of its own, whatever its number.
        let mut command = Command::new("taskset");
        command.args(["-c", "0"]);
        match self {
            Server::Echo => {
                let own = std::env::current_exe().context("find this program")?;
                command.arg(own).args(["echo", &address]);
            }
            Server::Portolan { program, kubeconfig, has_autopath } => {
                command
                    .arg(program)
                    .args(["dns", "--listen", &address, "--resolv-conf", "", "--readers", "1"])
                    .args(["--health-address", "", "--ready-address", "", "--metrics-address", ""])
                    .arg("--kubeconfig")
                    .arg(kubeconfig)
                    .args(has_autopath.then_some("--autopath"));
            }
            Server::Unbound(services) => {
                let file = directory.join("unbound.conf");
                if !file.exists() {
                    fs::write(&file, configuration_of_unbound(*services))?;
                }
                command.args(["unbound", "-d", "-c"]).arg(file);
            }
            Server::CoreDns(program, kubeconfig) => {
                let file = directory.join("Corefile");
                let text = format!(
                    ".:{PORT} {{\n  bind 127.0.0.1\n  kubernetes cluster.local in-addr.arpa ip6.arpa {{\n    kubeconfig {}\n    pods insecure\n    ttl 30\n  }}\n  cache 30\n  loadbalance\n}}\n",
                    kubeconfig.display()
                );
                fs::write(&file, text)?;
                command.arg(program).arg("-conf").arg(file);
            }
        }
        Ok(command)
    }

    /// Starts it, and waits until it answers.
    pub(super) fn start(&self, place: &Place) -> anyhow::Result<Running> {
        let log = place.directory.path().join(format!("{}.log", self.name()));
        let mut command = self.command(place)?;
        let process = Measured::start(&place.netns, &mut command, &log)?;
        let mut running = Running { process, name: self.name() };
        let socket = place.netns.run(|| UdpSocket::bind("127.0.0.1:0"))??;
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        socket.connect(SocketAddr::from(([127, 0, 0, 1], PORT)))?;
        let start = Instant::now();
        while !is_answered(&socket) {
            running
                .process
                .check()
                .with_context(|| running.process.last_words(&log))
                .with_context(|| format!("{} does not answer", self.name()))?;
            ensure!(
                start.elapsed() < LIMIT,
                "{} does not answer: {}",
                self.name(),
                running.process.last_words(&log)
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(running)
    }
}

/// Whether a question about the last thing that is listed has an answer without an error.
fn is_answered(socket: &UdpSocket) -> bool {
    let mut question = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in cluster::dns_name(0).split('.') {
        question.push(label.len() as u8);
        question.extend(label.as_bytes());
    }
    question.extend([0, 0, 1, 0, 1]);
    let mut answer = [0; 512];
    let answered = socket.send(&question).and_then(|_| socket.recv(&mut answer));
    matches!(answered, Ok(length) if length >= 12 && answer[3] & 0xf == 0)
}

/// One thread, and the names of a cluster as what it knows by itself.
fn configuration_of_unbound(services: u32) -> String {
    let mut text = format!(
        "server:\n  num-threads: 1\n  interface: 127.0.0.1@{PORT}\n  do-ip6: no\n  do-daemonize: no\n  username: \"\"\n  chroot: \"\"\n  pidfile: \"\"\n  use-syslog: no\n  verbosity: 0\n  module-config: \"iterator\"\n  access-control: 127.0.0.0/8 allow\n  local-zone: \"cluster.local.\" static\n"
    );
    for service in 0..services {
        let (name, address) = (cluster::dns_name(service), cluster::cluster_ip(service));
        text.push_str(&format!("  local-data: \"{name}. 30 IN A {address}\"\n"));
    }
    text.push_str("remote-control:\n  control-enable: no\n");
    text
}
