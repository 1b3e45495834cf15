//! The map as JSON.

use cohmem::ByteCount;
use serde::Serialize;

use super::timeline::Recording;
use crate::survey::{Counts, Survey};

/// Granules that are listed at most.
const MOST_GRANULES: usize = 1024;

/// A process at one moment.
#[derive(Debug, Serialize)]
pub(super) struct Row<'a> {
    schema: &'static str,
    pid: u32,
    name: &'a str,
    bytes_mapped: u64,
    bytes: &'a Counts,
    granule_bytes: u64,
    granules: Vec<GranuleRow>,
    mappings: Vec<MappingRow<'a>>,
}

#[derive(Debug, Serialize)]
struct GranuleRow {
    start: u64,
    bytes: Counts,
}

#[derive(Debug, Serialize)]
struct MappingRow<'a> {
    start: u64,
    size: u64,
    mode: String,
    name: Option<&'a str>,
    bytes: &'a Counts,
}

impl<'a> Row<'a> {
    pub(super) fn new(survey: &'a Survey) -> Self {
        let granules = survey.granules.at_most(MOST_GRANULES);
        let mappings = survey.mappings.iter().map(|one| MappingRow {
            start: one.vma.range.start().get(),
            size: one.vma.range.length().get(),
            mode: one.mode(),
            name: one.vma.name.as_deref(),
            bytes: &one.counts,
        });
        let rows = granules.cells().iter().map(|cell| GranuleRow {
            start: granules.range_of(cell).start().get(),
            bytes: cell.counts.clone(),
        });
        Self {
            schema: "cohmem.map/1",
            pid: survey.pid,
            name: &survey.name,
            bytes_mapped: ByteCount::new(survey.bytes_mapped()).get(),
            bytes: &survey.total,
            granule_bytes: granules.bytes(),
            granules: rows.collect(),
            mappings: mappings.collect(),
        }
    }
}

/// One look of a recording.
#[derive(Debug, Serialize)]
pub(super) struct MomentRow<'a> {
    schema: &'static str,
    pid: u32,
    milliseconds: u64,
    bytes: &'a Counts,
    granule_bytes: u64,
    granules: Vec<GranuleRow>,
}

/// The looks of a recording, on common granules.
pub(super) fn moments(recording: &Recording) -> Vec<MomentRow<'_>> {
    let aligned = recording.aligned(MOST_GRANULES);
    let rows = recording
        .samples
        .iter()
        .zip(aligned)
        .map(|(sample, granules)| MomentRow {
            schema: "cohmem.map-record/1",
            pid: recording.last.pid,
            milliseconds: u64::try_from(sample.at.as_millis()).unwrap_or(u64::MAX),
            bytes: &sample.total,
            granule_bytes: granules.bytes(),
            granules: granules
                .cells()
                .iter()
                .map(|cell| GranuleRow {
                    start: granules.range_of(cell).start().get(),
                    bytes: cell.counts.clone(),
                })
                .collect(),
        });
    rows.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::survey::sample;

    /// The schema: a change here is a new number in it.
    #[test]
    fn rows_have_the_published_fields() {
        let survey = sample::survey();
        let row = serde_json::to_value(Row::new(&survey)).unwrap();
        assert_eq!(row["schema"], "cohmem.map/1");
        assert_eq!(row["pid"], 4711);
        assert_eq!(row["bytes"]["cohmem0"], 48 << 20);
        assert_eq!(row["bytes"]["swap"], 512 << 10);
        let heap = &row["mappings"][1];
        assert_eq!(
            heap.to_string(),
            r#"{"bytes":{"system":1572864},"mode":"rw-p","name":"[heap]","size":2097152,"start":94355230556160}"#
        );
        let granules = row["granules"].as_array().unwrap();
        let sum: u64 = granules
            .iter()
            .filter_map(|one| one["bytes"]["cohmem1"].as_u64())
            .sum();
        assert_eq!(sum, 16 << 20);
        assert!(granules.len() <= MOST_GRANULES);
        assert!(row["granule_bytes"].as_u64().unwrap().is_power_of_two());
    }
}
