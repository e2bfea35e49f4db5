//! Programs of this machine in the image, with all that they need to run.

use std::collections::BTreeSet;
use std::env;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, ensure};

use crate::image::Image;

/// Files beside programs that some look at, where they are there.
const CONFIGURATION: [&str; 6] = [
    "/etc/ethertypes",
    "/etc/iproute2",
    "/etc/nsswitch.conf",
    "/etc/protocols",
    "/etc/services",
    "/etc/xtables.conf",
];

/// What is longer is looked into for what only a debugger reads: more than half of a test binary.
const LARGE: u64 = 4 << 20;

/// The program itself: a file, or the name of a command. Returns where it is in the image.
pub(crate) fn add_program(
    image: &mut Image,
    program: &Path,
    scratch: &Path,
) -> anyhow::Result<PathBuf> {
    let path = find(program)?;
    add(image, &path)?;
    let file = path.canonicalize()?;
    if file.metadata()?.len() > LARGE {
        let stripped = scratch.join("program");
        if strip(&file, &stripped)? {
            image.copy(&file, &stripped)?;
        }
    }
    Ok(path)
}

/// A command that the program runs, of that name or at that path.
pub(crate) fn add_command(image: &mut Image, command: &Path) -> anyhow::Result<()> {
    let path = find(command)?;
    add(image, &path)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    if name.starts_with("iptables") || name.starts_with("ip6tables") {
        add_iptables(image, &path)?;
    }
    Ok(())
}

/// Small programs under all their names that nothing else has. To be added last.
///
/// The shell is this machine's: that of busybox takes its own programs for any others of the same name.
pub(crate) fn add_busybox(image: &mut Image) -> anyhow::Result<PathBuf> {
    add_command(image, Path::new("sh"))?;
    let path = find(Path::new("busybox"))?;
    let needed = libraries(&[&path])?;
    ensure!(needed.is_empty(), "{} is not a static program", path.display());
    image.host(&path)?;
    let path = path.canonicalize()?;
    let output = run(Command::new(&path).arg("--list-full"))?;
    for name in String::from_utf8_lossy(&output.stdout).lines() {
        let link = Path::new("/").join(name);
        // Not all of its directories are on every machine; `/bin` may be a link to `/usr/bin`.
        if let (Some(parent), Some(name)) = (link.parent(), link.file_name())
            && let Ok(parent) = parent.canonicalize()
        {
            image.link(&parent.join(name), &path);
        }
    }
    Ok(path)
}

/// Configuration that programs of Debian look at.
pub(crate) fn add_configuration(image: &mut Image) -> anyhow::Result<()> {
    for path in CONFIGURATION.map(Path::new) {
        if path.exists() {
            image.host(path)?;
        }
    }
    Ok(())
}

/// All names of iptables, and the plugins that its matches and targets are.
fn add_iptables(image: &mut Image, path: &Path) -> anyhow::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    let what = || format!("read {}", directory.display());
    for entry in fs::read_dir(directory).with_context(what)? {
        let entry = entry.with_context(what)?;
        let name = entry.file_name();
        let is_one = ["iptables", "ip6tables", "xtables-"]
            .iter()
            .any(|start| name.to_string_lossy().starts_with(start));
        // Some are scripts of other languages, which nobody runs here.
        if is_one && is_elf(&entry.path())? {
            add(image, &entry.path())?;
        }
    }
    // They lie beside the library that loads them, and some need more libraries than it does.
    let mut plugins = libraries(&[path])?.into_iter().map(|path| path.with_file_name("xtables"));
    let plugins = plugins.find(|directory| directory.is_dir());
    let plugins = plugins.with_context(|| format!("{} has no plugins", path.display()))?;
    image.host(&plugins)?;
    let what = || format!("read {}", plugins.display());
    let mut files = Vec::new();
    for entry in fs::read_dir(&plugins).with_context(what)? {
        files.push(entry.with_context(what)?.path());
    }
    add_libraries(image, &files)
}

/// A program and its libraries.
fn add(image: &mut Image, path: &Path) -> anyhow::Result<()> {
    image.host(path)?;
    add_libraries(image, &[path])
}

fn add_libraries(image: &mut Image, programs: &[impl AsRef<Path>]) -> anyhow::Result<()> {
    for library in libraries(programs)? {
        image.host(&library)?;
    }
    Ok(())
}

