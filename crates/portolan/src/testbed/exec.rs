//! Commands on hosts and in pods of a lab.

use std::ffi::OsString;
use std::fmt;
use std::process::{Child, Command, Stdio};
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, bail};
use kernel::process::{Process, Program, exec_in};
use lab::{Directory, Host, Output, Record, run_bounded};
use pod::runner::{RunningContainer, running};

use super::nodes;

/// Where a command is to run, as a user names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    /// A host of the lab.
    Host(String),
    /// A container of a pod; the first one if it is not named.
    Pod { namespace: String, name: String, container: Option<String> },
}

impl Target {
    /// The first container of a pod.
    pub(crate) fn pod(namespace: &str, name: &str) -> Self {
        Self::Pod { namespace: namespace.to_owned(), name: name.to_owned(), container: None }
    }

    /// A host.
    pub(crate) fn host(name: &str) -> Self {
        Self::Host(name.to_owned())
    }
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let Some(pod) = text.strip_prefix("pod/") else {
            return Ok(Self::Host(text.to_owned()));
        };
        let parts: Vec<&str> = pod.split('/').collect();
        let (namespace, name, container) = match parts[..] {
            [name] => ("default", name, None),
            [namespace, name] => (namespace, name, None),
            [namespace, name, container] => (namespace, name, Some(container.to_owned())),
            _ => return Err("use pod/NAME, pod/NAMESPACE/NAME[/CONTAINER] or a host".to_owned()),
        };
        if namespace.is_empty() || name.is_empty() {
            return Err("the name of the pod is empty".to_owned());
        }
        Ok(Self::Pod { namespace: namespace.to_owned(), name: name.to_owned(), container })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(name) => f.write_str(name),
            Self::Pod { namespace, name, container } => {
                write!(f, "pod/{namespace}/{name}")?;
                container.as_ref().map_or(Ok(()), |container| write!(f, "/{container}"))
            }
        }
    }
}

/// Where a command runs, found.
#[derive(Debug)]
pub(crate) enum Place {
    /// A host.
    Host(Host),
    /// Beside the first process of a container.
    Container { process: Process, found: RunningContainer },
}

impl Place {
    /// Finds `target` in a lab.
    pub(crate) fn find(
        directory: &Directory,
        record: &Record,
        target: &Target,
    ) -> anyhow::Result<Self> {
        let (namespace, name, container) = match target {
            Target::Host(name) => return Ok(Self::Host(record.host(directory, name)?)),
            Target::Pod { namespace, name, container } => (namespace, name, container),
        };
        let mut others = Vec::new();
        for node in nodes(&record.underlay) {
            for found in running(&directory.data(&node.name).join("pods"))? {
                let is_it = found.namespace == *namespace
                    && found.pod == *name
                    && container.as_ref().is_none_or(|wanted| found.container == *wanted);
                if is_it {
                    let process = Process::open(found.pid)
                        .with_context(|| format!("{target} ended a moment ago"))?;
                    return Ok(Self::Container { process, found });
                }
                others.push(format!("pod/{}/{}/{}", found.namespace, found.pod, found.container));
            }
        }
        others.sort();
        match others.is_empty() {
            true => bail!("{target} does not run on any node, nor does another pod"),
            false => bail!("{target} does not run on any node; these do: {}", others.join(", ")),
        }
    }

    /// Starts a command there, with the streams that `streams` sets.
    pub(crate) fn spawn(
        &self,
        command: &[String],
        streams: impl FnOnce(&mut Command) + Send,
    ) -> lab::Result<Child> {
        let (program, arguments) = match command.split_first() {
            Some((program, arguments)) => (program.as_str(), arguments),
            None => ("/bin/sh", &[][..]),
        };
        match self {
            Self::Host(host) => {
                let mut command = Command::new(program);
                command.args(arguments);
                streams(&mut command);
                host.spawn(&mut command)
            }
            Self::Container { process, found } => {
                let program = Program {
                    path: program.into(),
                    args: arguments.iter().map(OsString::from).collect(),
                    env: found.environment.clone(),
                    directory: "/".into(),
                    user: None,
                };
                Ok(exec_in(process, &program, None, streams)?)
            }
        }
    }

    /// Runs a command there to its end and collects what it says; kills it after `limit`.
    pub(crate) fn run(&self, command: &[&str], limit: Duration) -> lab::Result<Output> {
        let owned: Vec<String> = command.iter().map(|&word| word.to_owned()).collect();
        let place = match self {
            Self::Host(host) => host.name.clone(),
            Self::Container { found, .. } => found.pod.clone(),
        };
        run_bounded(&place, &command.join(" "), limit, || {
            self.spawn(&owned, |command| {
                command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_read_as_they_are_written() {
        for (text, written) in [
            ("outside", "outside"),
            ("pod/web", "pod/default/web"),
            ("pod/team/web", "pod/team/web"),
            ("pod/team/web/side", "pod/team/web/side"),
        ] {
            assert_eq!(text.parse::<Target>().unwrap().to_string(), written);
        }
        for text in ["pod/", "pod//", "pod/a/b/c/d"] {
            assert!(text.parse::<Target>().is_err(), "{text}");
        }
    }
}
