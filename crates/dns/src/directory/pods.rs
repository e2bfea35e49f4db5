//! Pods by their addresses: who asks, and whether an address is a pod's at all.
//!
//! There are as many as a cluster has pods, so no more is kept of one than is asked for.

use std::collections::{BTreeSet, HashSet};
use std::hash::{DefaultHasher, Hasher};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use arrayvec::ArrayVec;

use super::{Address, Directory, label_of};

/// A pod, as far as its names go.
#[derive(Debug, Clone, Copy)]
pub struct Pod<'a> {
    /// Its identity across pods of the same name.
    pub uid: &'a str,
    /// Its namespace.
    pub namespace: &'a str,
    /// Its own addresses, one of each family at most; none of a pod that has the node's, or has ended.
    pub addresses: &'a [IpAddr],
    /// Whether its resolvers try the namespace's domain first, and after the cluster's domains only those that the node
    /// has: `dnsPolicy: ClusterFirst`, and no `dnsConfig.searches`.
    pub is_cluster_first: bool,
}

/// What is known of the pod at an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PodAt {
    /// The label of its namespace, with its length.
    pub(crate) namespace: Arc<[u8]>,
    pub(crate) is_cluster_first: bool,
    /// A part of its number, to know it again at this address.
    pod: u32,
}

/// Tells a directory of pods. There is one who does.
#[derive(Debug)]
pub struct PodWriter {
    directory: Arc<Directory>,
    /// Where pods are known to be, by [`number`]. A set in order takes a good half of what a hash map takes.
    places: BTreeSet<(u64, Address)>,
    /// Those of a list that has begun.
    listed: HashSet<u64>,
}

impl PodWriter {
    /// Nothing is known of pods yet. If that is to be waited for, the directory is not synced before the first list has
    /// ended.
    pub fn new(directory: Arc<Directory>, is_waited_for: bool) -> Self {
        directory.waits_for_pods.store(is_waited_for, Ordering::Release);
        Self { directory, places: BTreeSet::new(), listed: HashSet::new() }
    }

    /// A list of all pods begins.
    pub fn begin_list(&mut self) {
        self.listed.clear();
    }

    /// It has ended: all others are gone.
    pub fn end_list(&mut self) {
        let listed = std::mem::take(&mut self.listed);
        let pods = self.places.iter().map(|(pod, _)| *pod);
        let gone: BTreeSet<u64> = pods.filter(|pod| !listed.contains(pod)).collect();
        for pod in gone {
            self.place(pod, None);
        }
        self.directory.waits_for_pods.store(false, Ordering::Release);
    }

    /// A pod is there, or has changed.
    pub fn put(&mut self, pod: Pod<'_>) {
        let number = number(pod.uid);
        self.listed.insert(number);
        match label_of(pod.namespace) {
            None => self.place(number, None),
            Some(label) => self.place(number, Some((&pod, self.directory.namespace(label)))),
        }
    }

    /// A pod is gone.
    pub fn remove(&mut self, uid: &str) {
        self.place(number(uid), None);
    }

    fn place(&mut self, number: u64, pod: Option<(&Pod<'_>, Arc<[u8]>)>) {
        let addresses = pod.as_ref().map_or(&[][..], |(pod, _)| pod.addresses);
        let has: ArrayVec<Address, 2> = addresses.iter().take(2).map(|ip| (*ip).into()).collect();
        let every = (number, Address::FIRST)..=(number, Address::LAST);
        let had: ArrayVec<Address, 2> = self.places.range(every).map(|(_, at)| *at).collect();
        let (pods, part) = (&self.directory.pods, number as u32);
        for address in had.iter().filter(|address| !has.contains(address)) {
            self.places.remove(&(number, *address));
            // It may have passed to another pod already.
            if pods.with(&address.0, |at| at.pod == part) == Some(true) {
                pods.set(*address, None);
            }
        }
        let Some((pod, namespace)) = pod else { return };
        let at = PodAt { namespace, is_cluster_first: pod.is_cluster_first, pod: part };
        for address in has {
            self.places.insert((number, address));
            if pods.with(&address.0, |known| *known == at) != Some(true) {
                pods.set(address, Some(at.clone()));
            }
        }
    }
}

/// A number for an identity. That two have the same happens once in a trillion pairs of clusters.
fn number(uid: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(uid.as_bytes());
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn namespace(directory: &Directory, address: &str) -> Option<String> {
        let at = directory.pod(address.parse().unwrap())?;
        Some(String::from_utf8(at.namespace[1..].to_vec()).unwrap())
    }

    #[test]
    fn a_pod_is_where_it_was_put_last() {
        let directory = Arc::new(Directory::new());
        let mut pods = PodWriter::new(directory.clone(), true);
        let put = |pods: &mut PodWriter, uid, namespace, addresses: &[&str]| {
            let addresses: Vec<IpAddr> = addresses.iter().map(|ip| ip.parse().unwrap()).collect();
            pods.put(Pod { uid, namespace, addresses: &addresses, is_cluster_first: true });
        };
        let at = |address| namespace(&directory, address);
        put(&mut pods, "a", "one", &["10.244.0.2", "fd00::2"]);
        put(&mut pods, "b", "two", &["10.244.0.3"]);
        assert_eq!(at("fd00::2").as_deref(), Some("one"));
        // Started anew at another address; the old one passes to another pod before that is told.
        put(&mut pods, "c", "three", &["10.244.0.2"]);
        put(&mut pods, "a", "one", &["10.244.0.9"]);
        assert_eq!(at("10.244.0.2").as_deref(), Some("three"));
        assert_eq!(at("10.244.0.9").as_deref(), Some("one"));
        assert_eq!(at("fd00::2"), None);
        // Ended, and gone.
        put(&mut pods, "a", "one", &[]);
        assert_eq!(at("10.244.0.9"), None);
        pods.remove("b");
        assert_eq!(at("10.244.0.3"), None);
        // What a list does not have is gone.
        pods.begin_list();
        put(&mut pods, "d", "four", &["10.244.0.4"]);
        pods.end_list();
        assert_eq!((at("10.244.0.2"), at("10.244.0.4").as_deref()), (None, Some("four")));
    }
}
