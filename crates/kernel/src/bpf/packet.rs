//! Programs on packets, where these come into a network namespace by a device and where they leave it (tcx).

use std::path::Path;

use aya::programs::tc::TcAttachOptions;
use aya::programs::{LinkOrder, SchedClassifier, TcAttachType};
use aya::util::KernelVersion;

use super::Link;
use super::object::failed;
use crate::Result;

/// The first kernel that has tcx.
const FIRST: KernelVersion = KernelVersion::new(6, 6, 0);

/// Which packets of a device a program sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    /// Those that come in.
    Ingress,
    /// Those that go out.
    Egress,
}

/// A loaded program on packets.
#[derive(Debug)]
pub struct PacketProgram {
    program: SchedClassifier,
}

impl PacketProgram {
    /// Whether this kernel can have such programs by links, which outlive a process.
    pub fn is_possible() -> bool {
        KernelVersion::current().is_ok_and(|version| version >= FIRST)
    }

    /// Opens one that is pinned.
    pub fn open(path: &Path) -> Result<Self> {
        let program = SchedClassifier::from_pin(path)
            .map_err(|error| failed(&format!("open program {}", path.display()), &error))?;
        Ok(Self { program })
    }

    /// Attaches it to a device of the calling thread's network namespace, behind those of others.
    pub fn attach(&mut self, device: &str, direction: Direction) -> Result<Link> {
        let operation = format!("attach a program to device {device} ({direction:?})");
        let kind = match direction {
            Direction::Ingress => TcAttachType::Ingress,
            Direction::Egress => TcAttachType::Egress,
        };
        let options = TcAttachOptions::TcxOrder(LinkOrder::default());
        let attach = |program: &mut SchedClassifier| {
            let id = program.attach_with_options(device, kind, options)?;
            program.take_link(id)
        };
        let link = attach(&mut self.program).map_err(|error| failed(&operation, &error))?;
        let link = link.try_into().map_err(|error| failed(&operation, &error))?;
        Ok(Link { link, program: direction.name().to_owned() })
    }
}

impl Direction {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Direction::Ingress => "ingress",
            Direction::Egress => "egress",
        }
    }
}
