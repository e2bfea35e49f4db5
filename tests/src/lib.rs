//! Harness of the end-to-end tests: a lab run by the shipped binary, and what a user would type.
//!
//! Tests see Portolan from outside only: its command line, the real kubectl, and packets. Every
//! wait is bounded, and a lab that a test made is taken down however the test ends.

mod lab;
mod names;
mod nameserver;
mod proxy;
mod run;
mod server;

pub use lab::Lab;
pub use names::NAMES;
pub use nameserver::{NameServer, free_port};
pub use proxy::Proxy;
pub use run::{Output, bench_path, kubectl_path, portolan_path, run};
pub use server::Server;

use std::io::Write;
use std::time::{Duration, Instant};

/// Prints a line also if the test passes, whose output is otherwise kept: counts are part of the
/// result.
pub fn say(text: &str) {
    // Without a standard error nobody reads it.
    let _ = std::io::stderr().write_all(format!("{text}\n").as_bytes());
}

/// Polls `condition` until it answers `Ok`, and panics with its last answer after `limit`.
pub fn eventually<T>(
    what: &str,
    limit: Duration,
    mut condition: impl FnMut() -> Result<T, String>,
) -> T {
    let start = Instant::now();
    loop {
        match condition() {
            Ok(value) => return value,
            Err(last) if start.elapsed() > limit => {
                panic!("{what}: not within {limit:?}; last seen: {last}")
            }
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}
