//! `v1` Namespace.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::cells::{AGE, NAME, age, column, name};
use super::{Column, Strategy, Write, strict};
use crate::field::FieldError;
use crate::names::{self, NameRule};
use crate::status::Status;

/// The rules of namespaces.
pub(super) struct Namespaces;

pub(super) static NAMESPACE: Namespaces = Namespaces;

/// The label that carries every namespace's own name.
const NAME_LABEL: &str = "kubernetes.io/metadata.name";

impl Strategy for Namespaces {
    fn decode(&self, object: &Value) -> Result<Vec<String>, String> {
        strict::decode::<k8s_openapi::api::core::v1::Namespace>(object)
    }

    fn default(&self, object: &mut Value) {
        object["metadata"]["labels"][NAME_LABEL] = object["metadata"]["name"].clone();
        if object["status"]["phase"].is_null() {
            object["status"]["phase"] = "Active".into();
        }
    }

    fn prepare_create(&self, object: &mut Value, _: &mut Write<'_>) -> Result<(), Status> {
        // What keeps it until its content is gone.
        object["spec"]["finalizers"] = json!(["kubernetes"]);
        object["status"] = json!({"phase": "Active"});
        Ok(())
    }

    fn prepare_update(
        &self,
        object: &mut Value,
        old: &Value,
        _: &mut Write<'_>,
    ) -> Result<(), Status> {
        object["spec"]["finalizers"] = old["spec"]["finalizers"].clone();
        Ok(())
    }

    fn validate(&self, object: &Value, _: Option<&Value>) -> Vec<FieldError> {
        let deleting = !object["metadata"]["deletionTimestamp"].is_null();
        let phase = &object["status"]["phase"];
        match deleting == (phase == "Terminating") {
            true => Vec::new(),
            false => vec![FieldError::invalid(
                "status.phase",
                phase.clone(),
                "must be 'Terminating' if the namespace is being deleted, and 'Active' otherwise",
            )],
        }
    }

    fn name_rule(&self) -> NameRule {
        names::dns_label
    }

    fn field(&self, object: &Value, path: &str) -> Option<String> {
        (path == "status.phase")
            .then(|| object["status"]["phase"].as_str().unwrap_or_default().into())
    }

    fn columns(&self) -> &'static [Column] {
        const { &[NAME, column("Status"), AGE] }
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        vec![name(object), object["status"]["phase"].clone(), age(object, now)]
    }
}
