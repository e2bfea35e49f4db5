//! What is loaded, and its names in the BPF file system, by which it outlives this process.
//!
//! Below the directory of a cgroup stand *generations*: tables, and the links of the programs that read
//! them. One is at work. Another is made beside it when tables have to grow, or after an upgrade; once it is
//! filled its programs are attached, those of the old one are detached, and there is no moment without.
//! What is remembered of clients is shared by generations.
//!
//! ```text
//! /sys/fs/bpf/portolan/CGROUP/memory-1/{affinities,flows,replies,peers,translations,...}
//!                            /3-8a6d35c2/{frontends,sets,endpoints,members,...}
//!                                       /links/{connect4,connect6,...}
//!                                       /programs/{ingress,egress,ingress_bare,egress_bare}
//!                                       /tcx/{7-ingress,7-egress,...}
//! ```

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use kernel::bpf::{self, Direction, Link, Object, PacketProgram, Sizes, Table};
use kernel::cgroup::Cgroup;

use super::content::Counts;
use super::host::Place;
use super::layout::{
    Accepts, Address, Block, Device, Endpoint, Frontend, FrontendKey, Member, Node, Peer, Range,
    Set, Slot, SourceRange, Translation, Tuple,
};
use super::marks::Marks;
use super::wire::Wire;
use crate::number::hash;
use crate::{Error, Result};

/// The programs, as clang has compiled `bpf/programs.c`.
pub(super) static CODE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/programs.o"));

/// Where the BPF file system is.
const FILE_SYSTEM: &str = "/sys/fs/bpf";
/// Our own part of it.
const DIRECTORY: &str = "/sys/fs/bpf/portolan";

/// What is attached to a cgroup.
const PROGRAMS: [&str; 8] = [
    "connect4",
    "connect6",
    "sendmsg4",
    "sendmsg6",
    "recvmsg4",
    "recvmsg6",
    "getpeername4",
    "getpeername6",
];

/// Maps of what is remembered. A change of what they hold takes another number for `MEMORY`.
const REMEMBERED: [&str; 9] = [
    "affinities",
    "flows",
    "replies",
    "peers",
    "shown",
    "translations",
    "fragments",
    "marked",
    "met",
];
const MEMORY: &str = "memory-1";

/// How many of the node's own addresses there may be.
const NODE_ADDRESSES: u32 = 16_384;
/// How many links there may be, and ranges of pods and of virtual addresses.
const DEVICES: u32 = 65_536;
const RANGES: u32 = 1_024;
/// The ports of so many fragmented packets are remembered.
const FRAGMENTS: u32 = 8_192;
/// The smallest table.
const SMALLEST: usize = 1024;
/// One client is remembered for each so many bytes of the machine's memory, in these limits.
const MEMORY_PER_CLIENT: u64 = 512 << 10;
const CLIENTS: (u64, u64) = (4096, 262_144);
/// So many times more translations are remembered, of which a connection has four at most.
const TRANSLATIONS: u32 = 8;
/// Both directions of packets at a link, in the order in which programs are attached: what one at ingress begins
/// one at egress has to go on with.
const DIRECTIONS: [Direction; 2] = [Direction::Egress, Direction::Ingress];

/// Where programs are attached, and what is there.
#[derive(Debug)]
pub(super) struct Programs {
    cgroup: Cgroup,
    directory: PathBuf,
}

/// Tables, with programs that read them.
#[derive(Debug)]
pub(super) struct Generation {
    pub(super) name: String,
    pub(super) tables: Tables,
    /// Programs that are not attached yet.
    object: Option<Object>,
}

