//! Cuts what is to move into pieces for single calls.

use cohmem::{PageEntry, Reason, Tier};

/// Pages a call: the program's signals and the limit are looked at in between.
const LONGEST: usize = 16 << 10;
/// A gap of fewer pages that nothing is moved from is cheaper to call for than two calls.
const GAP: usize = 16;

/// Whether a look found that the page may move to the device; a passing state does not keep it.
pub(crate) fn is_candidate(entry: PageEntry) -> bool {
    entry.tier() == Tier::System
        && matches!(
            entry.reason(),
            None | Some(Reason::ExtraRef | Reason::Locked | Reason::Raced)
        )
}

/// The next piece of pages that move to `device`: the indices `start..end`, from `from` on.
///
/// At most `room` pages of it are not on the device by now, whatever they are: so many may come,
/// since a hole may be touched before the call. Pages of other devices are never in it, which the
/// call would move.
pub(crate) fn next_in(
    entries: &[PageEntry],
    from: usize,
    device: u32,
    room: u64,
) -> Option<(usize, usize)> {
    let may_begin = |entry: &PageEntry| is_candidate(*entry);
    let start = from + entries.get(from..)?.iter().position(may_begin)?;
    let mut end = start;
    let (mut nr_taken, mut nr_between) = (0_u64, 0_u64);
    for (index, &entry) in entries.iter().enumerate().skip(start).take(LONGEST) {
        if is_candidate(entry) {
            let nr_new = nr_between + 1;
            if nr_taken + nr_new > room {
                break;
            }
            nr_taken += nr_new;
            nr_between = 0;
            end = index + 1;
        } else if entry.tier() == Tier::None {
            nr_between += 1;
        } else if entry.device() != Some(device) {
            break;
        }
        if index + 1 >= end + GAP {
            break;
        }
    }
    (end > start).then_some((start, end))
}

/// The next piece of pages on `device`, of at most `most` pages.
pub(crate) fn next_home(
    entries: &[PageEntry],
    from: usize,
    device: u32,
    most: u64,
) -> Option<(usize, usize)> {
    let is_there = |entry: &PageEntry| entry.device() == Some(device);
    let rest = entries.get(from..)?;
    let start = rest.iter().position(is_there)?;
    let most = usize::try_from(most).unwrap_or(LONGEST).min(LONGEST);
    let nr_pages = rest
        .iter()
        .skip(start)
        .take(most)
        .take_while(|entry| is_there(entry))
        .count();
    (nr_pages > 0).then_some((from + start, from + start + nr_pages))
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    const HOME: PageEntry = PageEntry::new(Tier::System, 0, None);
    const HOLE: PageEntry = PageEntry::new(Tier::None, 0, Some(Reason::Untouched));
    const HERE: PageEntry = PageEntry::new(Tier::Device, 1, Some(Reason::AlreadyThere));
    const THERE: PageEntry = PageEntry::new(Tier::Device, 2, None);
    const FILE: PageEntry = PageEntry::new(Tier::System, 0, Some(Reason::File));
    const BUSY: PageEntry = PageEntry::new(Tier::System, 0, Some(Reason::Locked));

    #[test]
    fn a_piece_spans_small_gaps_and_no_other_device() {
        let pages = [HOLE, HOME, HOLE, HERE, BUSY, THERE, HOME, FILE, HOME];
        assert_eq!(next_in(&pages, 0, 1, u64::MAX), Some((1, 5)));
        assert_eq!(next_in(&pages, 5, 1, u64::MAX), Some((6, 7)));
        assert_eq!(next_in(&pages, 7, 1, u64::MAX), Some((8, 9)));
        assert_eq!(next_in(&pages, 9, 1, u64::MAX), None);
        let mut far = vec![HOLE; GAP + 2];
        (far[0], far[GAP + 1]) = (HOME, HOME);
        assert_eq!(next_in(&far, 0, 1, u64::MAX), Some((0, 1)));
    }

    #[test]
    fn a_hole_in_a_piece_counts_as_a_page_that_may_come() {
        let pages = [HOME, HOLE, HOME];
        assert_eq!(next_in(&pages, 0, 1, 2), Some((0, 1)));
        assert_eq!(next_in(&pages, 0, 1, 3), Some((0, 3)));
        assert_eq!(next_in(&pages, 0, 1, 0), None);
    }

    #[test]
    fn home_goes_what_is_on_the_device() {
        let pages = [HOLE, HERE, HERE, HERE, THERE, HERE];
        assert_eq!(next_home(&pages, 0, 1, 2), Some((1, 3)));
        assert_eq!(next_home(&pages, 3, 1, 9), Some((3, 4)));
        assert_eq!(next_home(&pages, 4, 1, 9), Some((5, 6)));
        assert_eq!(next_home(&pages, 0, 1, 0), None);
        assert_eq!(next_home(&pages, 0, 3, 9), None);
    }

    proptest! {
        #[test]
        fn pieces_hold_each_candidate_once_and_fit(
            kinds in vec(0..6_usize, 0..80),
            room in 1..40_u64,
        ) {
            let kinds_of = [HOME, HOLE, HERE, THERE, FILE, BUSY];
            let pages: Vec<_> = kinds.iter().map(|&kind| kinds_of[kind]).collect();
            let mut seen = 0;
            let mut at = 0;
            while let Some((start, end)) = next_in(&pages, at, 1, room) {
                prop_assert!(start >= at && end > start);
                let piece = &pages[start..end];
                prop_assert!(!piece.contains(&THERE) && !piece.contains(&FILE));
                let nr_coming = piece.iter().filter(|&&page| page != HERE).count() as u64;
                prop_assert!(nr_coming <= room);
                seen += piece.iter().filter(|&&page| is_candidate(page)).count();
                at = end;
            }
            prop_assert_eq!(seen, pages.iter().filter(|&&page| is_candidate(page)).count());
        }
    }
}
