//! Two runs side by side: what became dearer and what cheaper.

use std::collections::BTreeMap;

use crate::results::Results;

/// A difference below this share is what machines do from one minute to the next.
const NOISE: f64 = 0.1;

/// What is compared: a figure, and whether less of it is better.
type Figures = BTreeMap<String, (f64, bool)>;

/// A table of the figures that both have.
pub(crate) fn table(old: &Results, new: &Results) -> String {
    let (before, after) = (figures(old), figures(new));
    let width = before.keys().map(|name| name.chars().count()).max().unwrap_or(0);
    let mut text = format!("{:width$}  {:>12}  {:>12}  new/old\n", "", old.commit, new.commit);
    for (name, (was, less_is_better)) in &before {
        let Some((is, _)) = after.get(name).filter(|_| *was != 0.0) else { continue };
        let ratio = is / was;
        let verdict = match (ratio < 1.0 - NOISE, ratio > 1.0 + NOISE) {
            (true, _) if *less_is_better => "better",
            (_, true) if !less_is_better => "better",
            (false, false) => "",
            _ => "WORSE",
        };
        let line = format!("{name:width$}  {was:>12.3}  {is:>12.3}  {ratio:>7.2} {verdict}");
        text.push_str(line.trim_end());
        text.push('\n');
    }
    let machines = (&old.machine, &new.machine);
    if machines.0 != machines.1 || old.is_quick != new.is_quick {
        text.push_str("\nThe runs are of different machines or lengths: compare ratios only.\n");
    }
    text
}

fn figures(results: &Results) -> Figures {
    let mut figures = Figures::new();
    for c in &results.control {
        let mut add = |what: &str, value: f64| {
            figures.insert(format!("{}, {} Services: {what}", c.proxy, c.services), (value, true));
        };
        add("start, s", c.start_seconds);
        add("start, own CPU, s", c.start_user_seconds);
        add("restart, s", c.restart_seconds);
        add("memory, MB", c.settled_bytes as f64 / 1e6);
        add("one endpoint, p50, ms", c.endpoint.p50_ms);
        add("one endpoint, p99, ms", c.endpoint.p99_ms);
        add("one endpoint, CPU, ms", c.endpoint.cpu_ms);
        add("new Service, p99, ms", c.service.p99_ms);
        add("burst, p99, ms", c.burst.p99_ms);
    }
    for p in results.paths.iter().filter(|path| path.services > 0) {
        let name =
            |what: &str| format!("{}, {} Services, {}: {what}", p.rules, p.services, p.way.name());
        figures.insert(name("connections of no rules"), (p.of_no_rules.median, false));
        figures.insert(name("CPU of a connection, µs"), (p.cpu_us.median, true));
    }
    figures
}
