//! What the VM's root directory holds: files of this machine at the places that they have here, and
//! some that are made.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use crate::cpio::Archive;

/// A root directory, as it will be.
#[derive(Debug, Default)]
pub(crate) struct Image {
    /// By absolute path, which sorts a directory before what is in it.
    entries: BTreeMap<PathBuf, Entry>,
}

#[derive(Debug)]
enum Entry {
    Directory,
    Link(PathBuf),
    Made { content: String, permissions: u32 },
    Copied { source: PathBuf, permissions: u32 },
}

impl Image {
    /// A directory, if it is not there yet.
    pub(crate) fn directory(&mut self, path: &Path) {
        for directory in path.ancestors().filter(|path| path.parent().is_some()) {
            self.entries.entry(directory.to_owned()).or_insert(Entry::Directory);
        }
    }

    /// A symbolic link, unless there is something of that name.
    pub(crate) fn link(&mut self, path: &Path, target: &Path) {
        if !self.entries.contains_key(path) {
            self.insert(path, Entry::Link(target.to_owned()));
        }
    }

    /// A file with this content.
    pub(crate) fn make(&mut self, path: &Path, permissions: u32, content: String) {
        self.insert(path, Entry::Made { content, permissions });
    }

    /// A file of this machine, or a directory with all that is in it, at the same place. If it is a
    /// link, so is what it leads to.
    pub(crate) fn host(&mut self, path: &Path) -> anyhow::Result<()> {
        let mut path = actual(path)?;
        // As many as the kernel follows (path_resolution(7)).
        for _ in 0..40 {
            self.copy(&path, &path)?;
            match self.entries.get(&path) {
                Some(Entry::Link(target)) => {
                    let directory = path.parent().unwrap_or(Path::new("/"));
                    path = actual(&directory.join(target))?;
                }
                _ => return Ok(()),
            }
        }
        bail!("{} leads nowhere: too many links", path.display())
    }

    /// A file of this machine, or a directory with all that is in it, at any place. Links stay what
    /// they are.
    pub(crate) fn copy(&mut self, path: &Path, source: &Path) -> anyhow::Result<()> {
        let what = || format!("read {}", source.display());
        let metadata = fs::symlink_metadata(source).with_context(what)?;
        let kind = metadata.file_type();
        if kind.is_dir() {
            self.directory(path);
            for entry in fs::read_dir(source).with_context(what)? {
                let entry = entry.with_context(what)?;
                self.copy(&path.join(entry.file_name()), &entry.path())?;
            }
        } else if kind.is_symlink() {
            self.insert(path, Entry::Link(fs::read_link(source).with_context(what)?));
        } else if kind.is_file() {
            let permissions = metadata.permissions().mode() & 0o7777;
            self.insert(path, Entry::Copied { source: source.to_owned(), permissions });
        }
        // Sockets and devices that lie among files mean nothing elsewhere.
        Ok(())
    }

    fn insert(&mut self, path: &Path, entry: Entry) {
        if let Some(parent) = path.parent() {
            self.directory(parent);
        }
        self.entries.insert(path.to_owned(), entry);
    }

    /// Writes it as an archive for the kernel and returns its length in bytes. It is not compressed:
    /// the VM would take longer to decompress than this machine takes to write it.
    pub(crate) fn write(&self, out: &Path) -> anyhow::Result<u64> {
        let what = || format!("write {}", out.display());
        let file = File::create(out).with_context(what)?;
        let mut archive = Archive::new(BufWriter::with_capacity(1 << 20, file));
        for (path, entry) in &self.entries {
            add(&mut archive, path, entry).with_context(|| format!("pack {}", path.display()))?;
        }
        archive.finish().with_context(what)?;
        Ok(out.metadata().with_context(what)?.len())
    }
}

fn add<W: Write>(archive: &mut Archive<W>, path: &Path, entry: &Entry) -> anyhow::Result<()> {
    let name = path.strip_prefix("/").context("it is not an absolute path")?.as_os_str().as_bytes();
    match entry {
        Entry::Directory => archive.directory(name)?,
        Entry::Link(target) => archive.link(name, target.as_os_str().as_bytes())?,
        Entry::Made { content, permissions } => {
            archive.file(name, *permissions, content.len() as u64, content.as_bytes())?;
        }
        Entry::Copied { source, permissions } => {
            let file = File::open(source)?;
            let length = file.metadata()?.len();
            archive.file(name, *permissions, length, file)?;
        }
    }
    Ok(())
}

