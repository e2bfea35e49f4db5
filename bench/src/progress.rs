//! Telling how far it is.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// A line on a terminal that says what is being done, how long that takes and how much is left; else
/// a line for each step.
pub(crate) struct Progress {
    bar: ProgressBar,
    is_terminal: bool,
}

impl Progress {
    /// Of so many parts.
    pub(crate) fn new(parts: u64) -> Self {
        let is_terminal = std::io::stderr().is_terminal();
        let bar = if is_terminal { ProgressBar::new(parts) } else { ProgressBar::hidden() };
        let style = ProgressStyle::with_template("{elapsed_precise} [{bar:30}] {pos}/{len} {msg}");
        bar.set_style(style.expect("a constant template is right"));
        bar.enable_steady_tick(Duration::from_millis(200));
        Self { bar, is_terminal }
    }

    /// A step of the current part begins.
    pub(crate) fn step(&self, what: &str) {
        self.bar.set_message(what.to_owned());
        if !self.is_terminal {
            eprintln!("bench: {what}");
        }
    }

    /// A part is done.
    pub(crate) fn part(&self) {
        self.bar.inc(1);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
