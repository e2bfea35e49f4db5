//! Results as text: tables for a page and for a terminal.

use std::fmt::Write;
use std::fs;
use std::path::Path as FilePath;

use anyhow::Context;

use crate::control::Control;
use crate::path::Way;
use crate::planes::{self, Figure, IPVS, NFTABLES, Runs};
use crate::results::Results;
use crate::statistics::Spread;
use crate::targets::targets;

/// What stands between these lines of the page is written by the bench.
const BEGIN: &str = "<!-- written by `make bench`: begin -->";
const END: &str = "<!-- written by `make bench`: end -->";

/// Puts the results' tables into the page.
/// `imitated` are those of an imitated machine that has IPVS.
pub(crate) fn update(
    page: &FilePath,
    results: &Results,
    imitated: Option<&Results>,
) -> anyhow::Result<()> {
    let text = fs::read_to_string(page).with_context(|| format!("read {}", page.display()))?;
    let parts = text.split_once(BEGIN).and_then(|(before, rest)| {
        let (_, after) = rest.split_once(END)?;
        Some((before, after))
    });
    let (before, after) =
        parts.with_context(|| format!("{} has no place for results", page.display()))?;
    let text = format!("{before}{BEGIN}\n\n{}\n{END}{after}", tables(results, imitated));
    fs::write(page, text).with_context(|| format!("write {}", page.display()))
}

/// All tables, in Markdown.
pub(crate) fn tables(results: &Results, imitated: Option<&Results>) -> String {
    let mut text = String::new();
    // Writing into a String can't fail, here and below.
    let _ = write_tables(&mut text, results);
    let _ = write_planes(&mut text, Runs { here: results, imitated });
    if let Some(imitated) = imitated {
        let _ = write_imitated(&mut text, results, imitated);
    }
    text
}

fn write_tables(text: &mut String, results: &Results) -> std::fmt::Result {
    writeln!(text, "{}\n\n### Targets\n", circumstances(results))?;
    write_targets(text, results)?;
    writeln!(
        text,
        "\n### Programming\n\n\
         | proxy | Services | start | of it own / kernel CPU | restart | memory: peak / idle / after churn | kernel memory | chains / rules / elements |\n\
         |---|--:|--:|--:|--:|--:|--:|--:|"
    )?;
    for c in &results.control {
        writeln!(
            text,
            "| {} | {} | {:.2} s | {:.2} / {:.2} s | {:.2} s | {:.0} / {:.0} / {:.0} MiB | {:.0} MiB | {} / {} / {}{} |",
            c.proxy,
            c.services,
            c.start_seconds,
            c.start_user_seconds,
            c.start_system_seconds,
            c.restart_seconds,
            mebibytes(c.peak_bytes),
            mebibytes(c.settled_bytes),
            mebibytes(c.churn_bytes.last().copied().unwrap_or(0)),
            mebibytes(c.kernel_bytes),
            c.objects.chains,
            c.objects.rules,
            c.objects.elements,
            match c.objects.servers {
                0 => String::new(),
                servers => format!(
                    ", {servers} virtual servers with {} destinations",
                    c.objects.destinations
                ),
            },
        )?;
    }
    writeln!(
        text,
        "\n| proxy | Services | one endpoint: p50 / p99 | CPU of it | new Service: p50 / p99 | burst of endpoints: p50 / p99 | CPU of one | idle |\n\
         |---|--:|--:|--:|--:|--:|--:|--:|"
    )?;
    for c in &results.control {
        writeln!(
            text,
            "| {} | {} | {:.2} / {:.2} ms | {:.2} ms | {:.2} / {:.2} ms | {:.1} / {:.1} ms | {:.3} ms | {:.3} % |",
            c.proxy,
            c.services,
            c.endpoint.p50_ms,
            c.endpoint.p99_ms,
            c.endpoint.cpu_ms,
            c.service.p50_ms,
            c.service.p99_ms,
            c.burst.p50_ms,
            c.burst.p99_ms,
            c.burst.cpu_ms,
            c.idle_share * 100.0,
        )?;
    }
    writeln!(
        text,
        "\n### Connections\n\n\
         | rules | Services | to | new connections a second (spread) | of no rules | of direct | CPU of one | answer: p50 / p99 | throughput |\n\
         |---|--:|---|--:|--:|--:|--:|--:|--:|"
    )?;
    for p in &results.paths {
        writeln!(
            text,
            "| {} | {} | {} | {:.0} ({:.0} to {:.0}) | {:.3} | {:.3} | {:.1} µs | {:.1} / {:.1} µs | {:.1} GB/s |",
            p.rules,
            p.services,
            p.way.name(),
            p.connections.median,
            p.connections.min,
            p.connections.max,
            p.of_no_rules.median,
            p.of_direct.median,
            p.cpu_us.median,
            p.answer_p50_us.median,
            p.answer_p99_us.median,
            p.throughput.median / 1e9,
        )?;
    }
    Ok(())
}

/// When, what and where.
fn circumstances(results: &Results) -> String {
    let machine = &results.machine;
    format!(
        "Measured {} at commit {}{}: {} processors ({}), {:.0} GiB of memory, Linux {}.{}",
        results.date,
        results.commit,
        if results.is_quick { ", quickly" } else { "" },
        machine.processors,
        machine.processor,
        machine.memory_bytes as f64 / f64::from(1 << 30),
        machine.kernel,
        match machine.is_imitated {
            true => " A program imitates this machine: only ratios between figures mean something.",
            false => "",
        },
    )
}

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

