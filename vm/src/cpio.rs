//! Archives as the kernel unpacks them into its first file system: cpio in the format "newc"
//! (Documentation/driver-api/early-userspace/buffer-format.rst of the kernel's sources).

use std::io::{self, Read, Write};

/// The type of a file, among the bits of its mode (inode(7)).
const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const LINK: u32 = 0o120_000;

/// The longest file that a header can tell the length of.
const LONGEST: u64 = u32::MAX as u64;

/// Writes an archive, one file after the other. A directory has to come before what is in it.
#[derive(Debug)]
pub(crate) struct Archive<W> {
    out: W,
    /// What was written since the start, in bytes.
    length: u64,
    /// How many files there are; also the number that tells the kernel that two are not the same.
    files: u32,
}

impl<W: Write> Archive<W> {
    /// An archive that goes to `out`.
    pub(crate) fn new(out: W) -> Self {
        Self { out, length: 0, files: 0 }
    }

    /// A directory. Names are those of the root directory, without a slash at the start.
    pub(crate) fn directory(&mut self, name: &[u8]) -> io::Result<()> {
        self.header(name, DIRECTORY | 0o755, 0)
    }

    /// A symbolic link.
    pub(crate) fn link(&mut self, name: &[u8], target: &[u8]) -> io::Result<()> {
        self.header(name, LINK | 0o777, target.len() as u64)?;
        self.write(target)?;
        self.pad()
    }

    /// A file whose content is read from `content`, which has to be that long.
    pub(crate) fn file(
        &mut self,
        name: &[u8],
        permissions: u32,
        length: u64,
        content: impl Read,
    ) -> io::Result<()> {
        self.header(name, REGULAR | permissions, length)?;
        let copied = io::copy(&mut content.take(length), &mut self.out)?;
        if copied != length {
            // The header is out already and says otherwise.
            return Err(io::Error::other("the file became shorter while it was read"));
        }
        self.length += copied;
        self.pad()
    }

    /// Writes the end. What was given is returned with everything in it.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.header(b"TRAILER!!!", 0, 0)?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn header(&mut self, name: &[u8], mode: u32, length: u64) -> io::Result<()> {
        if length > LONGEST {
            return Err(io::Error::other("it is too long for an initramfs"));
        }
        self.files += 1;
        let links = if mode & DIRECTORY == 0 { 1 } else { 2 };
        let name_length = name.len() as u64 + 1;
        let fields: [u64; 13] = [
            u64::from(self.files),
            u64::from(mode),
            0, // owner
            0, // group
            links,
            0, // time of the last change
            length,
            0, // device it is on, major and minor
            0,
            0, // device it is, major and minor
            0,
            name_length,
            0, // checksum, which this format does not have
        ];
        self.write(b"070701")?;
        for field in fields {
            self.write(format!("{field:08X}").as_bytes())?;
        }
        self.write(name)?;
        self.write(b"\0")?;
        self.pad()
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.length += bytes.len() as u64;
        self.out.write_all(bytes)
    }

    /// Names and contents end at multiples of four bytes.
    fn pad(&mut self) -> io::Result<()> {
        let missing = self.length.next_multiple_of(4) - self.length;
        self.write(&[0; 3][..missing as usize])
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    fn archive() -> Vec<u8> {
        let mut archive = Archive::new(Vec::new());
        archive.directory(b"etc").unwrap();
        archive.file(b"etc/name", 0o640, 6, &b"lisbon"[..]).unwrap();
        archive.file(b"etc/empty", 0o755, 0, &b""[..]).unwrap();
        archive.link(b"etc/link", b"name").unwrap();
        archive.finish().unwrap()
    }

    #[test]
    fn a_header_is_thirteen_numbers_and_a_name() {
        let mut archive = Archive::new(Vec::new());
        archive.file(b"ab", 0o644, 5, &b"hello"[..]).unwrap();
        let expected = "070701\
            00000001000081A400000000000000000000000100000000\
            000000050000000000000000000000000000000000000003\
            00000000\
            ab\0\0\0\0hello\0\0\0";
        // 110 bytes of header and three of name are followed by three of padding.
        assert_eq!(String::from_utf8(archive.out).unwrap(), expected);
    }

    #[test]
    fn everything_starts_at_multiples_of_four() {
        for length in 0..9 {
            let content = vec![b'x'; length];
            for name in ["a", "ab", "abc", "abcd", "abcde"] {
                let mut archive = Archive::new(Vec::new());
                archive.file(name.as_bytes(), 0o644, length as u64, &content[..]).unwrap();
                assert_eq!(archive.out.len() % 4, 0, "{name} {length}");
                assert_eq!(archive.length, archive.out.len() as u64);
            }
        }
    }

    #[test]
    fn a_file_that_is_shorter_than_said_is_an_error() {
        let mut archive = Archive::new(Vec::new());
        assert!(archive.file(b"a", 0o644, 10, &b"short"[..]).is_err());
    }

    #[test]
    fn what_grows_meanwhile_is_cut() {
        let mut archive = Archive::new(Vec::new());
        archive.file(b"a", 0o644, 2, &b"hello"[..]).unwrap();
        assert!(archive.out.ends_with(b"he\0\0"));
    }

    #[test]
    fn what_is_too_long_is_an_error() {
        let mut archive = Archive::new(Vec::new());
        assert!(archive.file(b"a", 0o644, 1 << 32, io::empty()).is_err());
    }

    /// As another reader of the format sees it, where there is one.
    #[test]
    fn cpio_lists_it() {
        use std::io::Write as _;
        let started = Command::new("cpio")
            .args(["-tv", "--quiet", "--numeric-uid-gid"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        let Ok(mut cpio) = started else {
            eprintln!("not run: cpio is not installed");
            return;
        };
        cpio.stdin.take().unwrap().write_all(&archive()).unwrap();
        let output = cpio.wait_with_output().unwrap();
        assert!(output.status.success());
        let listed = String::from_utf8(output.stdout).unwrap();
        let of = |line: &str| {
            let mut words = line.split_whitespace();
            let mode = words.next().unwrap().to_owned();
            let length = words.nth(3).unwrap().to_owned();
            let name = words.skip(3).collect::<Vec<_>>().join(" ");
            [mode, length, name].join(" ")
        };
        let listed: Vec<String> = listed.lines().map(of).collect();
        let expected = [
            "drwxr-xr-x 0 etc",
            "-rw-r----- 6 etc/name",
            "-rwxr-xr-x 0 etc/empty",
            "lrwxrwxrwx 4 etc/link -> name",
        ];
        assert_eq!(listed, expected);
    }
}
