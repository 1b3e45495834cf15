//! The map checks itself on memory whose state it made.

use std::{hint, ops::ControlFlow};

use cohmem::{
    AddrRange, ByteCount, Device, Direction, FRAME_BYTES, MigrateOptions, Place, Process, Target,
    UserAddr,
};

use crate::{
    exit::{Exit, Result},
    output::{Output, Style},
    survey::{Counts, Sight, Survey},
};

/// A block is a huge page, so that the kernel cannot make more of a touch than was meant.
const BLOCK: u64 = 2 << 20;
const NR_BLOCKS: u64 = 16;

/// What was made of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Made {
    Untouched,
    Written,
    /// Written, then moved to the device.
    Moved,
}

/// Maps this process and compares with what was made.
pub(super) fn run(sight: &Sight, out: &mut Output) -> Result<Exit> {
    let device = match &sight.device {
        Some(device) if device.query_free()? >= ByteCount::new(4 * BLOCK) => Some(device),
        _ => None,
    };
    // Zeroed by the kernel, so that nothing is touched yet; two blocks more, to begin at one.
    let length = usize::try_from((NR_BLOCKS + 2) * BLOCK).unwrap_or(0);
    let mut memory = vec![0_u8; length];
    let base = AddrRange::covering(&memory[..]).start().get();
    let first = base.next_multiple_of(BLOCK);
    let process = Process::open(std::process::id())?;
    let mut made = Vec::new();
    for block in 0..NR_BLOCKS {
        let start = first + block * BLOCK;
        let what = match block % 4 {
            0 | 1 => Made::Untouched,
            2 => Made::Written,
            _ if device.is_some() => Made::Moved,
            _ => Made::Written,
        };
        if what != Made::Untouched {
            let offset = usize::try_from(start - base).unwrap_or(0);
            let length = usize::try_from(BLOCK).unwrap_or(0);
            for page in memory[offset..offset + length].chunks_mut(4096) {
                page[0] = 1;
            }
        }
        made.push((start, what));
    }
    hint::black_box(&memory[..]);
    if let Some(device) = device {
        for &(start, what) in &made {
            if what == Made::Moved {
                migrate(device, start, &process)?;
            }
        }
    }
    let survey = Survey::take(&process, sight.device.as_ref())?;
    hint::black_box(&memory[..]);
    let mut nr_wrong = 0;
    for &(start, what) in &made {
        let found = counts_of(&survey, start);
        let expected = expected(what, device);
        if found != expected {
            nr_wrong += 1;
            out.styled(
                Style::Bad,
                &format!("{start:#x}: {what:?}, so {expected:?} was expected; found {found:?}"),
            )?;
        }
    }
    let where_else = match device {
        Some(device) => format!(" and on cohmem{}", device.number()),
        None => ", on no device, since none is attached with 8 MiB free".to_owned(),
    };
    let verdict = format!(
        "self-test: {} blocks of {} in system memory{where_else}: {nr_wrong} wrong",
        made.len(),
        ByteCount::new(BLOCK)
    );
    out.line(&verdict)?;
    Ok(if nr_wrong == 0 {
        Exit::Done
    } else {
        Exit::Partly
    })
}

fn migrate(device: &Device, start: u64, process: &Process) -> Result<()> {
    let range = AddrRange::with_length(UserAddr::new(start), ByteCount::new(BLOCK))?;
    let options = MigrateOptions::default();
    let target = Target::Process(process);
    device.migrate_with(range, Direction::ToDevice, &options, target, |_| {
        ControlFlow::Continue(())
    })?;
    Ok(())
}

fn expected(what: Made, device: Option<&Device>) -> Counts {
    let pages = BLOCK / FRAME_BYTES;
    let place = match (what, device) {
        (Made::Untouched, _) => return Counts::default(),
        (Made::Moved, Some(device)) => Place::Device(device.number()),
        (Made::Moved | Made::Written, _) => Place::System,
    };
    [(place, pages)].into_iter().collect()
}

/// The pages of a block, whose granules are no larger than itself.
fn counts_of(survey: &Survey, start: u64) -> Counts {
    let mut counts = Counts::default();
    for cell in survey.granules.cells() {
        let at = survey.granules.range_of(cell).start().get();
        if (start..start + BLOCK).contains(&at) {
            counts.merge(&cell.counts);
        }
    }
    counts
}
