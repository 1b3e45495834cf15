//! Every unsafe block of the crate: the driver's commands, anonymous mappings, NUMA nodes, the pagemap
//! scan, the bytes of a region and the allocator over them.
//!
//! Each function here is safe to call: what the kernel writes to is borrowed for the call, and the
//! pointers of the argument structures are filled in here, from those borrows only.

pub(crate) mod heap;
pub(crate) mod map;
pub(crate) mod node;
pub(crate) mod numa;
pub(crate) mod pagemap;
pub(crate) mod view;
