//! Ports that are not like others.

use std::ops::RangeInclusive;

/// The range of node ports, unless an API server is told another (`--service-node-port-range`).
pub const NODE_PORTS: RangeInclusive<u16> = 30000..=32767;

/// Ports from here on need no privilege.
pub(crate) const PRIVILEGED_END: u16 = 1024;
