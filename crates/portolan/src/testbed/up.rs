//! Bringing a cluster up, keeping it until the user has had enough, and taking it down.

use std::io::{self, IsTerminal, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use k8s_openapi::api::core::v1::Node;
use kernel::cgroup::Cgroup;
use lab::{Daemon, Lab};
use model::ObjectName;
use nix::unistd::Uid;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

use super::{API_NOTE, CONTROL_PLANE, KUBECONFIG_NOTE, Options, nodes, underlay};
use crate::apply::apply;
use crate::client::{self, Client};
use crate::control::SOCKET_NAME;
use crate::kubeconfig::Kubeconfig;
use crate::manifest::{self, Manifest};

use crate::runtime::asked_to_end;
use crate::server::bootstrap::{DNS_ADDRESS, address_at};
use crate::server::{self, pki::Authority};
use crate::tour;

/// The port of an API server, tried first on the machine's loopback.
const API_PORT: u16 = 6443;
/// How many ports from there on are tried.
const API_PORTS: u16 = 100;
/// How long the cluster may take until every node is ready.
const READY_LIMIT: Duration = Duration::from_secs(60);
/// Lines of a dead part's log that are shown.
const LAST_LINES: usize = 10;
/// How often is asked whether it is.
const POLL: Duration = Duration::from_millis(10);

/// Brings a cluster up in the foreground and takes it down at the end. The exit code says whether
/// everything went well.
pub(crate) async fn up(options: Options) -> anyhow::Result<ExitCode> {
    let start = Instant::now();
    anyhow::ensure!(Uid::effective().is_root(), "a lab needs root: it makes network namespaces");
    // A mistake in them is better told before anything is made.
    let manifests = manifest::load(&options.manifests)?;
    let mut lab = Lab::create(&options.name, underlay(options.nodes))?;
    let result = {
        let (died, deaths) = mpsc::unbounded_channel();
        tokio::select! {
            result = run(&mut lab, &options, &manifests, start, died, deaths) => result,
            ended = asked_to_end() => ended.map(|()| ExitCode::SUCCESS),
        }
    };
    let removed = lab.down().context("take the lab down")?;
    println!("lab {} is down: removed {removed}", options.name);
    result
}

async fn run(
    lab: &mut Lab,
    options: &Options,
    manifests: &[Manifest],
    start: Instant,
    died: mpsc::UnboundedSender<String>,
    mut deaths: mpsc::UnboundedReceiver<String>,
) -> anyhow::Result<ExitCode> {
    let name = &options.name;
    println!(
        "lab {name}: {} nodes, pods {}, services {}",
        options.nodes, options.cluster_cidr, options.service_cidr
    );
    start_processes(lab, options)?;
    lab.daemons().iter().try_for_each(|daemon| watch(daemon, lab, &died))?;

    let kubeconfig = lab.directory().path().join("kubeconfig");
    let client = client::connect(Some(&kubeconfig)).await?;
    tokio::select! {
        ready = tokio::time::timeout(READY_LIMIT, get_ready(lab, manifests, &client)) => {
            ready.map_err(|_| not_ready(lab)).and_then(|ready| ready)?;
        }
        Some(death) = deaths.recv() => anyhow::bail!(death),
    }
    announce(lab, options, manifests, start, &kubeconfig)?;

    let mut all_well = true;
    if options.tour {
        all_well = tour::run(lab, client, start).await?;
        if !io::stdin().is_terminal() {
            return Ok(exit_code(all_well));
        }
        println!("\nThe lab stays up until Ctrl-C.");
    }
    tokio::select! {
        ended = asked_to_end() => ended?,
        () = report(&mut deaths, &mut all_well) => {}
    }
    Ok(exit_code(all_well))
}

fn exit_code(all_well: bool) -> ExitCode {
    if all_well { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Says which parts died; the others go on.
async fn report(deaths: &mut mpsc::UnboundedReceiver<String>, all_well: &mut bool) {
    while let Some(death) = deaths.recv().await {
        tracing::error!("{death}");
        *all_well = false;
    }
    std::future::pending().await
}

/// Starts the API server and the node agents. They wait for each other as they would anywhere.
fn start_processes(lab: &mut Lab, options: &Options) -> anyhow::Result<()> {
    let directory = lab.directory().clone();
    let program = std::env::current_exe().context("find this program")?;
    let command = |subcommand: &str| {
        let mut command = Command::new(&program);
        command.args(["--log-level", &options.log_level]).arg(subcommand).stdin(Stdio::null());
        // One heap for each process: the few threads hardly ever meet there, and memory counts.
        command.env("MALLOC_ARENA_MAX", "1").env_remove("KUBECONFIG");
        // Ctrl-C is for this process, which then ends them in its own way.
        command.process_group(0);
        command
    };

    let server_data = directory.data("server");
    let authority = Authority::open(&server::pki_directory(&server_data))?;
    let listener = listen(options.api_port)?;
    let api = format!("https://{}", listener.local_addr().context("read the API's address")?);
    let inside = lab.underlay().host(&options.name, CONTROL_PLANE)?.address;

    let mut api_server = command("server");
    api_server
        .arg("--data-dir")
        .arg(&server_data)
        .args(["--bind-address", &inside.to_string(), "--advertise-address", &inside.to_string()])
        .args(["--secure-port", &API_PORT.to_string()])
        .args(["--service-cidr", &options.service_cidr.to_string()])
        .args(["--cluster-cidr", &options.cluster_cidr.to_string()])
        .stdin(Stdio::from(OwnedFd::from(listener)));
    lab.start(CONTROL_PLANE, "server", api_server)?;

    let dns = address_at(options.service_cidr, DNS_ADDRESS);
    for node in nodes(&lab.underlay().clone()) {
        let data = directory.data(&node.name);
        let kubeconfig = data.join("kubeconfig");
        let user = format!("system:node:{}", node.name);
        let identity = authority.client(&user, "system:nodes")?;
        write_kubeconfig(
            &kubeconfig,
            &Kubeconfig {
                cluster: &options.name,
                server: &format!("https://{inside}:{API_PORT}"),
                authority: authority.certificate(),
                user: &user,
                identity: &identity,
            },
        )?;
        let pods = format!("portolan-lab-{}/pods/{}", options.name, node.name);
        let cgroup = Cgroup::root()?.child(&pods);
        cgroup.create()?;
        let mut agent = command("node");
        agent
            .arg("--data-dir")
            .arg(&data)
            .arg("--kubeconfig")
            .arg(&kubeconfig)
            .args(["--node-name", &node.name, "--node-ip", &node.address.to_string()])
            .args(["--cluster-dns", &dns.to_string(), "--resolv-conf", ""])
            .args(["--cluster-cidr", &options.cluster_cidr.to_string()])
            .args(&options.data_plane)
            // Whoever may write Services in a lab owns it.
            .args(["--allow-external-ips", "0.0.0.0/0,::/0"])
            .arg("--socket")
            .arg(data.join(SOCKET_NAME))
            .arg("--pod-cgroup")
            .arg(&pods);
        agent.arg("--cgroup").arg(cgroup.path());
        lab.start(&node.name, &node.name, agent)?;
    }

    let admin = authority.client("kubernetes-admin", "system:masters")?;
    let path = directory.path().join("kubeconfig");
    write_kubeconfig(
        &path,
        &Kubeconfig {
            cluster: &options.name,
            server: &api,
            authority: authority.certificate(),
            user: "kubernetes-admin",
            identity: &admin,
        },
    )?;
    lab.note(API_NOTE, api)?;
    lab.note(KUBECONFIG_NOTE, path.to_string_lossy())?;
    Ok(())
}

fn write_kubeconfig(path: &Path, kubeconfig: &Kubeconfig<'_>) -> anyhow::Result<()> {
    kubeconfig.write(path).with_context(|| format!("write {}", path.display()))
}

/// A socket on the machine's loopback, for kubectl: all that is outside of the lab's namespaces.
fn listen(port: Option<u16>) -> anyhow::Result<TcpListener> {
    let ports = match port {
        Some(port) => port..=port,
        None => API_PORT..=API_PORT + API_PORTS,
    };
    let mut last = None;
    for port in ports {
        match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            Ok(listener) => return Ok(listener),
            Err(error) => last = Some((port, error)),
        }
    }
    let (port, error) = last.expect("a range of ports is not empty");
    Err(error).with_context(|| format!("listen on 127.0.0.1:{port} (choose another --api-port)"))
}

/// Sends a sentence to `died` when the process ends.
fn watch(daemon: &Daemon, lab: &Lab, died: &mpsc::UnboundedSender<String>) -> anyhow::Result<()> {
    let process = daemon.process.try_clone()?;
    let (died, name) = (died.clone(), daemon.name.clone());
    let log = lab.directory().log(&daemon.name);
    #[expect(deprecated, reason = "its successor is unsafe; a process keeps its pidfd for life")]
    let end = AsyncFd::with_interest(process, Interest::READABLE)
        .with_context(|| format!("watch {name}"))?;
    tokio::spawn(async move {
        if end.readable().await.is_ok() {
            // Nobody listens any more when the lab goes down.
            let last = last_lines(&log);
            let _ = died.send(format!("{name} has ended by itself; {}:\n{last}", log.display()));
        }
    });
    Ok(())
}

/// The end of a log: it goes with the lab, so what matters is said before.
fn last_lines(log: &Path) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LAST_LINES)..].join("\n")
}

