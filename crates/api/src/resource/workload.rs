//! `apps/v1` Deployment and ReplicaSet: the same but for the roll-out and the columns.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1;
use serde_json::{Value, json};

use super::cells::{AGE, NAME, age, column, joined, name, number, wide};
use super::{Column, Strategy, Write, pod, strict};
use crate::field::FieldError;
use crate::names;
use crate::status::Status;

/// The rules of a workload.
pub(super) enum Workload {
    /// Rolls out ReplicaSets.
    Deployment,
    /// Keeps a number of pods.
    ReplicaSet,
}

pub(super) static DEPLOYMENT: Workload = Workload::Deployment;
pub(super) static REPLICA_SET: Workload = Workload::ReplicaSet;

impl Strategy for Workload {
    fn decode(&self, object: &Value) -> Result<Vec<String>, String> {
        match self {
            Workload::Deployment => strict::decode::<v1::Deployment>(object),
            Workload::ReplicaSet => strict::decode::<v1::ReplicaSet>(object),
        }
    }

    fn default(&self, object: &mut Value) {
        let Some(spec) = object["spec"].as_object_mut() else { return };
        let mut or = |field: &str, value: Value| {
            let held = spec.entry(field).or_insert(Value::Null);
            if held.is_null() {
                *held = value;
            }
        };
        or("replicas", 1.into());
        if let Workload::Deployment = self {
            or("revisionHistoryLimit", 10.into());
            or("progressDeadlineSeconds", 600.into());
            or("strategy", json!({}));
            default_strategy(&mut spec["strategy"]);
        }
        pod::default_spec(&mut object["spec"]["template"]["spec"]);
    }

    fn prepare_create(&self, object: &mut Value, _: &mut Write<'_>) -> Result<(), Status> {
        object["status"] = match self {
            Workload::Deployment => json!({}),
            Workload::ReplicaSet => json!({"replicas": 0}),
        };
        Ok(())
    }

    fn validate(&self, object: &Value, old: Option<&Value>) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let spec = &object["spec"];
        for field in
            ["replicas", "minReadySeconds", "revisionHistoryLimit", "progressDeadlineSeconds"]
        {
            if let Some(given) = spec[field].as_i64().filter(|given| *given < 0) {
                let detail = "must be greater than or equal to 0";
                errors.push(FieldError::invalid(format!("spec.{field}"), given, detail));
            }
        }
        validate_selector(&mut errors, spec);
        if old.is_some_and(|old| old["spec"]["selector"] != spec["selector"]) {
            let value = spec["selector"].clone();
            errors.push(FieldError::invalid("spec.selector", value, "field is immutable"));
        }
        errors.extend(pod::validate_spec(&spec["template"]["spec"], "spec.template.spec"));
        let restart = &spec["template"]["spec"]["restartPolicy"];
        if restart.is_string() && restart != "Always" {
            let path = "spec.template.spec.restartPolicy";
            errors.push(FieldError::not_supported(path, restart.clone(), &["Always"]));
        }
        if let Workload::Deployment = self {
            validate_strategy(&mut errors, &spec["strategy"]);
        }
        errors
    }

    fn field(&self, object: &Value, path: &str) -> Option<String> {
        match (self, path) {
            (Workload::ReplicaSet, "status.replicas") => {
                Some(object["status"]["replicas"].as_i64().unwrap_or(0).to_string())
            }
            _ => None,
        }
    }

    fn columns(&self) -> &'static [Column] {
        match self {
            Workload::Deployment => {
                const {
                    &[
                        NAME,
                        column("Ready"),
                        column("Up-to-date"),
                        column("Available"),
                        AGE,
                        wide("Containers"),
                        wide("Images"),
                        wide("Selector"),
                    ]
                }
            }
            Workload::ReplicaSet => {
                const {
                    &[
                        NAME,
                        number("Desired"),
                        number("Current"),
                        number("Ready"),
                        AGE,
                        wide("Containers"),
                        wide("Images"),
                        wide("Selector"),
                    ]
                }
            }
        }
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let count = |value: &Value| value.as_u64().unwrap_or(0);
        let (spec, status) = (&object["spec"], &object["status"]);
        let (wanted, ready) = (count(&spec["replicas"]), count(&status["readyReplicas"]));
        let counts = match self {
            Workload::Deployment => [
                format!("{ready}/{wanted}").into(),
                count(&status["updatedReplicas"]).into(),
                count(&status["availableReplicas"]).into(),
            ],
            Workload::ReplicaSet => {
                [wanted.into(), count(&status["replicas"]).into(), ready.into()]
            }
        };
        let containers = |field: &str| {
            let list = spec["template"]["spec"]["containers"].as_array().into_iter().flatten();
            joined(list.filter_map(|c| c[field].as_str()).map(str::to_owned))
        };
        let mut cells = vec![name(object)];
        cells.extend(counts);
        cells.push(age(object, now));
        cells.extend([containers("name"), containers("image"), selector_text(&spec["selector"])]);
        cells
    }
}

