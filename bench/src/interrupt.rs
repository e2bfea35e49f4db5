//! Being asked to end: what was started and made goes with the bench.

use std::fs;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::thread;

use anyhow::Context;
use kernel::netns::Netns;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::Pid;

/// Something that does not end by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Left {
    /// A process.
    Process(u32),
    /// The name of a network namespace.
    Namespace(PathBuf),
    /// A directory with all that is in it.
    Directory(PathBuf),
}

/// What there is at the moment, in the order in which it came.
static ALL: Mutex<Vec<Left>> = Mutex::new(Vec::new());

/// Has SIGINT and SIGTERM end the program in order. To be called before any thread is started.
pub(crate) fn watch() -> anyhow::Result<()> {
    let signals = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM]);
    signals.thread_block().context("block signals")?;
    thread::spawn(move || {
        if let Ok(signal) = signals.wait() {
            end_all();
            eprintln!("bench: ended by {signal}");
            std::process::exit(128 + signal as i32);
        }
    });
    Ok(())
}

/// There is something more.
pub(crate) fn add(left: Left) {
    ALL.lock().unwrap_or_else(PoisonError::into_inner).push(left);
}

/// It is gone.
pub(crate) fn forget(left: &Left) {
    ALL.lock().unwrap_or_else(PoisonError::into_inner).retain(|held| held != left);
}

fn end_all() {
    let all = std::mem::take(&mut *ALL.lock().unwrap_or_else(PoisonError::into_inner));
    // What came last goes first. What is gone already needs no more.
    for left in all.into_iter().rev() {
        match left {
            Left::Process(pid) => {
                let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
            }
            Left::Namespace(name) => _ = Netns::delete(&name),
            Left::Directory(path) => _ = fs::remove_dir_all(path),
        }
    }
}
