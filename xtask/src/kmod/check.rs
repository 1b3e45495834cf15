//! Placeholder.
use super::Variant;
use anyhow::Result;
use std::path::Path;
pub(super) fn module(_m: &Path, _o: &Path, _out: &Path, _v: Variant) -> Result<()> {
    Ok(())
}
