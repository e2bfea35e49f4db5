//! Runs a program of this machine under another kernel, in a small virtual machine.
//!
//! The VM has the kernel, its modules, and of this machine's files those that the program needs; it
//! has no disk and no network. `scripts/fetch-kernel` brings kernels.
//!
//! Start reading at [`run`].

mod cpio;
mod fetch;
mod image;
mod init;
mod programs;
mod qemu;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use clap::{Args, Parser, Subcommand};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use fetch::Fetch;
use image::Image;
use init::Task;
use qemu::{Ended, Machine};

/// Runs programs under other kernels.
#[derive(Debug, Parser)]
#[command(name = "vm")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Boot a kernel, run a program, and end as it does.
    ///
    /// What it writes to standard output and standard error goes to standard output. Ends with its
    /// exit code, or with 125 if it was not run to its end.
    Run(Run),
}

#[derive(Debug, Args)]
struct Run {
    /// The kernel: a directory that `scripts/fetch-kernel` has made.
    #[arg(long, value_name = "DIRECTORY")]
    kernel: PathBuf,
    /// Processors.
    ///
    /// With more than one, a kernel that patches itself may hang or panic: QEMU 7.2 may go on with the
    /// instruction that was there before if another processor is on its way through it.
    #[arg(long, value_name = "N", default_value_t = 1)]
    cpus: u32,
    /// Memory in megabytes, which also holds all files.
    #[arg(long, value_name = "N", default_value_t = 1024)]
    memory: u32,
    /// How long it may run, in seconds, with the time to boot.
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    timeout: u64,
    /// A command that the program runs. Of iptables, all that belong to it are taken.
    #[arg(long = "command", value_name = "NAME")]
    commands: Vec<PathBuf>,
    /// A variable of the program's environment.
    #[arg(long, value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// A kernel module that is to be there. (The kernel loads others when it needs them.)
    #[arg(long = "module", value_name = "NAME")]
    modules: Vec<String>,
    /// A file that the program reads, or a directory, which has the same path in the VM.
    #[arg(long = "file", value_name = "PATH")]
    files: Vec<PathBuf>,
    /// A file that the program leaves in the VM, copied out after its end, however it ends.
    ///
    /// FILE is removed before, so what is there afterwards is of this run.
    #[arg(long = "fetch", value_name = "PATH=FILE")]
    fetches: Vec<Fetch>,
    /// Where to keep what the kernel says.
    #[arg(long, value_name = "FILE")]
    console: Option<PathBuf>,
    /// The program, a path or a command's name, and its arguments.
    #[arg(last = true, required = true, value_name = "PROGRAM")]
    program: Vec<String>,
}

/// The exit code if the program was not run to its end.
const FAILURE: u8 = 125;

/// What a kernel and a small program take of the VM's memory, in megabytes.
const KERNEL: u64 = 160;

fn main() -> ExitCode {
    let Command::Run(arguments) = Arguments::parse().command;
    match run(&arguments) {
        Ok(Ended::Code(code)) => ExitCode::from(code),
        Ok(Ended::Interrupted(signal)) => {
            eprintln!("vm: ended by {signal}");
            // As a shell tells it; signals have small numbers.
            ExitCode::from(128 + signal as u8)
        }
        Err(error) => {
            eprintln!("vm: {error:#}");
            ExitCode::from(FAILURE)
        }
    }
}