fn default_strategy(strategy: &mut Value) {
    const QUARTER: &str = "25%";
    if strategy["type"].is_null() || strategy["type"] == "" {
        strategy["type"] = "RollingUpdate".into();
    }
    if strategy["type"] == "RollingUpdate" {
        for field in ["maxUnavailable", "maxSurge"] {
            let held = &mut strategy["rollingUpdate"][field];
            if held.is_null() {
                *held = QUARTER.into();
            }
        }
    }
}

fn validate_strategy(errors: &mut Vec<FieldError>, strategy: &Value) {
    let rolling = &strategy["rollingUpdate"];
    match strategy["type"].as_str().unwrap_or_default() {
        "RollingUpdate" => {
            for field in ["maxUnavailable", "maxSurge"] {
                if amount(&rolling[field]).is_none() {
                    let path = format!("spec.strategy.rollingUpdate.{field}");
                    let detail = "must be an integer from 0 or a percentage (e.g. '5%')";
                    errors.push(FieldError::invalid(path, rolling[field].clone(), detail));
                }
            }
            if amount(&rolling["maxUnavailable"]) == Some(0)
                && amount(&rolling["maxSurge"]) == Some(0)
            {
                let path = "spec.strategy.rollingUpdate.maxUnavailable";
                let detail = "may not be 0 when `maxSurge` is 0";
                errors.push(FieldError::invalid(path, rolling["maxUnavailable"].clone(), detail));
            }
        }
        "Recreate" if rolling.is_object() => errors.push(FieldError::forbidden(
            "spec.strategy.rollingUpdate",
            "may not be specified when strategy `type` is 'Recreate'",
        )),
        "Recreate" => {}
        given => {
            let accepted = ["Recreate", "RollingUpdate"];
            errors.push(FieldError::not_supported("spec.strategy.type", given, &accepted));
        }
    }
}

/// A number or a percentage; for the percentage, its number.
fn amount(value: &Value) -> Option<u64> {
    match value {
        Value::Number(number) => number.as_u64(),
        Value::String(text) => text.strip_suffix('%')?.parse().ok(),
        _ => None,
    }
}

