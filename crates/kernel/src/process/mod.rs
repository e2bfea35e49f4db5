//! Programs inside namespaces: started as process 1 of a new PID namespace, or beside one that
//! runs; waited for and signalled through a pidfd, which never means another process.
//!
//! There is no helper binary and the caller is not executed again. A thread of its own joins the
//! namespaces and arranges the mounts, and what it forks inherits them; only what has to happen
//! inside the new PID namespace (mounting its `/proc`) is left between fork and exec. The thread's
//! namespaces end with it unless the program holds them.
//!
//! Process 1 gets only signals that it handles (pid_namespaces(7)): a program that leaves SIGTERM
//! to its default does not end by it and has to be killed, as in any container without an init.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};

use crate::cgroup::Cgroup;
use crate::netns::{Netns, on_thread};
use crate::{Error, Result};

mod handle;
mod mounts;

pub use handle::{Exit, Process};
pub use mounts::Mount;
pub use nix::sys::signal::Signal;

/// A program and how it is to run.
#[derive(Debug, Clone)]
pub struct Program {
    /// The file to execute, absolute; with [`exec_in`] also a name to be looked up in the target.
    pub path: PathBuf,
    /// Arguments after the program's own name.
    pub args: Vec<OsString>,
    /// The whole environment.
    pub env: Vec<(OsString, OsString)>,
    /// Working directory, as seen inside.
    pub directory: PathBuf,
    /// User and group; `None` stays root.
    pub user: Option<(u32, u32)>,
}

/// What a new process joins and gets.
#[derive(Debug)]
pub struct Namespaces<'a> {
    /// The network namespace.
    pub net: &'a Netns,
    /// Where to find UTS and IPC namespaces to join; `None` makes new ones.
    pub shared: Option<&'a SharedNamespaces>,
    /// Mounts of its own mount namespace: first those that copy on write, then the others in this
    /// order. Sources of binds are looked up before any of it.
    pub mounts: &'a [Mount],
    /// The group that it is in from its first instruction.
    pub cgroup: &'a Cgroup,
}

/// Open UTS and IPC namespaces, for several processes to share.
#[derive(Debug)]
pub struct SharedNamespaces {
    uts: OwnedFd,
    ipc: OwnedFd,
}

impl SharedNamespaces {
    /// Makes both; the host name is `hostname`.
    pub fn create(hostname: &str) -> Result<Self> {
        on_thread(|| {
            unshare(CloneFlags::CLONE_NEWUTS | CloneFlags::CLONE_NEWIPC)
                .map_err(|errno| Error::os("create uts and ipc namespaces", errno))?;
            nix::unistd::sethostname(hostname)
                .map_err(|errno| Error::os(format!("set host name {hostname}"), errno))?;
            Self::open(Path::new("/proc/thread-self/ns"))
        })
    }

    /// Those of a running process.
    pub fn of_process(pid: u32) -> Result<Self> {
        Self::open(&PathBuf::from(format!("/proc/{pid}/ns")))
    }

    fn open(directory: &Path) -> Result<Self> {
        let open = |name: &str| {
            let path = directory.join(name);
            File::open(&path)
                .map(OwnedFd::from)
                .map_err(|source| Error::os(format!("open namespace {}", path.display()), source))
        };
        Ok(Self { uts: open("uts")?, ipc: open("ipc")? })
    }

    fn enter(&self) -> Result<()> {
        for (fd, kind) in
            [(&self.uts, CloneFlags::CLONE_NEWUTS), (&self.ipc, CloneFlags::CLONE_NEWIPC)]
        {
            setns(fd, kind).map_err(|errno| Error::os("enter uts and ipc namespaces", errno))?;
        }
        Ok(())
    }
}

/// Starts a program as process 1 of a new PID namespace, leader of its own session, with its output
/// in the given files and no input. It goes on when the caller ends.
pub fn start(
    program: &Program,
    namespaces: &Namespaces<'_>,
    stdout: File,
    stderr: File,
) -> Result<Process> {
    let child = on_thread(|| {
        // Mounts first: they are looked up where the caller is.
        unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID)
            .map_err(|errno| Error::os("create mount and pid namespaces", errno))?;
        mounts::arrange(namespaces.mounts)?;
        match namespaces.shared {
            Some(shared) => shared.enter()?,
            None => unshare(CloneFlags::CLONE_NEWUTS | CloneFlags::CLONE_NEWIPC)
                .map_err(|errno| Error::os("create uts and ipc namespaces", errno))?,
        }
        namespaces.net.enter()?;
        let mut command = program.command();
        command.stdin(Stdio::null()).stdout(stdout).stderr(stderr);
        before_exec(&mut command, namespaces.cgroup.door()?, true);
        program.spawn(&mut command)
    })?;
    Process::of_child(&child)
}

