//! Pure allocators: which cluster address, node port or pod range to hand out next.
//!
//! Each is the set of what is in use; chance comes in as a number from the caller, so that the same
//! calls give the same answers.

pub mod cluster_ip;
pub mod node_port;
pub mod pod_cidr;

/// Size of the part of a range that is left to those who ask for a value: `size / share`, at least
/// 16 and at most `most`, and nothing in ranges that small.
fn static_band(size: u128, share: u128, most: u128) -> u128 {
    if size <= 16 { 0 } else { (size / share).clamp(16, most) }
}
