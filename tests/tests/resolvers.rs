//! Cluster DNS by the resolvers that programs have: glibc's, musl's, c-ares, and Go's, in a pod with the resolv.conf
//! that pods have.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use e2e::{Lab, NAMES, Output, eventually, kubectl_path, run};

const LIMIT: Duration = Duration::from_secs(30);
/// How long a name may take that is there, or is not.
const AT_ONCE: Duration = Duration::from_secs(2);

/// A program that resolves a name.
struct Resolver {
    name: &'static str,
    program: PathBuf,
}

impl Resolver {
    /// Builds one from its source; `compiler` is a command line without files.
    fn build(
        name: &'static str,
        directory: &Path,
        compiler: &[&str],
        source: &str,
        libraries: &[&str],
    ) -> Self {
        let program = directory.join(name);
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/resolvers");
        let mut command = Command::new(compiler[0]);
        command.args(&compiler[1..]).args(["-Wall", "-Wextra", "-Werror", "-O1", "-o"]);
        command.arg(&program).arg(sources.join(source)).args(libraries);
        run(command, LIMIT).expect_success();
        Self { name, program }
    }

    /// What it says of a name.
    fn ask(&self, lab: &Lab, pod: &str, name: &str) -> Output {
        lab.exec(pod, &[&self.program.display().to_string(), name])
    }
}

/// Names and what they lead to; nothing for one that does not exist. All are the cluster's: in a lab there is nobody
/// to ask about others.
const CASES: [(&str, &[&str]); 13] = [
    ("7up", &["10.96.0.77"]),
    ("7up.default", &["10.96.0.77"]),
    ("7up.default.svc", &["10.96.0.77"]),
    ("7up.default.svc.cluster.local", &["10.96.0.77"]),
    ("7up.default.svc.cluster.local.", &["10.96.0.77"]),
    ("7UP.Default.SVC.cluster.local", &["10.96.0.77"]),
    ("db", &["10.244.99.2", "10.244.99.3"]),
    ("db-0.db", &["10.244.99.2"]),
    ("10-244-99-3.db", &["10.244.99.3"]),
    ("10-244-99-9.default.pod.cluster.local", &["10.244.99.9"]),
    ("out", &["10.96.0.77"]),
    ("none.default.svc.cluster.local.", &[]),
    ("none.default.svc.cluster.local", &[]),
];

#[test]
fn names_are_found_by_all_resolvers() {
    let lab = Lab::up_with_examples();
    // Pods have a /tmp of their own, and what is built may be below the machine's.
    let directory = tempfile::tempdir_in("/var/tmp").unwrap();
    lab.apply(NAMES).expect_success();
    let pods = lab.kubectl(&["get", "pods", "-o", "name"]).expect_success();
    let pod = pods.lines().next().expect("the examples have pods");
    eventually("DNS answers in the pod", LIMIT, || lab.exec(pod, &["getent", "hosts", "7up"]).ok());
    eventually("the node knows who asks, and what for", LIMIT, || {
        let asked = ["dig", "+short", "7up.default.default.svc.cluster.local"];
        match lab.exec(pod, &asked).ok()? {
            said if said == "7up.default.svc.cluster.local.\n10.96.0.77" => Ok(()),
            other => Err(other),
        }
    });
    let resolvers = [
        Resolver::build("glibc", directory.path(), &["cc"], "getaddrinfo.c", &[]),
        Resolver::build("musl", directory.path(), &["musl-gcc", "-static"], "getaddrinfo.c", &[]),
        Resolver::build("c-ares", directory.path(), &["cc"], "cares.c", &["-lcares"]),
    ];
    for resolver in &resolvers {
        for (name, addresses) in CASES {
            let asked = resolver.ask(&lab, pod, name);
            let what = format!("{} {name}", resolver.name);
            assert!(asked.took < AT_ONCE, "{what}: {:?}", asked.took);
            match addresses {
                [] => drop(asked.expect_failure()),
                addresses => {
                    let said = asked.expect_success();
                    let found: BTreeSet<&str> = said.lines().collect();
                    assert_eq!(found, addresses.iter().copied().collect(), "{what}");
                }
            }
        }
    }
    // Go's, in kubectl, which tells what it has found.
    let kubectl = directory.path().join("kubectl");
    std::fs::copy(kubectl_path(), &kubectl).unwrap();
    let kubectl = kubectl.display().to_string();
    for (name, addresses) in CASES {
        let url = format!("http://{name}:1");
        let command = [
            "env",
            "GODEBUG=netdns=go",
            &kubectl,
            "--request-timeout=1s",
            "--server",
            &url,
            "get",
            "--raw=/",
            "-v=9",
        ];
        let said = lab.exec(pod, &command).expect_failure();
        let resolved = said.lines().find(|line| line.contains("DNS Lookup resolved"));
        match addresses {
            [] => assert!(said.contains("no such host"), "Go {name}: {said}"),
            addresses => {
                let resolved = resolved.unwrap_or_else(|| panic!("Go {name}: {said}"));
                let are_found = addresses.iter().all(|address| resolved.contains(address));
                assert!(are_found, "Go {name}: {resolved}");
            }
        }
    }
}
