//! Pods really run: namespaces, processes, probes and signals, on a node made for each test.
//!
//! Needs root. Each test has a network namespace, a directory and a cgroup of its own, and checks
//! at its end that nothing of them is left.

mod node;

use std::time::{Duration, Instant};

use kernel::cgroup::Cgroup;
use kernel::netns::Netns;
use kernel::process::Process;
use kernel::route::Rtnetlink;
use model::object::PodPhase;
use pod::runner::{self, Update};
use pod::status::{PodStatus, State};

use node::{LIMIT, Node, container, on_node, shells, uid};

#[test]
fn containers_of_a_pod_share_a_network_and_a_name() {
    on_node(|| async {
        let mut node = Node::start("share");
        let server = "nginx -e stderr -c /tmp/nginx.conf";
        let config = "daemon off; error_log stderr; events {} http { access_log off; server { \
                      listen 80; location / { return 200 ahoy; } } }";
        let server = format!("echo '{config}' > /tmp/nginx.conf; exec {server}");
        let client = "hostname; cat /etc/resolv.conf /etc/hosts; ls /tmp | wc -l; \
                      until exec 3<>/dev/tcp/127.0.0.1/80; do sleep 0.05; done 2>/dev/null; \
                      printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3; echo; sleep 60";
        let spec = serde_json::json!({
            "terminationGracePeriodSeconds": 1,
            "containers": [
                {"name": "server", "image": "sh", "args": ["-c", server]},
                {"name": "client", "command": ["bash", "-c", client]},
            ],
        });
        let begun = Instant::now();
        node.ensure("web", &spec.to_string());
        let status = node.until_ready("web").await;
        let took = begun.elapsed();
        assert!(took < Duration::from_secs(2), "starting a pod took {took:?}");
        println!("pod of two containers ready after {took:?}");
        assert_eq!(status.phase, PodPhase::Running);
        let ip = status.pod_ip.unwrap();
        assert_eq!(ip.to_string(), "10.244.7.2");
        node.until_log("web", "client", "ahoy").await;
        let log = node.log("web", "client");
        assert!(log.starts_with("web\nsearch shop.svc.cluster.local"), "{log}");
        assert!(log.contains("nameserver 10.96.0.10\n"), "{log}");
        assert!(log.contains(&format!("{ip}\tweb\n")), "{log}");
        // The server's file in /tmp is its own.
        assert!(log.contains("\n0\n"), "{log}");
        // The node reaches the pod by its address.
        tokio::net::TcpStream::connect((ip, 80)).await.unwrap();
        let running = runner::running(&node.config.directory).unwrap();
        let names: Vec<_> = running.iter().map(|r| (&*r.pod, &*r.container)).collect();
        assert_eq!(names, [("web", "server"), ("web", "client")]);
        node.remove("web", None).await;
        node.assert_clean();
    });
}

#[test]
fn a_pod_that_comes_back_has_another_address() {
    on_node(|| async {
        let mut node = Node::start("address");
        let spec = shells(&[("main", "exec sleep 60")]);
        let mut seen = std::collections::HashSet::new();
        for _ in 0..3 {
            node.ensure("web", &spec);
            let status = node.until_ready("web").await;
            assert!(seen.insert(status.pod_ip.unwrap()));
            node.remove("web", Some(Duration::ZERO)).await;
        }
        node.assert_clean();
    });
}

#[test]
fn a_container_that_ends_is_started_again_ever_more_slowly() {
    on_node(|| async {
        let mut node = Node::start("restart");
        node.ensure("web", &shells(&[("main", "echo run; exit 3"), ("other", "exec sleep 60")]));
        let waits = |status: &PodStatus| {
            matches!(&container(status, 0).state, State::Waiting { reason, .. }
                if reason == "CrashLoopBackOff")
        };
        let status = node.until("web", |s| waits(s) && container(s, 0).restart_count >= 2).await;
        assert_eq!(status.phase, PodPhase::Running);
        assert!(!status.is_ready());
        match container(&status, 0).last_state.as_ref().unwrap() {
            State::Terminated(ended) => {
                assert_eq!((ended.exit_code, ended.reason.as_str()), (3, "Error"));
            }
            state => panic!("{state:?}"),
        }
        assert_eq!(node.log("web", "main"), "run\nrun\nrun\n");
        assert_eq!(container(&status, 1).restart_count, 0);
        assert!(container(&status, 1).ready);
        node.remove("web", Some(Duration::ZERO)).await;
        node.assert_clean();
    });
}

