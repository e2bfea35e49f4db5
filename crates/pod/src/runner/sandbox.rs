//! The world that the containers of a pod share: network, UTS and IPC namespaces, addresses, files
//! in `/etc`, a cgroup. Made as a whole or not at all; every call blocks for some milliseconds.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use kernel::cgroup::Cgroup;
use kernel::netns::Netns;
use kernel::process::{Process, SharedNamespaces};
use kernel::route::Rtnetlink;

use super::program::PodFiles;
use super::saved::Saved;
use super::{Config, files};
use crate::lease::{Leases, Owner, boot_id};
use crate::spec::Pod;
use crate::wiring::{self, Attachment, HOST_LINK_PREFIX, POD_LINK};
use crate::{Error, Result};

/// How long killed processes may take to be gone.
const KILL_LIMIT: Duration = Duration::from_secs(5);

/// What all pods of a node share.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) config: Config,
    pub(super) boot: String,
    pub(super) cgroup: Cgroup,
    netns: Netns,
    rtnetlink: Mutex<Rtnetlink>,
    leases: Vec<Leases>,
}

/// A whole sandbox.
#[derive(Debug)]
pub(super) struct Sandbox {
    pub(super) id: String,
    pub(super) hostname: String,
    pub(super) addresses: Vec<IpAddr>,
    pub(super) netns: Netns,
    pub(super) shared: SharedNamespaces,
    pub(super) files: PodFiles,
    pub(super) cgroup: Cgroup,
}

impl Node {
    /// Prepares the node in whose network namespace the calling thread is.
    pub(super) fn open(config: Config) -> Result<Self> {
        let mut rtnetlink = Rtnetlink::open()?;
        let has_ipv6 = config.pod_ranges.iter().any(|range| range.addr().is_ipv6());
        wiring::prepare_node(&mut rtnetlink, has_ipv6)?;
        let leases = config.pod_ranges.iter().map(|range| {
            let family = if range.addr().is_ipv4() { "ipv4" } else { "ipv6" };
            Leases::open(&config.directory.join("leases").join(family), *range)
        });
        Ok(Self {
            boot: boot_id()?,
            cgroup: Cgroup::root()?.child(&config.cgroup),
            netns: Netns::current()?,
            rtnetlink: Mutex::new(rtnetlink),
            leases: leases.collect::<Result<_>>()?,
            config,
        })
    }

    pub(super) fn files(&self, uid: &str) -> PodFiles {
        PodFiles { directory: self.config.pods_directory().join(uid) }
    }

    pub(super) fn pod_cgroup(&self, uid: &str) -> Cgroup {
        self.cgroup.child(uid)
    }

    fn netns_path(&self, sandbox: &str) -> PathBuf {
        self.config.netns_directory().join(sandbox)
    }

    /// Makes the sandbox `id` of a pod; what a failure leaves half made is taken away.
    pub(super) fn create(&self, pod: &Pod, id: &str) -> Result<Sandbox> {
        let made = self.try_create(pod, id);
        if made.is_err() {
            for error in self.destroy(&pod.metadata.uid, id) {
                tracing::warn!(sandbox = id, %error, "undoing a failed sandbox");
            }
        }
        made
    }

    fn try_create(&self, pod: &Pod, id: &str) -> Result<Sandbox> {
        let uid = &pod.metadata.uid;
        let (netns, addresses) = if pod.spec.host_network {
            (self.netns.try_clone()?, self.config.node_addresses.clone())
        } else {
            let owner = owner(id);
            let leased = self.leases.iter().map(|leases| leases.lease(&owner));
            let addresses = leased.collect::<Result<Vec<_>>>()?;
            let netns = Netns::create(&self.netns_path(id))?;
            let attachment = Attachment {
                sandbox: id,
                netns: &netns,
                addresses: &addresses,
                mtu: self.config.mtu,
            };
            self.netns.run(|| wiring::attach(&mut self.rtnetlink(), &attachment))??;
            (netns, addresses)
        };
        let hostname = self.hostname(pod).to_owned();
        let files = self.files(uid);
        self.write_files(pod, &hostname, &addresses, &files)?;
        let cgroup = self.pod_cgroup(uid);
        cgroup.create()?;
        let shared = SharedNamespaces::create(&hostname)?;
        Ok(Sandbox { id: id.to_owned(), hostname, addresses, netns, shared, files, cgroup })
    }

    /// Takes hold of a sandbox that an earlier runner made. `None` if it is not whole any more.
    pub(super) fn adopt(&self, saved: &Saved) -> Result<Option<Sandbox>> {
        let Some(addresses) = saved.sandbox.clone().filter(|_| saved.boot == self.boot) else {
            return Ok(None);
        };
        let (pod, id) = (&saved.pod, saved.sandbox_id());
        let netns = if pod.spec.host_network {
            self.netns.try_clone()?
        } else {
            let link = wiring::host_link(&id);
            match Netns::open(&self.netns_path(&id)) {
                // Without its mount the name is an empty file, of another file system.
                Ok(netns)
                    if netns.run(|| ()).is_ok() && self.rtnetlink().link(&link)?.is_some() =>
                {
                    netns
                }
                _ => return Ok(None),
            }
        };
        // A container that runs holds them; if none does, new ones are as good.
        let running = saved.containers.values().find_map(|container| container.process?.open());
        let hostname = self.hostname(pod).to_owned();
        let shared = match running.as_ref().map(Process::pid) {
            Some(pid) => SharedNamespaces::of_process(pid)?,
            None => SharedNamespaces::create(&hostname)?,
        };
        let uid = &pod.metadata.uid;
        let (files, cgroup) = (self.files(uid), self.pod_cgroup(uid));
        Ok(Some(Sandbox { id, hostname, addresses, netns, shared, files, cgroup }))
    }