/// Nothing has failed, but something takes too long: the logs may know what.
fn not_ready(lab: &Lab) -> anyhow::Error {
    let last = |daemon: &Daemon| {
        format!("\n{}:\n{}", daemon.name, last_lines(&lab.directory().log(&daemon.name)))
    };
    let logs: String = lab.daemons().iter().map(last).collect();
    anyhow!("not ready within {READY_LIMIT:?}; the ends of the logs:{logs}")
}

/// Waits for the API server and the nodes, and applies the manifests.
async fn get_ready(lab: &Lab, manifests: &[Manifest], client: &Client) -> anyhow::Result<()> {
    while client.apiserver_version().await.is_err() {
        tokio::time::sleep(POLL).await;
    }
    println!("  API server answers");
    for node in nodes(lab.underlay()) {
        let name = ObjectName::new("", node.name.as_str());
        while !client::get::<Node>(client, &name).await?.is_some_and(|node| is_ready(&node)) {
            tokio::time::sleep(POLL).await;
        }
        println!("  {} is Ready at {}", node.name, node.address);
    }
    // Only now, so that pods find all nodes to be spread over.
    if !manifests.is_empty() {
        let applied = apply(client, manifests).await?;
        println!("  {} objects applied", applied.len());
    }
    Ok(())
}

