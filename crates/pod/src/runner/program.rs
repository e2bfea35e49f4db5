//! From a container of a pod to the program that is to be executed: which file, which arguments,
//! which environment, which mounts. Reads the host's file system, changes nothing.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use kernel::process::{Mount, Program};

use super::Config;
use crate::spec::{Container, Pod, VolumeMount};

/// Where programs are looked for, unless the container sets its own `PATH`.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Parts of the host that a container may write to, for itself alone: what servers expect to be
/// able to write to. The other parts are the host's, and shared.
const COPY_ON_WRITE: [&str; 6] = ["/etc", "/home", "/opt", "/root", "/srv", "/var"];
/// What starts empty.
const TEMPORARY: &str = "/tmp";
/// What starts with empty directories: those of daemons, for their sockets and pid files.
const RUNTIME: &str = "/run";

/// Why a container can't be started, as `state.waiting` tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) reason: &'static str,
    pub(super) message: String,
}

/// What the pod's directory on the host holds.
#[derive(Debug, Clone)]
pub(super) struct PodFiles {
    /// The directory.
    pub(super) directory: PathBuf,
}

impl PodFiles {
    /// The host's file that shows as `/etc/<name>`.
    pub(super) fn etc(&self, name: &str) -> PathBuf {
        self.directory.join("etc").join(name)
    }

    pub(super) fn volume(&self, name: &str) -> PathBuf {
        self.directory.join("volumes").join(name)
    }

    pub(super) fn log(&self, container: &str) -> PathBuf {
        self.directory.join(format!("{container}.log"))
    }
}

/// The program of a container whose pod has these addresses.
pub(super) fn program(
    config: &Config,
    pod: &Pod,
    container: &Container,
    hostname: &str,
    addresses: &[IpAddr],
) -> Result<Program, Refusal> {
    let env = environment(config, pod, container, hostname, addresses)?;
    let expand = |text: &String| expand(text, &env);
    let path = env.get("PATH").map_or(PATH, String::as_str);
    let mut words = container.command.iter().map(expand).collect::<Vec<_>>();
    let program = match words.first() {
        Some(name) => look_up(name, path).ok_or_else(|| Refusal {
            reason: "RunContainerError",
            message: format!("command {name:?} is not an executable file in {path}"),
        })?,
        None => {
            let name = program_of_image(&container.image);
            let program = look_up(name, path).ok_or_else(|| Refusal {
                reason: "ErrImagePull",
                message: format!(
                    "the built-in runner has no images, and no program {name:?} is installed on \
                     this host: give the container a command, or an image named like an installed \
                     program"
                ),
            })?;
            words.push(name.to_owned());
            program
        }
    };
    let user = container
        .security_context
        .as_ref()
        .filter(|context| context.run_as_user.is_some() || context.run_as_group.is_some())
        .map(|c| (c.run_as_user.unwrap_or_default(), c.run_as_group.unwrap_or_default()));
    Ok(Program {
        path: program,
        args: words.drain(1..).chain(container.args.iter().map(expand)).map(Into::into).collect(),
        env: env.into_iter().map(|(k, v)| (OsString::from(k), OsString::from(v))).collect(),
        directory: container.working_dir.as_deref().filter(|d| !d.is_empty()).unwrap_or("/").into(),
        user,
    })
}

/// The name of a program in `docker.io/library/nginx:1.27@sha256:...`: `nginx`.
pub(super) fn program_of_image(image: &str) -> &str {
    let name = image.split('@').next().unwrap_or(image);
    let name = name.rsplit('/').next().unwrap_or(name);
    name.split(':').next().unwrap_or(name)
}

fn look_up(name: &str, path: &str) -> Option<PathBuf> {
    let is_program = |file: &PathBuf| {
        file.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
    };
    if name.is_empty() {
        return None;
    }
    if name.contains('/') {
        return Some(Path::new("/").join(name)).filter(is_program);
    }
    path.split(':').map(|directory| Path::new(directory).join(name)).find(is_program)
}

