//! The asynchronous runtime of every process, and its end.

use std::future::Future;

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};

/// Runs `main` on one thread: the work here is waiting, and a thread has its price in memory.
pub(crate) fn run<T>(main: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(8)
        .build()
        .context("start the runtime")?;
    let result = runtime.block_on(main);
    // What still blocks a thread has lost its purpose.
    runtime.shutdown_background();
    result
}

/// Waits until the process is asked to end, by Ctrl-C or SIGTERM.
pub(crate) async fn asked_to_end() -> anyhow::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt()).context("watch for SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("watch for SIGTERM")?;
    tokio::select! {
        _ = interrupt.recv() => tracing::info!("interrupted"),
        _ = terminate.recv() => tracing::info!("asked to end"),
    }
    Ok(())
}