fn validate_selector(errors: &mut Vec<FieldError>, spec: &Value) {
    let selector = &spec["selector"];
    if !selector.is_object() {
        errors.push(FieldError::required("spec.selector", ""));
        return;
    }
    let expressions =
        selector["matchExpressions"].as_array().map(Vec::as_slice).unwrap_or_default();
    let labels = selector["matchLabels"].as_object();
    if labels.is_none_or(serde_json::Map::is_empty) && expressions.is_empty() {
        let detail = "empty selector is invalid for deployment";
        errors.push(FieldError::invalid("spec.selector", selector.clone(), detail));
        return;
    }
    for (key, value) in labels.into_iter().flatten() {
        if let Err(detail) = names::qualified_name(key) {
            errors.push(FieldError::invalid("spec.selector.matchLabels", key.as_str(), detail));
        }
        if let Err(detail) = names::label_value(value.as_str().unwrap_or_default()) {
            errors.push(FieldError::invalid("spec.selector.matchLabels", value.clone(), detail));
        }
    }
    for (i, expression) in expressions.iter().enumerate() {
        const OPERATORS: [&str; 4] = ["DoesNotExist", "Exists", "In", "NotIn"];
        let path = format!("spec.selector.matchExpressions[{i}].operator");
        let operator = expression["operator"].as_str().unwrap_or_default();
        if !OPERATORS.contains(&operator) {
            errors.push(FieldError::not_supported(path, operator, &OPERATORS));
        }
    }
    let pod_labels = &spec["template"]["metadata"]["labels"];
    if !selects(selector, pod_labels) {
        errors.push(FieldError::invalid(
            "spec.template.metadata.labels",
            pod_labels.clone(),
            "`selector` does not match template `labels`",
        ));
    }
}

/// Whether a label selector matches labels.
fn selects(selector: &Value, labels: &Value) -> bool {
    let exact = selector["matchLabels"].as_object().into_iter().flatten();
    let expressions = selector["matchExpressions"].as_array().into_iter().flatten();
    exact.clone().all(|(key, value)| labels[key] == *value)
        && expressions.clone().all(|expression| {
            let held = &labels[expression["key"].as_str().unwrap_or_default()];
            let listed = expression["values"].as_array().is_some_and(|list| list.contains(held));
            match expression["operator"].as_str() {
                Some("In") => listed,
                Some("NotIn") => !listed,
                Some("Exists") => !held.is_null(),
                Some("DoesNotExist") => held.is_null(),
                _ => false,
            }
        })
}

fn selector_text(selector: &Value) -> Value {
    let labels = selector["matchLabels"].as_object().into_iter().flatten();
    let exact = labels.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()));
    let expressions = selector["matchExpressions"].as_array().into_iter().flatten();
    let expressed = expressions.map(|expression| {
        let key = expression["key"].as_str().unwrap_or_default();
        let values: Vec<&str> = expression["values"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        match expression["operator"].as_str() {
            Some("In") => format!("{key} in ({})", values.join(",")),
            Some("NotIn") => format!("{key} notin ({})", values.join(",")),
            Some("DoesNotExist") => format!("!{key}"),
            _ => key.to_owned(),
        }
    });
    joined(exact.chain(expressed).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deployment() -> Value {
        json!({
            "metadata": {"name": "web"},
            "spec": {
                "selector": {"matchLabels": {"app": "web"}},
                "template": {"metadata": {"labels": {"app": "web"}},
                             "spec": {"containers": [{"name": "web", "image": "nginx"}]}},
            },
        })
    }

    #[test]
    fn a_short_deployment_is_completed() {
        let mut object = deployment();
        DEPLOYMENT.default(&mut object);
        assert_eq!(object["spec"]["replicas"], 1);
        let rolling = json!({"type": "RollingUpdate",
                             "rollingUpdate": {"maxUnavailable": "25%", "maxSurge": "25%"}});
        assert_eq!(object["spec"]["strategy"], rolling);
        assert_eq!(object["spec"]["template"]["spec"]["restartPolicy"], "Always");
        assert_eq!(DEPLOYMENT.validate(&object, None), []);
    }

    #[test]
    fn selectors_fit_the_template_and_stay() {
        let mut old = deployment();
        DEPLOYMENT.default(&mut old);
        let mut changed = old.clone();
        changed["spec"]["selector"]["matchLabels"]["app"] = "other".into();
        let errors = DEPLOYMENT.validate(&changed, Some(&old));
        let paths: Vec<&str> = errors.iter().map(|error| error.path.as_str()).collect();
        assert_eq!(paths, ["spec.template.metadata.labels", "spec.selector"]);
        let mut none = old.clone();
        none["spec"]["selector"] = Value::Null;
        assert_eq!(DEPLOYMENT.validate(&none, None)[0].path, "spec.selector");
    }
}