fn environment(
    config: &Config,
    pod: &Pod,
    container: &Container,
    hostname: &str,
    addresses: &[IpAddr],
) -> Result<BTreeMap<String, String>, Refusal> {
    let mut env = BTreeMap::from([
        ("PATH".to_owned(), PATH.to_owned()),
        ("HOME".to_owned(), "/root".to_owned()),
        ("HOSTNAME".to_owned(), hostname.to_owned()),
    ]);
    for variable in &container.env {
        let source = variable.value_from.as_ref();
        let value = match (source, source.and_then(|source| source.field_ref.as_ref())) {
            (None, _) => expand(variable.value.as_deref().unwrap_or_default(), &env),
            (Some(_), Some(field)) => field_of(config, pod, addresses, &field.field_path)
                .ok_or_else(|| unsupported(&variable.name, &field.field_path))?,
            (Some(_), None) => return Err(unsupported(&variable.name, "valueFrom")),
        };
        env.insert(variable.name.clone(), value);
    }
    Ok(env)
}

fn unsupported(variable: &str, source: &str) -> Refusal {
    Refusal {
        reason: "CreateContainerConfigError",
        message: format!(
            "env {variable}: {source} is not supported; fieldRef takes metadata.name, \
             metadata.namespace, metadata.uid, spec.nodeName, status.podIP, status.podIPs, \
             status.hostIP"
        ),
    }
}

fn field_of(config: &Config, pod: &Pod, addresses: &[IpAddr], path: &str) -> Option<String> {
    let first = |addresses: &[IpAddr]| addresses.first().map(IpAddr::to_string).unwrap_or_default();
    Some(match path {
        "metadata.name" => pod.metadata.name.clone(),
        "metadata.namespace" => pod.metadata.namespace.clone(),
        "metadata.uid" => pod.metadata.uid.clone(),
        "spec.nodeName" => config.node_name.clone(),
        "status.podIP" => first(addresses),
        "status.podIPs" => addresses.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(","),
        "status.hostIP" => first(&config.node_addresses),
        _ => return None,
    })
}

/// Puts values in the place of `$(NAME)`. An unknown name stays as it is written, and `$$` is a
/// dollar sign.
fn expand(text: &str, env: &BTreeMap<String, String>) -> String {
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        result.push_str(&rest[..at]);
        rest = &rest[at..];
        let reference = rest.strip_prefix("$(").and_then(|tail| tail.split_once(')'));
        if let Some(tail) = rest.strip_prefix("$$") {
            result.push('$');
            rest = tail;
        } else if let Some((name, tail)) = reference
            && let Some(value) = env.get(name)
        {
            result.push_str(value);
            rest = tail;
        } else {
            result.push('$');
            rest = &rest[1..];
        }
    }
    result + rest
}

/// What a container sees in the place of the host's files.
pub(super) fn mounts(
    pod: &Pod,
    container: &Container,
    files: &PodFiles,
) -> Result<Vec<Mount>, Refusal> {
    let exists = |path: &&str| Path::new(path).is_dir();
    let layers = COPY_ON_WRITE.iter().copied().filter(exists).map(|p| Mount::CopyOnWrite(p.into()));
    let empty = [Mount::Empty(TEMPORARY.into()), Mount::EmptyDirectories(RUNTIME.into())];
    let etc = ["resolv.conf", "hosts", "hostname"].map(|name| Mount::Bind {
        source: files.etc(name),
        target: Path::new("/etc").join(name),
        read_only: false,
    });
    let mut mounts: Vec<_> = layers.chain(empty).chain(etc).collect();
    for mount in &container.volume_mounts {
        mounts.extend(volume(pod, mount, files)?);
    }
    Ok(mounts)
}

