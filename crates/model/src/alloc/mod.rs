//! Pure allocators of cluster addresses, node ports and pod ranges.