/// Starts a program beside a running one: in its network, UTS, IPC, mount and PID namespaces, in
/// `cgroup` if one is given. Standard streams are those that `streams` sets, or the caller's.
pub fn exec_in(
    process: &Process,
    program: &Program,
    cgroup: Option<&Cgroup>,
    streams: impl FnOnce(&mut Command) + Send,
) -> Result<Child> {
    on_thread(|| {
        let failed = |errno: Errno| {
            Error::os(format!("enter the namespaces of process {}", process.pid()), errno)
        };
        let door = cgroup.map(Cgroup::door).transpose()?;
        unshare(CloneFlags::CLONE_FS).map_err(failed)?;
        let kinds = CloneFlags::CLONE_NEWNET
            | CloneFlags::CLONE_NEWUTS
            | CloneFlags::CLONE_NEWIPC
            | CloneFlags::CLONE_NEWPID
            | CloneFlags::CLONE_NEWNS;
        setns(process, kinds).map_err(failed)?;
        let mut command = program.command();
        streams(&mut command);
        if let Some(door) = door {
            before_exec(&mut command, door, false);
        }
        program.spawn(&mut command)
    })
}

impl Program {
    fn command(&self) -> Command {
        let mut command = Command::new(&self.path);
        command.args(&self.args).env_clear().envs(self.env.iter().map(|(k, v)| (k, v)));
        command.current_dir(&self.directory);
        if let Some((user, group)) = self.user {
            command.uid(user).gid(group);
        }
        command
    }

    fn spawn(&self, command: &mut Command) -> Result<Child> {
        command
            .spawn()
            .map_err(|source| Error::os(format!("execute {}", self.path.display()), source))
    }
}

