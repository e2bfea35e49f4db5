//! How well a proxy is, for probes and load balancers: `/healthz` and `/livez` of kube-proxy's health
//! server (KEP-3836).

pub(super) mod node_port;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use dataplane::Status;
use http::StatusCode;
use jiff::Timestamp;
use model::World;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::probes::Answer;

/// How long a change may wait to be programmed: twice kube-proxy's `syncPeriod`.
const LATE: Duration = Duration::from_secs(60);
/// A node with this taint is about to go, and load balancers should send nothing more to it.
const GOING: &str = "ToBeDeletedByClusterAutoscaler";

/// What is known of a proxy's health. Clones see the same.
#[derive(Debug, Clone, Default)]
pub(super) struct Health(Arc<Mutex<Known>>);

#[derive(Debug, Default)]
struct Known {
    eligible: bool,
    /// `None` until something is programmed.
    status: Option<watch::Receiver<Status>>,
}

impl Health {
    /// Notes what the World says of this node.
    pub(super) fn follow(&self, world: &World, node: &str) {
        let is_going = |node: &model::object::Node| {
            node.meta.deletion_timestamp.is_some()
                || node.taints.iter().any(|taint| &*taint.key == GOING)
        };
        self.known().eligible = world.node(node).is_some_and(|node| !is_going(node));
    }

    /// Notes where the data plane reports.
    pub(super) fn watch(&self, status: watch::Receiver<Status>) {
        self.known().status.get_or_insert(status);
    }

    /// Answers a request for `path`.
    pub(super) fn answer(&self, path: &str) -> Answer {
        let known = self.known();
        let status = known.status.as_ref().map(|status| status.borrow().clone());
        let report = Report::of(status.as_ref(), Instant::now());
        match path {
            "/healthz" => report.answer(Some(known.eligible)),
            "/livez" => report.answer(None),
            _ => Answer::not_found("/healthz, /livez"),
        }
    }

    /// Whether what is to be programmed is, or has not waited long.
    pub(super) fn is_healthy(&self) -> bool {
        let known = self.known();
        let status = known.status.as_ref().map(|status| status.borrow().clone());
        Report::of(status.as_ref(), Instant::now()).healthy
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is said about the data plane.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Report {
    /// How long ago it was last programmed; `None` if it never was.
    programmed: Option<Duration>,
    /// Nothing waits too long.
    healthy: bool,
}

impl Report {
    fn of(status: Option<&Status>, now: Instant) -> Self {
        let since = |time: Option<Instant>| time.map(|time| now.saturating_duration_since(time));
        let waiting = status.and_then(|status| since(status.pending_since));
        Self {
            programmed: status.and_then(|status| since(status.programmed_at)),
            healthy: waiting.is_none_or(|waiting| waiting <= LATE),
        }
    }

    /// `eligible` is whether load balancers may send to this node, for those who ask.
    fn answer(self, eligible: Option<bool>) -> Answer {
        let now = Timestamp::now();
        let programmed = self.programmed.map(|ago| now.saturating_sub(ago).unwrap_or(now));
        let good = self.healthy && eligible != Some(false);
        let last = if good { Some(now) } else { programmed };
        let family = |time: Timestamp| json!({ "lastUpdated": time, "healthy": self.healthy });
        let mut body = json!({
            "lastUpdated": last.unwrap_or_default(),
            "currentTime": now,
            "healthy": self.healthy,
            // Both families are programmed in one go.
            "status": programmed.map_or(json!({}), |time| {
                json!({ "IPv4": family(time), "IPv6": family(time) })
            }),
        });
        if let Some(eligible) = eligible {
            body["nodeEligible"] = Value::Bool(eligible);
        }
        let code = if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        Answer::json(code, &body)
    }
}

#[cfg(test)]
mod tests {
    use model::{Event, Object};

    use super::*;

    fn node(extra: Value) -> World {
        let mut object = json!({"metadata": {"name": "here"}, "spec": {}});
        object["spec"] = extra;
        let mut world = World::new();
        world.apply(Event::Put(Object::Node(serde_json::from_value(object).unwrap())));
        world
    }

    fn body(answer: &Answer) -> Value {
        serde_json::from_str(&answer.body).unwrap()
    }

    #[test]
    fn a_node_that_is_unknown_or_going_is_not_eligible_but_alive() {
        let health = Health::default();
        let taint = json!({"taints": [{"key": GOING, "effect": "NoSchedule"}]});
        for (world, code) in [
            (World::new(), 503),
            (node(json!({})), 200),
            (node(json!({"unschedulable": true})), 200),
            (node(taint), 503),
        ] {
            health.follow(&world, "here");
            let answer = health.answer("/healthz");
            assert_eq!(answer.code.as_u16(), code);
            assert_eq!(body(&answer)["nodeEligible"], code == 200);
            assert_eq!(body(&answer)["healthy"], true);
            assert_eq!(health.answer("/livez").code, StatusCode::OK);
        }
        assert_eq!(health.answer("/").code, StatusCode::NOT_FOUND);
    }

    #[test]
    fn a_change_that_waits_too_long_is_unhealthy() {
        let start = Instant::now();
        let status = Status {
            generation: 1,
            programmed_at: Some(start),
            pending_since: Some(start),
            ..Status::default()
        };
        assert!(Report::of(Some(&status), start + LATE).healthy);
        let late = Report::of(Some(&status), start + LATE + Duration::from_secs(1));
        assert!(!late.healthy);
        let answer = late.answer(None);
        assert_eq!(answer.code, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(body(&answer)["status"]["IPv4"]["healthy"], false);
        assert_eq!(body(&answer)["lastUpdated"], body(&answer)["status"]["IPv6"]["lastUpdated"]);
        assert!(Report::of(None, start).healthy, "what never reported is not unhealthy");
    }
}
