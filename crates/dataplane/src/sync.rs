//! The loop that keeps the kernel equal to the plan, the same for every backend.
//!
//! It runs on a thread of its own, because talking to the kernel blocks, and takes [`Update`]s from
//! a channel. Whatever has arrived while the last transaction ran goes into the next one. A failed
//! transaction is followed by a full restore; a group that the kernel refuses is left out until its
//! plan changes, so that it can't keep the others waiting.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use plan::{Group, GroupId, NodeFacts, NodePlan};
use tokio::sync::watch;

use crate::backend::{Backend, Delta};
use crate::error::Error;

/// How often a data plane that has been exchanged is asked whether connections still need it.
const RETIRING: Duration = Duration::from_secs(2);

/// Shortest and longest pause before a failed transaction is tried again.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(30));

/// Something that changes what is to be programmed.
#[derive(Debug)]
pub enum Update {
    /// A group was planned anew; `None` removes it.
    Group(GroupId, Option<Group>),
    /// The node itself or the service ranges changed.
    Node(NodeFacts, Vec<ipnet::IpNet>),
    /// Links or addresses of this host have changed.
    Host,
    /// Somebody else changed what is ours in the kernel; the text says who, as far as known.
    Tampered(String),
}

/// How far the kernel is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    /// Number of transactions that succeeded; 0 means that nothing is programmed yet.
    pub generation: u64,
    /// When the last one succeeded.
    pub programmed_at: Option<Instant>,
    /// Since when something is waiting to be programmed.
    pub pending_since: Option<Instant>,
    /// Groups that the kernel refuses, with its reason.
    pub quarantined: BTreeMap<GroupId, String>,
    /// The last failure, if nothing succeeded since.
    pub failure: Option<String>,
    /// How often tampering was repaired.
    pub repairs: u64,
}

/// A transaction that was tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transaction {
    /// It was about everything, not only about a change.
    pub whole: bool,
    /// How long it took.
    pub took: Duration,
    /// Whether the kernel took it.
    pub succeeded: bool,
}

/// Who wants to know of every transaction; called on the loop's thread.
pub trait Observer: Send {
    /// A transaction has ended.
    fn transaction(&mut self, _done: Transaction) {}

    /// Connection tracking was told to forget stale entries: how many, and how long it took.
    fn forgotten(&mut self, _entries: usize, _took: Duration) {}
}

/// Nobody.
impl Observer for () {}

/// The running loop. Dropping it ends the loop and leaves the kernel as it is.
#[derive(Debug)]
pub struct Sync {
    updates: Updates,
    status: watch::Receiver<Status>,
    thread: Option<thread::JoinHandle<()>>,
}

/// Hands updates to a loop.
#[derive(Debug, Clone)]
pub struct Updates(mpsc::Sender<Message>);

/// The loop is gone, and nothing is programmed any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended;

impl Updates {
    /// Hands in an update. It is programmed as soon as the running transaction is through.
    pub fn send(&self, update: Update) -> Result<(), Ended> {
        self.0.send(Message::Update(update)).map_err(|_| Ended)
    }

    /// Has `look` called on the loop's thread, between two transactions.
    pub fn inspect(
        &self,
        look: impl FnOnce(&NodePlan, &mut dyn Backend, &Status) + Send + 'static,
    ) -> Result<(), Ended> {
        self.0.send(Message::Inspect(Box::new(look))).map_err(|_| Ended)
    }

    /// Has another backend program the plan from now on. It is programmed beside the present one, which
    /// then retires; if it can't be, everything stays as it is. `reply` is told on the loop's thread.
    pub fn exchange(
        &self,
        backend: Box<dyn Backend>,
        reply: impl FnOnce(crate::Result<()>) + Send + 'static,
    ) -> Result<(), Ended> {
        self.0.send(Message::Exchange(backend, Box::new(reply))).map_err(|_| Ended)
    }
}

/// Looks at the plan, at the data plane and at how far it is.
type Inspection = Box<dyn FnOnce(&NodePlan, &mut dyn Backend, &Status) + Send>;

/// Hears how an exchange of backends has ended.
type Reply = Box<dyn FnOnce(crate::Result<()>) + Send>;

/// What the loop is told.
enum Message {
    Update(Update),
    Inspect(Inspection),
    Exchange(Box<dyn Backend>, Reply),
    /// Others may still hold [`Updates`], so the end has to be said.
    End,
}

impl Sync {
    /// Starts the loop with a plan to restore. The thread inherits the namespaces of the calling
    /// thread.
    pub fn start(
        backend: Box<dyn Backend>,
        plan: NodePlan,
        observer: Box<dyn Observer>,
    ) -> std::io::Result<Self> {
        let (updates, incoming) = mpsc::channel();
        let (report, status) = watch::channel(Status::default());
        let run = move || Loop::new(backend, plan, report, observer).run(&incoming);
        let thread = thread::Builder::new().name("sync".into()).spawn(run)?;
        Ok(Self { updates: Updates(updates), status, thread: Some(thread) })
    }