/// What the forked child does before the program runs.
fn before_exec(command: &mut Command, door: File, is_first: bool) {
    let prepare = move || -> io::Result<()> {
        nix::unistd::write(&door, b"0")?;
        if is_first {
            nix::unistd::setsid()?;
            let flags = nix::mount::MsFlags::MS_NOSUID
                | nix::mount::MsFlags::MS_NODEV
                | nix::mount::MsFlags::MS_NOEXEC;
            nix::mount::mount(
                Some(c"proc"),
                c"/proc",
                Some(c"proc"),
                flags,
                None::<&std::ffi::CStr>,
            )?;
        }
        // The runtime of the caller may block signals; a program expects none blocked.
        sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?;
        Ok(())
    };
    // SAFETY: between fork and exec only async-signal-safe calls are allowed. The closure makes
    // system calls on memory prepared before the fork; it neither allocates nor locks (an
    // `io::Error` made of an errno holds no allocation).
    unsafe {
        command.pre_exec(prepare);
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek};
    use std::time::Duration;

    use super::*;

    /// A cgroup that ends with the test.
    struct Group(Cgroup);

    impl Group {
        fn new(name: &str) -> Self {
            let name = format!("kernel-process-{name}-{}", std::process::id());
            let group = Cgroup::root().unwrap().child(name);
            group.create().expect("this test needs root: it makes a cgroup");
            Self(group)
        }
    }

    impl Drop for Group {
        fn drop(&mut self) {
            self.0.destroy(Duration::from_secs(5)).unwrap();
        }
    }

    fn shell(script: &str) -> Program {
        Program {
            path: "/bin/sh".into(),
            args: vec!["-c".into(), script.into()],
            env: vec![("PATH".into(), "/usr/bin:/bin".into()), ("GREETING".into(), "hello".into())],
            directory: "/".into(),
            user: None,
        }
    }

    fn output_file() -> File {
        let path = std::env::temp_dir().join(format!(
            "kernel-process-{}-{:?}",
            std::process::id(),
            std::thread::current().id()
        ));
        let file = File::options().create_new(true).read(true).write(true).open(&path).unwrap();
        std::fs::remove_file(path).unwrap();
        file
    }

    fn wait(process: &Process) -> Exit {
        for _ in 0..500 {
            if let Some(exit) = process.try_wait().unwrap() {
                return exit;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("process {} does not end", process.pid());
    }

    fn start_in(group: &Group, mounts: &[Mount], program: &Program, output: &File) -> Process {
        let net = on_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("this test needs root");
            Netns::current()
        })
        .unwrap();
        let shared = SharedNamespaces::create("harbour").unwrap();
        let namespaces = Namespaces { net: &net, shared: Some(&shared), mounts, cgroup: &group.0 };
        let (out, err) = (output.try_clone().unwrap(), output.try_clone().unwrap());
        start(program, &namespaces, out, err).unwrap()
    }

    fn text(mut output: File) -> String {
        let mut text = String::new();
        output.rewind().unwrap();
        output.read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn a_program_is_process_one_of_its_own_world() {
        let group = Group::new("world");
        let source = std::env::temp_dir().join(format!("kernel-hosts-{}", std::process::id()));
        std::fs::write(&source, "hidden by /tmp, still mounted").unwrap();
        let mounts = [
            Mount::CopyOnWrite("/etc".into()),
            Mount::Empty("/tmp".into()),
            Mount::Bind {
                source: source.clone(),
                target: "/etc/portolan-made-here/hosts".into(),
                read_only: true,
            },
        ];
        let script = "echo $$ $GREETING $(hostname); ls /proc | grep -c '^[0-9]'; ls /tmp | wc -l; \
             cat /etc/portolan-made-here/hosts; echo; echo x > /etc/portolan-scratch; \
             (echo y > /etc/portolan-made-here/hosts) 2>&- || echo read-only; \
             grep -c nsfs /proc/self/mountinfo; cat /proc/self/cgroup | grep -o 'kernel-process-world'; \
             exit 7";
        let output = output_file();
        let process = start_in(&group, &mounts, &shell(script), &output);
        assert_eq!(wait(&process), Exit::Code(7));
        std::fs::remove_file(source).unwrap();
        let text = text(output);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "1 hello harbour", "{text}");
        assert!(lines[1].parse::<u32>().unwrap() <= 4, "other processes show: {text}");
        assert_eq!(lines[2], "0", "{text}");
        assert_eq!(lines[3], "hidden by /tmp, still mounted", "{text}");
        assert_eq!(&lines[4..], ["read-only", "0", "kernel-process-world"], "{text}");
        assert!(!Path::new("/etc/portolan-scratch").exists());
        assert!(!Path::new("/etc/portolan-made-here").exists());
    }

    #[test]
    fn directories_stay_without_their_content() {
        let group = Group::new("directories");
        let base = std::env::temp_dir().join(format!("kernel-runtime-{}", std::process::id()));
        std::fs::create_dir_all(base.join("daemon")).unwrap();
        std::os::unix::fs::chown(base.join("daemon"), Some(7), Some(8)).unwrap();
        std::fs::write(base.join("daemon/socket"), "").unwrap();
        std::fs::write(base.join("pid"), "").unwrap();
        let script = format!("cd {}; find . | sort; stat -c %u:%g daemon", base.display());
        let output = output_file();
        let mounts = [Mount::EmptyDirectories(base.clone())];
        let process = start_in(&group, &mounts, &shell(&script), &output);
        assert_eq!(wait(&process), Exit::Code(0));
        assert!(base.join("daemon/socket").exists());
        std::fs::remove_dir_all(base).unwrap();
        assert_eq!(text(output), ".\n./daemon\n7:8\n");
    }

    #[test]
    fn a_missing_mount_point_on_the_host_is_refused_and_not_made() {
        let group = Group::new("refuse");
        let target = Path::new("/portolan-no-such-directory");
        let mounts =
            [Mount::Bind { source: "/tmp".into(), target: target.into(), read_only: false }];
        let net = Netns::current().unwrap();
        let namespaces = Namespaces { net: &net, shared: None, mounts: &mounts, cgroup: &group.0 };
        let (out, err) = (output_file(), output_file());
        let error = start(&shell("true"), &namespaces, out, err).unwrap_err();
        assert!(error.to_string().contains("/portolan-no-such-directory"), "{error}");
        assert!(!target.exists());
    }

    #[test]
    fn a_second_program_joins_the_first() {
        let group = Group::new("join");
        let output = output_file();
        let mounts = [Mount::Empty("/tmp".into())];
        let first = shell("echo inside > /tmp/mark; exec sleep 60");
        let process = start_in(&group, &mounts, &first, &output);
        assert!(process.start_time().unwrap() > 0);
        let joined = (0..200).find_map(|_| {
            let child = exec_in(&process, &shell("hostname; cat /tmp/mark"), Some(&group.0), |c| {
                c.stdout(Stdio::piped()).stderr(Stdio::null());
            });
            let output = child.unwrap().wait_with_output().unwrap();
            std::thread::sleep(Duration::from_millis(10));
            output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
        });
        assert_eq!(joined.as_deref(), Some("harbour\ninside\n"));
        let environment = process.environment().unwrap();
        assert!(environment.contains(&("GREETING".into(), "hello".into())));
        assert_eq!(process.try_wait().unwrap(), None);
        assert!(process.signal(Signal::SIGKILL).unwrap());
        assert_eq!(wait(&process), Exit::Signal(Signal::SIGKILL as i32));
        assert!(!process.signal(Signal::SIGTERM).unwrap());
    }

    #[test]
    fn a_program_that_can_not_be_executed_is_named() {
        let group = Group::new("missing");
        let program = Program { path: "/no/such/program".into(), ..shell("") };
        let net = Netns::current().unwrap();
        let namespaces = Namespaces { net: &net, shared: None, mounts: &[], cgroup: &group.0 };
        let error = start(&program, &namespaces, output_file(), output_file()).unwrap_err();
        assert_eq!(error.errno(), Some(Errno::ENOENT as i32));
        assert!(error.to_string().contains("/no/such/program"), "{error}");
    }
}
