//! What a detach or an evict left: a table of frames with who holds them.

use cohmem::{ByteCount, DetachOutcome, Holders, holders};
use serde::Serialize;

use crate::{
    exit::{Result, warn},
    output::{Output, Table},
};

/// One frame that could not be taken back.
#[derive(Debug, Serialize)]
pub(crate) struct StuckRow {
    phys: u64,
    refs: u32,
    maps: u32,
    reason: &'static str,
    reason_text: &'static str,
    processes: Vec<ProcessRow>,
}

#[derive(Debug, Serialize)]
struct ProcessRow {
    pid: u32,
    name: String,
    address: u64,
}

/// What was done, for JSON.
#[derive(Debug, Serialize)]
pub(crate) struct OutcomeRow {
    schema: &'static str,
    device: u32,
    done: bool,
    bytes_evicted: u64,
    frames_stuck: u64,
    frames_kept: u64,
    stuck: Vec<StuckRow>,
}

impl OutcomeRow {
    pub(crate) fn new(schema: &'static str, device: u32, outcome: &DetachOutcome) -> Self {
        Self {
            schema,
            device,
            done: outcome.is_done(),
            bytes_evicted: ByteCount::of_frames(outcome.evicted).get(),
            frames_stuck: outcome.nr_stuck,
            frames_kept: outcome.kept,
            stuck: rows(outcome, &find_holders(outcome)),
        }
    }
}

fn find_holders(outcome: &DetachOutcome) -> Holders {
    let frames: Vec<u64> = outcome.stuck.iter().map(|frame| frame.phys).collect();
    match holders(&frames) {
        Ok(found) => found,
        Err(error) => {
            warn("cannot tell which processes hold the frames", &error);
            Holders::default()
        }
    }
}

fn rows(outcome: &DetachOutcome, found: &Holders) -> Vec<StuckRow> {
    let process = |holder: &cohmem::Holder| ProcessRow {
        pid: holder.pid,
        name: holder.name.clone(),
        address: holder.address.get(),
    };
    outcome
        .stuck
        .iter()
        .map(|frame| StuckRow {
            phys: frame.phys,
            refs: frame.refs,
            maps: frame.maps,
            reason: frame.reason.map_or("unknown", cohmem::Reason::name),
            reason_text: frame.reason.map_or(
                "for a reason this program does not know",
                cohmem::Reason::text,
            ),
            processes: found
                .by_frame
                .get(&frame.phys)
                .into_iter()
                .flatten()
                .map(process)
                .collect(),
        })
        .collect()
}

/// Rows of the table that a person gets; the JSON has all.
const SHOWN: usize = 40;

/// Says which frames stayed, and who holds them.
pub(crate) fn print(out: &mut Output, outcome: &DetachOutcome) -> Result<()> {
    let found = find_holders(outcome);
    let mut table = Table::new(&["phys", ">refs", ">maps", "reason", "held by"]);
    let rows = rows(outcome, &found);
    for row in rows.iter().take(SHOWN) {
        let processes: Vec<_> = row
            .processes
            .iter()
            .map(|process| {
                format!(
                    "{} ({}) at {:#x}",
                    process.pid, process.name, process.address
                )
            })
            .collect();
        let held_by = match (processes.is_empty(), row.maps) {
            (false, _) => processes.join(", "),
            (true, 0) => "the kernel, mapped nowhere".to_owned(),
            (true, _) => "processes that were not found".to_owned(),
        };
        table.row(vec![
            format!("{:#x}", row.phys),
            row.refs.to_string(),
            row.maps.to_string(),
            row.reason.to_owned(),
            held_by,
        ]);
    }
    out.table(&table)?;
    let nr_shown = rows.len().min(SHOWN) as u64;
    if outcome.nr_stuck > nr_shown {
        out.line(&format!("and {} more frames", outcome.nr_stuck - nr_shown))?;
    }
    for (reason, count) in outcome.stayed.iter() {
        out.line(&format!("{count} {}: {}", reason.name(), reason.text()))?;
    }
    if found.nr_unseen > 0 {
        out.line(&format!(
            "{} processes could not be looked into",
            found.nr_unseen
        ))?;
    }
    Ok(())
}
