//! Where device memory comes from.

pub(crate) mod driver;
pub(crate) mod engine;
pub(crate) mod numa;
