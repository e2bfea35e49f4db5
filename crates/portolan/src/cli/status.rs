//! `portolan status`.

use std::path::PathBuf;

use crate::control::{Agent, SOCKET, StatusAnswer};

/// Print how far the proxy of this host is: what is programmed, what waits, what is refused.
///
/// The exit status is 0 if everything is programmed, and 1 if something waits or is refused.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    portolan status\n  \
    portolan status --connections --socket /run/portolan/lab/lab/node-1/portolan.sock")]
pub(crate) struct Args {
    /// Where the proxy answers.
    #[arg(long, value_name = "FILE", default_value = SOCKET)]
    socket: PathBuf,
    /// Also count the tracked connections of each Service.
    #[arg(long)]
    connections: bool,
    /// How to print it.
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    output: super::explain::Format,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<std::process::ExitCode> {
    let status = Agent::at(args.socket.clone()).status(args.connections)?;
    match args.output {
        super::explain::Format::Text => print!("{}", text(&status)),
        super::explain::Format::Json => println!("{}", serde_json::to_string_pretty(&status)?),
    }
    let is_good =
        status.generation > 0 && status.pending_seconds.is_none() && status.quarantined.is_empty();
    Ok(if is_good { std::process::ExitCode::SUCCESS } else { std::process::ExitCode::FAILURE })
}

fn text(status: &StatusAnswer) -> String {
    let mut lines = vec![format!(
        "node {}: portolan {} (pid {}), {}",
        status.node, status.version, status.pid, status.data_plane
    )];
    let mut line = |label: &str, text: String| lines.push(format!("  {label:<12} {text}"));
    line(
        "programmed",
        match status.programmed_seconds_ago {
            Some(ago) => format!("transaction {}, {} ago", status.generation, duration(ago)),
            None => "nothing yet".to_owned(),
        },
    );
    line(
        "services",
        format!(
            "{}, with {} frontends and {} endpoints",
            status.services, status.frontends, status.endpoints
        ),
    );
    if let Some(seconds) = status.pending_seconds {
        line("waiting", format!("a change, for {}", duration(seconds)));
    }
    if let Some(failure) = &status.failure {
        line("failed", failure.clone());
    }
    line("repairs", format!("{} changes by others were put right", status.repairs));
    for (service, why) in &status.quarantined {
        line("refused", format!("{service}: {why}"));
    }
    for (frontend, services) in &status.contested {
        let (owner, others) = services.split_first().map_or(("", &[][..]), |(o, rest)| (o, rest));
        line("contested", format!("{frontend}: {owner} has it, and not {}", others.join(", ")));
    }
    if let Some(connections) = &status.connections {
        let total: u64 = connections.values().sum();
        line("connections", format!("{total} tracked"));
        let mut most: Vec<(&String, &u64)> = connections.iter().collect();
        most.sort_by_key(|(service, count)| (std::cmp::Reverse(**count), *service));
        for (service, count) in most {
            line("", format!("{count:>8} {service}"));
        }
    }
    lines.join("\n") + "\n"
}

/// Seconds for people.
fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 1.0 => format!("{:.0} ms", s * 1e3),
        s if s < 120.0 => format!("{s:.1} s"),
        s if s < 7200.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.0} h", s / 3600.0),
    }
}