/// The shared libraries that programs are run with, their loader among them. What is static or a
/// script has none.
fn libraries(programs: &[impl AsRef<Path>]) -> anyhow::Result<BTreeSet<PathBuf>> {
    let mut command = Command::new("ldd");
    command.env("LC_ALL", "C");
    let mut is_any = false;
    for program in programs {
        if is_elf(program.as_ref())? {
            command.arg(program.as_ref());
            is_any = true;
        }
    }
    if !is_any {
        return Ok(BTreeSet::new());
    }
    let output = command.output().context("run ldd")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success() || said.contains(STATIC), "ldd: {}", said.trim());
    parse_ldd(&String::from_utf8_lossy(&output.stdout))
}

/// What ldd(1) says, and fails with, if a program has no loader.
const STATIC: &str = "not a dynamic executable";

/// `NAME => PATH (ADDRESS)` in every line, or `PATH (ADDRESS)` for the loader; before them `PROGRAM:`
/// if there are several. What the kernel brings (linux-vdso) is not a file.
fn parse_ldd(text: &str) -> anyhow::Result<BTreeSet<PathBuf>> {
    let mut libraries = BTreeSet::new();
    for line in text.lines().filter(|line| !line.ends_with(':')) {
        let place = line.split_once(" => ").map_or(line, |(_, place)| place).trim();
        ensure!(place != "not found", "a library is not installed: {}", line.trim());
        if place.starts_with('/') {
            let path = place.rsplit_once(" (").map_or(place, |(path, _)| path);
            libraries.insert(PathBuf::from(path));
        }
    }
    Ok(libraries)
}

/// Where a program is: a path, or a name to be looked for as a shell does, and where only root's
/// shell does.
pub(crate) fn find(program: &Path) -> anyhow::Result<PathBuf> {
    if program.components().count() > 1 || program.is_absolute() {
        ensure!(program.is_file(), "{} is not there", program.display());
        return std::path::absolute(program).with_context(|| format!("find {}", program.display()));
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let directories = env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    let is_program = |path: &PathBuf| {
        path.metadata().is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
    };
    directories
        .map(|directory| directory.join(program))
        .find(is_program)
        .with_context(|| format!("{} is not installed", program.display()))
}

fn is_elf(path: &Path) -> anyhow::Result<bool> {
    use std::io::Read;
    let what = || format!("read {}", path.display());
    let mut start = Vec::new();
    fs::File::open(path).with_context(what)?.take(4).read_to_end(&mut start).with_context(what)?;
    Ok(start == b"\x7fELF")
}

/// A copy without debug information. It may be that nothing here can make one: the program is then
/// taken as it is, and the VM needs more memory.
fn strip(program: &Path, copy: &Path) -> anyhow::Result<bool> {
    if !is_elf(program)? || find(Path::new("strip")).is_err() {
        return Ok(false);
    }
    run(Command::new("strip").args([OsStr::new("-g"), OsStr::new("-o")]).arg(copy).arg(program))?;
    Ok(true)
}

/// Runs a command that has to succeed.
fn run(command: &mut Command) -> anyhow::Result<Output> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("run {name}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{name}: {}", said.trim());
    Ok(output)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_what_has_a_path() {
        let text = "/usr/sbin/nft:\n\
            \tlinux-vdso.so.1 (0x00007ffd1e5f2000)\n\
            \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f2a)\n\
            \t/lib64/ld-linux-x86-64.so.2 (0x00007f2b)\n";
        let expected = ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"];
        assert_eq!(parse_ldd(text).unwrap(), expected.map(PathBuf::from).into());
        assert_eq!(parse_ldd("\tstatically linked\n").unwrap(), BTreeSet::new());
    }

    #[test]
    fn a_library_that_is_missing_is_named() {
        let error = parse_ldd("\tlibnftables.so.1 => not found\n").unwrap_err();
        assert!(error.to_string().contains("libnftables.so.1"), "{error}");
    }

    #[test]
    fn programs_are_found_by_name_and_by_path() {
        let by_name = find(Path::new("sh")).unwrap();
        assert!(by_name.is_absolute());
        assert_eq!(find(&by_name).unwrap(), by_name);
        let error = find(Path::new("no-such-command")).unwrap_err();
        assert_eq!(error.to_string(), "no-such-command is not installed");
    }

    #[test]
    fn a_program_of_this_machine_has_a_loader() {
        let script = libraries(&[find(Path::new("ldd")).unwrap()]).unwrap();
        assert!(script.is_empty(), "ldd is a script: {script:?}");
        let own = libraries(&[env::current_exe().unwrap()]).unwrap();
        assert!(own.iter().any(|path| path.to_string_lossy().contains("ld-")), "{own:?}");
    }
}
