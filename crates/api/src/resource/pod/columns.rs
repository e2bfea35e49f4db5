//! `kubectl get pods`.

use jiff::Timestamp;
use serde_json::Value;

use super::is_terminal;
use crate::resource::Column;
use crate::resource::cells::{AGE, NAME, age, column, name, since, wide};

pub(super) static COLUMNS: &[Column] = &[
    NAME,
    column("Ready"),
    column("Status"),
    column("Restarts"),
    AGE,
    wide("IP"),
    wide("Node"),
    wide("Nominated Node"),
    wide("Readiness Gates"),
];

pub(super) fn cells(pod: &Value, now: Timestamp) -> Vec<Value> {
    let or_none = |value: &Value| match value.as_str() {
        None | Some("") => Value::from("<none>"),
        Some(text) => text.into(),
    };
    let ready = statuses(pod, "containerStatuses").filter(|status| status["ready"] == true).count();
    let containers = pod["spec"]["containers"].as_array().map_or(0, Vec::len);
    vec![
        name(pod),
        format!("{ready}/{containers}").into(),
        status(pod).into(),
        restarts(pod, now),
        age(pod, now),
        or_none(&pod["status"]["podIP"]),
        or_none(&pod["spec"]["nodeName"]),
        or_none(&pod["status"]["nominatedNodeName"]),
        gates(pod),
    ]
}

fn statuses<'p>(pod: &'p Value, list: &str) -> impl Iterator<Item = &'p Value> {
    pod["status"][list].as_array().map(Vec::as_slice).unwrap_or_default().iter()
}

/// The one word that says how a pod is: the most telling of what its containers report.
fn status(pod: &Value) -> String {
    if pod["metadata"]["deletionTimestamp"].is_string() && !is_terminal(pod) {
        return "Terminating".to_owned();
    }
    if let Some(reason) = initializing(pod) {
        return reason;
    }
    if let Some(reason) = statuses(pod, "containerStatuses").find_map(reason) {
        let is_running = statuses(pod, "containerStatuses")
            .any(|status| status["ready"] == true && status["state"]["running"].is_object());
        return match reason == "Completed" && is_running {
            true => "Running".to_owned(),
            false => reason,
        };
    }
    let status = &pod["status"];
    let phase = status["phase"].as_str().unwrap_or("Unknown");
    status["reason"].as_str().filter(|reason| !reason.is_empty()).unwrap_or(phase).to_owned()
}

/// `Init:1/2` and the like, while init containers are not done.
fn initializing(pod: &Value) -> Option<String> {
    let total = pod["spec"]["initContainers"].as_array().map_or(0, Vec::len);
    for (i, status) in statuses(pod, "initContainerStatuses").enumerate() {
        if status["state"]["terminated"]["exitCode"] == 0 || status["started"] == true {
            continue;
        }
        return Some(match reason(status) {
            Some(reason) if reason != "PodInitializing" => format!("Init:{reason}"),
            _ => format!("Init:{i}/{total}"),
        });
    }
    None
}

/// Why a container does not run, if it does not.
fn reason(status: &Value) -> Option<String> {
    let state = &status["state"];
    if let Some(reason) = state["waiting"]["reason"].as_str().filter(|reason| !reason.is_empty()) {
        return Some(reason.to_owned());
    }
    let ended = &state["terminated"];
    if !ended.is_object() {
        return None;
    }
    Some(match (ended["reason"].as_str(), ended["signal"].as_i64()) {
        (Some(reason), _) if !reason.is_empty() => reason.to_owned(),
        (_, Some(signal)) if signal != 0 => format!("Signal:{signal}"),
        _ => format!("ExitCode:{}", ended["exitCode"]),
    })
}

/// `3 (5m ago)`.
fn restarts(pod: &Value, now: Timestamp) -> Value {
    let count: u64 =
        statuses(pod, "containerStatuses").map(|s| s["restartCount"].as_u64().unwrap_or(0)).sum();
    let last = statuses(pod, "containerStatuses")
        .filter_map(|status| status["lastState"]["terminated"]["finishedAt"].as_str())
        .max();
    match last.filter(|_| count > 0) {
        Some(last) => {
            let ago = since(&last.into(), now);
            format!("{count} ({} ago)", ago.as_str().unwrap_or_default()).into()
        }
        None => count.to_string().into(),
    }
}

fn gates(pod: &Value) -> Value {
    let gates = pod["spec"]["readinessGates"].as_array().map(Vec::as_slice).unwrap_or_default();
    let conditions = pod["status"]["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    let holds = |gate: &Value| {
        conditions.iter().any(|c| c["type"] == gate["conditionType"] && c["status"] == "True")
    };
    match gates.len() {
        0 => "<none>".into(),
        total => format!("{}/{total}", gates.iter().filter(|gate| holds(gate)).count()).into(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn one_word_tells_how_a_pod_is() {
        let ran = json!({"state": {"running": {}}, "ready": true});
        let waits = |reason: &str| json!({"state": {"waiting": {"reason": reason}}});
        let ended = |code: i32| json!({"state": {"terminated": {"exitCode": code}}});
        for (pod, expected) in [
            (json!({"status": {"phase": "Pending"}}), "Pending"),
            (json!({"status": {"phase": "Running", "containerStatuses": [ran]}}), "Running"),
            (
                json!({"status": {"phase": "Running", "containerStatuses": [waits("CrashLoopBackOff")]}}),
                "CrashLoopBackOff",
            ),
            (json!({"status": {"phase": "Failed", "containerStatuses": [ended(2)]}}), "ExitCode:2"),
            (json!({"status": {"phase": "Failed", "reason": "Evicted"}}), "Evicted"),
            (
                json!({"spec": {"initContainers": [{}, {}]},
                       "status": {"phase": "Pending", "initContainerStatuses": [ended(0), {"state": {"running": {}}}]}}),
                "Init:1/2",
            ),
            (
                json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"},
                       "status": {"phase": "Running"}}),
                "Terminating",
            ),
        ] {
            assert_eq!(status(&pod), expected);
        }
    }

    #[test]
    fn restarts_say_when() {
        let now: Timestamp = "2026-01-01T00:05:00Z".parse().unwrap();
        let pod = |count: u64, at: Option<&str>| {
            json!({"status": {"containerStatuses": [
                {"restartCount": count, "lastState": {"terminated": {"finishedAt": at}}}]}})
        };
        assert_eq!(restarts(&pod(0, None), now), "0");
        assert_eq!(restarts(&pod(3, Some("2026-01-01T00:00:00Z")), now), "3 (5m ago)");
    }
}
