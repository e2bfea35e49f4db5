//! A lab that lives as long as a test.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crate::run::{Output, examples, kubectl_path, manifest_file, portolan_path, run};

/// How long a command inside the lab may take.
const COMMAND_LIMIT: Duration = Duration::from_secs(30);
/// How long a lab may take until it is ready, on a busy machine.
const UP_LIMIT: Duration = Duration::from_secs(60);
/// How long it may take to go down.
const DOWN_LIMIT: Duration = Duration::from_secs(30);

/// A running lab; taken down when dropped.
pub struct Lab {
    name: String,
    process: Child,
    kubeconfig: String,
    started: Instant,
}

impl Lab {
    /// A lab of two nodes without manifests.
    pub fn up() -> Self {
        Self::up_with(&[])
    }

    /// A lab of two nodes with the manifests of `examples/`.
    pub fn up_with_examples() -> Self {
        Self::up_with_examples_and(&[])
    }

    /// A lab with the manifests of `examples/` and more arguments.
    pub fn up_with_examples_and(arguments: &[&str]) -> Self {
        let examples = examples();
        let path = examples.to_str().expect("the path is UTF-8");
        Self::up_with(&[&["-f", path], arguments].concat())
    }

    /// A lab with more arguments for `portolan lab up`.
    pub fn up_with(arguments: &[&str]) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        Self::up_named(&format!("test-{}-{count}", std::process::id()), arguments)
    }

    /// A lab of a given name.
    pub fn up_named(name: &str, arguments: &[&str]) -> Self {
        let started = Instant::now();
        let mut process = Command::new(portolan_path())
            .args(["lab", "up", "--name", name, "--api-port", "0"])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the binary under test starts");
        let stdout = process.stdout.take().expect("stdout is piped");
        let (ready, is_ready) = mpsc::channel();
        thread::spawn(move || {
            // Reads to the end, so that the lab never blocks on a full pipe.
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                println!("lab: {line}");
                if line.contains("is ready") {
                    // The test may have given up already.
                    let _ = ready.send(());
                }
            }
        });
        let mut lab = Self { name: name.to_owned(), process, kubeconfig: String::new(), started };
        is_ready.recv_timeout(UP_LIMIT).unwrap_or_else(|_| panic!("lab {name} did not get ready"));
        lab.kubeconfig = lab.portolan(&["lab", "kubeconfig"]).expect_success();
        lab
    }

    /// When `lab up` was started.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// The lab's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `portolan ARGUMENTS` for this lab.
    pub fn portolan(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(portolan_path());
        command.env("KUBECONFIG", &self.kubeconfig).args(arguments);
        if arguments.first() == Some(&"lab") {
            command.args(["--name", &self.name]);
        }
        run(command, COMMAND_LIMIT)
    }

    /// Runs a command on a host (`node-1`, `outside`, ...) or in a pod (`pod/NAME`).
    pub fn exec(&self, host: &str, command: &[&str]) -> Output {
        let mut exec = Command::new(portolan_path());
        exec.args(["lab", "exec", "--name", &self.name, host, "--"]).args(command);
        run(exec, COMMAND_LIMIT)
    }

    /// Fetches a URL from a host or pod, with a limit of three seconds.
    pub fn curl(&self, host: &str, url: &str) -> Output {
        self.exec(host, &["curl", "-sS", "--max-time", "3", url])
    }

    /// Runs kubectl against this lab.
    pub fn kubectl(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(kubectl_path());
        command.env("KUBECONFIG", &self.kubeconfig).args(arguments);
        run(command, COMMAND_LIMIT)
    }

    /// Applies a manifest given as text, with kubectl.
    pub fn apply(&self, manifest: &str) -> Output {
        let file = manifest_file(manifest);
        self.kubectl(&["apply", "-f", file.path().to_str().expect("the path is UTF-8")])
    }

    /// One field of an object, by JSON path.
    pub fn field(&self, kind: &str, name: &str, path: &str) -> String {
        self.kubectl(&["get", kind, name, "-o", &format!("jsonpath={path}")]).expect_success()
    }

    /// Names of the pods with a label, in order.
    pub fn pods(&self, label: &str) -> Vec<String> {
        let names = self
            .kubectl(&["get", "pods", "-l", label, "-o", "jsonpath={.items[*].metadata.name}"])
            .expect_success();
        names.split_whitespace().map(str::to_owned).collect()
    }

    /// Kills `lab up` without a chance to clean up.
    pub fn kill(&mut self) {
        self.process.kill().expect("a running lab can be killed");
        self.process.wait().expect("a killed lab ends");
    }

    /// Ends `lab up` as Ctrl-C does, and waits for it.
    pub fn interrupt(&mut self) {
        let pid = self.process.id().to_string();
        let mut kill = Command::new("kill");
        kill.args(["-INT", &pid]);
        run(kill, COMMAND_LIMIT).expect_success();
        let start = Instant::now();
        while self.process.try_wait().expect("a child can be waited for").is_none() {
            assert!(start.elapsed() < DOWN_LIMIT, "lab {} did not go down", self.name);
            thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // Whatever state the test left it in: kill, then let `down` remove what is there.
        let _ = self.process.kill();
        let _ = self.process.wait();
        let mut down = Command::new(portolan_path());
        down.args(["lab", "down", "--name", &self.name]);
        let output = run(down, DOWN_LIMIT);
        if !output.success && !thread::panicking() {
            panic!("lab {} did not go down: {}", self.name, output.stderr);
        }
    }
}