fn volume(pod: &Pod, mount: &VolumeMount, files: &PodFiles) -> Result<Option<Mount>, Refusal> {
    let refuse = |message: String| Refusal { reason: "CreateContainerConfigError", message };
    let name = &mount.name;
    let volume = pod.spec.volumes.iter().find(|volume| volume.name == *name);
    match volume {
        Some(volume) if volume.empty_dir.is_some() => {}
        // Clusters add the service account's token to every pod.
        Some(_) if name.starts_with("kube-api-access-") => return Ok(None),
        Some(_) => {
            return Err(refuse(format!("volume {name}: the built-in runner has only emptyDir")));
        }
        None => return Err(refuse(format!("volumeMount {name}: the pod has no such volume"))),
    }
    let target = Path::new("/").join(&mount.mount_path);
    Ok(Some(Mount::Bind { source: files.volume(name), target, read_only: mount.read_only }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(text: &str) -> Container {
        serde_json::from_str(text).unwrap()
    }

    fn resolve(text: &str) -> Result<Program, Refusal> {
        let mut pod = Pod::default();
        pod.metadata.name = "web".to_owned();
        let addresses = ["10.244.0.7".parse().unwrap()];
        program(&Config::new("n1", "/x"), &pod, &container(text), "host", &addresses)
    }

    #[test]
    fn images_name_programs() {
        for image in ["sh", "sh:1.27", "docker.io/library/sh:1@sha256:00", "host:5000/sh"] {
            assert_eq!(program_of_image(image), "sh", "{image}");
        }
        let program = resolve(r#"{"image":"docker.io/library/sh:1","args":["-c"]}"#).unwrap();
        assert!(program.path.ends_with("sh"));
        assert_eq!(program.args, ["-c"]);
    }

    #[test]
    fn what_is_not_installed_is_refused_with_a_hint() {
        let refusal = resolve(r#"{"image":"no-such-program:1"}"#).unwrap_err();
        assert_eq!(refusal.reason, "ErrImagePull");
        assert!(refusal.message.contains("no-such-program"), "{}", refusal.message);
        let refusal = resolve(r#"{"command":["/etc/passwd"]}"#).unwrap_err();
        assert_eq!(refusal.reason, "RunContainerError");
    }

    #[test]
    fn variables_are_expanded_in_order() {
        let program = resolve(
            r#"{"command":["sh","$(A)"],"args":["$(B)","$$(A)","$(C)","$"],"env":[
                {"name":"A","value":"1"},{"name":"B","value":"$(A)2$(Z)"},
                {"name":"IP","valueFrom":{"fieldRef":{"fieldPath":"status.podIP"}}},
                {"name":"POD","valueFrom":{"fieldRef":{"fieldPath":"metadata.name"}}}]}"#,
        )
        .unwrap();
        assert_eq!(program.args, ["1", "12$(Z)", "$(A)", "$(C)", "$"]);
        for (name, value) in [("IP", "10.244.0.7"), ("POD", "web"), ("HOSTNAME", "host")] {
            assert!(program.env.contains(&(name.into(), value.into())), "{name}");
        }
        let secret = r#"{"command":["sh"],"env":[{"name":"A","valueFrom":{"secretKeyRef":{}}}]}"#;
        assert_eq!(resolve(secret).unwrap_err().reason, "CreateContainerConfigError");
    }

    #[test]
    fn only_empty_directories_can_be_mounted() {
        let pod: Pod = serde_json::from_str(
            r#"{"metadata":{},"spec":{"volumes":[{"name":"a","emptyDir":{}},{"name":"b"},
                {"name":"kube-api-access-1"}]}}"#,
        )
        .unwrap();
        let files = PodFiles { directory: "/pod".into() };
        let mount = |name: &str| {
            let container = container(&format!(
                r#"{{"volumeMounts":[{{"name":"{name}","mountPath":"/var/data"}}]}}"#
            ));
            mounts(&pod, &container, &files)
        };
        let bind = Mount::Bind {
            source: "/pod/volumes/a".into(),
            target: "/var/data".into(),
            read_only: false,
        };
        assert_eq!(mount("a").unwrap().last(), Some(&bind));
        assert!(mount("b").unwrap_err().message.contains("emptyDir"));
        assert!(mount("c").unwrap_err().message.contains("no such volume"));
        assert!(!mount("kube-api-access-1").unwrap().contains(&bind));
    }
}
