//! Which data plane programs this node, and how another takes its place while connections go on.

use std::fmt;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use dataplane::iptables::Flavour;
use dataplane::ipvs;
use dataplane::mode::{Options, Wish};
use dataplane::{Backend, Mode, Observer, Sync, Updates};
use plan::NodePlan;
use tokio::sync::oneshot;
use tokio::task::AbortHandle;

use super::{emptied, host};
use crate::errors::sentence;

/// How often a data plane of an earlier process is asked whether connections still need it.
const RETIRING: Duration = Duration::from_secs(5);

/// A data plane as it was chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Choice {
    /// Which.
    pub(crate) mode: Mode,
    /// What it is told.
    pub(crate) options: Options,
}

/// The data plane for a wish on this machine; says which one it is where that was left open.
pub(crate) fn resolve(wish: Wish, options: &Options) -> Mode {
    let (mode, reason) = wish.resolve(options);
    match reason {
        Some(reason) => {
            let reason = sentence(&reason.into());
            tracing::info!("auto: the data plane is {mode}, as eBPF can't be had here: {reason}");
        }
        None if wish == Wish::Auto => tracing::info!("auto: the data plane is {mode}"),
        None => {}
    }
    mode
}

/// The mode in force, for those who tell it.
#[derive(Debug, Clone)]
pub(crate) struct InForce(Arc<Mutex<Mode>>);

impl InForce {
    pub(crate) fn new(mode: Mode) -> Self {
        Self(Arc::new(Mutex::new(mode)))
    }

    pub(crate) fn get(&self) -> Mode {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, mode: Mode) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = mode;
    }
}

/// The running data plane, with who notices what others do to it.
#[derive(Debug, Clone)]
pub(crate) struct Running {
    options: Options,
    /// Where is remembered what was set before.
    directory: Option<PathBuf>,
    in_force: InForce,
    updates: Updates,
    watching: Arc<Mutex<AbortHandle>>,
    retiring: Retiring,
}

/// Data planes of earlier processes that connections may still need.
#[derive(Clone, Default)]
struct Retiring(Arc<Mutex<Vec<Opened>>>);

/// A data plane with its mode.
type Opened = (Mode, Box<dyn Backend>);

/// Starts the data plane that is in force with a plan. What the kernel was told before is remembered in
/// `directory`. Has to be called on a thread of the node's
/// network namespace and within the runtime.
pub(crate) fn start(
    options: Options,
    directory: Option<PathBuf>,
    in_force: InForce,
    plan: NodePlan,
    observer: Box<dyn Observer>,
) -> anyhow::Result<(Sync, Running)> {
    let mode = in_force.get();
    let (backend, watcher) = open(mode, &options, directory.as_deref())?;
    let sync = Sync::start(backend, plan, observer).context("start the data plane")?;
    let watching = tokio::spawn(watcher.run(sync.updates())).abort_handle();
    let watching = Arc::new(Mutex::new(watching));
    let retiring = Retiring::default();
    let running =
        Running { options, directory, in_force, updates: sync.updates(), watching, retiring };
    Ok((sync, running))
}

fn open(
    mode: Mode,
    options: &Options,
    directory: Option<&Path>,
) -> anyhow::Result<(Box<dyn Backend>, Box<dyn dataplane::Watcher>)> {
    let mut backend = mode.open(options).with_context(|| format!("open {mode}"))?;
    if let (Mode::Ipvs, Some(directory)) = (mode, directory)
        && let Err(error) = host::note(ipvs::parameters(), directory)
    {
        let place = directory.display();
        tracing::warn!(
            "a cleanup will not put back net/ipv4/vs, as {place} has not what was there: {}",
            sentence(&error)
        );
    }
    let watcher = backend.watcher().with_context(|| format!("watch {mode}"))?;
    Ok((backend, watcher))
}

impl Running {
    /// What data planes of this node are told.
    pub(crate) fn options(&self) -> &Options {
        &self.options
    }

