//! The client: dnsperf, on the last processor alone.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, ensure};

use super::servers::{PORT, Running};
use super::{Place, questions_of};

/// What is asked.
pub(super) struct Load {
    /// A file of questions.
    pub(super) questions: PathBuf,
    /// How long.
    pub(super) seconds: u64,
}

/// What has become of questions.
pub(super) struct Outcome {
    /// Answers a second.
    pub(super) rate: f64,
    pub(super) answers: u64,
    pub(super) lost: u64,
    /// Answers that are an error.
    pub(super) denied: u64,
}

impl Load {
    /// Asks for some time, as fast as answers come.
    pub(super) fn run(&self, place: &Place, time: Duration) -> anyhow::Result<Outcome> {
        let seconds = time.as_secs().max(1).to_string();
        let text = self.dnsperf(place, &["-l", &seconds])?;
        Outcome::read(&text)
    }

    /// Asks at a rate, and answers how long each answer took, in seconds.
    pub(super) fn latencies(&self, place: &Place, rate: f64) -> anyhow::Result<Vec<f64>> {
        let (seconds, rate) = (self.seconds.to_string(), format!("{rate:.0}"));
        let text = self.dnsperf(place, &["-l", &seconds, "-Q", &rate, "-v"])?;
        // `> NOERROR name type latency`
        let lines = text.lines().filter(|line| line.starts_with("> "));
        let latencies: Vec<f64> =
            lines.filter_map(|line| line.rsplit(' ').next()?.parse().ok()).collect();
        ensure!(!latencies.is_empty(), "dnsperf tells no latencies:\n{}", first_lines(&text));
        Ok(latencies)
    }

    /// Asks for both addresses of names together, so many times, from one socket.
    pub(super) fn pairs(
        &self,
        place: &Place,
        running: &Running,
        pairs: u64,
        services: u32,
    ) -> anyhow::Result<Outcome> {
        let file = place.directory.path().join("pairs");
        fs::write(&file, questions_of(services))?;
        let times = pairs.div_ceil(services.into()).to_string();
        let load = Load { questions: file, seconds: self.seconds };
        let text = load.dnsperf(place, &["-n", &times])?;
        let outcome = Outcome::read(&text)?;
        ensure!(outcome.denied == 0, "{} denies {} names", running.name, outcome.denied);
        ensure!(outcome.answers + outcome.lost >= 2 * pairs, "not all were asked");
        Ok(outcome)
    }

    fn dnsperf(&self, place: &Place, more: &[&str]) -> anyhow::Result<String> {
        let last = thread::available_parallelism().map_or(1, |count| count.get()) - 1;
        let mut command = Command::new("taskset");
        command
            .args(["-c", &last.to_string(), "dnsperf", "-s", "127.0.0.1"])
            .args(["-p", &PORT.to_string(), "-c", "1", "-T", "1", "-q", "100", "-d"])
            .arg(&self.questions)
            .args(more)
            .stdin(Stdio::null());
        let output = place.netns.run(|| command.output())?.context("start dnsperf")?;
        let (text, error) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        ensure!(output.status.success(), "dnsperf failed: {}", first_lines(&error));
        Ok(text.into_owned())
    }
}

impl Outcome {
    /// Reads what dnsperf says at its end.
    fn read(text: &str) -> anyhow::Result<Self> {
        let field = |name: &str| -> anyhow::Result<&str> {
            let line = text.lines().find_map(|line| line.trim().strip_prefix(name));
            let value = line.with_context(|| format!("dnsperf says no {name:?}"))?;
            Ok(value.split_whitespace().next().unwrap_or_default())
        };
        let codes = text.lines().find_map(|line| line.trim().strip_prefix("Response codes:"));
        // `NOERROR 100 (50.00%), NXDOMAIN 100 (50.00%)`
        let denied = codes.unwrap_or_default().split(',').filter_map(|part| {
            let mut words = part.split_whitespace();
            let (code, count) = (words.next()?, words.next()?);
            (code != "NOERROR").then(|| count.parse::<u64>().ok())?
        });
        Ok(Self {
            rate: field("Queries per second:")?.parse()?,
            answers: field("Queries completed:")?.parse()?,
            lost: field("Queries lost:")?.parse()?,
            denied: denied.sum(),
        })
    }
}

fn first_lines(text: &str) -> String {
    text.lines().take(5).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_dnsperf_says_is_read() {
        let text = "Statistics:\n\n  Queries sent:         300\n  Queries completed:    298 (99.3%)\n  Queries lost:         2 (0.7%)\n\n  Response codes:       NOERROR 200 (67%), NXDOMAIN 98 (33%)\n  Queries per second:   1490.5\n";
        let outcome = Outcome::read(text).unwrap();
        assert_eq!((outcome.answers, outcome.lost, outcome.denied), (298, 2, 98));
        assert!((outcome.rate - 1490.5).abs() < 1e-9);
        assert!(Outcome::read("nothing").is_err());
    }
}
