//! Which ReplicaSet stands for which version of a Deployment's template, and in which order they
//! came. Pure.

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::super::{labels::Labels, owner};
use crate::client::ApiObject;

/// Number of the version, on the ReplicaSet and, for the current one, on the Deployment.
pub(super) const REVISION_ANNOTATION: &str = "deployment.kubernetes.io/revision";

/// Tells the pods of one version from those of another.
const HASH_LABEL: &str = "pod-template-hash";

/// What `kubectl apply` remembers belongs to the Deployment only.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Whether `set` was made from the template that `deployment` has now.
pub(super) fn is_version_of(set: &ReplicaSet, deployment: &Deployment) -> bool {
    let Some(spec) = &deployment.spec else { return false };
    let Some(template) = set.spec.as_ref().and_then(|spec| spec.template.as_ref()) else {
        return false;
    };
    plain(template) == plain(&spec.template)
}

/// A template without the label that only a ReplicaSet's has.
fn plain(template: &PodTemplateSpec) -> PodTemplateSpec {
    let mut template = template.clone();
    let meta = template.metadata.get_or_insert_default();
    let labels = meta.labels.get_or_insert_default();
    labels.remove(HASH_LABEL);
    template
}

/// The revision a ReplicaSet carries, 0 if none.
pub(super) fn revision(meta: &ObjectMeta) -> u64 {
    meta.annotations
        .as_ref()
        .and_then(|annotations| annotations.get(REVISION_ANNOTATION)?.parse().ok())
        .unwrap_or_default()
}

/// The ReplicaSet for the current template of `deployment`.
pub(super) fn new_set(deployment: &Deployment, replicas: i32, annotations: Labels) -> ReplicaSet {
    let spec = deployment.spec.clone().unwrap_or_default();
    let collisions = deployment.status.as_ref().and_then(|status| status.collision_count);
    let hash = hash(&spec.template, collisions.unwrap_or_default());
    let label = |labels: &mut Option<Labels>| {
        labels.get_or_insert_default().insert(HASH_LABEL.into(), hash.clone());
    };
    let mut template = spec.template;
    label(&mut template.metadata.get_or_insert_default().labels);
    let mut selector = spec.selector;
    label(&mut selector.match_labels);
    let name = deployment.object_name();
    ReplicaSet {
        metadata: ObjectMeta {
            name: Some(format!("{}-{hash}", name.name)),
            namespace: Some(name.namespace.to_string()),
            labels: template.metadata.as_ref().and_then(|meta| meta.labels.clone()),
            annotations: Some(annotations),
            owner_references: Some(vec![owner::controller(deployment)]),
            ..ObjectMeta::default()
        },
        spec: Some(ReplicaSetSpec {
            min_ready_seconds: spec.min_ready_seconds,
            replicas: Some(replicas),
            selector,
            template: Some(template),
        }),
        status: None,
    }
}

/// Annotations of the Deployment that its ReplicaSets carry too, for `kubectl rollout history`.
pub(super) fn inherited(deployment: &Deployment) -> Labels {
    let mut annotations = deployment.metadata.annotations.clone().unwrap_or_default();
    for own in [LAST_APPLIED, REVISION_ANNOTATION] {
        annotations.remove(own);
    }
    annotations
}

/// FNV-1a over the template's JSON, in an alphabet without vowels and look-alikes, so that names
/// spell nothing.
fn hash(template: &PodTemplateSpec, collisions: i32) -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let json = serde_json::to_vec(template).expect("a template has string keys");
    let mut hash = 0x811c_9dc5_u32;
    for byte in json.into_iter().chain(collisions.to_be_bytes()) {
        hash = (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
    }
    let letter = |digit: char| {
        let digit = u32::from(digit) - u32::from('0');
        char::from(ALPHABET[digit as usize % ALPHABET.len()])
    };
    hash.to_string().chars().map(letter).collect()
}
