//! Manifests with a mistake: one clear error with file and field, and nothing is changed.

use std::fs;

use e2e::Lab;

const GOOD: &str =
    "apiVersion: v1\nkind: Service\nmetadata:\n  name: good\nspec:\n  ports:\n  - port: 80\n";

#[test]
fn a_mistake_is_one_error_and_changes_nothing() {
    let lab = Lab::up();
    let directory = tempfile::tempdir().expect("a temporary directory");
    fs::write(directory.path().join("a.yaml"), GOOD).expect("a file can be written");
    let wrong = directory.path().join("b.yaml");
    for (text, expected) in [
        ("apiVersion: v1\nkind: Service\nmetadata:\n\tname: tab\n", &["b.yaml:4", "tab"][..]),
        ("// a comment\napiVersion: v1\nkind: Service\nmetadata: {name: c}\n", &["b.yaml:1", "#"]),
        ("apiVersion: v1\nkind: Servce\nmetadata: {name: c}\n", &["b.yaml:2", "Servce", "Service"]),
        (
            "apiVersion: v1\nkind: Service\nmetadata: {name: c}\nspec:\n  type: NodePrt\n  ports: [{port: 80}]\n",
            &["b.yaml:5", "spec.type", "NodePort"],
        ),
        (
            "apiVersion: v1\nkind: Service\nmetadata: {name: c}\nspec:\n  type: NodePort\n  ports:\n  - port: 80\n    nodePort: 80\n",
            &["b.yaml:8", "spec.ports[0].nodePort", "30000-32767"],
        ),
        (
            "apiVersion: v1\nkind: Service\nmetadata: {name: c}\nspec:\n  ports:\n  - port: http\n",
            &["b.yaml:6", "spec.ports[0].port", "i32"],
        ),
        (
            "apiVersion: v1\nkind: Service\nmetadata: {name: c}\nspec:\n  sellector: {a: b}\n  ports: [{port: 80}]\n",
            &["b.yaml:5", "spec.sellector", "unknown field"],
        ),
        (GOOD, &["b.yaml:", "a.yaml:", "good"]),
    ] {
        fs::write(&wrong, text).expect("a file can be written");
        let path = directory.path().to_str().expect("the path is UTF-8");
        let message = lab.portolan(&["apply", "-f", path]).expect_failure();
        for part in expected {
            assert!(message.contains(part), "{part} in\n{message}\nfor\n{text}");
        }
        lab.kubectl(&["get", "service", "good"]).expect_failure();
    }
    fs::remove_file(&wrong).expect("the file is there");
    let path = directory.path().to_str().expect("the path is UTF-8");
    lab.portolan(&["apply", "-f", path]).expect_success();
    lab.kubectl(&["get", "service", "good"]).expect_success();
}
