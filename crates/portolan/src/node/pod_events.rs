//! What users are told about a pod at the end of `kubectl describe pod`: what changed from one status
//! to the next. Pure.

use pod::status::{ContainerStatus, PodStatus, State};

use crate::client::Severity;

/// Something to tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct News {
    pub(super) severity: Severity,
    /// One word, of those that kubelet uses.
    pub(super) reason: &'static str,
    pub(super) message: String,
}

/// What is new in `now`; `before` is the status told last.
pub(super) fn news(before: Option<&PodStatus>, now: &PodStatus) -> Vec<News> {
    let mut news = Vec::new();
    let held = |status: &PodStatus| (status.reason.clone(), status.message.clone());
    if let (Some(reason), message) = held(now)
        && before.map(held) != Some((Some(reason.clone()), message.clone()))
    {
        let message = message.map_or_else(|| reason.clone(), |text| format!("{reason}: {text}"));
        news.push(warning("Failed", message));
    }
    for container in containers(now) {
        let known = before.into_iter().flat_map(containers).find(|c| c.name == container.name);
        news.extend(of_container(known, container));
    }
    news
}

fn containers(status: &PodStatus) -> impl Iterator<Item = &ContainerStatus> {
    status.init_container_statuses.iter().chain(&status.container_statuses)
}

fn of_container(before: Option<&ContainerStatus>, now: &ContainerStatus) -> Option<News> {
    let name = &now.name;
    if before.is_some_and(|before| before.state == now.state) {
        let was_ready = before.is_some_and(|before| before.ready);
        return (was_ready && !now.ready && now.state.is_running()).then(|| {
            warning("Unhealthy", format!("Container {name} runs, but its readiness probe fails"))
        });
    }
    match &now.state {
        State::Running { .. } => Some(News {
            severity: Severity::Normal,
            reason: "Started",
            message: format!("Started container {name}"),
        }),
        State::Waiting { reason, message } => match reason.as_str() {
            "ContainerCreating" | "PodInitializing" => None,
            "CrashLoopBackOff" | "ImagePullBackOff" => {
                Some(warning("BackOff", format!("Container {name}: {message}")))
            }
            reason => Some(warning("Failed", format!("Container {name}: {reason}: {message}"))),
        },
        State::Terminated(_) => None,
    }
}

fn warning(reason: &'static str, message: String) -> News {
    News { severity: Severity::Warning, reason, message }
}

#[cfg(test)]
mod tests {
    use model::object::PodPhase;

    use super::*;

    fn status(state: State, ready: bool) -> PodStatus {
        PodStatus {
            phase: PodPhase::Running,
            conditions: Vec::new(),
            reason: None,
            message: None,
            host_ip: None,
            pod_ip: None,
            pod_ips: Vec::new(),
            start_time: pod::status::now(),
            init_container_statuses: Vec::new(),
            container_statuses: vec![ContainerStatus {
                name: "web".to_owned(),
                state,
                ready,
                ..ContainerStatus::default()
            }],
        }
    }

    fn told(before: Option<&PodStatus>, now: &PodStatus) -> Vec<String> {
        news(before, now).into_iter().map(|n| format!("{}: {}", n.reason, n.message)).collect()
    }

    #[test]
    fn each_change_is_told_once() {
        let creating = status(State::waiting("ContainerCreating", ""), false);
        let refused = status(State::waiting("ErrImagePull", "no such program"), false);
        let running = status(State::Running { started_at: pod::status::now() }, false);
        let ready = status(running.container_statuses[0].state.clone(), true);
        assert!(told(None, &creating).is_empty());
        assert_eq!(
            told(Some(&creating), &refused),
            ["Failed: Container web: ErrImagePull: no such program"]
        );
        assert!(told(Some(&refused), &refused).is_empty());
        assert_eq!(told(Some(&creating), &running), ["Started: Started container web"]);
        assert!(told(Some(&running), &ready).is_empty());
        assert_eq!(
            told(Some(&ready), &running),
            ["Unhealthy: Container web runs, but its readiness probe fails"]
        );
    }

    #[test]
    fn what_stops_a_whole_pod_is_told() {
        let good = status(State::waiting("ContainerCreating", ""), false);
        let mut bad = good.clone();
        bad.reason = Some("NetworkFailed".to_owned());
        bad.message = Some("no address is free".to_owned());
        assert_eq!(told(Some(&good), &bad), ["Failed: NetworkFailed: no address is free"]);
        assert!(told(Some(&bad), &bad).is_empty());
    }
}