/// The maps that are written here.
#[derive(Debug)]
pub(super) struct Tables {
    pub(super) frontends: Table<{ FrontendKey::SIZE }, { Frontend::SIZE }>,
    pub(super) sets: Table<{ u64::SIZE }, { Set::SIZE }>,
    pub(super) endpoints: Table<{ Slot::SIZE }, { Endpoint::SIZE }>,
    pub(super) tables: Table<{ Slot::SIZE }, { Block::SIZE }>,
    pub(super) members: Table<{ Member::SIZE }, PRESENCE>,
    pub(super) sources: Table<{ SourceRange::SIZE }, PRESENCE>,
    pub(super) pods: Ranges,
    pub(super) virtual_ranges: Ranges,
    pub(super) devices: Table<{ u32::SIZE }, { Device::SIZE }>,
    pub(super) translations: Translations,
    pub(super) marked: Marks,
    pub(super) node_addresses: Table<{ Address::SIZE }, { Accepts::SIZE }>,
    pub(super) node: Table<{ u32::SIZE }, { Node::SIZE }>,
    pub(super) peers: Peers,
    pub(super) capacities: Counts,
}

/// Ranges of addresses.
pub(super) type Ranges = Table<{ Range::SIZE }, PRESENCE>;
/// How packets are changed.
pub(super) type Translations = Table<{ Tuple::SIZE }, { Translation::SIZE }>;
/// What is kept with sockets.
pub(super) type Peers = Table<{ u32::SIZE }, { Peer::SIZE }>;

/// Bytes of a value that only is there or is not.
const PRESENCE: usize = u32::SIZE;
/// Such a value.
pub(super) const PRESENT: [u8; PRESENCE] = [0; PRESENCE];

impl Programs {
    /// Those of a cgroup. Changes nothing.
    pub(super) fn of(cgroup: Cgroup) -> Result<Self> {
        let path = cgroup.path().display().to_string();
        let metadata = fs::metadata(cgroup.path())
            .map_err(|source| kernel::Error::os(format!("look at cgroup {path}"), source))?;
        // Its inode is its id for the kernel too.
        let directory = Path::new(DIRECTORY).join(metadata.ino().to_string());
        Ok(Self { cgroup, directory })
    }

    /// The newest generation that is complete and of this very code.
    pub(super) fn adopt(&self) -> Result<Option<Generation>> {
        for name in self.generations()?.into_iter().rev() {
            if code_of(&name) == Some(own_code()) && self.is_at_work(&name)? {
                return match self.open_tables(&name)? {
                    Some(tables) => Ok(Some(Generation { name, tables, object: None })),
                    None => Ok(None),
                };
            }
        }
        Ok(None)
    }

    /// Has the kernel look at the programs, and forgets them.
    pub(super) fn check(&self) -> Result<()> {
        let mut object = Object::load(CODE, &Sizes::default())?;
        Ok(object.check()?)
    }

