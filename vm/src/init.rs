//! The first process of the VM: a script that prepares the machine, runs the program and tells how it
//! ended.
//!
//! It speaks on serial ports, which every kernel has built in. The first is the kernel's console, the
//! second has what the program writes, and on the third the script itself says lines: [`STARTED`],
//! then [`EXIT`] with a number, or [`FAILED`] with a reason. The fourth has files that are asked for
//! (see [`crate::fetch`]).

use std::fmt::Write;
use std::path::Path;

use crate::fetch::{ABSENT, FILE, Fetch};

/// The script runs.
pub(crate) const STARTED: &str = "started";
/// The program has ended, with this code.
pub(crate) const EXIT: &str = "exit ";
/// The program was not run.
pub(crate) const FAILED: &str = "failed ";

/// What is to be run.
#[derive(Debug)]
pub(crate) struct Task<'a> {
    /// The program's place in the VM.
    pub(crate) program: &'a Path,
    /// Its arguments.
    pub(crate) arguments: &'a [String],
    /// Its environment besides `PATH` and `HOME`, as `NAME=VALUE`.
    pub(crate) environment: &'a [String],
    /// Kernel modules that are loaded before.
    pub(crate) modules: &'a [String],
    /// The directory that it is run in, if it is there.
    pub(crate) directory: &'a Path,
    /// Files that are copied out of the machine after it has ended.
    pub(crate) fetches: &'a [Fetch],
}

/// The script, for a shell that is at `busybox`.
pub(crate) fn script(busybox: &Path, task: &Task<'_>) -> String {
    let mut script = format!("#!{} sh\n{PREPARE}", busybox.display());
    for module in task.modules {
        let module = quote(module);
        // Writing to a String can't fail, here and below.
        let _ = writeln!(script, "load {module}");
    }
    for variable in task.environment {
        let _ = writeln!(script, "export {}", quote(variable));
    }
    let _ = writeln!(script, "cd {} 2>/dev/null", quote(&task.directory.to_string_lossy()));
    script += &quote(&task.program.to_string_lossy());
    for argument in task.arguments {
        script += " ";
        script += &quote(argument);
    }
    script += " </dev/null >/run/output 2>&1\n";
    script += STOP;
    for fetch in task.fetches {
        let path = quote(&fetch.path);
        let _ = writeln!(
            script,
            "if [ -f {path} ]; then echo \"{FILE}$(stat -L -c %s {path})\"; cat {path}; else echo {ABSENT}; fi >/dev/ttyS3"
        );
    }
    script += END;
    script
}

/// Modules are loaded by kmod as the kernel itself does it, not by the shell's own small one.
///
/// The root directory is in memory as it is, so nothing is mounted over `/tmp`, which may hold files that
/// the program is to find.
///
/// The program writes to a pipe, so that it does not take itself to be on a terminal.
const PREPARE: &str = r#"export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
mount -t devtmpfs devtmpfs /dev
exec </dev/null >/dev/console 2>&1
stty -F /dev/ttyS1 raw
stty -F /dev/ttyS2 raw
stty -F /dev/ttyS3 raw
exec 3>/dev/ttyS2
say() { echo "$*" >&3; }
end() { exec 3>&-; reboot -f; }
say started

mount -t proc proc /proc
mount -t sysfs sysfs /sys
chmod 1777 /tmp
mount -t cgroup2 cgroup2 /sys/fs/cgroup
ln -s /proc/self/fd /dev/fd
hostname vm
ip link set lo up
ulimit -n 65536

load() {
    why=$(/sbin/modprobe -- "$1" 2>&1) && return
    say "failed the module $1 can't be loaded:" $why
    end
}

mkfifo /run/output
cat /run/output >/dev/ttyS1 3>&- &
reader=$!
"#;

/// What the program has left running holds the pipe open, and is ended so that it can be read to its
/// end.
const STOP: &str = r#"code=$?
for process in /proc/[0-9]*; do
    process=${process#/proc/}
    [ "$process" = 1 ] || [ "$process" = "$reader" ] || kill -9 "$process" 2>/dev/null
done
wait "$reader"
"#;

/// Closing a serial port waits until all that was written has gone out, so this comes after everything.
const END: &str = r#"say "exit $code"
end
"#;

/// As a word of a shell's line.
fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(task: &Task<'_>) -> Vec<String> {
        let script = script(Path::new("/usr/bin/busybox"), task);
        let own = script.split_once(PREPARE).unwrap().1.split_once(END).unwrap().0;
        own.replace(STOP, "").lines().map(str::to_owned).collect()
    }

    #[test]
    fn modules_come_first_and_words_stay_whole() {
        let task = Task {
            program: Path::new("/tmp/my program"),
            arguments: &["it's".to_owned(), "$HOME `x` \"y\"".to_owned(), String::new()],
            environment: &["A=b c".to_owned()],
            modules: &["ip_vs".to_owned()],
            directory: Path::new("/tmp"),
            fetches: &["/run/it's=x".parse().unwrap()],
        };
        let expected = [
            "load 'ip_vs'",
            "export 'A=b c'",
            "cd '/tmp' 2>/dev/null",
            r#"'/tmp/my program' 'it'\''s' '$HOME `x` "y"' '' </dev/null >/run/output 2>&1"#,
            r#"if [ -f '/run/it'\''s' ]; then echo "file $(stat -L -c %s '/run/it'\''s')"; cat '/run/it'\''s'; else echo absent; fi >/dev/ttyS3"#,
        ];
        assert_eq!(lines(&task), expected);
    }

    #[test]
    fn a_shell_reads_the_words_as_they_were() {
        let word = "it's \"a\" $HOME \\ `b`\nnext";
        let script = format!("printf %s {}", quote(word));
        let output = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), word);
    }

    #[test]
    fn the_script_says_what_is_listened_for() {
        let whole = [PREPARE, STOP, END].concat();
        for word in [STARTED, EXIT, FAILED] {
            let said = whole.lines().any(|line| {
                let line = line.trim_start();
                line.starts_with(&format!("say {word}"))
                    || line.starts_with(&format!("say \"{word}"))
            });
            assert!(said, "{word}");
        }
    }
}
