//! Address space in equal parts, of which only those with content are kept.

use cohmem::{AddrRange, ByteCount, FRAME_BYTES, Place, UserAddr};

use super::Counts;

/// Granules that are kept at most: beyond that they become twice as large.
const MOST: usize = 16 * 1024;

/// One granule: an aligned part of the address space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Granule {
    /// Its address divided by the size of a granule.
    pub(crate) index: u64,
    pub(crate) counts: Counts,
}

/// The granules with content, by address.
///
/// However large the process, they are few: their size, a power of two, grows as needed.
#[derive(Clone, Debug)]
pub(crate) struct Granules {
    shift: u32,
    cells: Vec<Granule>,
}

impl Default for Granules {
    fn default() -> Self {
        Self {
            shift: FRAME_BYTES.ilog2(),
            cells: Vec::new(),
        }
    }
}

impl Granules {
    /// Bytes of a granule.
    pub(crate) const fn bytes(&self) -> u64 {
        1 << self.shift
    }

    pub(crate) fn cells(&self) -> &[Granule] {
        &self.cells
    }

    pub(crate) const fn shift(&self) -> u32 {
        self.shift
    }

    /// Counts the pages of `range`, which starts where the one before ended, or later.
    pub(crate) fn add(&mut self, range: AddrRange, place: Place) {
        let (mut at, end) = (range.start().get(), range.end().get());
        while at < end {
            let index = at >> self.shift;
            let upto = end.min((index + 1) << self.shift);
            let pages = (upto - at) / FRAME_BYTES;
            match self.cells.last_mut() {
                Some(last) if last.index == index => last.counts.add(place, pages),
                _ => {
                    let counts = [(place, pages)].into_iter().collect();
                    self.cells.push(Granule { index, counts });
                }
            }
            at = upto;
            if self.cells.len() > MOST {
                self.grow();
            }
        }
    }

    /// The same in at most `most` granules, which is not 0.
    pub(crate) fn at_most(&self, most: usize) -> Self {
        let mut fewer = self.clone();
        while fewer.cells.len() > most {
            fewer.grow();
        }
        fewer
    }

    /// The same with granules of `1 << shift` bytes, if they are not larger already.
    pub(crate) fn at_shift(&self, shift: u32) -> Self {
        let mut larger = self.clone();
        while larger.shift < shift {
            larger.grow();
        }
        larger
    }

    /// Addresses of a granule.
    pub(crate) fn range_of(&self, granule: &Granule) -> AddrRange {
        range_at(granule.index, self.shift)
    }

    fn grow(&mut self) {
        self.shift += 1;
        let mut kept = 0_usize;
        for at in 0..self.cells.len() {
            let index = self.cells.get(at).map_or(0, |cell| cell.index >> 1);
            let counts = self
                .cells
                .get_mut(at)
                .map(|cell| std::mem::take(&mut cell.counts))
                .unwrap_or_default();
            let before = kept.checked_sub(1).and_then(|at| self.cells.get_mut(at));
            match before {
                Some(last) if last.index == index => last.counts.merge(&counts),
                _ => {
                    if let Some(cell) = self.cells.get_mut(kept) {
                        *cell = Granule { index, counts };
                    }
                    kept += 1;
                }
            }
        }
        self.cells.truncate(kept);
    }
}

/// Addresses of the granule `index` of `1 << shift` bytes.
pub(crate) fn range_at(index: u64, shift: u32) -> AddrRange {
    let start = UserAddr::new(index << shift);
    let length = ByteCount::new(1 << shift);
    // User addresses end far below where this could wrap.
    AddrRange::with_length(start, length).unwrap_or_else(|_| AddrRange::covering::<u8>(&[]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u64, end: u64) -> AddrRange {
        AddrRange::new(UserAddr::new(start), UserAddr::new(end)).unwrap()
    }

    #[test]
    fn granules_grow_and_lose_nothing() {
        let mut granules = Granules::default();
        // 1 GiB in one piece, then single pages far apart.
        granules.add(range(0x1000, 0x4000_1000), Place::Device(0));
        for page in 0..1000_u64 {
            let start = 0x7000_0000_0000 + page * 0x20_0000;
            granules.add(range(start, start + 0x1000), Place::System);
        }
        assert!(granules.cells().len() <= MOST);
        let mut sum = Counts::default();
        for cell in granules.cells() {
            sum.merge(&cell.counts);
        }
        assert_eq!(sum.get(Place::Device(0)), 0x4000_0000 / FRAME_BYTES);
        assert_eq!(sum.get(Place::System), 1000);
        assert!(granules.cells().is_sorted_by_key(|cell| cell.index));
        let few = granules.at_most(64);
        assert!(few.cells().len() <= 64 && few.cells().len() > 8);
        assert_eq!(few.at_shift(40).bytes(), 1 << 40);
    }

    #[test]
    fn a_granule_knows_its_addresses() {
        let mut granules = Granules::default();
        granules.add(range(0x3000, 0x5000), Place::System);
        assert_eq!(granules.bytes(), 4096);
        let second = &granules.cells()[1];
        assert_eq!(granules.range_of(second), range(0x4000, 0x5000));
    }
}
