//! A node for a test: a network namespace, a directory and a cgroup of its own, and a runner in them.

use std::future::Future;
use std::path::Path;
use std::time::{Duration, Instant};

use kernel::cgroup::Cgroup;
use kernel::netns::Netns;
use kernel::route::Rtnetlink;
use pod::runner::{self, Config, Runner, Update};
use pod::spec::Pod;
use pod::status::{ContainerStatus, PodStatus};
use tokio::sync::mpsc::UnboundedReceiver;

/// Longest wait for anything.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

/// A runner and what it told.
pub(crate) struct Node {
    pub(crate) config: Config,
    /// `None` while it is stopped.
    runner: Option<Runner>,
    pub(crate) updates: UnboundedReceiver<Update>,
    _directory: tempfile::TempDir,
}

impl Node {
    pub(crate) fn start(name: &str) -> Self {
        Self::start_with_range(name, "10.244.7.0/24")
    }

    pub(crate) fn start_with_range(name: &str, range: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let name = format!("test-{name}-{}", std::process::id());
        let config = Config {
            node_addresses: vec!["192.0.2.1".parse().unwrap()],
            pod_ranges: vec![range.parse().unwrap()],
            cluster_dns: vec!["10.96.0.10".parse().unwrap()],
            cgroup: format!("portolan-{name}").into(),
            backoff_base: Duration::from_millis(100),
            ..Config::new(&name, directory.path())
        };
        let (runner, updates) = Runner::start(config.clone()).unwrap();
        Self { config, runner: Some(runner), updates, _directory: directory }
    }

    /// Drops the runner without a word to its pods.
    pub(crate) fn stop(&mut self) {
        self.runner = None;
    }

    /// Starts another runner in the place of one that stopped.
    pub(crate) fn start_again(&mut self) {
        let (runner, updates) = Runner::start(self.config.clone()).unwrap();
        (self.runner, self.updates) = (Some(runner), updates);
    }

    pub(crate) fn runner(&self) -> &Runner {
        self.runner.as_ref().expect("the runner was not stopped")
    }

    pub(crate) fn ensure(&self, name: &str, spec: &str) {
        self.runner().ensure(pod(name, spec)).unwrap();
    }

    /// Waits for a status of the pod that `is_it`.
    pub(crate) async fn until(
        &mut self,
        name: &str,
        is_it: impl Fn(&PodStatus) -> bool,
    ) -> PodStatus {
        let mut last = None;
        let wait = async {
            loop {
                match self.updates.recv().await.expect("the runner lives") {
                    Update::Status { pod, status } if pod.name == name => {
                        if is_it(&status) {
                            return *status;
                        }
                        last = Some(status);
                    }
                    _ => {}
                }
            }
        };
        match tokio::time::timeout(LIMIT, wait).await {
            Ok(status) => status,
            Err(_) => panic!("pod {name} does not get there; last: {last:#?}"),
        }
    }

    pub(crate) async fn until_ready(&mut self, name: &str) -> PodStatus {
        self.until(name, PodStatus::is_ready).await
    }

    pub(crate) async fn remove(&mut self, name: &str, grace: Option<Duration>) {
        assert!(self.runner().remove(&uid(name), grace), "no pod {name}");
        let wait = async {
            while let Some(update) = self.updates.recv().await {
                if matches!(update, Update::Removed(pod) if pod.name == name) {
                    return;
                }
            }
        };
        tokio::time::timeout(LIMIT, wait).await.expect("the pod is removed in time");
    }

    pub(crate) fn log(&self, name: &str, container: &str) -> String {
        std::fs::read_to_string(self.runner().log_path(&uid(name), container)).unwrap_or_default()
    }

    /// Waits until a log has `text`.
    pub(crate) async fn until_log(&self, name: &str, container: &str, text: &str) {
        let begun = Instant::now();
        while !self.log(name, container).contains(text) {
            let log = self.log(name, container);
            assert!(begun.elapsed() < LIMIT, "{text:?} does not appear in {log:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Nothing is left of any pod.
    pub(crate) fn assert_clean(&self) {
        let mut rtnetlink = Rtnetlink::open().unwrap();
        let links: Vec<_> = rtnetlink.links().unwrap().into_iter().map(|link| link.name).collect();
        assert_eq!(links, ["lo"]);
        assert_eq!(rtnetlink.routes().unwrap(), []);
        let group = Cgroup::root().unwrap().child(&self.config.cgroup);
        assert_eq!(group.children().unwrap(), []);
        assert_eq!(entries(&self.config.directory.join("netns")), [] as [String; 0]);
        assert_eq!(entries(&self.config.directory.join("pods")), [] as [String; 0]);
        let mut leases = entries(&self.config.directory.join("leases/ipv4"));
        leases.retain(|name| name.starts_with("10."));
        assert_eq!(leases, [] as [String; 0]);
        let below = |m: &kernel::mount::MountPoint| m.target.starts_with(&self.config.directory);
        assert!(!kernel::mount::list().unwrap().iter().any(below));
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let failures = runner::cleanup(&self.config);
        assert!(failures.is_empty() || std::thread::panicking(), "{failures:?}");
    }
}

pub(crate) fn entries(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

pub(crate) fn uid(name: &str) -> String {
    format!("uid-{name}")
}

pub(crate) fn pod(name: &str, spec: &str) -> Pod {
    let uid = uid(name);
    let text = format!(
        r#"{{"metadata":{{"name":"{name}","namespace":"shop","uid":"{uid}"}},"spec":{spec}}}"#
    );
    serde_json::from_str(&text).unwrap()
}

/// A pod of shell scripts, each a container's name and script.
pub(crate) fn shells(containers: &[(&str, &str)]) -> String {
    let containers: Vec<_> = containers
        .iter()
        .map(|(name, script)| {
            serde_json::json!({"name": name, "image": "sh", "args": ["-c", script]})
        })
        .collect();
    serde_json::json!({"containers": containers, "terminationGracePeriodSeconds": 1}).to_string()
}

/// Runs a test in a network namespace of its own.
pub(crate) fn on_node<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send) {
    static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let number = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("pod-runner-{}-{number}", std::process::id()));
    let netns = Netns::create(&path).expect("this test needs root: it makes netns");
    Netns::delete(&path).unwrap();
    netns
        .run(|| {
            // A host without any address has none to speak from.
            let mut rtnetlink = Rtnetlink::open().unwrap();
            let lo = rtnetlink.set_up("lo").unwrap().index;
            rtnetlink.add_address(lo, "192.0.2.1/32".parse().unwrap()).unwrap();
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(test());
        })
        .unwrap();
}

pub(crate) fn container(status: &PodStatus, index: usize) -> &ContainerStatus {
    &status.container_statuses[index]
}