fn run(arguments: &Run) -> anyhow::Result<Ended> {
    for variable in &arguments.env {
        ensure!(variable.split_once('=').is_some(), "--env {variable}: it has to be NAME=VALUE");
    }
    fetch::prepare(&arguments.fetches)?;
    programs::find(Path::new("qemu-system-x86_64"))?;
    let kernel = arguments.kernel.join("vmlinuz");
    ensure!(kernel.is_file(), "{} is not there: scripts/fetch-kernel fetches it", kernel.display());
    // From here on there is a directory to be removed.
    let signals = signals()?;
    let scratch = tempfile::tempdir().context("make a temporary directory")?;
    let initramfs = scratch.path().join("initramfs");
    let length = image(arguments, scratch.path())?.write(&initramfs)?;
    // For a while it is there twice, packed and unpacked.
    let least = 2 * (length >> 20) + KERNEL;
    ensure!(
        u64::from(arguments.memory) >= least,
        "--memory {}: with these files at least {least} is needed",
        arguments.memory
    );
    let machine = Machine {
        kernel: &kernel,
        initramfs: &initramfs,
        cpus: arguments.cpus,
        memory: arguments.memory,
        directory: scratch.path(),
        limit: Duration::from_secs(arguments.timeout),
    };
    let ended = machine.run(&signals, &mut io::stdout().lock());
    let kept = arguments.console.as_ref().map_or(Ok(0), |console| {
        fs::copy(machine.console(), console).with_context(|| format!("write {}", console.display()))
    });
    for alarm in machine.alarms() {
        eprintln!("vm: the kernel says: {alarm}");
    }
    let ended = ended?;
    kept?;
    if let Ended::Code(code) = ended {
        let sent = fs::read(machine.files()).context("read what the VM sent of files")?;
        match fetch::write(&arguments.fetches, &sent) {
            // A program that failed says more by its own exit code.
            Err(error) if code != 0 => eprintln!("vm: {error:#}"),
            fetched => fetched?,
        }
    }
    Ok(ended)
}

/// Everything that is in the VM.
fn image(arguments: &Run, scratch: &Path) -> anyhow::Result<Image> {
    let mut image = Image::default();
    for directory in ["dev", "proc", "root", "run", "sys", "tmp", "var/lib"] {
        image.directory(&Path::new("/").join(directory));
    }
    // Where this machine has `/bin` and others as links, paths lead through them.
    for name in ["/bin", "/lib", "/lib64", "/sbin"].map(Path::new) {
        if let Ok(target) = fs::read_link(name) {
            image.link(name, &target);
        }
    }
    image.make(Path::new("/etc/passwd"), 0o644, "root:x:0:0:root:/root:/bin/sh\n".to_owned());
    image.make(Path::new("/etc/group"), 0o644, "root:x:0:\n".to_owned());
    image.make(Path::new("/etc/hosts"), 0o644, "127.0.0.1 localhost\n::1 localhost\n".to_owned());
    programs::add_configuration(&mut image)?;

    add_modules(&mut image, &arguments.kernel)?;
    let (program, rest) = arguments.program.split_first().context("there is no program to run")?;
    let program = programs::add_program(&mut image, Path::new(program), scratch)?;
    for command in &arguments.commands {
        programs::add_command(&mut image, command)?;
    }
    for file in &arguments.files {
        image.host(file)?;
    }
    let busybox = programs::add_busybox(&mut image)?;
    let task = Task {
        program: &program,
        arguments: rest,
        environment: &arguments.env,
        modules: &arguments.modules,
        directory: &std::env::current_dir().context("the directory that we are in")?,
        fetches: &arguments.fetches,
    };
    image.make(Path::new("/init"), 0o755, init::script(&busybox, &task));
    Ok(image)
}

/// The kernel's modules, and the program that the kernel has them loaded by.
fn add_modules(image: &mut Image, kernel: &Path) -> anyhow::Result<()> {
    let modules = kernel.join("lib/modules");
    if !modules.is_dir() {
        bail!("{} is not there: scripts/fetch-kernel makes it", modules.display());
    }
    // It is known to the kernel as /lib/modules.
    let lib = Path::new("/lib").canonicalize().context("look for /lib")?;
    image.copy(&lib.join("modules"), &modules)?;
    programs::add_command(image, Path::new("modprobe"))
}

/// SIGINT and SIGTERM, to be read from now on.
fn signals() -> anyhow::Result<SignalFd> {
    let signals = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM]);
    signals.thread_block().context("block signals")?;
    let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
    SignalFd::with_flags(&signals, flags).context("read signals")
}
