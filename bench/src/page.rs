//! Results as text: tables for a page and for a terminal.

use std::fmt::Write;
use std::fs;
use std::path::Path as FilePath;

use anyhow::Context;

use crate::results::Results;
use crate::targets::targets;

/// What stands between these lines of the page is written by the bench.
const BEGIN: &str = "<!-- written by `make bench`: begin -->";
const END: &str = "<!-- written by `make bench`: end -->";

/// Puts the results' tables into the page.
pub(crate) fn update(page: &FilePath, results: &Results) -> anyhow::Result<()> {
    let text = fs::read_to_string(page).with_context(|| format!("read {}", page.display()))?;
    let parts = text.split_once(BEGIN).and_then(|(before, rest)| {
        let (_, after) = rest.split_once(END)?;
        Some((before, after))
    });
    let (before, after) =
        parts.with_context(|| format!("{} has no place for results", page.display()))?;
    let text = format!("{before}{BEGIN}\n\n{}\n{END}{after}", tables(results));
    fs::write(page, text).with_context(|| format!("write {}", page.display()))
}

/// All tables, in Markdown.
pub(crate) fn tables(results: &Results) -> String {
    let mut text = String::new();
    // Writing into a String can't fail.
    let _ = write_tables(&mut text, results);
    text
}

fn write_tables(text: &mut String, results: &Results) -> std::fmt::Result {
    let machine = &results.machine;
    writeln!(
        text,
        "Measured {} at commit {}{}: {} processors ({}), {:.0} GiB of memory, Linux {}.\n",
        results.date,
        results.commit,
        if results.is_quick { ", quickly" } else { "" },
        machine.processors,
        machine.processor,
        machine.memory_bytes as f64 / f64::from(1 << 30),
        machine.kernel,
    )?;
    writeln!(text, "### Targets\n\n| asked for | measured | |\n|---|---|---|")?;
    for target in targets(results) {
        let met = if target.is_met { "met" } else { "**not met**" };
        writeln!(text, "| {} | {} | {met} |", target.asked, target.measured)?;
    }
    let mebibytes = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    writeln!(
        text,
        "\n### Programming\n\n\
         | proxy | Services | start | of it own / kernel CPU | restart | memory: peak / idle / after churn | kernel memory | chains / rules / elements |\n\
         |---|--:|--:|--:|--:|--:|--:|--:|"
    )?;
    for c in &results.control {
        writeln!(
            text,
            "| {} | {} | {:.2} s | {:.2} / {:.2} s | {:.2} s | {:.0} / {:.0} / {:.0} MiB | {:.0} MiB | {} / {} / {} |",
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
