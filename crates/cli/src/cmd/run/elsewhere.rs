//! What else places a program's memory, where there is no module.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// What else places a program's memory.
pub(super) fn without_module() -> String {
    let nodes = memory_nodes(Path::new("/sys/devices/system/node"));
    let numactl = match &nodes[..] {
        [] => "no NUMA node of this machine has memory only, so numactl has nowhere to place it"
            .to_owned(),
        [node, ..] => format!(
            "NUMA node {node} has memory only: `numactl --preferred={node} -- PROGRAM` starts there"
        ),
    };
    format!(
        "`modprobe cohmem` loads it, `cohmem doctor` says what is in the way; without it, a program \
         that allocates with the cohmem library can use its engine, and {numactl}"
    )
}

/// Nodes with memory and no processor.
fn memory_nodes(directory: &Path) -> Vec<u32> {
    let Ok(entries) = fs::read_dir(directory) else {
        return Vec::new();
    };
    let is_empty =
        |path: PathBuf| fs::read_to_string(path).is_ok_and(|text| text.trim().is_empty());
    let mut nodes: Vec<u32> = entries
        .flatten()
        .filter(|entry| is_empty(entry.path().join("cpulist")))
        .filter_map(|entry| {
            entry
                .file_name()
                .to_str()?
                .strip_prefix("node")?
                .parse()
                .ok()
        })
        .collect();
    nodes.sort_unstable();
    nodes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_without_processors_are_found() {
        let nodes = tempfile::tempdir().unwrap();
        for (name, processors) in [("node0", "0-3\n"), ("node2", "\n"), ("node1", "\n")] {
            fs::create_dir(nodes.path().join(name)).unwrap();
            fs::write(nodes.path().join(name).join("cpulist"), processors).unwrap();
        }
        fs::write(nodes.path().join("online"), "0-2\n").unwrap();
        assert_eq!(memory_nodes(nodes.path()), [1, 2]);
        assert_eq!(memory_nodes(&nodes.path().join("none")), [0; 0]);
    }
}
