//! Pages by place.

use std::{borrow::Cow, iter};

use cohmem::{ByteCount, Place};
use serde::{Serialize, Serializer};

/// Pages by place, devices first; places without a page are not in it.
///
/// Written as JSON it is an object of bytes by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts(Vec<(Place, u64)>);

impl Counts {
    /// Counts `pages` more pages.
    pub(crate) fn add(&mut self, place: Place, pages: u64) {
        if pages == 0 {
            return;
        }
        match self.0.binary_search_by_key(&place, |&(known, _)| known) {
            Ok(at) => {
                if let Some((_, count)) = self.0.get_mut(at) {
                    *count += pages;
                }
            }
            Err(at) => self.0.insert(at, (place, pages)),
        }
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        other
            .0
            .iter()
            .for_each(|&(place, pages)| self.add(place, pages));
    }

    pub(crate) fn get(&self, place: Place) -> u64 {
        self.iter()
            .find(|&(known, _)| known == place)
            .map_or(0, |(_, pages)| pages)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Place, u64)> + '_ {
        self.0.iter().copied()
    }

    /// What a picture shows: everything but the page of zeros, which takes no memory.
    pub(crate) fn shown(&self) -> impl Iterator<Item = (Place, u64)> + '_ {
        self.iter().filter(|&(place, _)| place != Place::Zero)
    }

    /// Pages in memory of any kind.
    pub(crate) fn in_memory(&self) -> u64 {
        self.shown()
            .filter(|&(place, _)| place != Place::Swap)
            .map(|(_, pages)| pages)
            .sum()
    }

    /// Pages on devices.
    pub(crate) fn on_devices(&self) -> u64 {
        self.iter()
            .filter(|(place, _)| matches!(place, Place::Device(_)))
            .map(|(_, pages)| pages)
            .sum()
    }

    /// Pages that a picture shows.
    pub(crate) fn nr_shown(&self) -> u64 {
        self.shown().map(|(_, pages)| pages).sum()
    }

    /// The place of most pages that a picture shows.
    pub(crate) fn most(&self) -> Option<Place> {
        self.shown()
            .max_by_key(|&(_, pages)| pages)
            .map(|(place, _)| place)
    }
}

impl Serialize for Counts {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let rows = self
            .iter()
            .map(|(place, pages)| (place_name(place), ByteCount::of_frames(pages).get()));
        serializer.collect_map(rows)
    }
}

/// `cohmem0`, `system` and so on.
pub(crate) fn place_name(place: Place) -> Cow<'static, str> {
    match place {
        Place::System => "system".into(),
        Place::File => "file".into(),
        Place::Zero => "zero".into(),
        Place::Swap => "swap".into(),
        Place::Device(number) => format!("cohmem{number}").into(),
        Place::Foreign => "foreign".into(),
        Place::Unseen => "unseen".into(),
    }
}

/// One letter for a picture without colours: the digit of a device (A-F from 10 on), or a letter.
pub(crate) fn place_letter(place: Place) -> char {
    match place {
        Place::System => 's',
        Place::File => 'f',
        Place::Zero => '.',
        Place::Swap => 'w',
        Place::Device(number) => {
            char::from_digit(number, 16).map_or('#', |c| c.to_ascii_uppercase())
        }
        Place::Foreign => 'x',
        Place::Unseen => '?',
    }
}

impl FromIterator<(Place, u64)> for Counts {
    fn from_iter<I: IntoIterator<Item = (Place, u64)>>(pairs: I) -> Self {
        let mut counts = Self::default();
        pairs
            .into_iter()
            .for_each(|(place, pages)| counts.add(place, pages));
        counts
    }
}

/// `counts` as `cells` cells in proportion to `whole` pages; `None` is a cell with nothing.
///
/// Whatever has a page has a cell as long as there are cells for all.
pub(crate) fn in_cells(counts: &Counts, whole: u64, cells: usize) -> Vec<Option<Place>> {
    let mut row: Vec<Option<Place>> = Vec::with_capacity(cells);
    let mut pages_before = 0_u64;
    let whole = u128::from(whole.max(1));
    let nr_places = counts.shown().count();
    for (at, (place, pages)) in counts.shown().enumerate() {
        pages_before += pages;
        let upto = u128::from(pages_before) * cells as u128 / whole;
        let upto = usize::try_from(upto).unwrap_or(cells);
        let last_for_this = cells.saturating_sub(nr_places - at - 1);
        let nr = upto
            .max(row.len() + 1)
            .min(last_for_this.max(row.len()))
            .saturating_sub(row.len());
        row.extend(iter::repeat_n(Some(place), nr));
    }
    row.resize(cells, None);
    row
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(pairs: &[(Place, u64)]) -> Counts {
        pairs.iter().copied().collect()
    }

    #[test]
    fn pages_are_counted_by_place() {
        let counts = counts(&[
            (Place::System, 5),
            (Place::Device(1), 2),
            (Place::Device(0), 1),
            (Place::System, 1),
            (Place::Zero, 100),
            (Place::Swap, 3),
            (Place::File, 0),
        ]);
        assert_eq!(counts.get(Place::System), 6);
        assert_eq!(counts.get(Place::File), 0);
        assert_eq!(counts.in_memory(), 9);
        assert_eq!(counts.on_devices(), 3);
        assert_eq!(counts.nr_shown(), 12);
        assert_eq!(counts.most(), Some(Place::System));
        assert_eq!(
            serde_json::to_string(&counts).unwrap(),
            r#"{"cohmem0":4096,"cohmem1":8192,"system":24576,"zero":409600,"swap":12288}"#
        );
    }

    #[test]
    fn a_row_of_cells_is_in_proportion_and_hides_nothing() {
        let text = |counts: &Counts, whole| -> String {
            let cells = in_cells(counts, whole, 10);
            cells
                .into_iter()
                .map(|cell| cell.map_or('.', place_letter))
                .collect()
        };
        let half = counts(&[(Place::Device(0), 50), (Place::System, 30)]);
        assert_eq!(text(&half, 100), "00000sss..");
        let little = counts(&[(Place::Device(0), 1), (Place::System, 1)]);
        assert_eq!(text(&little, 1000), "0s........");
        let nearly = counts(&[(Place::Device(0), 9_999), (Place::System, 1)]);
        assert_eq!(text(&nearly, 10_000), "000000000s");
        assert_eq!(text(&Counts::default(), 0), "..........");
    }
}
