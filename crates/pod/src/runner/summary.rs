//! The status of a pod, put together from those of its containers. Pure but for the clock that
//! dates changes of conditions.

use std::net::IpAddr;

use jiff::Timestamp;
use model::object::PodPhase;

use super::Config;
use super::container::is_restarted;
use super::saved::Saved;
use crate::spec::{Container, RestartPolicy};
use crate::status::{Condition, ContainerStatus, PodIp, PodStatus, State, now};

/// What is known of a pod beside its containers, and what was last told.
#[derive(Debug, Default)]
pub(super) struct Summary {
    pub(super) addresses: Vec<IpAddr>,
    /// Why there is no sandbox.
    pub(super) failure: Option<String>,
    told: Option<PodStatus>,
}

impl Summary {
    /// The status, if it is another than the last one.
    pub(super) fn update(&mut self, config: &Config, saved: &Saved) -> Option<PodStatus> {
        let status = self.status(config, saved, now());
        if self.told.as_ref() == Some(&status) {
            return None;
        }
        self.told = Some(status.clone());
        Some(status)
    }

    fn status(&self, config: &Config, saved: &Saved, time: Timestamp) -> PodStatus {
        let spec = &saved.pod.spec;
        let find = |container: &Container, reason: &str| {
            let known = saved.containers.get(&container.name);
            known.map(|known| known.status.clone()).unwrap_or_else(|| ContainerStatus {
                name: container.name.clone(),
                image: container.image.clone(),
                state: State::waiting(reason, ""),
                ..ContainerStatus::default()
            })
        };
        let waits =
            if spec.init_containers.is_empty() { "ContainerCreating" } else { "PodInitializing" };
        let init: Vec<_> =
            spec.init_containers.iter().map(|c| find(c, "PodInitializing")).collect();
        let containers: Vec<_> = spec.containers.iter().map(|c| find(c, waits)).collect();
        let phase = phase(spec.restart_policy, &init, &containers);
        let is_initialized = init.iter().all(has_succeeded);
        let is_terminal = matches!(phase, PodPhase::Succeeded | PodPhase::Failed);
        let is_ready =
            !is_terminal && is_initialized && containers.iter().all(|container| container.ready);
        let not_ready = match phase {
            PodPhase::Succeeded => "PodCompleted",
            PodPhase::Failed => "PodFailed",
            _ => "ContainersNotReady",
        };
        let conditions = [
            ("PodScheduled", true, ""),
            ("Initialized", is_initialized, "ContainersNotInitialized"),
            ("ContainersReady", is_ready, not_ready),
            ("Ready", is_ready, not_ready),
        ];
        PodStatus {
            phase,
            conditions: conditions
                .map(|(kind, is_true, reason)| self.condition(kind, is_true, reason, time))
                .into(),
            reason: self.failure.as_ref().map(|_| "FailedCreatePodSandBox".to_owned()),
            message: self.failure.clone(),
            host_ip: config.node_addresses.first().copied(),
            pod_ip: self.addresses.first().copied(),
            pod_ips: self.addresses.iter().map(|ip| PodIp { ip: *ip }).collect(),
            start_time: saved.start_time,
            init_container_statuses: init,
            container_statuses: containers,
        }
    }

    fn condition(
        &self,
        kind: &'static str,
        is_true: bool,
        reason: &'static str,
        time: Timestamp,
    ) -> Condition {
        let status = if is_true { "True" } else { "False" };
        let told = self.told.iter().flat_map(|told| &told.conditions);
        let since = told.into_iter().find(|c| c.kind == kind && c.status == status);
        Condition {
            kind,
            status,
            reason: (!is_true).then_some(reason),
            last_transition_time: since.map_or(time, |condition| condition.last_transition_time),
        }
    }
}

fn has_succeeded(container: &ContainerStatus) -> bool {
    matches!(&container.state, State::Terminated(ended) if ended.exit_code == 0)
}

