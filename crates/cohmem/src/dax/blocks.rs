//! Memory blocks: the units in which the kernel takes System RAM offline.
//!
//! Every block of a range goes offline before its driver is unbound, since kmem has one shot at
//! giving a range up: with a block online, the range is lost until the next boot.

use std::io;

use serde::{Deserialize, Serialize};

use super::tree::Tree;
use crate::{
    error::{Cause, Result},
    units::PhysRange,
};

const MEMORY: &str = "/sys/devices/system/memory";
const OFFLINE: &str = "offline";
/// A page that is in use for a moment refuses a block; this often it is tried again.
const TRIES: u32 = 5;

/// A block, and how it was before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Block {
    /// `memoryN`.
    pub(crate) name: String,
    pub(crate) start: u64,
    pub(crate) bytes: u64,
    /// What to write to its state to have it as it was; `None` for a block that was offline.
    pub(crate) online_as: Option<String>,
}

impl Block {
    fn state_path(&self) -> String {
        format!("{MEMORY}/{}/state", self.name)
    }

    fn range(&self) -> Result<PhysRange> {
        PhysRange::new(self.start, self.start.saturating_add(self.bytes))
    }
}

/// The blocks that lie in `range`, in order of address.
pub(crate) fn read_in(tree: &impl Tree, range: PhysRange) -> Result<Vec<Block>> {
    let path = format!("{MEMORY}/block_size_bytes");
    let text = tree.read_attribute(&path)?;
    let bytes = u64::from_str_radix(text.trim_start_matches("0x"), 16)
        .ok()
        .filter(|&bytes| bytes > 0);
    let bytes = bytes.ok_or(Cause::Unreadable {
        path: path.into(),
        text,
    })?;
    let mut blocks = Vec::new();
    for number in range.start().div_ceil(bytes)..range.end() / bytes {
        let name = format!("memory{number}");
        if !tree.exists(&format!("{MEMORY}/{name}/state")) {
            continue;
        }
        let state = tree.read_attribute(&format!("{MEMORY}/{name}/state"))?;
        let online_as = (state != OFFLINE).then(|| online_word(tree, &name).to_owned());
        blocks.push(Block {
            name,
            start: number * bytes,
            bytes,
            online_as,
        });
    }
    Ok(blocks)
}

/// The word that brings a block online in the zone that it is in now.
fn online_word(tree: &impl Tree, name: &str) -> &'static str {
    let zones = tree
        .read(&format!("{MEMORY}/{name}/valid_zones"))
        .unwrap_or_default();
    match zones.split_whitespace().next() {
        Some("Movable") => "online_movable",
        Some("none") | None => "online",
        Some(_) => "online_kernel",
    }
}

fn is_offline(tree: &impl Tree, block: &Block) -> bool {
    tree.read(&block.state_path())
        .is_ok_and(|state| state.trim() == OFFLINE)
}

/// The blocks that are not offline now.
pub(crate) fn online_in(tree: &impl Tree, blocks: &[Block]) -> Vec<String> {
    let online = blocks.iter().filter(|block| !is_offline(tree, block));
    online.map(|block| block.name.clone()).collect()
}

/// Takes every block offline, the last one first; on failure all are as they were.
pub(crate) fn take_offline(tree: &impl Tree, device: &str, blocks: &[Block]) -> Result<()> {
    for (at, block) in blocks.iter().enumerate().rev() {
        if let Err(refused) = take_one_offline(tree, device, block) {
            let taken = blocks.get(at..).unwrap_or_default();
            return match put_back(tree, taken) {
                Ok(()) => Err(refused),
                Err(undo) => Err(Cause::UndoFailed {
                    first: refused,
                    undo,
                }
                .into()),
            };
        }
    }
    Ok(())
}

fn take_one_offline(tree: &impl Tree, device: &str, block: &Block) -> Result<()> {
    if is_offline(tree, block) {
        return Ok(());
    }
    let mut source = None;
    for attempt in 0..TRIES {
        if attempt > 0 {
            tree.pause();
        }
        source = tree.write(&block.state_path(), OFFLINE).err();
        // The write's success is not believed: what counts is the state.
        if is_offline(tree, block) {
            return Ok(());
        }
        let is_worth_another_try = matches!(
            source.as_ref().map(io::Error::kind),
            None | Some(io::ErrorKind::ResourceBusy | io::ErrorKind::WouldBlock)
        );
        if !is_worth_another_try {
            break;
        }
    }
    let state = tree
        .read(&block.state_path())
        .unwrap_or_default()
        .trim()
        .to_owned();
    Err(Cause::BlockRefused {
        block: block.name.clone(),
        range: block.range()?,
        state,
        name: device.to_owned(),
        source,
    }
    .into())
}

/// Brings the blocks that were online before online again, in the zone they were in.
pub(crate) fn put_back(tree: &impl Tree, blocks: &[Block]) -> Result<()> {
    let mut failed = Vec::new();
    for block in blocks {
        let Some(online_as) = block.online_as.as_deref() else {
            continue;
        };
        if !is_offline(tree, block) {
            if online_word(tree, &block.name) == online_as {
                continue;
            }
            // It came back in another zone, by the machine's policy for new memory: once more.
            if tree.write(&block.state_path(), OFFLINE).is_err() {
                failed.push(format!("{} (not {online_as})", block.name));
                continue;
            }
        }
        let written = tree.write(&block.state_path(), online_as);
        if written.is_err() || is_offline(tree, block) {
            failed.push(block.name.clone());
        }
    }
    if failed.is_empty() {
        Ok(())
    } else {
        Err(Cause::BlocksNotRestored {
            blocks: failed.join(", "),
        }
        .into())
    }
}
