//! Logs: to standard error, one line an event.

use std::io::IsTerminal;

use anyhow::Context;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Checks a `--log-level`: a level, or several directives as RUST_LOG has them.
pub(crate) fn parse_level(text: &str) -> Result<String, String> {
    let is_level = |text: &str| {
        ["off", "error", "warn", "info", "debug", "trace"].contains(&text.to_lowercase().as_str())
    };
    let is_directive = |part: &str| match part.split_once('=') {
        Some((module, level)) => !module.is_empty() && is_level(level),
        None => is_level(part),
    };
    match text.split(',').all(is_directive) {
        true => Ok(text.to_owned()),
        false => Err("use off, error, warn, info, debug, trace, or MODULE=LEVEL,...".to_owned()),
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_checked() {
        for good in ["info", "WARN", "info,dataplane=debug"] {
            assert!(parse_level(good).is_ok(), "{good}");
        }
        for bad in ["", "loud", "dataplane", "dataplane=loud", "info,"] {
            assert!(parse_level(bad).is_err(), "{bad}");
        }
    }
}
