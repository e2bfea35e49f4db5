//! The mounts of a process's own mount namespace. The host's file system is never changed.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, chown};
use std::path::{Path, PathBuf};

use nix::libc;

use crate::{Error, Result, mount};

/// A mount inside the new mount namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mount {
    /// What the directory holds is readable, and what is written to it is kept in memory and gone
    /// with the process.
    CopyOnWrite(PathBuf),
    /// An empty directory in memory, gone with the process.
    Empty(PathBuf),
    /// The same, but the directories that the host has in it are there, empty: daemons find those
    /// that were made for them, and not each other's sockets and pid files.
    EmptyDirectories(PathBuf),
    /// A file or directory of the host appears at another place.
    Bind {
        /// Where it is on the host.
        source: PathBuf,
        /// Where it appears. A missing place is made, provided that it is inside an earlier
        /// mount that is not a `Bind`: the host's own file system is never changed.
        target: PathBuf,
        /// Writes to it fail.
        read_only: bool,
    },
}

/// Gives the thread's own mount namespace its mounts.
pub(super) fn arrange(mounts: &[Mount]) -> Result<()> {
    mount::make_private(Path::new("/"))?;
    // Copies of namespace files would keep namespaces alive whose names are taken away later.
    for point in mount::list()?.iter().filter(|point| point.kind == "nsfs") {
        mount::detach(&point.target)?;
    }
    // Later mounts may hide sources: hold them open.
    let sources = mounts
        .iter()
        .map(|mount| match mount {
            Mount::Bind { source, .. } => open_place(source).map(Some),
            Mount::CopyOnWrite(_) | Mount::Empty(_) | Mount::EmptyDirectories(_) => Ok(None),
        })
        .collect::<Result<Vec<_>>>()?;
    lay_layers(mounts)?;
    let mut own: Vec<&Path> = mounts.iter().filter_map(Mount::layer).collect();
    for (mount, source) in mounts.iter().zip(sources) {
        match (mount, source) {
            (Mount::Empty(target), _) => mount::tmpfs(target, 0o1777)?,
            (Mount::EmptyDirectories(target), _) => empty_directories(target)?,
            (Mount::Bind { target, read_only, .. }, Some(fd)) => {
                make_place(&fd, target, &own)?;
                mount::bind(&PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd())), target)?;
                if *read_only {
                    mount::make_read_only(target)?;
                }
                own.push(target);
            }
            _ => {}
        }
    }
    Ok(())
}

/// Lays all copy-on-write layers, whose memory is one file system that no path leads to afterwards.
fn lay_layers(mounts: &[Mount]) -> Result<()> {
    let scratch = Path::new("/tmp");
    let layers: Vec<_> =
        mounts.iter().filter(|mount| matches!(mount, Mount::CopyOnWrite(_))).collect();
    if layers.is_empty() {
        return Ok(());
    }
    mount::tmpfs(scratch, 0o700)?;
    for (number, layer) in layers.iter().filter_map(|mount| mount.layer()).enumerate() {
        mount::overlay(layer, &scratch.join(number.to_string()))?;
    }
    mount::detach(scratch)
}

/// Mounts an empty directory with copies of the directories that `target` has, without content.
fn empty_directories(target: &Path) -> Result<()> {
    let failed = |source: io::Error| Error::os(format!("empty {}", target.display()), source);
    let mut directories = Vec::new();
    for entry in fs::read_dir(target).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        // One that goes away meanwhile is not missed.
        let Ok(metadata) = entry.metadata() else { continue };
        if metadata.is_dir() {
            directories.push((entry.path(), metadata));
        }
    }
    mount::tmpfs(target, 0o1777)?;
    for (path, metadata) in directories {
        fs::create_dir(&path)
            .and_then(|()| chown(&path, Some(metadata.uid()), Some(metadata.gid())))
            .and_then(|()| fs::set_permissions(&path, metadata.permissions()))
            .map_err(failed)?;
    }
    Ok(())
}

impl Mount {
    /// The directory that this makes private to the process, if it makes one so.
    fn layer(&self) -> Option<&Path> {
        match self {
            Mount::CopyOnWrite(target) | Mount::Empty(target) | Mount::EmptyDirectories(target) => {
                Some(target)
            }
            Mount::Bind { .. } => None,
        }
    }
}

fn open_place(path: &Path) -> Result<File> {
    File::options()
        .read(true)
        .custom_flags(libc::O_PATH)
        .open(path)
        .map_err(|source| Error::os(format!("open {}", path.display()), source))
}

/// Makes `target` something that `source` can be mounted on, a link replaced by a file.
fn make_place(source: &File, target: &Path, own: &[&Path]) -> Result<()> {
    let failed = |source: io::Error| {
        let hint = "a mount point outside of directories with private writes must exist";
        Error::os(format!("make mount point {} ({hint})", target.display()), source)
    };
    let is_private = own.iter().any(|directory| target.starts_with(directory));
    match fs::symlink_metadata(target) {
        Ok(metadata) if !metadata.is_symlink() => return Ok(()),
        Ok(_) if !is_private => return Ok(()),
        Ok(_) => fs::remove_file(target).map_err(failed)?,
        Err(missing) if !is_private => return Err(failed(missing)),
        Err(_) => {}
    }
    if source.metadata().map_err(failed)?.is_dir() {
        return fs::create_dir_all(target).map_err(failed);
    }
    if let Some(directory) = target.parent() {
        fs::create_dir_all(directory).map_err(failed)?;
    }
    File::create(target).map(drop).map_err(failed)
}
