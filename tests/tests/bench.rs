//! The bench measures: on few Services and for moments, so that it is known to work when it is needed.

use std::fs;
use std::process::Command;
use std::time::Duration;

use e2e::{bench_path, portolan_path, run};
use serde_json::Value;

/// How long it may take, on a busy machine.
const LIMIT: Duration = Duration::from_secs(240);

#[test]
fn every_figure_is_measured_and_two_runs_can_be_compared() {
    let portolan = portolan_path();
    let bench = bench_path();
    let out = tempfile::tempdir().expect("a temporary directory");
    let mut command = Command::new(&bench);
    command.args(["run", "--quick", "--services", "60", "--runs", "1", "--out"]).arg(out.path());
    command.arg("--portolan").arg(&portolan);
    let tables = run(command, LIMIT).expect_success();
    assert!(tables.contains("| portolan | 60 |"), "{tables}");

    let file = out.path().join("performance/results.json");
    let results: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    let planes = results["control"].as_array().unwrap().len();
    assert!(planes >= 3, "nftables and both kinds of iptables are on every machine: {results:#}");
    let control = &results["control"][0];
    for figure in [
        "/start_seconds",
        "/restart_seconds",
        "/settled_bytes",
        "/objects/elements",
        "/endpoint/p99_ms",
        "/service/p99_ms",
        "/burst/p99_ms",
        "/endpoint/cpu_ms",
        "/churn_bytes/19",
    ] {
        let value = control.pointer(figure).and_then(Value::as_f64).unwrap_or(0.0);
        assert!(value > 0.0, "{figure}: {control:#}");
    }
    let paths = results["paths"].as_array().unwrap();
    // Three ways without rules, and six under those of Portolan's data planes and of two shapes of kube-proxy.
    assert_eq!(paths.len(), 3 + 6 * (planes + 2), "{results:#}");
    for path in paths {
        for figure in ["connections", "of_no_rules", "of_direct", "answer_p50_us", "throughput"] {
            assert!(path[figure]["median"].as_f64().unwrap_or(0.0) > 0.0, "{figure}: {path:#}");
        }
    }

    let mut command = Command::new(&bench);
    command.arg("compare").arg(&file).arg(&file);
    let same = run(command, LIMIT).expect_success();
    assert!(same.contains("start, s") && !same.contains("WORSE"), "{same}");
}

#[test]
fn mistakes_are_told() {
    let bench = bench_path();
    let fails = |arguments: &[&str]| {
        let mut command = Command::new(&bench);
        command.args(arguments);
        run(command, LIMIT).expect_failure()
    };
    let missing = fails(&["run", "--portolan", "/nonexistent/portolan"]);
    assert!(missing.contains("/nonexistent/portolan is not there"), "{missing}");
    let no_peer = fails(&["run", "--portolan", "/bin/true", "--peer", "/nonexistent/kube-proxy"]);
    assert!(no_peer.contains("--peer: /nonexistent/kube-proxy is not there"), "{no_peer}");
    let many = fails(&["run", "--portolan", "/bin/true", "--services", "50001"]);
    assert!(many.contains("--services takes 3 to 50000"), "{many}");
    let ipvs =
        fails(&["run", "--portolan", "/bin/true", "--services", "3", "--dataplanes", "ipvs"]);
    let is_told = |why| ipvs.contains(why);
    // The second one where the kernel has it.
    assert!(is_told("this kernel has no IPVS") || is_told("it has ended by itself"), "{ipvs}");
    let nothing = fails(&["compare", "/bin/true", "/bin/true"]);
    assert!(nothing.contains("read /bin/true"), "{nothing}");
}
