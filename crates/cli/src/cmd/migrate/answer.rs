//! What a migration did, told to a person or to a program.

use cohmem::{ByteCount, Migrated, Reason, ReasonCounts};
use serde::Serialize;

use crate::{
    exit::{Exit, Result},
    output::{Output, Table},
};

#[derive(Debug, Serialize)]
struct Row {
    schema: &'static str,
    pid: u32,
    to: String,
    dry_run: bool,
    done: bool,
    bytes_total: u64,
    bytes_moved: u64,
    bytes_filled: u64,
    stayed: Vec<ReasonRow>,
}

#[derive(Debug, Serialize)]
struct ReasonRow {
    reason: &'static str,
    text: &'static str,
    pages: u64,
    bytes: u64,
}

/// What a whole migration, over several ranges, did.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) pid: u32,
    /// `cohmemN` or `system`.
    pub(super) to: String,
    pub(super) dry_run: bool,
    pub(super) migrated: Migrated,
    pub(super) is_cut_short: bool,
}

impl Answer {
    pub(super) fn tell(&self, out: &mut Output) -> Result<Exit> {
        let migrated = &self.migrated;
        let is_done = !self.is_cut_short && disappointing(&migrated.stayed) == 0;
        let to = &self.to;
        if out.is_json() {
            let stayed = migrated.stayed.iter().map(|(reason, pages)| ReasonRow {
                reason: reason.name(),
                text: reason.text(),
                pages,
                bytes: ByteCount::of_frames(pages).get(),
            });
            out.json(&[Row {
                schema: "cohmem.migrate/1",
                pid: self.pid,
                to: to.clone(),
                dry_run: self.dry_run,
                done: is_done,
                bytes_total: ByteCount::of_frames(migrated.total).get(),
                bytes_moved: ByteCount::of_frames(migrated.moved).get(),
                bytes_filled: ByteCount::of_frames(migrated.filled).get(),
                stayed: stayed.collect(),
            }])?;
        } else {
            let would = if self.dry_run { "would move" } else { "moved" };
            out.line(&format!(
                "{would} {} of {} to {to}, filled {}",
                ByteCount::of_frames(migrated.moved),
                ByteCount::of_frames(migrated.total),
                ByteCount::of_frames(migrated.filled)
            ))?;
            print_reasons(out, migrated)?;
            if self.is_cut_short {
                out.line("a signal ended it early; what has moved stays where it is")?;
            }
        }
        Ok(if is_done { Exit::Done } else { Exit::Partly })
    }
}

/// Pages that stayed although they could be expected to move.
fn disappointing(stayed: &ReasonCounts) -> u64 {
    let expected = [
        Reason::AlreadyThere,
        Reason::Untouched,
        Reason::File,
        Reason::Special,
        Reason::Unmapped,
        Reason::Executable,
    ];
    let expected: u64 = expected.iter().map(|&reason| stayed.get(reason)).sum();
    stayed.total().saturating_sub(expected)
}

fn print_reasons(out: &mut Output, migrated: &Migrated) -> Result<()> {
    if migrated.stayed.total() == 0 {
        return Ok(());
    }
    let mut table = Table::new(&["stayed", ">pages", ">share", "since"]);
    for (reason, pages) in migrated.stayed.iter() {
        let permille = pages.saturating_mul(1000) / migrated.total.max(1);
        table.row(vec![
            reason.name().to_owned(),
            pages.to_string(),
            format!("{}.{} %", permille / 10, permille % 10),
            reason.text().to_owned(),
        ]);
    }
    out.table(&table)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pages_that_could_move_disappoint() {
        let mut stayed = ReasonCounts::default();
        for &reason in Reason::ALL {
            stayed.add(reason, 1);
        }
        assert_eq!(disappointing(&stayed), Reason::ALL.len() as u64 - 6);
        assert_eq!(disappointing(&ReasonCounts::default()), 0);
    }

    #[test]
    fn the_answer_has_the_published_fields() {
        let row = Row {
            schema: "cohmem.migrate/1",
            pid: 7,
            to: "cohmem0".to_owned(),
            dry_run: false,
            done: true,
            bytes_total: 8192,
            bytes_moved: 4096,
            bytes_filled: 0,
            stayed: vec![ReasonRow {
                reason: "untouched",
                text: "t",
                pages: 1,
                bytes: 4096,
            }],
        };
        assert_eq!(
            serde_json::to_string(&row).unwrap(),
            concat!(
                r#"{"schema":"cohmem.migrate/1","pid":7,"to":"cohmem0","dry_run":false,"#,
                r#""done":true,"bytes_total":8192,"bytes_moved":4096,"bytes_filled":0,"#,
                r#""stayed":[{"reason":"untouched","text":"t","pages":1,"bytes":4096}]}"#
            )
        );
    }
}