    /// Makes a generation that takes at least so many elements. It is not at work yet.
    pub(super) fn make(&self, counts: Counts) -> Result<Generation> {
        bpf::mount_file_system(Path::new(FILE_SYSTEM))?;
        remove_orphans()?;
        let last = self.generations()?.last().and_then(|name| number_of(name)).unwrap_or_default();
        let name = format!("{}-{:08x}", last + 1, own_code());
        let memory = self.directory.join(MEMORY);
        let own = self.directory.join(&name);
        make_directory(&memory)?;
        for part in ["links", "programs", "tcx"] {
            make_directory(&own.join(part))?;
        }
        let capacity = |count: usize| {
            // As much again to grow, and as much again for lists that are on their way out.
            let most = count.saturating_mul(4).max(SMALLEST).next_power_of_two();
            u32::try_from(most).unwrap_or(1 << 31)
        };
        let clients = remembered_clients()?;
        let remembered = REMEMBERED.map(|map| (map, memory.join(map)));
        let sizes = Sizes {
            capacities: vec![
                ("frontends", capacity(counts.frontends)),
                ("sets", capacity(counts.sets)),
                ("endpoints", capacity(counts.endpoints)),
                ("tables", capacity(counts.tables)),
                ("members", capacity(counts.members)),
                ("sources", capacity(counts.sources)),
                ("pods", RANGES),
                ("virtual_ranges", RANGES),
                ("devices", DEVICES),
                ("node_addresses", NODE_ADDRESSES),
                ("affinities", clients),
                ("flows", clients),
                ("replies", clients),
                ("translations", clients * TRANSLATIONS),
                ("fragments", FRAGMENTS),
            ],
            shared: remembered.iter().map(|(map, path)| (*map, path.as_path())).collect(),
        };
        let object = Object::load(CODE, &sizes)?;
        let tables = Tables {
            frontends: pinned(&object, "frontends", &own)?,
            sets: pinned(&object, "sets", &own)?,
            endpoints: pinned(&object, "endpoints", &own)?,
            tables: pinned(&object, "tables", &own)?,
            members: pinned(&object, "members", &own)?,
            sources: pinned(&object, "sources", &own)?,
            pods: pinned(&object, "pods", &own)?,
            virtual_ranges: pinned(&object, "virtual_ranges", &own)?,
            devices: pinned(&object, "devices", &own)?,
            translations: object.table("translations")?,
            marked: object.table("marked")?,
            node_addresses: pinned(&object, "node_addresses", &own)?,
            node: pinned(&object, "node", &own)?,
            peers: object.table("peers")?,
            capacities: Counts::default(),
        };
        let tables = tables.with_capacities()?;
        Ok(Generation { name, tables, object: Some(object) })
    }

    /// Attaches the programs of a generation, to the cgroup and to links, then detaches all others. To be
    /// called in the network namespace of the links.
    pub(super) fn put_to_work(
        &self,
        generation: &mut Generation,
        places: &BTreeMap<u32, Place>,
    ) -> Result<()> {
        if let Some(mut object) = generation.object.take() {
            if PacketProgram::is_possible() {
                let programs = self.directory.join(&generation.name).join("programs");
                for direction in DIRECTIONS {
                    for program in [false, true].map(|is_bare| program_at(direction, is_bare)) {
                        object.pin_packet_program(&program, &programs.join(&program))?;
                    }
                }
            }
            self.attach_to(generation, places)?;
            let links = self.links(&generation.name);
            for program in PROGRAMS {
                object.attach_to_cgroup(program, &self.cgroup)?.pin(&links.join(program))?;
            }
        }
        for other in self.generations()?.into_iter().filter(|name| *name != generation.name) {
            self.remove_generation(&other)?;
        }
        Ok(())
    }

    /// Attaches programs to these links, by their index, and to no others. Where the kernel can't have
    /// that, nothing is done. To be called in the network namespace of the links.
    ///
    /// Answers how many were attached.
    pub(super) fn attach_to(
        &self,
        generation: &Generation,
        places: &BTreeMap<u32, Place>,
    ) -> Result<usize> {
        if !PacketProgram::is_possible() {
            return Ok(0);
        }
        let own = self.directory.join(&generation.name);
        let pins = own.join("tcx");
        let pin = |index: &u32, direction: Direction| format!("{index}-{}", direction.name());
        let mut wanted = Vec::new();
        for direction in DIRECTIONS {
            let of_all =
                places.iter().map(|(index, place)| (pin(index, direction), direction, place));
            wanted.extend(of_all);
        }
        let is_wanted = |name: &String| wanted.iter().any(|(pin, ..)| pin == name);
        for surplus in names_in(&pins)?.into_iter().filter(|name| !is_wanted(name)) {
            remove_file(&pins.join(surplus))?;
        }
        let mut count = 0;
        for (pin, direction, place) in wanted {
            let pin = pins.join(pin);
            if Link::is_attached(&pin)? {
                continue;
            }
            // One of a link that has gone, whose index another has now.
            remove_file(&pin)?;
            let program = program_at(direction, place.is_bare);
            let mut program = PacketProgram::open(&own.join("programs").join(program))?;
            program.attach(&place.link, direction)?.pin(&pin)?;
            count += 1;
        }
        Ok(count)
    }