    /// Takes everything of a sandbox away but the pod's directory, as far as it is there; the address
    /// last, so that nobody gets it while anything still answers to it. Goes on after a failure and
    /// answers all of them.
    pub(super) fn destroy(&self, uid: &str, id: &str) -> Vec<Error> {
        let steps = [
            self.pod_cgroup(uid).destroy(KILL_LIMIT).map_err(Error::from),
            wiring::detach(&mut self.rtnetlink(), id),
            Netns::delete(&self.netns_path(id)).map_err(Error::from),
        ];
        let mut failures: Vec<Error> = steps.into_iter().filter_map(Result::err).collect();
        if failures.is_empty() {
            let released = self.leases.iter().map(|leases| leases.release(&owner(id)));
            failures.extend(released.filter_map(Result::err));
        }
        failures
    }

    /// Removes the pod's directory, with its logs and volumes.
    pub(super) fn forget(&self, uid: &str) -> Result<()> {
        remove_tree(&self.files(uid).directory)
    }

    /// Takes away what belongs to no pod of `saved`: processes, links, namespaces, leases and
    /// directories that a crash left. Answers what failed.
    pub(super) fn collect(&self, saved: &[Saved]) -> Vec<Error> {
        let uids: HashSet<&str> = saved.iter().map(|s| s.pod.metadata.uid.as_str()).collect();
        let sandboxes: HashSet<String> = saved.iter().map(Saved::sandbox_id).collect();
        let mut failures = Vec::new();
        let mut note = |result: Result<()>| failures.extend(result.err());
        let groups = self.cgroup.children().unwrap_or_default();
        for group in groups.iter().filter(|group| !uids.contains(name_of(group.path()))) {
            note(group.destroy(KILL_LIMIT).map_err(Error::from));
        }
        let links: HashSet<String> = sandboxes.iter().map(|id| wiring::host_link(id)).collect();
        let mut rtnetlink = self.rtnetlink();
        for link in rtnetlink.links().unwrap_or_default() {
            if link.name.starts_with(HOST_LINK_PREFIX) && !links.contains(&link.name) {
                note(rtnetlink.delete_link(&link.name).map(drop).map_err(Error::from));
            }
        }
        drop(rtnetlink);
        for path in entries(&self.config.netns_directory()) {
            if !sandboxes.contains(name_of(&path)) {
                note(Netns::delete(&path).map_err(Error::from));
            }
        }
        for path in entries(&self.config.pods_directory()) {
            if !uids.contains(name_of(&path)) {
                note(remove_tree(&path));
            }
        }
        let live = sandboxes.iter().map(|id| owner(id)).collect();
        for leases in &self.leases {
            note(leases.collect(&live).map(drop));
        }
        failures
    }

    fn hostname<'a>(&'a self, pod: &'a Pod) -> &'a str {
        if pod.spec.host_network { &self.config.node_name } else { pod.hostname() }
    }

    fn write_files(
        &self,
        pod: &Pod,
        hostname: &str,
        addresses: &[IpAddr],
        files: &PodFiles,
    ) -> Result<()> {
        // A node without the file has nothing to pass on.
        let node = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
        let texts = [
            ("resolv.conf", files::resolv_conf(&self.config, pod, &node)),
            ("hosts", files::hosts(&self.config, pod, hostname, addresses)),
            ("hostname", format!("{hostname}\n")),
        ];
        for (name, text) in texts {
            let path = files.etc(name);
            let directory = path.parent().unwrap_or(&files.directory);
            fs::create_dir_all(directory).map_err(Error::file("create", directory))?;
            fs::write(&path, text).map_err(Error::file("write", &path))?;
        }
        for volume in pod.spec.volumes.iter().filter(|volume| volume.empty_dir.is_some()) {
            let path = files.volume(&volume.name);
            let made = fs::create_dir_all(&path)
                .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(0o777)));
            made.map_err(Error::file("create", &path))?;
        }
        Ok(())
    }

    /// A request leaves the socket as it was, also one that panicked.
    fn rtnetlink(&self) -> std::sync::MutexGuard<'_, Rtnetlink> {
        self.rtnetlink.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes away all pods of a runner that is not running any more, as it was configured: what
/// [`super::cleanup`] is about.
pub(super) fn remove_all(config: &Config) -> Vec<Error> {
    let mut failures = Vec::new();
    let mut note = |result: Result<()>| failures.extend(result.err());
    let group = Cgroup::root().map(|root| root.child(&config.cgroup));
    note(group.and_then(|group| group.destroy(KILL_LIMIT)).map_err(Error::from));
    // A namespace takes its links with it, at both ends.
    for path in entries(&config.netns_directory()) {
        note(Netns::delete(&path).map_err(Error::from));
    }
    note(remove_tree(&config.directory));
    failures
}

fn owner(sandbox: &str) -> Owner {
    Owner { container: sandbox.to_owned(), interface: POD_LINK.to_owned() }
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten();
    entries.filter_map(|entry| Some(entry.ok()?.path())).collect()
}

fn name_of(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

fn remove_tree(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(Error::file("remove", path)(source))
        }
        _ => Ok(()),
    }
}