    /// Hands in an update. It is programmed as soon as the running transaction is through.
    pub fn update(&self, update: Update) {
        self.updates.send(update).expect("the loop runs as long as this handle");
    }

    /// For others that have updates to hand in.
    pub fn updates(&self) -> Updates {
        self.updates.clone()
    }

    /// The status, now and as it changes.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }
}

impl Drop for Sync {
    fn drop(&mut self) {
        // A loop that is gone already has panicked, which its thread has printed.
        let _ = self.updates.0.send(Message::End);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What is known to be different between plan and kernel.
#[derive(Debug, Default)]
struct Pending {
    groups: BTreeSet<GroupId>,
    node: bool,
    everything: bool,
}

impl Pending {
    fn is_empty(&self) -> bool {
        self.groups.is_empty() && !self.node && !self.everything
    }
}

struct Loop {
    backend: Box<dyn Backend>,
    /// Backends that were exchanged and that connections still need.
    retiring: Vec<Box<dyn Backend>>,
    /// Nothing is held for established connections alone.
    is_settled: bool,
    /// When it was looked for last.
    settled_at: Instant,
    plan: NodePlan,
    pending: Pending,
    /// Who may have changed what is programmed.
    tampered: Option<String>,
    retry_in: Duration,
    status: Status,
    report: watch::Sender<Status>,
    observer: Box<dyn Observer>,
}

impl Loop {
    fn new(
        backend: Box<dyn Backend>,
        plan: NodePlan,
        report: watch::Sender<Status>,
        observer: Box<dyn Observer>,
    ) -> Self {
        let pending = Pending { everything: true, ..Pending::default() };
        let status = Status { pending_since: Some(Instant::now()), ..Status::default() };
        let retry_in = RETRY.0;
        Self {
            backend,
            retiring: Vec::new(),
            is_settled: true,
            settled_at: Instant::now(),
            plan,
            pending,
            tampered: None,
            retry_in,
            status,
            report,
            observer,
        }
    }

    /// Runs until it is told to end; what came before that is programmed or has failed once.
    fn run(mut self, messages: &mpsc::Receiver<Message>) {
        let mut is_ending = false;
        loop {
            let succeeded = self.pending.is_empty() || self.program();
            self.report.send_replace(self.status.clone());
            if is_ending {
                return;
            }
            let first = match self.patience(succeeded) {
                None => messages.recv().ok(),
                Some(patience) => messages.recv_timeout(patience).ok(),
            };
            if self.settled_at.elapsed() >= RETIRING {
                self.settle();
            }
            if !succeeded {
                self.retry_in = (self.retry_in * 2).min(RETRY.1);
            }
            for message in first.into_iter().chain(messages.try_iter()) {
                match message {
                    Message::Update(update) => self.take(update),
                    Message::Inspect(look) => {
                        look(&self.plan, &mut *self.backend, &self.status);
                    }
                    Message::Exchange(backend, reply) => reply(self.exchange(backend)),
                    Message::End => is_ending = true,
                }
            }
        }
    }

    /// How long to wait for messages; `None` for as long as it takes.
    fn patience(&self, succeeded: bool) -> Option<Duration> {
        let is_done = self.retiring.is_empty() && self.is_settled;
        let retiring = (!is_done).then_some(RETIRING);
        let retry = (!succeeded).then_some(self.retry_in);
        retiring.into_iter().chain(retry).min()
    }

    /// Lets go what connections do not need any more.
    fn settle(&mut self) {
        self.settled_at = Instant::now();
        if !self.is_settled {
            self.is_settled = self.backend.settle().unwrap_or_else(|error| {
                tracing::warn!(%error, "what connections do not need any more stays");
                false
            });
        }
        self.retiring.retain_mut(|backend| match backend.retire() {
            Ok(is_gone) => !is_gone,
            Err(error) => {
                tracing::warn!(backend = backend.name(), %error, "it does not retire yet");
                true
            }
        });
    }

    /// Programs everything by another backend, beside the one that does it now.
    fn exchange(&mut self, mut next: Box<dyn Backend>) -> crate::Result<()> {
        let start = Instant::now();
        // What an earlier exchange has left of it is programmed again, and so must not go.
        self.retiring.retain(|retiring| retiring.name() != next.name());
        let mut refused = BTreeMap::new();
        loop {
            match next.restore(&whole(&self.plan, &refused)) {
                Ok(_) => break,
                // What one kernel interface refuses another may take: all are tried again.
                Err(Error::Refused(groups))
                    if groups.iter().any(|(id, _)| !refused.contains_key(id)) =>
                {
                    refused.extend(groups);
                }
                Err(error) => {
                    if let Err(error) = next.cleanup() {
                        tracing::warn!(backend = next.name(), %error, "something of it may be left");
                    }
                    return Err(error);
                }
            }
        }
        let old = std::mem::replace(&mut self.backend, next);
        let (from, to) = (old.name(), self.backend.name());
        tracing::info!(from, to, took = ?start.elapsed(), "another data plane has taken over");
        self.retiring.push(old);
        self.is_settled = false;
        self.settle();
        self.pending = Pending::default();
        self.status.quarantined = refused;
        self.status.generation += 1;
        self.status.programmed_at = Some(Instant::now());
        self.status.pending_since = None;
        self.status.failure = None;
        Ok(())
    }

    fn take(&mut self, update: Update) {
        match update {
            Update::Group(id, group) => {
                let changed = self.plan.replace(&id, group);
                for id in &changed {
                    self.status.quarantined.remove(id);
                }
                self.pending.groups.extend(changed);
            }
            Update::Node(node, service_ranges) => {
                if self.plan.node != node || self.plan.service_ranges != service_ranges {
                    self.plan.node = node;
                    self.plan.service_ranges = service_ranges;
                    self.pending.node = true;
                }
            }
            Update::Host => self.pending.node = true,
            Update::Tampered(who) => {
                tracing::debug!(by = %who, "rules may have been changed by another program");
                self.tampered = Some(who);
                self.pending.everything = true;
            }
        }
        if !self.pending.is_empty() {
            self.status.pending_since.get_or_insert_with(Instant::now);
        }
    }

    /// Programs what is pending. Answers whether it succeeded.
    fn program(&mut self) -> bool {
        let span = tracing::debug_span!("apply", generation = self.status.generation + 1);
        let _entered = span.enter();
        let start = Instant::now();
        let (delta, result) = if self.pending.everything {
            let groups = self.plan.groups().map(|group| group.id.clone());
            let groups = groups.filter(|id| !self.status.quarantined.contains_key(id)).collect();
            let whole = delta(&self.plan, true, groups, &self.status.quarantined);
            let result = self.backend.restore(&whole);
            (whole, result)
        } else {
            let groups = self.pending.groups.iter().cloned().collect();
            let change = delta(&self.plan, self.pending.node, groups, &self.status.quarantined);
            let result = self.backend.update(&change);
            (change, result)
        };
        self.observer.transaction(Transaction {
            whole: self.pending.everything,
            took: start.elapsed(),
            succeeded: result.is_ok(),
        });
        match result {
            Ok(operations) => {
                tracing::debug!(operations, took = ?start.elapsed(), "programmed");
                forget_stale(&mut *self.backend, &delta, &mut *self.observer);
                self.status.generation += 1;
                self.status.programmed_at = Some(Instant::now());
                self.status.pending_since = None;
                self.status.failure = None;
                if let Some(who) = self.tampered.take().filter(|_| operations > 0) {
                    let backend = self.backend.name();
                    tracing::warn!(backend, by = %who, operations, "rules that another program had changed are as they were");
                    self.status.repairs += 1;
                }
                self.pending = Pending::default();
                self.retry_in = RETRY.0;
                self.is_settled = false;
                true
            }
            Err(error) => {
                self.pending.everything = true;
                self.status.failure = Some(error.to_string());
                match error {
                    Error::Refused(groups) if !groups.is_empty() => {
                        for (id, reason) in groups {
                            tracing::warn!(group = %id, %reason, "left out: the kernel refuses it");
                            self.status.quarantined.insert(id, reason);
                        }
                        // The rest must not wait.
                        self.retry_in = Duration::ZERO;
                    }
                    error => {
                        tracing::error!(%error, retry_in = ?self.retry_in, "not programmed");
                        self.retry_in = self.retry_in.max(RETRY.0);
                    }
                }
                false
            }
        }
    }
}

/// UDP clients that go on sending are led to those who serve now. That this fails costs these clients
/// their answers for a while, and nothing else.
fn forget_stale(backend: &mut dyn Backend, programmed: &Delta<'_>, observer: &mut dyn Observer) {
    let groups = programmed.groups.iter().filter_map(|(_, group)| group.clone());
    let with_udp: Vec<_> = groups.filter(|group| !group.udp_ports.is_empty()).collect();
    let start = Instant::now();
    match backend.forget_stale(&with_udp) {
        // No UDP port was touched.
        Ok(0) if with_udp.is_empty() => {}
        Ok(forgotten) => {
            observer.forgotten(forgotten, start.elapsed());
            if forgotten > 0 {
                tracing::debug!(forgotten, "stale connections");
            }
        }
        Err(error) => tracing::warn!(%error, "stale connections may remain"),
    }
}

/// All of a plan but what is quarantined, to compare a data plane with.
pub fn whole<'p>(plan: &'p NodePlan, quarantined: &BTreeMap<GroupId, String>) -> Delta<'p> {
    let groups = plan.groups().map(|group| group.id.clone()).collect();
    delta(plan, true, groups, quarantined)
}

fn delta<'p>(
    plan: &'p NodePlan,
    node: bool,
    groups: Vec<GroupId>,
    quarantined: &BTreeMap<GroupId, String>,
) -> Delta<'p> {
    let group = |id: GroupId| {
        let group = plan.group(&id).filter(|_| !quarantined.contains_key(&id)).cloned();
        (id, group)
    };
    Delta { node: node.then_some(plan), groups: groups.into_iter().map(group).collect() }
}