    /// Whether all programs of a generation are attached.
    pub(super) fn works(&self, generation: &Generation) -> Result<bool> {
        self.is_at_work(&generation.name)
    }

    /// The cgroup that they are attached to.
    pub(super) fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }

    /// The network namespace whose node the newest generation is for, whatever version made it; its cookie.
    pub(super) fn netns(&self) -> Result<Option<u64>> {
        let Some(name) = self.generations()?.pop() else { return Ok(None) };
        let table =
            Table::<{ u32::SIZE }, { Node::SIZE }>::open(&self.directory.join(name).join("node"))?;
        let value = table.map(|table| table.get(&[0; 4])).transpose()?.flatten();
        Ok(value.map(|value| Node::get(&value).netns))
    }

    /// Detaches and forgets everything.
    pub(super) fn remove(&self) -> Result<()> {
        for generation in self.generations()? {
            self.remove_generation(&generation)?;
        }
        remove_directory(&self.directory)?;
        remove_orphans()?;
        // Others may have theirs beside it.
        let _ = fs::remove_dir(DIRECTORY);
        Ok(())
    }

    /// Whether a program of a generation that was attached to a link is not so any more.
    pub(super) fn is_loose(&self, generation: &str) -> Result<bool> {
        let pins = self.directory.join(generation).join("tcx");
        for name in names_in(&pins)? {
            if !Link::is_attached(&pins.join(name))? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether the programs of a generation are attached to the cgroup.
    pub(super) fn is_at_work(&self, generation: &str) -> Result<bool> {
        let links = self.links(generation);
        for program in PROGRAMS {
            if !Link::is_attached(&links.join(program))? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn links(&self, generation: &str) -> PathBuf {
        self.directory.join(generation).join("links")
    }

    /// Names of generations, the oldest first.
    fn generations(&self) -> Result<Vec<String>> {
        let mut names = names_in(&self.directory)?;
        names.retain(|name| number_of(name).is_some());
        names.sort_by_key(|name| number_of(name));
        Ok(names)
    }

    /// Links first: no program reads tables that are half gone.
    fn remove_generation(&self, name: &str) -> Result<()> {
        remove_directory(&self.links(name))?;
        remove_directory(&self.directory.join(name).join("tcx"))?;
        remove_directory(&self.directory.join(name))
    }

    fn open_tables(&self, generation: &str) -> Result<Option<Tables>> {
        let own = self.directory.join(generation);
        let memory = self.directory.join(MEMORY);
        let tables = (
            Table::open(&own.join("frontends"))?,
            Table::open(&own.join("sets"))?,
            Table::open(&own.join("endpoints"))?,
            Table::open(&own.join("tables"))?,
            Table::open(&own.join("members"))?,
            Table::open(&own.join("sources"))?,
            Table::open(&own.join("pods"))?,
            Table::open(&own.join("virtual_ranges"))?,
            Table::open(&own.join("devices"))?,
            Table::open(&own.join("node_addresses"))?,
            Table::open(&own.join("node"))?,
        );
        let remembered = (
            Table::open(&memory.join("translations"))?,
            Table::open(&memory.join("marked"))?,
            Table::open(&memory.join("peers"))?,
        );
        let (
            Some(frontends),
            Some(sets),
            Some(endpoints),
            Some(blocks),
            Some(members),
            Some(sources),
            Some(pods),
            Some(virtual_ranges),
            Some(devices),
            Some(node_addresses),
            Some(node),
        ) = tables
        else {
            return Ok(None);
        };
        let (Some(translations), Some(marked), Some(peers)) = remembered else { return Ok(None) };
        let tables = Tables {
            frontends,
            sets,
            endpoints,
            tables: blocks,
            members,
            sources,
            pods,
            virtual_ranges,
            devices,
            translations,
            marked,
            node_addresses,
            node,
            peers,
            capacities: Counts::default(),
        };
        tables.with_capacities().map(Some)
    }
}

impl Tables {
    fn with_capacities(self) -> Result<Self> {
        let capacities = Counts {
            frontends: self.frontends.capacity()?,
            sets: self.sets.capacity()?,
            endpoints: self.endpoints.capacity()?,
            tables: self.tables.capacity()?,
            members: self.members.capacity()?,
            sources: self.sources.capacity()?,
        };
        Ok(Self { capacities, ..self })
    }

    /// Whether they take so many elements, and as many again of lists, which come before the old go.
    pub(super) fn have_room_for(&self, counts: Counts) -> bool {
        counts.frontends <= self.capacities.frontends
            && counts.sets <= self.capacities.sets
            && counts.endpoints.saturating_mul(2) <= self.capacities.endpoints
            && counts.tables.saturating_mul(2) <= self.capacities.tables
            && counts.members <= self.capacities.members
            && counts.sources <= self.capacities.sources
    }
}

/// The name of the program for a direction of a link.
fn program_at(direction: Direction, is_bare: bool) -> String {
    let name = direction.name();
    if is_bare { format!("{name}_bare") } else { name.to_owned() }
}

/// Removes what belongs to cgroups that are gone: with each its programs have ended.
fn remove_orphans() -> Result<()> {
    let Ok(entries) = fs::read_dir(DIRECTORY) else { return Ok(()) };
    let names: Vec<String> =
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    if names.len() < 2 {
        // At most our own.
        return Ok(());
    }
    let mut alive = HashSet::new();
    let mut rest = vec![Cgroup::root()?];
    while let Some(group) = rest.pop() {
        alive.extend(fs::metadata(group.path()).ok().map(|metadata| metadata.ino().to_string()));
        rest.extend(group.children()?);
    }
    for name in names.iter().filter(|name| !alive.contains(*name)) {
        remove_directory(&Path::new(DIRECTORY).join(name))?;
    }
    Ok(())
}

fn pinned<const K: usize, const V: usize>(
    object: &Object,
    name: &str,
    directory: &Path,
) -> Result<Table<K, V>> {
    let table = object.table(name)?;
    table.pin(&directory.join(name))?;
    Ok(table)
}

/// How many clients are remembered, of each kind.
fn remembered_clients() -> Result<u32> {
    let memory = kernel::machine::memory()?;
    let (least, most) = CLIENTS;
    let clients = (memory / MEMORY_PER_CLIENT).clamp(least, most);
    Ok(u32::try_from(clients).expect("the limits are small"))
}

/// What tells this code from that of another version.
fn own_code() -> u32 {
    // Any half is as good as the other.
    hash(&[CODE]) as u32
}

fn number_of(generation: &str) -> Option<u64> {
    generation.split_once('-')?.0.parse().ok()
}

fn code_of(generation: &str) -> Option<u32> {
    u32::from_str_radix(generation.split_once('-')?.1, 16).ok()
}

/// Names in a directory; none if it is not there.
fn names_in(directory: &Path) -> Result<Vec<String>> {
    let failed =
        |source: io::Error| kernel::Error::os(format!("list {}", directory.display()), source);
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(failed(source).into()),
    };
    let name = |entry: io::Result<fs::DirEntry>| {
        Ok(entry.map_err(failed)?.file_name().to_string_lossy().into_owned())
    };
    entries.map(name).collect()
}

/// Removes a file, if it is there.
fn remove_file(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(kernel::Error::os(format!("remove {}", path.display()), source).into())
        }
        _ => Ok(()),
    }
}

fn make_directory(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(|source| {
        Error::from(kernel::Error::os(format!("make directory {}", path.display()), source))
    })
}

/// Removes a directory with what it has, if it is there.
fn remove_directory(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(kernel::Error::os(format!("remove directory {}", path.display()), source).into())
        }
        _ => Ok(()),
    }
}
