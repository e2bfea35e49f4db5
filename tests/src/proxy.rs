//! `portolan proxy` on a host of a lab that has no node agent.

use std::collections::BTreeSet;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::{Lab, eventually, portolan_path, run};

const LIMIT: Duration = Duration::from_secs(20);

/// A proxy on [`Proxy::HOST`]; killed when dropped.
pub struct Proxy {
    exec: Child,
    /// What only its command line holds.
    pattern: String,
}

impl Proxy {
    /// A host of the lab without an agent, and so without Services.
    pub const HOST: &str = "control-plane";

    /// Makes the host a router with routes to the pods, as a network of pods would.
    pub fn prepare(lab: &Lab) {
        lab.exec(Self::HOST, &["sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"])
            .expect_success();
        for node in ["node-1", "node-2"] {
            let range = lab.field("node", node, "{.spec.podCIDR}");
            let gateway = lab.field("node", node, "{.status.addresses[0].address}");
            lab.exec(Self::HOST, &["ip", "route", "add", &range, "via", &gateway]).expect_success();
        }
    }

    /// Starts it with the usual flags.
    pub fn start(lab: &Lab) -> Self {
        Self::start_with(lab, &["--cluster-cidr", "10.244.0.0/16"])
    }

    /// Starts it as `deploy/` does: with no privilege but to change the network and to
    /// use raw sockets, as iptables does. The usual flags, and more.
    pub fn start_confined(lab: &Lab, arguments: &[&str]) -> Self {
        let confine = ["setpriv", "--no-new-privs", "--bounding-set", "-all,+net_admin,+net_raw"];
        Self::start_by(lab, &confine, &[&["--cluster-cidr", "10.244.0.0/16"], arguments].concat())
    }

    /// Starts it with more flags.
    pub fn start_with(lab: &Lab, arguments: &[&str]) -> Self {
        Self::start_by(lab, &[], arguments)
    }

    fn start_by(lab: &Lab, launcher: &[&str], arguments: &[&str]) -> Self {
        // How the nodes reach the API server: the administrator's is on the machine's loopback.
        let kubeconfig = Self::kubeconfig(lab);
        let portolan = portolan_path();
        let exec = Command::new(&portolan)
            .args(["lab", "exec", "--name", lab.name(), Self::HOST, "--"])
            .args(launcher)
            .arg(&portolan)
            .args(["--log-level", "error", "proxy", "--kubeconfig", &kubeconfig])
            .args(["--hostname-override", Self::HOST, "--socket", &Self::socket(lab)])
            .args(arguments)
            .stdin(Stdio::null())
            .spawn()
            .expect("the binary under test starts");
        Self { exec, pattern: format!("error proxy --kubeconfig {kubeconfig}") }
    }

    /// Where it can be asked.
    pub fn socket(lab: &Lab) -> String {
        format!("/run/portolan/lab/{}/proxy.sock", lab.name())
    }

    /// Path of the kubeconfig that it uses.
    pub fn kubeconfig(lab: &Lab) -> String {
        format!("/run/portolan/lab/{}/node-1/kubeconfig", lab.name())
    }

    /// Sends a signal, as kill(1) takes it, and waits until nothing of it is left: `lab exec` ends at the signal
    /// at once, the proxy needs a moment more to let go of its ports.
    pub fn end(&mut self, signal: &str) {
        let Self { exec, pattern } = self;
        let mut told = BTreeSet::new();
        eventually("the proxy has ended", LIMIT, || {
            let mut find = Command::new("pgrep");
            find.args(["-f", pattern]);
            let found = run(find, LIMIT).stdout;
            for process in found.lines().filter(|process| told.insert((*process).to_owned())) {
                let mut kill = Command::new("kill");
                kill.args([signal, process]);
                // It may have ended by itself.
                let _ = run(kill, LIMIT);
            }
            // What begins has no command line yet, and is found the next time; what ends has none any more, but its
            // files still.
            let has_ended = exec.try_wait().expect("a child can be waited for").is_some();
            let left: Vec<&String> = told.iter().filter(|process| has_files(process)).collect();
            match has_ended && found.is_empty() && left.is_empty() {
                true => Ok(()),
                false => Err(format!("{found} {left:?}")),
            }
        });
    }

    /// Waits until it ends by itself; answers whether it succeeded.
    pub fn ended(&mut self) -> bool {
        let start = Instant::now();
        loop {
            if let Some(status) = self.exec.try_wait().expect("a child can be waited for") {
                return status.success();
            }
            assert!(start.elapsed() < LIMIT, "the proxy goes on");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Whether one of the threads of a process has not ended yet (proc_pid_stat(5)).
fn has_files(process: &str) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{process}/task"));
    threads.into_iter().flatten().flatten().any(|thread| {
        let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
        state.is_some_and(|state| !matches!(state, 'Z' | 'X'))
    })
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.end("-KILL");
    }
}