fn is_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_deref());
    conditions
        .unwrap_or_default()
        .iter()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

fn logs(lab: &Lab) -> std::path::PathBuf {
    lab.directory().log("x").with_file_name("")
}

/// The first node port that the manifests ask for.
fn node_port(manifests: &[Manifest]) -> Option<u64> {
    let services = manifests.iter().filter(|manifest| manifest.kind == "Service");
    services.filter_map(|service| service.value["spec"]["ports"][0]["nodePort"].as_u64()).next()
}

fn announce(
    lab: &Lab,
    options: &Options,
    manifests: &[Manifest],
    start: Instant,
    kubeconfig: &Path,
) -> anyhow::Result<()> {
    let name = &options.name;
    let option = if name == "lab" { String::new() } else { format!(" --name {name}") };
    println!("lab {name} is ready after {:.2} s", start.elapsed().as_secs_f64());
    println!("\n  export KUBECONFIG={}", kubeconfig.display());
    println!("  kubectl get pods,services -o wide");
    if let (Some(port), Some(node)) = (node_port(manifests), nodes(lab.underlay()).next()) {
        println!("  portolan lab exec{option} outside -- curl -s http://{}:{port}/", node.address);
    }
    println!("  portolan lab exec{option} node-1 -- nft list ruleset");
    println!("  logs: {}", logs(lab).display());
    if !options.tour {
        println!("\nThe lab stays up until Ctrl-C.");
    }
    io::stdout().flush().context("write to standard output")
}