#[test]
fn pods_that_are_not_restarted_end_and_give_their_address_back() {
    on_node(|| async {
        let mut node = Node::start("end");
        for (name, code, phase) in [("good", 0, PodPhase::Succeeded), ("bad", 4, PodPhase::Failed)]
        {
            let spec = serde_json::json!({
                "restartPolicy": "Never",
                "initContainers": [
                    {"name": "first", "image": "sh", "args": ["-c", "echo 1 > /var/data/order"],
                     "volumeMounts": [{"name": "data", "mountPath": "/var/data"}]},
                ],
                "containers": [
                    {"name": "main", "image": "sh",
                     "args": ["-c", format!("cat /var/data/order; exit {code}")],
                     "volumeMounts": [{"name": "data", "mountPath": "/var/data"}]},
                ],
                "volumes": [{"name": "data", "emptyDir": {}}],
            });
            node.ensure(name, &spec.to_string());
            let status = node.until(name, |status| status.phase == phase).await;
            assert_eq!(node.log(name, "main"), "1\n");
            assert!(matches!(&status.init_container_statuses[0].state,
                State::Terminated(ended) if ended.reason == "Completed"));
            assert!(matches!(&container(&status, 0).state,
                State::Terminated(ended) if ended.exit_code == code));
        }
        // Their sandboxes are gone before they are removed; a new runner leaves it at that.
        let mut rtnetlink = Rtnetlink::open().unwrap();
        let begun = Instant::now();
        while rtnetlink.links().unwrap().len() > 1 {
            assert!(begun.elapsed() < LIMIT);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        node.stop();
        node.start_again();
        node.until("good", |status| status.phase == PodPhase::Succeeded).await;
        assert_eq!(rtnetlink.links().unwrap().len(), 1);
        node.remove("good", None).await;
        node.remove("bad", None).await;
        node.assert_clean();
    });
}

#[test]
fn a_failed_init_container_ends_a_pod_that_is_never_restarted() {
    on_node(|| async {
        let mut node = Node::start("init");
        let spec = serde_json::json!({
            "restartPolicy": "Never",
            "initContainers": [{"name": "first", "image": "sh", "args": ["-c", "exit 1"]}],
            "containers": [{"name": "main", "image": "sh", "args": ["-c", "echo never"]}],
        });
        node.ensure("web", &spec.to_string());
        node.until("web", |status| status.phase == PodPhase::Failed).await;
        assert_eq!(node.log("web", "main"), "");
        node.remove("web", None).await;
        node.assert_clean();
    });
}

#[test]
fn what_is_not_installed_can_not_be_pulled() {
    on_node(|| async {
        let mut node = Node::start("image");
        node.ensure("web", r#"{"containers":[{"name":"main","image":"example.org/no-such:1"}]}"#);
        let waits = |status: &PodStatus| {
            matches!(&container(status, 0).state, State::Waiting { reason, message }
                if reason == "ErrImagePull" && message.contains("no-such"))
        };
        let status = node.until("web", waits).await;
        assert_eq!(status.phase, PodPhase::Pending);
        node.remove("web", None).await;
        node.assert_clean();
    });
}

#[test]
fn probes_of_each_kind_make_a_container_ready_and_not() {
    on_node(|| async {
        let mut node = Node::start("probes");
        // One server for all: it answers 200 while /tmp/good exists, on a named port.
        let config = "daemon off; error_log stderr; events {} http { access_log off; server { \
                      listen 8080; root /tmp; } }";
        let server = format!(
            "echo '{config}' > /tmp/nginx.conf; echo yes > /tmp/good; \
             exec nginx -e stderr -c /tmp/nginx.conf"
        );
        let probes = [
            ("tcp", serde_json::json!({"tcpSocket": {"port": "web"}})),
            ("http", serde_json::json!({"httpGet": {"path": "/good", "port": 8080}})),
            ("exec", serde_json::json!({"exec": {"command": ["test", "-s", "/tmp/good"]}})),
        ];
        for (name, mut probe) in probes {
            probe["periodSeconds"] = 1.into();
            probe["failureThreshold"] = 1.into();
            let spec = serde_json::json!({
                "terminationGracePeriodSeconds": 1,
                "containers": [{
                    "name": "main", "image": "sh", "args": ["-c", server.clone()],
                    "ports": [{"name": "web", "containerPort": 8080}],
                    "readinessProbe": probe,
                }],
            });
            node.ensure(name, &spec.to_string());
            node.until(name, |s| container(s, 0).state.is_running() && !s.is_ready()).await;
            let begun = Instant::now();
            node.until_ready(name).await;
            assert!(begun.elapsed() < Duration::from_secs(2), "{name} was asked too late");
        }
        // The file goes: two of the three notice.
        for name in ["http", "exec"] {
            let running = runner::running(&node.config.directory).unwrap();
            let pid = running.iter().find(|r| r.pod == name).unwrap().pid;
            std::fs::remove_file(format!("/proc/{pid}/root/tmp/good")).unwrap();
            let status = node.until(name, |status| !status.is_ready()).await;
            assert_eq!(container(&status, 0).restart_count, 0);
        }
        for name in ["tcp", "http", "exec"] {
            node.remove(name, None).await;
        }
        node.assert_clean();
    });
}

#[test]
fn a_failed_liveness_probe_restarts_and_startup_holds_it_back() {
    on_node(|| async {
        let mut node = Node::start("liveness");
        let probe = |file: &str| {
            serde_json::json!({
                "exec": {"command": ["test", "-e", file]}, "periodSeconds": 1, "failureThreshold": 5,
            })
        };
        let mut liveness = probe("/tmp/alive");
        liveness["failureThreshold"] = 1.into();
        let spec = serde_json::json!({
            "terminationGracePeriodSeconds": 1,
            "containers": [{
                "name": "main", "image": "sh",
                "args": ["-c", "trap 'exit 0' TERM; sleep 0.5; touch /tmp/started; \
                         while :; do sleep 0.05; done"],
                "startupProbe": probe("/tmp/started"),
                "livenessProbe": liveness,
            }],
        });
        node.ensure("web", &spec.to_string());
        let status = node.until("web", |status| container(status, 0).started).await;
        assert!(status.is_ready());
        let status = node.until("web", |status| container(status, 0).restart_count == 1).await;
        match container(&status, 0).last_state.as_ref().unwrap() {
            State::Terminated(ended) => {
                assert!(ended.message.contains("test exited with 1"), "{}", ended.message);
                assert_eq!(ended.exit_code, 0);
            }
            state => panic!("{state:?}"),
        }
        node.remove("web", Some(Duration::ZERO)).await;
        node.assert_clean();
    });
}

#[test]
fn removal_asks_first_and_kills_after_the_grace_period() {
    on_node(|| async {
        let mut node = Node::start("grace");
        let polite = "trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.02; done";
        node.ensure("polite", &shells(&[("main", polite)]));
        node.until_ready("polite").await;
        node.until_log("polite", "main", "up").await;
        let log = std::fs::File::open(node.runner().log_path(&uid("polite"), "main")).unwrap();
        let begun = Instant::now();
        node.remove("polite", Some(Duration::from_secs(10))).await;
        assert!(begun.elapsed() < Duration::from_secs(5));
        assert_eq!(std::io::read_to_string(log).unwrap(), "up\nbye\n");

        // Process 1 that does not handle SIGTERM is not reached by it.
        node.ensure("deaf", &shells(&[("main", "exec sleep 60")]));
        node.until_ready("deaf").await;
        let begun = Instant::now();
        node.remove("deaf", None).await;
        assert!(begun.elapsed() >= Duration::from_secs(1));
        assert!(begun.elapsed() < Duration::from_secs(5));

        // A second request shortens the first.
        node.ensure("hurried", &shells(&[("main", "exec sleep 60")]));
        node.until_ready("hurried").await;
        let begun = Instant::now();
        assert!(node.runner().remove(&uid("hurried"), Some(Duration::from_secs(60))));
        tokio::time::sleep(Duration::from_millis(50)).await;
        node.remove("hurried", Some(Duration::ZERO)).await;
        assert!(begun.elapsed() < Duration::from_secs(5));
        assert!(!node.runner().remove(&uid("hurried"), None));
        node.assert_clean();
    });
}

#[test]
fn a_new_runner_adopts_what_runs_and_takes_away_what_nobody_knows() {
    on_node(|| async {
        let mut node = Node::start("adopt");
        node.ensure("web", &shells(&[("stays", "exec sleep 60"), ("dies", "exec sleep 60")]));
        let before = node.until_ready("web").await;
        let pids = |node: &Node| -> Vec<u32> {
            runner::running(&node.config.directory).unwrap().iter().map(|r| r.pid).collect()
        };
        let [stays, dies] = pids(&node)[..] else { panic!("two containers run") };

        // A pod whose directory is lost is nobody's.
        node.ensure("lost", &shells(&[("main", "exec sleep 60")]));
        node.until_ready("lost").await;
        let lost = runner::running(&node.config.directory).unwrap();
        let lost = Process::open(lost.iter().find(|r| r.pod == "lost").unwrap().pid).unwrap();
        std::fs::remove_dir_all(node.config.directory.join("pods").join(uid("lost"))).unwrap();

        node.stop();
        let killed = Process::open(dies).unwrap();
        killed.signal(kernel::process::Signal::SIGKILL).unwrap();
        while killed.try_wait().unwrap().is_none() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        node.start_again();
        assert!(lost.has_ended().unwrap());
        let after = node.until_ready("web").await;
        assert_eq!(after.pod_ip, before.pod_ip);
        assert_eq!(container(&after, 0).restart_count, 0);
        assert_eq!(container(&after, 0).state, container(&before, 0).state);
        assert_eq!(container(&after, 1).restart_count, 1);
        assert!(matches!(container(&after, 1).last_state.as_ref().unwrap(),
            State::Terminated(ended) if ended.reason == "ContainerStatusUnknown"));
        assert_eq!(pids(&node)[0], stays);
        assert_eq!(node.runner().list().len(), 1);

        // An adopted container is watched like any other.
        Process::open(stays).unwrap().signal(kernel::process::Signal::SIGKILL).unwrap();
        node.until("web", |s| container(s, 0).restart_count == 1 && s.is_ready()).await;
        node.remove("web", Some(Duration::ZERO)).await;
        node.assert_clean();
    });
}

#[test]
fn cleanup_takes_running_pods_away() {
    on_node(|| async {
        let mut node = Node::start("cleanup");
        node.ensure("web", &shells(&[("main", "exec sleep 60")]));
        node.until_ready("web").await;
        let pid = runner::running(&node.config.directory).unwrap()[0].pid;
        let process = Process::open(pid).unwrap();
        let failures = runner::cleanup(&node.config);
        assert!(failures.is_empty(), "{failures:?}");
        assert!(process.has_ended().unwrap());
        assert!(!node.config.directory.exists());
        assert!(!Cgroup::root().unwrap().child(&node.config.cgroup).exists());
        std::fs::create_dir_all(&node.config.directory).unwrap();
    });
}

#[test]
fn a_pod_without_an_address_says_why() {
    on_node(|| async {
        let mut node = Node::start_with_range("full", "10.244.7.0/30");
        node.ensure("first", &shells(&[("main", "exec sleep 60")]));
        node.until_ready("first").await;
        node.ensure("second", &shells(&[("main", "exec sleep 60")]));
        let status = node.until("second", |status| status.reason.is_some()).await;
        assert!(status.message.unwrap().contains("no IP addresses available"));
        node.remove("first", Some(Duration::ZERO)).await;
        let status = node.until_ready("second").await;
        assert_eq!(
            (status.reason, status.pod_ip.unwrap().to_string().as_str()),
            (None, "10.244.7.2")
        );
        node.remove("second", Some(Duration::ZERO)).await;
        node.assert_clean();
    });
}

#[test]
fn a_pod_on_the_nodes_network_has_its_address() {
    on_node(|| async {
        let mut node = Node::start("host");
        let spec = r#"{"hostNetwork":true,"terminationGracePeriodSeconds":1,
            "containers":[{"name":"main","image":"sleep","args":["60"]}]}"#;
        node.ensure("web", spec);
        let status = node.until_ready("web").await;
        assert_eq!(status.pod_ip, status.host_ip);
        let pid = runner::running(&node.config.directory).unwrap()[0].pid;
        let theirs = Netns::of_process(pid).unwrap().id().unwrap();
        assert_eq!(theirs, Netns::current().unwrap().id().unwrap());
        node.remove("web", Some(Duration::ZERO)).await;
        node.assert_clean();
    });
}

#[test]
fn servers_of_the_distribution_run_side_by_side_without_configuration() {
    on_node(|| async {
        let mut node = Node::start("servers");
        let nginx = r#"{"terminationGracePeriodSeconds":5,"containers":[{"name":"main",
            "image":"docker.io/library/nginx:1.27","args":["-g","daemon off;"],
            "readinessProbe":{"httpGet":{"path":"/","port":80},"periodSeconds":1}}]}"#;
        let mariadb = r#"{"terminationGracePeriodSeconds":10,"containers":[{"name":"main",
            "image":"mysql","command":["mariadbd","--user=mysql","--bind-address=0.0.0.0"],
            "readinessProbe":{"tcpSocket":{"port":3306},"periodSeconds":1}}]}"#;
        let pods = [("web-1", nginx), ("web-2", nginx), ("db-1", mariadb), ("db-2", mariadb)];
        for (name, spec) in pods {
            node.ensure(name, spec);
        }
        let mut ready = std::collections::HashSet::new();
        while ready.len() < pods.len() {
            let update = tokio::time::timeout(LIMIT, node.updates.recv()).await;
            let update = update.unwrap_or_else(|_| {
                panic!("only {ready:?} get ready; db-1: {}", node.log("db-1", "main"))
            });
            if let Some(Update::Status { pod, status }) = update {
                assert_eq!(
                    container(&status, 0).restart_count,
                    0,
                    "{}",
                    node.log(&pod.name, "main")
                );
                if status.is_ready() {
                    ready.insert(pod.name);
                }
            }
        }
        for (name, _) in pods {
            node.remove(name, None).await;
        }
        node.assert_clean();
    });
}

#[test]
fn a_restart_of_the_runner_moves_no_traffic() {
    on_node(|| async {
        let mut node = Node::start("steady");
        let spec = r#"{"terminationGracePeriodSeconds":1,"containers":[{"name":"main",
            "image":"sleep","args":["60"],
            "readinessProbe":{"exec":{"command":["true"]},"initialDelaySeconds":1},
            "startupProbe":{"exec":{"command":["true"]}}}]}"#;
        node.ensure("web", spec);
        let before = node.until_ready("web").await;
        node.stop();
        node.start_again();
        let first = node.until("web", |_| true).await;
        assert!(first.is_ready(), "{first:#?}");
        assert_eq!(first.pod_ip, before.pod_ip);
        assert_eq!(first.container_statuses, before.container_statuses);
        node.remove("web", Some(Duration::ZERO)).await;
        node.assert_clean();
    });
}
