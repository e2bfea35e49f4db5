//! The API server by itself: what it has acknowledged is there, whatever happens to it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use e2e::Server;

/// A Service that gets an address and a node port.
fn service(name: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\n\
         spec: {{type: NodePort, ports: [{{port: 80}}]}}\n"
    )
}

/// Address and node port of each Service by name.
fn allocated(server: &Server) -> BTreeMap<String, (String, String)> {
    let path = "jsonpath={range .items[*]}{.metadata.name} {.spec.clusterIP} {.spec.ports[0].nodePort}{\"\\n\"}{end}";
    let text = server.kubectl(&["get", "services", "-o", path]).expect_success();
    text.lines()
        .map(|line| {
            let mut words = line.split(' ').map(str::to_owned);
            let mut word = || words.next().unwrap_or_default();
            (word(), (word(), word()))
        })
        .collect()
}

fn write(directory: &Path, name: &str, text: &str) -> String {
    let path = directory.join(name);
    fs::write(&path, text).expect("a file can be written");
    path.display().to_string()
}

#[test]
fn a_killed_server_has_lost_nothing_and_gives_nothing_twice() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let data = directory.path().join("data");
    let mut known: BTreeMap<String, (String, String)> = BTreeMap::new();
    for round in 0..3 {
        let mut server = Server::start(&data, &[]);
        let now = allocated(&server);
        for (name, held) in &known {
            assert_eq!(now.get(name), Some(held), "{name} is as it was acknowledged");
        }
        // Several clients create at once, and the server dies among them.
        let clients: Vec<_> = (0..4)
            .map(|client| {
                let texts: Vec<String> =
                    (0..10).map(|n| service(&format!("s-{round}-{client}-{n}"))).collect();
                let file = write(directory.path(), &format!("{client}.yaml"), &texts.join("---\n"));
                let path = "jsonpath={range .items[*]}{.metadata.name} {.spec.clusterIP} {.spec.ports[0].nodePort}{\"\\n\"}{end}";
                let command = server.kubectl_command(&["create", "-f", &file, "-o", path]);
                thread::spawn(move || e2e::run(command, Duration::from_secs(30)))
            })
            .collect();
        thread::sleep(Duration::from_millis(100 + 70 * round));
        known = allocated(&server);
        server.kill();
        for client in clients {
            // Most fail, as they should.
            let _ = client.join().expect("the client ends");
        }
        let mut unique = BTreeSet::new();
        for (address, node_port) in known.values() {
            assert!(unique.insert(address.clone()), "{address} is given twice");
            assert!(node_port.is_empty() || unique.insert(node_port.clone()), "{node_port} twice");
        }
    }
    let server = Server::start(&data, &[]);
    let now = allocated(&server);
    assert!(known.iter().all(|(name, held)| now.get(name) == Some(held)), "{known:?}\n{now:?}");
    assert!(now.len() > 1, "clients got something done before the server died");
}

#[test]
fn a_full_disk_refuses_writes_and_nothing_else() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let data = directory.path().join("data");
    fs::create_dir(&data).expect("a directory can be made");
    // A small file system that only the server sees, gone with it.
    let script = "mount -t tmpfs -o size=8M tmpfs \"$0\" && exec \"$@\"";
    let data_text = data.display().to_string();
    let server = Server::start(&data, &["unshare", "--mount", "sh", "-c", script, &data_text]);
    let create = |name: &str, value: &str| {
        server.kubectl(&["create", "configmap", name, &format!("--from-literal=a={value}")])
    };
    create("before", "b").expect_success();
    let service = |name: &str, address: &str, note: &str| {
        let text = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, annotations: {{note: \"{note}\"}}}}\n\
             spec: {{clusterIP: {address}, ports: [{{port: 80}}]}}\n"
        );
        let file = write(directory.path(), "service.yaml", &text);
        server.kubectl(&["create", "-f", &file])
    };
    service("held", "10.96.0.200", "").expect_success();

    // Somebody else takes all the room.
    let filler = server.path(&data.join("filler"));
    let filled = fs::write(&filler, vec![0; 16 << 20]);
    assert!(filled.is_err(), "8 MB do not hold 16 MB");
    let value = "x".repeat(100_000);
    let mut created = Vec::new();
    let refusal = loop {
        let name = format!("big-{}", created.len());
        let output = create(&name, &value);
        if !output.success {
            break output.expect_failure();
        }
        created.push(name);
        assert!(created.len() < 50, "the file system is full");
    };
    assert!(refusal.contains("No space left on device"), "{refusal}");
    assert!(refusal.contains("objects.redb"), "{refusal}");
    let names = server.kubectl(&["get", "configmaps", "-o", "name"]).expect_success();
    assert!(names.contains("before"), "reads go on: {names}");
    assert_eq!(names.lines().count(), created.len() + 1, "what was acknowledged is there");

    // Addresses that were taken or given back by writes that failed.
    service("late", "10.96.0.201", &value).expect_failure();
    let release = format!(
        r#"{{"metadata":{{"annotations":{{"note":"{value}"}}}},"spec":{{"type":"ExternalName","externalName":"a.example","clusterIP":null,"clusterIPs":null}}}}"#
    );
    let patch = ["patch", "service", "held", "--type=merge", "-p", &release];
    let refusal = server.kubectl(&patch).expect_failure();
    assert!(refusal.contains("No space left on device"), "{refusal}");

    // And gives it back: no restart is needed.
    fs::remove_file(&filler).expect("the filler is there");
    let refusal = service("thief", "10.96.0.200", "").expect_failure();
    assert!(refusal.contains("already allocated"), "{refusal}");
    service("late", "10.96.0.201", "").expect_success();
    create("after", "b").expect_success();
    let names = server.kubectl(&["get", "configmaps", "-o", "name"]).expect_success();
    assert_eq!(names.lines().count(), created.len() + 2, "{names}");
}
