//! A compiled file of programs and maps, loaded into the kernel.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use aya::maps::MapData;
use aya::programs::{CgroupAttachMode, CgroupSockAddr, Program, ProgramError};
use aya::{Ebpf, EbpfLoader};

use super::{Link, Table};
use crate::cgroup::Cgroup;
use crate::{Error, Result};

/// What maps of an object are to be, by their names.
#[derive(Debug, Clone, Default)]
pub struct Sizes<'a> {
    /// How many elements they take.
    pub capacities: Vec<(&'a str, u32)>,
    /// Where they are pinned; what is there already is used.
    pub shared: Vec<(&'a str, &'a Path)>,
}

/// Programs and maps.
#[derive(Debug)]
pub struct Object {
    ebpf: Ebpf,
}

impl Object {
    /// Makes the maps of an ELF file with BTF, as clang compiles it. Programs are loaded when they are
    /// attached.
    pub fn load(code: &[u8], sizes: &Sizes<'_>) -> Result<Self> {
        let mut loader = EbpfLoader::new();
        for (map, capacity) in &sizes.capacities {
            loader.map_max_entries(map, *capacity);
        }
        for (map, path) in &sizes.shared {
            loader.map_pin_path(map, *path);
        }
        let ebpf = loader
            .load(Aligned::copy_of(code).bytes())
            .map_err(|error| failed(&format!("load BPF maps{TAKES}"), &error))?;
        Ok(Self { ebpf })
    }

    /// One of its maps.
    pub fn table<const K: usize, const V: usize>(&self, name: &str) -> Result<Table<K, V>> {
        let operation = || format!("open map {name}");
        let map = self.ebpf.map(name).ok_or_else(|| missing(&operation()))?;
        let data = data(map).ok_or_else(|| missing(&operation()))?;
        let fd = data.fd().as_fd().try_clone_to_owned();
        Table::new(fd.map_err(|source| Error::os(operation(), source))?, name)
    }

    /// Loads all programs on packets and on socket addresses. They go with this value.
    pub fn check(&mut self) -> Result<()> {
        for (name, program) in self.ebpf.programs_mut() {
            let operation = format!("load program {name}{TAKES}");
            let loaded = match program {
                Program::SchedClassifier(program) => program.load(),
                Program::CgroupSockAddr(program) => program.load(),
                _ => return Err(missing(&operation)),
            };
            loaded.map_err(|error| failed(&operation, &error))?;
        }
        Ok(())
    }

    /// Loads a program on packets and gives it a name in the BPF file system.
    pub fn pin_packet_program(&mut self, program: &str, path: &Path) -> Result<()> {
        let operation = format!("load program {program}{TAKES}");
        let found = self.ebpf.program_mut(program).ok_or_else(|| missing(&operation))?;
        let Program::SchedClassifier(found) = found else { return Err(missing(&operation)) };
        found.load().map_err(|error| failed(&operation, &error))?;
        found.pin(path).map_err(|error| failed(&operation, &error))
    }

    /// Loads a program on socket addresses, and attaches it to a cgroup beside those of others.
    pub fn attach_to_cgroup(&mut self, program: &str, cgroup: &Cgroup) -> Result<Link> {
        let operation = format!("attach program {program} to cgroup {}", cgroup.path().display());
        let directory =
            File::open(cgroup.path()).map_err(|source| Error::os(operation.clone(), source))?;
        let found = self.ebpf.program_mut(program).ok_or_else(|| missing(&operation))?;
        let Program::CgroupSockAddr(found) = found else { return Err(missing(&operation)) };
        let attach = |program: &mut CgroupSockAddr| {
            match program.load() {
                Ok(()) | Err(ProgramError::AlreadyLoaded) => {}
                Err(error) => return Err(error),
            }
            // The kernel takes several all the same: links always are beside those of others.
            let id = program.attach(directory, CgroupAttachMode::Single)?;
            program.take_link(id)
        };
        let link = attach(found).map_err(|error| failed(&operation, &error))?;
        let link = link.try_into().map_err(|error| failed(&operation, &error))?;
        Ok(Link { link, program: program.to_owned() })
    }
}

/// Bytes that begin where numbers of all lengths may: they are read as such.
struct Aligned {
    words: Vec<u64>,
    length: usize,
}

impl Aligned {
    fn copy_of(bytes: &[u8]) -> Self {
        let word = |bytes: &[u8]| {
            let mut word = [0; size_of::<u64>()];
            word[..bytes.len()].copy_from_slice(bytes);
            u64::from_ne_bytes(word)
        };
        let words = bytes.chunks(size_of::<u64>()).map(word).collect();
        Self { words, length: bytes.len() }
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: The words have at least that many bytes, all of them written.
        unsafe { std::slice::from_raw_parts(self.words.as_ptr().cast(), self.length) }
    }
}

fn data(map: &aya::maps::Map) -> Option<&MapData> {
    use aya::maps::Map;
    match map {
        Map::Array(data)
        | Map::HashMap(data)
        | Map::LpmTrie(data)
        | Map::LruHashMap(data)
        | Map::SkStorage(data) => Some(data),
        _ => None,
    }
}

fn missing(operation: &str) -> Error {
    Error::Malformed {
        operation: operation.to_owned(),
        detail: "the object has none of this name and kind".to_owned(),
    }
}

/// What a process has to have, where the kernel does not say what it misses (capabilities(7)).
const TAKES: &str = ", which takes CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN";

/// The library's errors end in what the kernel has said; the verifier's words are cut to the last.
pub(super) fn failed(operation: &str, error: &dyn std::error::Error) -> Error {
    let mut text = error.to_string();
    let mut errno = None;
    let mut source = error.source();
    while let Some(cause) = source {
        errno = errno.or_else(|| cause.downcast_ref::<io::Error>()?.raw_os_error());
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    match errno {
        Some(errno) if !text.contains("Verifier output") => {
            Error::os(operation, io::Error::from_raw_os_error(errno))
        }
        _ => Error::os(operation, io::Error::other(in_a_line(&text))),
    }
}

/// Of a verifier's log what it ended with: it tells of each step before.
fn in_a_line(text: &str) -> String {
    let Some((before, log)) = text.split_once("Verifier output:") else {
        return text.replace('\n', " ");
    };
    let is_statistics = |line: &&str| {
        let begins = ["processed ", "verification time", "stack depth", ":", "-- "];
        line.trim().is_empty() || begins.iter().any(|begin| line.starts_with(begin))
    };
    let last = log.lines().rev().find(|line| !is_statistics(line)).unwrap_or_default();
    format!("{}the verifier said last: {last}", before.replace('\n', " "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_verifiers_log_its_last_word_is_told() {
        let log = "the BPF_PROG_LOAD syscall returned Permission denied. Verifier output: 0: R1=ctx()\n\
                   1: (61) r1 = *(u32 *)(r4 +9)\nR4 offset is outside of the packet\n\
                   verification time 3699 usec\nprocessed 421 insns (limit 1000000)\n: Permission denied";
        assert_eq!(
            in_a_line(log),
            "the BPF_PROG_LOAD syscall returned Permission denied. \
             the verifier said last: R4 offset is outside of the packet"
        );
        assert_eq!(in_a_line("no\nlog"), "no log");
    }
}