/// The path without links in its directories; the file itself may be one.
fn actual(path: &Path) -> anyhow::Result<PathBuf> {
    let what = || format!("look for {}", path.display());
    let path = std::path::absolute(path).with_context(what)?;
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => Ok(parent.canonicalize().with_context(what)?.join(name)),
        // It ends in `..` or is the root directory.
        _ => path.canonicalize().with_context(what),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn listed(image: &Image, below: &Path) -> Vec<String> {
        let inside = image.entries.iter().filter_map(|(path, entry)| {
            let path = path.strip_prefix(below).ok()?.to_str()?;
            Some(match entry {
                Entry::Directory => format!("{path}/"),
                Entry::Link(target) => format!("{path} -> {}", target.display()),
                Entry::Made { .. } => format!("{path} made"),
                Entry::Copied { permissions, .. } => format!("{path} {permissions:o}"),
            })
        });
        inside.filter(|line| line != "/").collect()
    }

    /// A directory without links on the way to it.
    fn directory() -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().canonicalize().unwrap();
        (directory, path)
    }

    #[test]
    fn a_link_brings_what_it_leads_to() {
        let (_held, directory) = directory();
        fs::create_dir(directory.join("alternatives")).unwrap();
        fs::write(directory.join("real"), "x").unwrap();
        fs::set_permissions(directory.join("real"), fs::Permissions::from_mode(0o750)).unwrap();
        symlink("../real", directory.join("alternatives/name")).unwrap();
        symlink(directory.join("alternatives/name"), directory.join("name")).unwrap();
        let mut image = Image::default();
        image.host(&directory.join("name")).unwrap();
        let alternative = directory.join("alternatives/name");
        let expected = [
            "alternatives/".to_owned(),
            "alternatives/name -> ../real".to_owned(),
            format!("name -> {}", alternative.display()),
            "real 750".to_owned(),
        ];
        assert_eq!(listed(&image, &directory), expected);
    }

    #[test]
    fn a_way_through_a_linked_directory_is_the_actual_one() {
        let (_held, directory) = directory();
        fs::create_dir(directory.join("usr")).unwrap();
        fs::write(directory.join("usr/file"), "x").unwrap();
        symlink("usr", directory.join("link")).unwrap();
        let mut image = Image::default();
        image.host(&directory.join("link/file")).unwrap();
        assert_eq!(listed(&image, &directory), ["usr/", "usr/file 644"]);
    }

    #[test]
    fn links_in_a_circle_are_an_error() {
        let (_held, directory) = directory();
        symlink("b", directory.join("a")).unwrap();
        symlink("a", directory.join("b")).unwrap();
        let error = Image::default().host(&directory.join("a")).unwrap_err();
        assert!(error.to_string().contains("too many links"), "{error}");
    }

    #[test]
    fn a_directory_comes_with_all_that_is_in_it() {
        let (_held, directory) = directory();
        fs::create_dir_all(directory.join("from/deep")).unwrap();
        fs::write(directory.join("from/deep/file"), "x").unwrap();
        symlink("nowhere", directory.join("from/link")).unwrap();
        let mut image = Image::default();
        image.copy(Path::new("/to"), &directory.join("from")).unwrap();
        let expected = ["deep/", "deep/file 644", "link -> nowhere"];
        assert_eq!(listed(&image, Path::new("/to")), expected);
    }

    #[test]
    fn what_is_there_is_not_linked_over() {
        let mut image = Image::default();
        image.make(Path::new("/usr/sbin/ip"), 0o755, String::new());
        image.link(Path::new("/usr/sbin/ip"), Path::new("busybox"));
        assert_eq!(listed(&image, Path::new("/")), ["usr/", "usr/sbin/", "usr/sbin/ip made"]);
    }

    #[test]
    fn a_directory_is_written_before_what_is_in_it() {
        let (_held, directory) = directory();
        let mut image = Image::default();
        image.make(Path::new("/a/b/c"), 0o644, "text".to_owned());
        image.make(Path::new("/a-b"), 0o644, "text".to_owned());
        let out = directory.join("image");
        image.write(&out).unwrap();
        let bytes = fs::read(out).unwrap();
        let place = |name: &[u8]| bytes.windows(name.len()).position(|window| window == name);
        let places = ["a\0", "a/b\0", "a/b/c\0", "a-b\0"].map(|name| place(name.as_bytes()));
        assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{places:?}");
    }
}
