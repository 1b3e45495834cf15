//! Which parts of a large range hold memory.

use std::io;

use crate::{
    error::{Cause, Result},
    process::Process,
    units::{AddrRange, ByteCount, UserAddr},
};

impl Process {
    /// The parts of `range`, in multiples of `block` from its start, that hold a page in memory, in swap
    /// or on its way to another place, by address; parts that touch are one.
    ///
    /// It costs what the process has touched, not what it has mapped. A kernel without a scan of
    /// the page tables (before 6.7) makes it all of `range`.
    ///
    /// # Errors
    ///
    /// [`Io`](crate::ErrorKind::Io): `/proc/PID/pagemap` cannot be read.
    pub fn occupied(&self, range: AddrRange, block: ByteCount) -> Result<Vec<AddrRange>> {
        let (start, end) = (range.start().get(), range.end().get());
        let block = block.get().max(1);
        let mut found: Vec<(u64, u64)> = Vec::new();
        let scanned: io::Result<()> = self.pagemap().for_each_run(start, end, |runs| {
            for run in runs {
                let from = start + (run.start - start) / block * block;
                let to = start + (run.end - start).div_ceil(block).saturating_mul(block);
                let to = to.min(end);
                match found.last_mut() {
                    Some((_, last)) if *last >= from => *last = to.max(*last),
                    _ => found.push((from, to)),
                }
            }
            Ok(())
        });
        match scanned {
            Ok(()) => found
                .into_iter()
                .map(|(from, to)| AddrRange::new(UserAddr::new(from), UserAddr::new(to)))
                .collect(),
            Err(error) if error.raw_os_error() == Some(libc::ENOTTY) => Ok(vec![range]),
            Err(source) => Err(Cause::File {
                doing: "scan",
                path: format!("/proc/{}/pagemap", self.pid()).into(),
                source,
            }
            .into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::map::Mapping;

    #[test]
    fn blocks_with_a_touched_page_are_found() {
        const BLOCK: usize = 4 << 20;
        let mut mapping = Mapping::anonymous(8 * BLOCK).unwrap();
        let range = AddrRange::covering(mapping.as_slice());
        for offset in [0, BLOCK + 5, 6 * BLOCK] {
            mapping.as_mut_slice()[offset] = 1;
        }
        let process = Process::open(std::process::id()).unwrap();
        let found = process
            .occupied(range, ByteCount::new(BLOCK as u64))
            .unwrap();
        let offset = |address: UserAddr| (address.get() - range.start().get()) / BLOCK as u64;
        let found: Vec<_> = found
            .iter()
            .map(|part| (offset(part.start()), offset(part.end())))
            .collect();
        // A transparent huge page of 2 MiB may reach into the block before or behind.
        let holds = |block| found.iter().any(|&(from, to)| from <= block && block < to);
        assert!([0, 1, 6].into_iter().all(holds), "{found:?}");
        assert!(found == [(0, 8)] || !holds(3), "{found:?}");
    }
}