    /// Has another data plane take over. Answers a sentence about what happened.
    pub(crate) async fn switch_to(&self, wish: Wish) -> anyhow::Result<String> {
        let before = self.in_force.get();
        let (mode, reason) = wish.resolve(&self.options);
        let why = match reason {
            Some(reason) => format!(", as eBPF can't be had here: {}", sentence(&reason.into())),
            None => String::new(),
        };
        if before == mode {
            return Ok(format!("the data plane is {mode} already{why}"));
        }
        let (backend, watcher) = open(mode, &self.options, self.directory.as_deref())?;
        let retiring = self.retiring.clone();
        let prepare = move || {
            retiring.keep(mode);
            emptied::to_be()
        };
        let emptied =
            tokio::task::spawn_blocking(prepare).await.context("look at what is there")?;
        let (reply, replied) = oneshot::channel();
        let tell = move |result| {
            // The client may be gone.
            let _ = reply.send(result);
        };
        let ended = "the data plane has ended";
        self.updates.exchange(backend, tell).ok().context(ended)?;
        replied
            .await
            .context(ended)?
            .with_context(|| format!("{mode} could not be programmed, {before} goes on"))?;
        let watching = tokio::spawn(watcher.run(self.updates.clone())).abort_handle();
        let mut current = self.watching.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *current, watching).abort();
        self.in_force.set(mode);
        tokio::task::spawn_blocking(move || emptied::remove(emptied));
        Ok(format!("the data plane is {mode} now, in the place of {before}{why}"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if Arc::strong_count(&self.watching) == 1 {
            self.watching.lock().unwrap_or_else(PoisonError::into_inner).abort();
        }
    }
}

impl Running {
    /// Lets those data planes go that programmed this node before `now` did: an earlier process may have
    /// had another. Has to be called on a thread of the node's network namespace, once everything is
    /// programmed.
    pub(crate) fn retire_others(self, now: Choice) -> impl Future<Output = ()> + Send + 'static {
        let retiring = self.retiring.clone();
        let cgroup = now.options.cgroup.clone();
        retiring.with(|backends| backends.extend(others(Some(now), cgroup.as_deref())));
        async move {
            // A panic of it has been printed.
            let emptied = tokio::task::spawn_blocking(emptied::to_be).await.unwrap_or_default();
            loop {
                let retiring = retiring.clone();
                let work = tokio::task::spawn_blocking(move || retiring.round());
                if work.await.unwrap_or(true) {
                    break;
                }
                tokio::time::sleep(RETIRING).await;
            }
            let _ = tokio::task::spawn_blocking(move || emptied::remove(emptied)).await;
        }
    }
}

impl Retiring {
    /// Has each remove what no connection needs. Answers whether nothing is left.
    fn round(&self) -> bool {
        self.with(|backends| {
            backends.retain_mut(|(_, backend)| match backend.retire() {
                Ok(is_gone) => !is_gone,
                Err(error) => {
                    let name = backend.name();
                    tracing::warn!("what {name} has left is not removed: {error}");
                    false
                }
            });
            backends.is_empty()
        })
    }

    /// Lets what this one has left stay: it is to program again, and its next start reads it.
    fn keep(&self, mode: Mode) {
        self.with(|backends| backends.retain(|(of, _)| *of != mode));
    }

    fn with<T>(&self, body: impl FnOnce(&mut Vec<Opened>) -> T) -> T {
        body(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl fmt::Debug for Retiring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let modes =
            self.with(|backends| backends.iter().map(|(mode, _)| *mode).collect::<Vec<_>>());
        f.debug_tuple("Retiring").field(&modes).finish()
    }
}

/// Forgets the connections to Services that every data plane has led in the calling thread's network
/// namespace. Before [`clean_up`], which they outlive otherwise. Answers how many, and what failed.
pub(crate) fn forget_connections(cgroup: Option<&Path>) -> (usize, Vec<anyhow::Error>) {
    let (mut forgotten, mut failures) = (0, Vec::new());
    for (_, mut backend) in others(None, cgroup) {
        match backend.forget_connections() {
            Ok(count) => forgotten += count,
            Err(error) => failures.push(error.into()),
        }
    }
    (forgotten, failures)
}

/// Removes what every data plane has programmed in the calling thread's network namespace, and for the
/// sockets of a control group. Answers what could not be removed.
pub(crate) fn clean_up(cgroup: Option<&Path>) -> Vec<anyhow::Error> {
    let emptied = emptied::to_be();
    let cleaned = others(None, cgroup).map(|(_, mut backend)| backend.cleanup());
    let failures = cleaned.filter_map(|result| result.err().map(anyhow::Error::from)).collect();
    emptied::remove(emptied);
    failures
}

/// All data planes that can be opened here but one.
fn others(but: Option<Choice>, cgroup: Option<&Path>) -> impl Iterator<Item = Opened> {
    let is_of_ipvs = ipvs::is_left().unwrap_or_else(|error| {
        tracing::debug!(%error, "IPVS is not looked at");
        false
    });
    let cgroup = cgroup.map(Path::to_owned);
    let choices = Mode::ALL.into_iter().flat_map(move |mode| {
        let flavours: &[Option<Flavour>] = match mode {
            Mode::Iptables => &[Some(Flavour::Nft), Some(Flavour::Legacy)],
            Mode::Nftables => &[None],
            // Asking for it would load it.
            Mode::Ipvs if !is_of_ipvs => &[],
            Mode::Ipvs => &[None],
            Mode::Ebpf => &[None],
        };
        let cgroup = cgroup.clone();
        let options =
            move |iptables| Options { iptables, cgroup: cgroup.clone(), ..Options::default() };
        flavours.iter().map(move |flavour| (mode, options(*flavour)))
    });
    let is_it = move |mode: Mode, options: &Options| {
        but.as_ref().is_some_and(|but| {
            let flavour = || but.options.iptables.or_else(Flavour::of_machine);
            but.mode == mode && (mode != Mode::Iptables || options.iptables == flavour())
        })
    };
    choices.filter(move |(mode, options)| !is_it(*mode, options)).filter_map(|(mode, options)| {
        match mode.open(&options) {
            Ok(backend) => Some((mode, backend)),
            Err(error) => {
                tracing::debug!("{mode} is not looked at: {}", sentence(&error.into()));
                None
            }
        }
    })
}
