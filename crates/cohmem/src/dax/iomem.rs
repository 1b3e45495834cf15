//! `/proc/iomem`: which physical ranges are what, and who has claimed them.

use super::tree::Tree;
use crate::{
    error::{Cause, Result},
    units::PhysRange,
};

/// One line of `/proc/iomem`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Resource {
    pub(crate) range: PhysRange,
    pub(crate) name: String,
    /// 0 at the top; a child has one more than its parent, which is the nearest line above.
    pub(crate) depth: usize,
}

/// Name of what firmware keeps for special purpose.
const SOFT_RESERVED: &str = "Soft Reserved";

pub(crate) fn read(tree: &impl Tree) -> Result<Vec<Resource>> {
    let resources = parse(&tree.read_attribute("/proc/iomem")?);
    // To everybody but root each line is 00000000-00000000.
    if resources.iter().all(|resource| resource.range.end() <= 1) {
        return Err(Cause::NoPhysAddresses.into());
    }
    Ok(resources)
}

fn parse(text: &str) -> Vec<Resource> {
    text.lines()
        .filter_map(|line| {
            let trimmed = line.trim_start_matches(' ');
            let (span, name) = trimmed.split_once(" : ")?;
            let (start, last) = span.split_once('-')?;
            let start = u64::from_str_radix(start, 16).ok()?;
            let last = u64::from_str_radix(last, 16).ok()?;
            Some(Resource {
                range: PhysRange::new(start, last.checked_add(1)?).ok()?,
                name: name.to_owned(),
                depth: (line.len() - trimmed.len()) / 2,
            })
        })
        .collect()
}

/// The soft-reserved ranges with their direct children.
pub(crate) fn soft_reserved(resources: &[Resource]) -> Vec<(PhysRange, Vec<&Resource>)> {
    let mut found = Vec::new();
    for (at, resource) in resources.iter().enumerate() {
        if resource.name == SOFT_RESERVED {
            let below = resources
                .iter()
                .skip(at + 1)
                .take_while(|next| next.depth > resource.depth);
            let children = below.filter(|next| next.depth == resource.depth + 1);
            found.push((resource.range, children.collect()));
        }
    }
    found
}

/// A claim that a dax driver has on a part of `range`. Whether anybody else has one is for
/// request_mem_region to say, when the range is attached.
pub(crate) fn dax_claim_in(resources: &[Resource], range: PhysRange) -> Option<&Resource> {
    resources.iter().find(|resource| {
        let is_dax = resource.name.starts_with("dax") || resource.name == "System RAM (kmem)";
        is_dax && resource.range.overlaps(range)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const IOMEM: &str = "\
00001000-0009fbff : System RAM
b0000000-bfffffff : PCI MMCONFIG 0000 [bus 00-ff]
100000000-10fffffff : Soft Reserved
  100000000-10fffffff : dax0.0
    100000000-10fffffff : System RAM (kmem)
110000000-11fffffff : Soft Reserved
  110000000-117ffffff : cohmem0
140000000-1bfffffff : System RAM
";

    #[test]
    fn soft_reserved_ranges_come_with_their_claims() {
        let resources = parse(IOMEM);
        assert_eq!(resources.len(), 8);
        let found = soft_reserved(&resources);
        let shown: Vec<_> = found
            .iter()
            .map(|(range, children)| {
                let names: Vec<_> = children.iter().map(|child| child.name.as_str()).collect();
                format!("{range} {}", names.join(","))
            })
            .collect();
        assert_eq!(
            shown,
            [
                "0x100000000-0x110000000 dax0.0",
                "0x110000000-0x120000000 cohmem0"
            ]
        );
    }

    #[test]
    fn a_claim_is_found_on_a_part() {
        let resources = parse(IOMEM);
        let claim = |text: &str| {
            dax_claim_in(&resources, text.parse().unwrap()).map(|resource| resource.name.as_str())
        };
        assert_eq!(claim("0x100000000+256M"), Some("dax0.0"));
        assert_eq!(claim("0x104000000+64M"), Some("dax0.0"));
        assert_eq!(claim("0x110000000+256M"), None);
        assert_eq!(claim("0x118000000+128M"), None);
    }

    #[test]
    fn hidden_addresses_are_told_from_no_memory() {
        let directory = tempfile::tempdir().unwrap();
        let tree = super::super::tree::DirTree::new(directory.path());
        std::fs::create_dir(directory.path().join("proc")).unwrap();
        std::fs::write(
            directory.path().join("proc/iomem"),
            "00000000-00000000 : System RAM\n00000000-00000000 : Soft Reserved\n",
        )
        .unwrap();
        let error = read(&tree).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the kernel shows physical addresses to root only"
        );
    }
}