fn phase(policy: RestartPolicy, init: &[ContainerStatus], main: &[ContainerStatus]) -> PodPhase {
    let has_failed = |container: &&ContainerStatus| matches!(&container.state, State::Terminated(ended) if ended.exit_code != 0);
    if policy == RestartPolicy::Never && init.iter().any(|container| has_failed(&container)) {
        return PodPhase::Failed;
    }
    if main.iter().all(|container| !is_restarted(policy, &container.state)) && !main.is_empty() {
        let any_failed = main.iter().any(|container| has_failed(&container));
        return if any_failed { PodPhase::Failed } else { PodPhase::Succeeded };
    }
    let never_ran = |container: &ContainerStatus| {
        matches!(container.state, State::Waiting { .. }) && container.last_state.is_none()
    };
    if main.iter().any(never_ran) { PodPhase::Pending } else { PodPhase::Running }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::Termination;

    fn ended(exit_code: i32) -> State {
        State::Terminated(Termination {
            exit_code,
            signal: None,
            reason: String::new(),
            message: String::new(),
            started_at: Timestamp::UNIX_EPOCH,
            finished_at: Timestamp::UNIX_EPOCH,
        })
    }

    fn container(state: State) -> ContainerStatus {
        ContainerStatus { state, ..ContainerStatus::default() }
    }

    #[test]
    fn phases() {
        let running = || State::Running { started_at: Timestamp::UNIX_EPOCH };
        let waiting = || State::waiting("ContainerCreating", "");
        let looping = ContainerStatus { last_state: Some(ended(1)), ..container(waiting()) };
        let (always, failure, never) =
            (RestartPolicy::Always, RestartPolicy::OnFailure, RestartPolicy::Never);
        let table = [
            (always, vec![container(waiting())], PodPhase::Pending),
            (always, vec![container(running()), container(waiting())], PodPhase::Pending),
            (always, vec![container(running()), looping], PodPhase::Running),
            (always, vec![container(ended(0))], PodPhase::Running),
            (failure, vec![container(ended(0))], PodPhase::Succeeded),
            (failure, vec![container(ended(1))], PodPhase::Running),
            (never, vec![container(ended(0)), container(running())], PodPhase::Running),
            (never, vec![container(ended(0)), container(ended(3))], PodPhase::Failed),
        ];
        for (policy, main, expected) in table {
            assert_eq!(phase(policy, &[], &main), expected, "{policy:?} {main:?}");
        }
        let init = [container(ended(1))];
        assert_eq!(phase(never, &init, &[container(waiting())]), PodPhase::Failed);
        assert_eq!(phase(always, &init, &[container(waiting())]), PodPhase::Pending);
    }

    #[test]
    fn a_status_is_told_once_and_dates_its_conditions() {
        let pod = serde_json::from_str(
            r#"{"metadata":{"name":"a","namespace":"b","uid":"u"},
                "spec":{"containers":[{"name":"c","image":"i"}]}}"#,
        )
        .unwrap();
        let saved = Saved::new(pod, String::new(), Timestamp::UNIX_EPOCH);
        let config = Config::new("n1", "/x");
        let mut summary = Summary::default();
        let status = summary.update(&config, &saved).unwrap();
        assert!(summary.update(&config, &saved).is_none());
        let json = serde_json::to_value(&status).unwrap();
        assert_eq!(json["phase"], "Pending");
        assert_eq!(json["startTime"], "1970-01-01T00:00:00Z");
        assert_eq!(json["containerStatuses"][0]["state"]["waiting"]["reason"], "ContainerCreating");
        assert_eq!(json["conditions"][3]["reason"], "ContainersNotReady");
        summary.addresses = vec!["10.244.0.2".parse().unwrap()];
        let json = serde_json::to_value(summary.update(&config, &saved).unwrap()).unwrap();
        assert_eq!(json["podIP"], "10.244.0.2");
        assert_eq!(json["podIPs"][0]["ip"], "10.244.0.2");
    }
}