fn write_targets(text: &mut String, results: &Results) -> std::fmt::Result {
    writeln!(text, "| asked for | measured | |\n|---|---|---|")?;
    for target in targets(results) {
        let met = if target.is_met { "met" } else { "**not met**" };
        writeln!(text, "| {} | {} | {met} |", target.asked, target.measured)?;
    }
    Ok(())
}

/// Data planes beside each other, if there are several.
fn write_planes(text: &mut String, runs: Runs<'_>) -> std::fmt::Result {
    const SERVICES: u32 = 10_000;
    let endpoint = |proxy| runs.control(proxy, SERVICES, |control| control.endpoint.p50_ms);
    let planes: Vec<_> =
        planes::ALL.into_iter().filter(|(proxy, _)| endpoint(proxy).is_some()).collect();
    if planes.len() < 2 {
        return Ok(());
    }
    let show = |figure: Option<Figure>, digits: usize, unit: &str| match figure {
        Some(Figure { value, is_estimated: false }) => format!("{value:.digits$}{unit}"),
        Some(Figure { value, is_estimated: true }) => format!("~ {value:.digits$}{unit}"),
        None => "not measured".to_owned(),
    };
    writeln!(
        text,
        "\n### Data planes\n\n\
         With 10,000 Services. Connections are a share of those of the direct way without rules.\n\n\
         | data plane | one endpoint, p50 | CPU of it | new Service, p50 | burst of 100 endpoints, p50 | start | memory idle | connections: ClusterIP | NodePort |\n\
         |---|--:|--:|--:|--:|--:|--:|--:|--:|"
    )?;
    for (proxy, name) in &planes {
        let control = |of| runs.control(proxy, SERVICES, of);
        let share = |way| runs.path(proxy, SERVICES, way, |path| path.of_no_rules.median);
        writeln!(
            text,
            "| {name} | {} | {} | {} | {} | {} | {} | {} | {} |",
            show(endpoint(proxy), 2, " ms"),
            show(control(|c| c.endpoint.cpu_ms), 2, " ms"),
            show(control(|c| c.service.p50_ms), 2, " ms"),
            show(control(|c| c.burst.p50_ms), 1, " ms"),
            show(control(|c| c.start_seconds), 2, " s"),
            show(control(|c| mebibytes(c.settled_bytes)), 0, " MiB"),
            show(share(Way::ClusterIp), 2, ""),
            show(share(Way::NodePort), 2, ""),
        )?;
    }
    if planes.iter().any(|(proxy, _)| endpoint(proxy).is_some_and(|f| f.is_estimated)) {
        writeln!(
            text,
            "\n`~`: not measured on this machine, but nftables' figure times the ratio of the two in an imitated \
             machine (below)."
        )?;
    }
    Ok(())
}

/// IPVS beside nftables, where both were measured in an imitated machine.
fn write_imitated(text: &mut String, here: &Results, there: &Results) -> std::fmt::Result {
    writeln!(
        text,
        "\n### IPVS beside nftables, in an imitated machine\n\n{}",
        circumstances(there)
    )?;
    let change = |results: &Results| {
        results.control(NFTABLES, 10_000).map(|control| control.endpoint.p50_ms)
    };
    if let (Some(native), Some(slow)) = (change(here), change(there)) {
        writeln!(
            text,
            "One endpoint's change on nftables takes {:.0} times as long there as above.",
            slow / native
        )?;
    }
    writeln!(text)?;
    write_targets(text, there)?;
    writeln!(text, "\n| | Services | nftables | ipvs | ipvs / nftables |\n|---|--:|--:|--:|--:|")?;
    let mut row = |what: &str, services: u32, unit: &str, (base, ipvs): (f64, f64)| {
        let ratio = ipvs / base;
        writeln!(text, "| {what} | {services} | {base:.1} {unit} | {ipvs:.1} {unit} | {ratio:.2} |")
    };
    /// What is told: its name, its unit, and where it stands.
    type Row = (&'static str, &'static str, fn(&Control) -> f64);
    let of_control: [Row; 9] = [
        ("start to complete state", "s", |c| c.start_seconds),
        ("restart", "s", |c| c.restart_seconds),
        ("one endpoint's change, p50", "ms", |c| c.endpoint.p50_ms),
        ("one endpoint's change, p99", "ms", |c| c.endpoint.p99_ms),
        ("CPU of it", "ms", |c| c.endpoint.cpu_ms),
        ("a new Service, p50", "ms", |c| c.service.p50_ms),
        ("a burst of 100 endpoints, p50", "ms", |c| c.burst.p50_ms),
        ("memory once idle", "MiB", |c| mebibytes(c.settled_bytes)),
        ("kernel memory", "MiB", |c| mebibytes(c.kernel_bytes)),
    ];
    for (what, unit, of) in of_control {
        for services in planes::SERVICES {
            let at = |proxy| there.control(proxy, services).map(of);
            if let Some(both) = at(NFTABLES).zip(at(IPVS)) {
                row(what, services, unit, both)?;
            }
        }
    }
    let of_paths: [(&str, Way); 2] = [
        ("new connections a second through a ClusterIP (spread)", Way::ClusterIp),
        ("through a NodePort", Way::NodePort),
    ];
    for (what, way) in of_paths {
        for services in planes::SERVICES {
            let at = |rules| there.path(rules, services, way).map(|path| path.connections);
            let Some((base, ipvs)) = at(NFTABLES).zip(at(IPVS)) else { continue };
            let show = |s: Spread| format!("{:.0} ({:.0} to {:.0})", s.median, s.min, s.max);
            let ratio = ipvs.median / base.median;
            let (base, ipvs) = (show(base), show(ipvs));
            writeln!(text, "| {what} | {services} | {base} | {ipvs} | {ratio:.2} |")?;
        }
    }
    Ok(())
}
