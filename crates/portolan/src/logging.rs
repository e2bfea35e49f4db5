//! Logs: to standard error, one line an event.

use std::io::IsTerminal;

use anyhow::Context;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Starts logging. `RUST_LOG` narrows or widens by module and wins over `level`.
pub(crate) fn start(level: &str) -> anyhow::Result<()> {
    let directives = match std::env::var("RUST_LOG") {
        Ok(directives) if !directives.is_empty() => directives,
        // The client logs each failed request, which its callers report themselves.
        _ => format!("{level},kube_client=off"),
    };
    let filter: Targets = directives.parse().with_context(|| {
        format!("log level {directives:?}: use error, warn, info, debug, trace, or MODULE=LEVEL")
    })?;
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    tracing_subscriber::registry().with(filter).with(lines).init();
    Ok(())
}
