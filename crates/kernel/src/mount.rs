//! Mounts of the calling thread's mount namespace.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, umount2};

use crate::{Error, Result};

/// One line of `/proc/thread-self/mountinfo` (proc_pid_mountinfo(5)), as far as it is used here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountPoint {
    /// Which part of the file system is mounted: `/`, or for nsfs the namespace, `net:[4026532]`.
    pub root: String,
    /// Where it is mounted.
    pub target: PathBuf,
    /// Kind of file system, for example `cgroup2`.
    pub kind: String,
}

/// All mounts, in the order they were made.
pub fn list() -> Result<Vec<MountPoint>> {
    let text = fs::read_to_string("/proc/thread-self/mountinfo")
        .map_err(|source| Error::os("list mounts", source))?;
    Ok(text.lines().filter_map(parse).collect())
}

fn parse(line: &str) -> Option<MountPoint> {
    // Optional fields stand before the lone hyphen.
    let (place, what) = line.split_once(" - ")?;
    let mut place = place.split(' ').skip(3);
    let root = unescape(place.next()?);
    let target = unescape(place.next()?);
    Some(MountPoint {
        root: String::from_utf8_lossy(&root).into_owned(),
        target: PathBuf::from(OsStr::from_bytes(&target)),
        kind: what.split(' ').next()?.to_owned(),
    })
}

/// White space and backslashes are written as three octal digits.
fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let digits = tail
            .first_chunk::<3>()
            .and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        match (first, digits) {
            (b'\\', Some(byte)) => {
                bytes.push(byte);
                rest = &tail[3..];
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    bytes
}

/// Makes the file or tree `source` appear at `target` too, which must exist.
pub fn bind(source: &Path, target: &Path) -> Result<()> {
    mount(Some(source), target, None, MsFlags::MS_BIND | MsFlags::MS_REC, None)
}

/// Makes the mount at `target` read-only here, whatever it is elsewhere.
pub fn make_read_only(target: &Path) -> Result<()> {
    let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    mount(None, target, None, flags, None)
}

/// Mounts an empty file system in memory, with the given mode of its root directory.
pub fn tmpfs(target: &Path, mode: u32) -> Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some(Path::new("tmpfs")), target, Some("tmpfs"), flags, Some(&format!("mode={mode:o}")))
}

/// Mounts the BPF file system, where objects of bpf(2) have names.
pub fn bpf(target: &Path) -> Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some(Path::new("bpf")), target, Some("bpf"), flags, Some("mode=700"))
}

/// Lays a writable layer over the directory `target`: what it holds stays readable, what is
/// written goes below `scratch`, an empty directory of a file system that holds no part of `target`.
pub fn overlay(target: &Path, scratch: &Path) -> Result<()> {
    let (upper, work) = (scratch.join("upper"), scratch.join("work"));
    for directory in [&upper, &work] {
        fs::create_dir_all(directory).map_err(|source| {
            Error::os(format!("create directory {}", directory.display()), source)
        })?;
    }
    // The root directory of the layer shows as that of the mount.
    let metadata = fs::metadata(target)
        .map_err(|source| Error::os(format!("look at {}", target.display()), source))?;
    fs::set_permissions(&upper, metadata.permissions())
        .map_err(|source| Error::os(format!("set mode of {}", upper.display()), source))?;
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        target.display(),
        upper.display(),
        work.display()
    );
    mount(Some(Path::new("overlay")), target, Some("overlay"), MsFlags::empty(), Some(&options))
}

/// Keeps mounts made here from showing in other mount namespaces, and the other way round.
pub fn make_private(target: &Path) -> Result<()> {
    mount(None, target, None, MsFlags::MS_PRIVATE | MsFlags::MS_REC, None)
}

/// Takes the uppermost mount at `target` away, as soon as its last user is gone. That nothing is
/// mounted there is no error.
pub fn detach(target: &Path) -> Result<()> {
    match umount2(target, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
        Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => Ok(()),
        Err(errno) => Err(Error::os(format!("unmount {}", target.display()), errno)),
    }
}

fn mount(
    source: Option<&Path>,
    target: &Path,
    kind: Option<&str>,
    flags: MsFlags,
    options: Option<&str>,
) -> Result<()> {
    nix::mount::mount(source, target, kind, flags, options).map_err(|errno| {
        let what = kind.unwrap_or("change of mount");
        Error::os(format!("mount {what} at {}", target.display()), errno)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn optional_fields_and_escapes_are_understood() {
        let line = r"36 35 98:0 /mnt1 /mnt\0402 rw,noatime shared:1 master:2 - ext3 /dev/root rw";
        let expected =
            MountPoint { root: "/mnt1".into(), target: "/mnt 2".into(), kind: "ext3".into() };
        assert_eq!(parse(line), Some(expected));
        assert_eq!(parse("36 35 98:0"), None);
        assert_eq!(unescape(r"a\04"), br"a\04");
    }

    #[test]
    fn an_overlay_takes_the_writes() {
        crate::netns::on_thread(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS)
                .expect("this test needs root: it makes a mount namespace");
            make_private(Path::new("/"))?;
            let base = std::env::temp_dir().join(format!("kernel-overlay-{}", std::process::id()));
            fs::create_dir_all(&base).unwrap();
            tmpfs(&base, 0o755)?;
            let (lower, scratch) = (base.join("lower"), base.join("scratch"));
            fs::create_dir(&lower).unwrap();
            fs::create_dir(&scratch).unwrap();
            tmpfs(&scratch, 0o755)?;
            fs::write(lower.join("file"), "old").unwrap();
            overlay(&lower, &scratch)?;
            fs::write(lower.join("file"), "new").unwrap();
            assert_eq!(fs::read_to_string(lower.join("file")).unwrap(), "new");
            assert!(list()?.iter().any(|m| m.target == lower && m.kind == "overlay"));
            detach(&lower)?;
            assert_eq!(fs::read_to_string(lower.join("file")).unwrap(), "old");
            detach(&lower)?;
            detach(&scratch)?;
            detach(&base)?;
            fs::remove_dir(&base).unwrap();
            Ok(())
        })
        .unwrap();
    }
}
