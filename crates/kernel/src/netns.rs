//! Network namespaces with a name in the file system, and running code inside one.
//!
//! A namespace lives as long as something refers to it: here a bind mount of its `nsfs` file, as
//! `ip netns` makes them (network_namespaces(7)). This file knows nothing of links or routes.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::net::UdpSocket;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;

use nix::libc;
use nix::sched::{CloneFlags, setns, unshare};

use crate::{Error, Result, mount};

/// The file that stands for the calling thread's network namespace.
const OWN: &str = "/proc/thread-self/ns/net";

/// An open network namespace. It exists at least as long as this handle.
#[derive(Debug)]
pub struct Netns {
    fd: OwnedFd,
}

/// What tells one network namespace from another: device and inode of its `nsfs` file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct NetnsId {
    /// Device number of nsfs.
    pub device: u64,
    /// Inode number.
    pub inode: u64,
}

impl Netns {
    /// Makes a namespace whose name is the file `path`, which must not exist. Directories above it
    /// are made. Its loopback link is down.
    pub fn create(path: &Path) -> Result<Self> {
        let failed =
            |source: io::Error| Error::os(format!("create netns {}", path.display()), source);
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory).map_err(failed)?;
        }
        OpenOptions::new().write(true).create_new(true).open(path).map_err(failed)?;
        let made = on_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET)
                .map_err(|errno| Error::os(format!("create netns {}", path.display()), errno))?;
            mount::bind(Path::new(OWN), path)?;
            Self::current()
        });
        if made.is_err() {
            // The file is ours: it did not exist before.
            let _ = fs::remove_file(path);
        }
        made
    }

    /// Opens the namespace named by `path`.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path)
            .map_err(|source| Error::os(format!("open netns {}", path.display()), source))?;
        Ok(Self { fd: file.into() })
    }

    /// The namespace of the calling thread.
    pub fn current() -> Result<Self> {
        Self::open(Path::new(OWN))
    }

    /// The namespace of a process.
    pub fn of_process(pid: u32) -> Result<Self> {
        Self::open(&PathBuf::from(format!("/proc/{pid}/ns/net")))
    }

    /// Takes the name `path` away; the namespace ends with its last user. A name that is gone, or a
    /// plain file left by an interrupted [`Netns::create`], is no error.
    pub fn delete(path: &Path) -> Result<()> {
        mount::detach(path)?;
        match fs::remove_file(path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(Error::os(format!("delete netns {}", path.display()), source))
            }
            _ => Ok(()),
        }
    }

    /// Its identity.
    pub fn id(&self) -> Result<NetnsId> {
        let failed = |source: io::Error| Error::os("identify a netns", source);
        let file = File::from(self.fd.try_clone().map_err(failed)?);
        let metadata = file.metadata().map_err(failed)?;
        Ok(NetnsId { device: metadata.dev(), inode: metadata.ino() })
    }

    /// Another handle to the same namespace.
    pub fn try_clone(&self) -> Result<Self> {
        let fd =
            self.fd.try_clone().map_err(|source| Error::os("duplicate a netns handle", source))?;
        Ok(Self { fd })
    }

    /// Moves the calling thread into the namespace, for good.
    pub fn enter(&self) -> Result<()> {
        setns(&self.fd, CloneFlags::CLONE_NEWNET).map_err(|errno| Error::os("enter a netns", errno))
    }

    /// Runs `body` on a thread of its own inside the namespace and answers its result. Sockets
    /// opened there stay in the namespace wherever they are used afterwards.
    pub fn run<T: Send>(&self, body: impl FnOnce() -> T + Send) -> Result<T> {
        on_thread(|| {
            self.enter()?;
            Ok(body())
        })
    }

    /// Runs `body` in the namespace: on the calling thread if that is in it, which takes no privilege,
    /// else on one of its own.
    pub fn within<T: Send>(&self, body: impl FnOnce() -> T + Send) -> Result<T> {
        match Self::current()?.id()? == self.id()? {
            true => Ok(body()),
            false => self.run(body),
        }
    }
}

/// The cookie of the calling thread's network namespace, by which programs in the kernel tell it from all
/// others (`SO_NETNS_COOKIE`, socket(7)).
pub fn cookie() -> Result<u64> {
    let failed = |source: io::Error| Error::os("read the cookie of a netns", source);
    let socket = UdpSocket::bind("0.0.0.0:0").map_err(failed)?;
    let mut cookie = 0_u64;
    let mut length = libc::socklen_t::try_from(size_of::<u64>()).expect("it is short");
    // SAFETY: The value is as long as is said.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            std::ptr::from_mut(&mut cookie).cast(),
            &mut length,
        )
    };
    if result < 0 { Err(failed(io::Error::last_os_error())) } else { Ok(cookie) }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Runs `body` on a thread of its own, whose namespaces end with it; a panic goes on in the caller.
pub(crate) fn on_thread<T: Send>(body: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| {
        let thread = thread::Builder::new()
            .name("netns".to_owned())
            .spawn_scoped(scope, body)
            .map_err(|source| Error::os("start a thread", source))?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
