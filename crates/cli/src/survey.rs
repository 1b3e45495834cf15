//! One look at where the memory of a process is: by mapping and by granule.

mod counts;
mod granules;
#[cfg(test)]
pub(crate) mod sample;

use cohmem::{AddrRange, Device, ErrorKind, Extent, Process, Vma, VmaKind, discover};

pub(crate) use self::{
    counts::{Counts, in_cells, place_letter, place_name},
    granules::{Granule, Granules, range_at},
};

/// One mapping with its pages.
#[derive(Debug)]
pub(crate) struct MappingCounts {
    pub(crate) vma: Vma,
    pub(crate) counts: Counts,
}

impl MappingCounts {
    /// The file's name without its directories, `[heap]`, or `[anon]`.
    pub(crate) fn label(&self) -> &str {
        match &self.vma.name {
            None => "[anon]",
            Some(name) if name.starts_with('/') => name
                .rsplit('/')
                .next()
                .map_or("", |base| base.trim_end_matches(" (deleted)")),
            Some(name) => name,
        }
    }

    /// As the kernel's list shows it: `rw-p`.
    pub(crate) fn mode(&self) -> String {
        let vma = &self.vma;
        [
            (vma.is_readable, 'r', '-'),
            (vma.is_writable, 'w', '-'),
            (vma.is_executable, 'x', '-'),
            (vma.is_shared, 's', 'p'),
        ]
        .map(|(is_set, yes, no)| if is_set { yes } else { no })
        .iter()
        .collect()
    }
}

/// Where the memory of a process is.
#[derive(Debug)]
pub(crate) struct Survey {
    pub(crate) pid: u32,
    pub(crate) name: String,
    /// The mappings, by address, without the kernel's own.
    pub(crate) mappings: Vec<MappingCounts>,
    pub(crate) total: Counts,
    pub(crate) granules: Granules,
}

impl Survey {
    /// Looks at a process. `device` may be any; without it no page is found on one.
    pub(crate) fn take(process: &Process, device: Option<&Device>) -> cohmem::Result<Self> {
        let mut survey = Self::of_mappings(process.pid(), process.read_vmas()?);
        let mut at = 0;
        process.for_each_extent(device, |extent| survey.add(extent, &mut at))?;
        survey.name = process.read_name()?;
        Ok(survey)
    }

    /// Nothing is counted yet.
    fn of_mappings(pid: u32, vmas: Vec<Vma>) -> Self {
        let mappings = vmas
            .into_iter()
            .filter(|vma| vma.kind != VmaKind::Kernel)
            .map(|vma| MappingCounts {
                vma,
                counts: Counts::default(),
            });
        Self {
            pid,
            name: String::new(),
            mappings: mappings.collect(),
            total: Counts::default(),
            granules: Granules::default(),
        }
    }

    /// Counts an extent; `at` is the mapping that the one before, which is lower, ended in.
    fn add(&mut self, extent: Extent, at: &mut usize) {
        let start = extent.range.start();
        while self
            .mappings
            .get(*at)
            .is_some_and(|one| one.vma.range.end() <= start)
        {
            *at += 1;
        }
        for mapping in self.mappings.iter_mut().skip(*at) {
            let Some(part) = mapping.vma.range.intersection(extent.range) else {
                break;
            };
            mapping.counts.add(extent.place, part.nr_pages());
            self.total.add(extent.place, part.nr_pages());
            self.granules.add(part, extent.place);
        }
    }

    /// Bytes of all mappings, touched or not.
    pub(crate) fn bytes_mapped(&self) -> u64 {
        self.mappings
            .iter()
            .map(|one| one.vma.range.length().get())
            .sum()
    }

    /// For each range, which starts where the one before ends or later, the mapping that has most
    /// of what is in it.
    pub(crate) fn labels(&self, ranges: &[AddrRange]) -> Vec<&str> {
        let mut at = 0;
        let mut labels = Vec::with_capacity(ranges.len());
        for &range in ranges {
            while self
                .mappings
                .get(at)
                .is_some_and(|one| one.vma.range.end() <= range.start())
            {
                at += 1;
            }
            let within = self
                .mappings
                .iter()
                .skip(at)
                .take_while(|one| one.vma.range.start() < range.end());
            let largest = within.max_by_key(|one| {
                let overlap = one.vma.range.intersection(range);
                let pages = overlap.map_or(0, AddrRange::nr_pages);
                pages.min(one.counts.in_memory())
            });
            labels.push(largest.map_or("", MappingCounts::label));
        }
        labels
    }
}

/// What is known of devices here, for a command that can do without.
#[derive(Debug)]
pub(crate) struct Sight {
    /// Answers where pages are; `None` if no page can be on a device, or none may be told.
    pub(crate) device: Option<Device>,
    /// Why pages on devices are not told apart.
    pub(crate) limit: Option<String>,
}

impl Sight {
    /// Opens a device if there is one.
    pub(crate) fn open() -> cohmem::Result<Self> {
        let without = |limit: Option<String>| Self {
            device: None,
            limit,
        };
        if !cohmem::is_driver_loaded() {
            return Ok(without(Some(
                "the cohmem module is not loaded, so only system memory and swap are shown"
                    .to_owned(),
            )));
        }
        let devices = discover()?;
        let Some(first) = devices.first() else {
            return Ok(without(None));
        };
        match Device::open(first.number) {
            Ok(device) => Ok(Self {
                device: Some(device),
                limit: None,
            }),
            Err(error) if error.kind() == ErrorKind::NotPermitted => Ok(without(Some(format!(
                "{error}: pages on devices are shown as system memory; join the group cohmem",
            )))),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sums_of_a_look_agree() {
        let process = Process::open(std::process::id()).unwrap();
        let survey = Survey::take(&process, None).unwrap();
        assert_eq!(survey.pid, std::process::id());
        assert!(survey.total.in_memory() > 0);
        let mut sum = Counts::default();
        for mapping in &survey.mappings {
            sum.merge(&mapping.counts);
        }
        assert_eq!(sum, survey.total);
        let mut sum = Counts::default();
        for granule in survey.granules.cells() {
            sum.merge(&granule.counts);
        }
        assert_eq!(sum, survey.total);
        let ranges: Vec<_> = survey.mappings.iter().map(|one| one.vma.range).collect();
        let labels = survey.labels(&ranges);
        let own: Vec<_> = survey.mappings.iter().map(MappingCounts::label).collect();
        assert_eq!(labels, own);
    }
}
