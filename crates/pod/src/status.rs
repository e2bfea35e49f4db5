//! What a pod does, in the words of the API: serializes as `status` of a Pod.

use std::net::IpAddr;

use jiff::Timestamp;
use model::object::PodPhase;
use serde::{Deserialize, Serialize};

/// Status of one pod, as a patch of its `status`.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PodStatus {
    /// `Pending`, `Running`, `Succeeded` or `Failed`.
    #[serde(serialize_with = "phase_name")]
    pub phase: PodPhase,
    /// `PodScheduled`, `Initialized`, `ContainersReady`, `Ready`.
    pub conditions: Vec<Condition>,
    /// Why the pod as a whole can't run, in one word.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The same in a sentence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Address of the node.
    #[serde(rename = "hostIP", skip_serializing_if = "Option::is_none")]
    pub host_ip: Option<IpAddr>,
    /// First address of the pod.
    #[serde(rename = "podIP", skip_serializing_if = "Option::is_none")]
    pub pod_ip: Option<IpAddr>,
    /// All addresses of the pod.
    #[serde(rename = "podIPs", skip_serializing_if = "Vec::is_empty")]
    pub pod_ips: Vec<PodIp>,
    /// When the node took the pod on.
    pub start_time: Timestamp,
    /// Containers that run before the others.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub init_container_statuses: Vec<ContainerStatus>,
    /// Containers.
    pub container_statuses: Vec<ContainerStatus>,
}

/// An address of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct PodIp {
    /// The address.
    pub ip: IpAddr,
}

/// A condition of a pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// Type.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// `True` or `False`.
    pub status: &'static str,
    /// Why it is false.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
    /// When it last changed.
    pub last_transition_time: Timestamp,
}

/// Status of one container.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerStatus {
    /// Its name.
    pub name: String,
    /// Its image.
    pub image: String,
    /// The program that runs in the place of an image.
    #[serde(rename = "imageID")]
    pub image_id: String,
    /// Identity of this run of it.
    #[serde(rename = "containerID", skip_serializing_if = "Option::is_none")]
    pub container_id: Option<String>,
    /// May get traffic.
    pub ready: bool,
    /// Its startup probe has succeeded, or it runs and has none.
    pub started: bool,
    /// How often it was started again.
    pub restart_count: u32,
    /// What it does now.
    pub state: State,
    /// How it last ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_state: Option<State>,
}

/// What a container does; the variant is the only key of the object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum State {
    /// Not started (again) yet.
    Waiting {
        /// One word, for example `CrashLoopBackOff`.
        reason: String,
        /// A sentence.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        message: String,
    },
    /// Runs.
    #[serde(rename_all = "camelCase")]
    Running {
        /// Since when.
        started_at: Timestamp,
    },
    /// Ended.
    Terminated(Termination),
}

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Termination {
    /// Its exit code; 128 and the signal's number if one ended it.
    pub exit_code: i32,
    /// The signal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// `Completed`, `Error`, or `ContainerStatusUnknown`.
    pub reason: String,
    /// More, if there is more to say.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// When it was started.
    pub started_at: Timestamp,
    /// When it ended.
    pub finished_at: Timestamp,
}

impl Default for State {
    fn default() -> Self {
        State::waiting("ContainerCreating", "")
    }
}

impl State {
    /// Waiting for `reason`.
    pub fn waiting(reason: &str, message: impl Into<String>) -> Self {
        State::Waiting { reason: reason.to_owned(), message: message.into() }
    }

    /// Whether it runs.
    pub fn is_running(&self) -> bool {
        matches!(self, State::Running { .. })
    }
}

impl PodStatus {
    /// Whether the pod may get traffic.
    pub fn is_ready(&self) -> bool {
        self.conditions.iter().any(|c| c.kind == "Ready" && c.status == "True")
    }
}

/// The time in the API's precision, whole seconds.
pub fn now() -> Timestamp {
    Timestamp::from_second(Timestamp::now().as_second()).expect("the clock's second is in range")
}

fn phase_name<S: serde::Serializer>(phase: &PodPhase, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(match phase {
        PodPhase::Pending => "Pending",
        PodPhase::Running => "Running",
        PodPhase::Succeeded => "Succeeded",
        PodPhase::Failed => "Failed",
        PodPhase::Unknown => "Unknown",
    })
}
