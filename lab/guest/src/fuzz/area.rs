//! Memory of a fuzzing thread, and what it must hold.
//!
//! One thread changes what a field holds; everybody may move its pages, which must not change it. Each
//! page that was written carries words that tell which page and which write it was.

use std::fs::File;

use super::random::{Random, scramble};
use crate::sys::{
    field::{Backing, Field},
    memory::PAGE,
};

/// Areas that a field has room for.
pub(crate) const NR_PLACES: usize = 10;
/// Bytes from one place to the next: room for two huge pages.
const PLACE_BYTES: usize = 4 << 20;

/// What backs an area.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Anonymous,
    /// Anonymous, in huge pages where the kernel has some.
    Huge,
    Shared,
    /// A private mapping of a file of zeros.
    File,
}

impl Kind {
    pub(crate) const ALL: [Self; 6] = [
        Self::Anonymous,
        Self::Anonymous,
        Self::Anonymous,
        Self::Huge,
        Self::Shared,
        Self::File,
    ];

    pub(crate) fn nr_pages(self) -> usize {
        match self {
            Self::Huge => Field::HUGE / PAGE,
            Self::Anonymous | Self::Shared | Self::File => 48,
        }
    }
}

/// What a page must hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Content {
    Unmapped,
    Zeros,
    /// The words of this write.
    Written(u64),
}

/// What the process may do with an area.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Write,
    Read,
    Execute,
    Nothing,
}

impl Access {
    const fn protection(self) -> i32 {
        match self {
            Self::Write => libc::PROT_READ | libc::PROT_WRITE,
            Self::Read => libc::PROT_READ,
            Self::Execute => libc::PROT_READ | libc::PROT_EXEC,
            Self::Nothing => libc::PROT_NONE,
        }
    }
}

/// A mapped place.
#[derive(Clone, Debug)]
struct Area {
    kind: Kind,
    access: Access,
    pages: Vec<Content>,
}

/// A range of an area.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part {
    pub(crate) offset: usize,
    pub(crate) len: usize,
}

/// A field with what it must hold.
#[derive(Debug)]
pub(crate) struct Land {
    pub(crate) field: Field,
    number: usize,
    places: [Option<Area>; NR_PLACES],
    nr_writes: u64,
    zeros: File,
}

/// Byte offset of a page of a place.
fn offset(place: usize, page: usize) -> usize {
    place * PLACE_BYTES + page * PAGE
}

/// A range that lies in a field with areas: an address below 2^47, as the field is at a fixed place.
pub(crate) fn somewhere(field: &Field, random: &mut Random) -> (u64, u64) {
    let place = random.below(NR_PLACES);
    let first = random.below(48);
    let nr_pages = 1 + random.below(64);
    (
        field.address(offset(place, first)),
        (nr_pages * PAGE) as u64,
    )
}

impl Land {
    /// Land without areas. `zeros` is an empty file that is at least as long as an area.
    pub(crate) fn new(number: usize, zeros: File) -> Self {
        Self {
            field: Field::new(number),
            number,
            places: [const { None }; NR_PLACES],
            nr_writes: 0,
            zeros,
        }
    }

    fn some_place(&self, random: &mut Random) -> Option<usize> {
        let taken: Vec<_> = (0..NR_PLACES)
            .filter(|&place| self.places[place].is_some())
            .collect();
        (!taken.is_empty()).then(|| random.pick(&taken))
    }

    /// A part of an area, mapped or not by now.
    pub(crate) fn some_part(&self, random: &mut Random) -> Option<Part> {
        let place = self.some_place(random)?;
        let nr_pages = self.places[place].as_ref()?.pages.len();
        let first = random.below(nr_pages);
        let len = 1 + random.below(nr_pages - first);
        Some(Part {
            offset: offset(place, first),
            len: len * PAGE,
        })
    }

    fn pages_of(&mut self, part: Part) -> (&mut Area, std::ops::Range<usize>) {
        let place = part.offset / PLACE_BYTES;
        let first = part.offset % PLACE_BYTES / PAGE;
        let area = self.places[place].as_mut().expect("a part of an area");
        (area, first..first + part.len / PAGE)
    }

    /// Maps an area at a free place, or in place of another.
    pub(crate) fn map(&mut self, random: &mut Random) {
        let free = self.places.iter().position(Option::is_none);
        // One place stays free, for areas that move.
        let place = match free {
            Some(place) if place + 1 < NR_PLACES => place,
            _ => random.below(NR_PLACES - 1),
        };
        self.field.unmap(offset(place, 0), PLACE_BYTES);
        let kind = random.pick(&Kind::ALL);
        let len = kind.nr_pages() * PAGE;
        let backing = match kind {
            Kind::Anonymous | Kind::Huge => Backing::Anonymous,
            Kind::Shared => Backing::Shared,
            Kind::File => Backing::File(&self.zeros),
        };
        self.field.map(offset(place, 0), len, backing);
        if kind == Kind::Huge {
            // No huge page can be had: ordinary ones do as well.
            drop(
                self.field
                    .advise(offset(place, 0), len, libc::MADV_HUGEPAGE),
            );
        }
        self.places[place] = Some(Area {
            kind,
            access: Access::Write,
            pages: vec![Content::Zeros; kind.nr_pages()],
        });
    }

    /// Unmaps a part.
    pub(crate) fn unmap(&mut self, part: Part) {
        self.field.unmap(part.offset, part.len);
        let (area, pages) = self.pages_of(part);
        area.pages[pages].fill(Content::Unmapped);
        if area.pages.iter().all(|&page| page == Content::Unmapped) {
            self.places[part.offset / PLACE_BYTES] = None;
        }
    }

    /// Drops a part's content, as `madvise` does.
    pub(crate) fn discard(&mut self, part: Part) {
        // Fails at a hole, after it has dropped what is before: the pages are looked at one by one.
        let Part { offset, len } = part;
        for at in (offset..offset + len).step_by(PAGE) {
            if self.field.advise(at, PAGE, libc::MADV_DONTNEED).is_err() {
                continue;
            }
            let (area, pages) = self.pages_of(Part {
                offset: at,
                len: PAGE,
            });
            if area.kind != Kind::Shared {
                area.pages[pages].fill(Content::Zeros);
            }
        }
    }

    /// Gives the kernel advice that changes no content.
    pub(crate) fn advise(&self, part: Part, random: &mut Random) {
        let Part { offset, len } = part;
        // Refused for some areas and at holes, which does not matter.
        drop(match random.below(10) {
            0 => self.field.lock(offset, len),
            1 | 2 => self.field.unlock(offset, len),
            _ => self.field.advise(
                offset,
                len,
                random.pick(&[
                    libc::MADV_PAGEOUT,
                    libc::MADV_COLD,
                    libc::MADV_POPULATE_READ,
                    libc::MADV_COLLAPSE,
                    libc::MADV_MERGEABLE,
                    libc::MADV_UNMERGEABLE,
                    libc::MADV_HUGEPAGE,
                    libc::MADV_NOHUGEPAGE,
                ]),
            ),
        });
    }

    /// Changes what may be done with an area.
    pub(crate) fn protect(&mut self, random: &mut Random) {
        let Some(place) = self.some_place(random) else {
            return;
        };
        let access = random.pick(&[
            Access::Write,
            Access::Write,
            Access::Read,
            Access::Execute,
            Access::Nothing,
        ]);
        let area = self.places[place].as_mut().expect("a taken place");
        // A part for a moment, which splits the mapping and huge pages.
        let nr_pages = area.pages.len();
        let part = random.below(nr_pages);
        drop(self.field.protect(
            offset(place, part),
            (nr_pages - part) * PAGE,
            libc::PROT_READ,
        ));
        area.access = access;
        for page in 0..nr_pages {
            if area.pages[page] != Content::Unmapped {
                self.field
                    .protect(offset(place, page), PAGE, access.protection())
                    .expect("mprotect of a mapped page");
            }
        }
    }

    /// Moves an area to the place that is free, if one is.
    pub(crate) fn move_area(&mut self, random: &mut Random) {
        let (Some(from), Some(to)) = (
            self.some_place(random),
            self.places.iter().position(Option::is_none),
        ) else {
            return;
        };
        let area = self.places[from].as_ref().expect("a taken place");
        let len = area.pages.len() * PAGE;
        // An area in several pieces does not move; a part of one could be left behind.
        if area.pages.contains(&Content::Unmapped)
            || self
                .field
                .remap(offset(from, 0), offset(to, 0), len)
                .is_err()
        {
            return;
        }
        self.places[to] = self.places[from].take();
    }

    fn word_of(&self, write: u64, page: usize, word: usize) -> u64 {
        scramble(write ^ ((self.number as u64) << 48) ^ ((page as u64) << 36) ^ (word as u64) << 56)
    }

    /// Word of a page that a write puts a value into, besides the first and the last.
    fn inner_word(write: u64) -> usize {
        1 + usize::try_from(write % 510).expect("small")
    }

    fn write_page(&mut self, place: usize, page: usize) {
        self.nr_writes += 1;
        let write = self.nr_writes;
        for word in [0, Self::inner_word(write), 511] {
            let value = self.word_of(write, page, word);
            self.field.store(offset(place, page) + word * 8, value);
        }
        let area = self.places[place].as_mut().expect("an area");
        area.pages[page] = Content::Written(write);
    }

    /// Writes to pages of an area. A child leaves shared memory alone, which is its parent's as well.
    pub(crate) fn write(&mut self, random: &mut Random, is_child: bool) {
        let Some(place) = self.some_place(random) else {
            return;
        };
        let area = self.places[place].as_ref().expect("a taken place");
        if area.access != Access::Write || (is_child && area.kind == Kind::Shared) {
            return;
        }
        let first = random.below(area.pages.len());
        let end = area.pages.len().min(first + 1 + random.below(24));
        for page in first..end {
            let area = self.places[place].as_ref().expect("a taken place");
            if area.pages[page] != Content::Unmapped {
                self.write_page(place, page);
            }
        }
    }

    /// Checks an area: what is wrong with it, if anything is.
    pub(crate) fn check(&self, random: &mut Random, is_child: bool) -> Result<(), String> {
        match self.some_place(random) {
            Some(place) => self.check_place(place, is_child),
            None => Ok(()),
        }
    }

    /// Checks all areas.
    pub(crate) fn check_all(&self, is_child: bool) -> Result<(), String> {
        (0..NR_PLACES).try_for_each(|place| self.check_place(place, is_child))
    }

    fn check_place(&self, place: usize, is_child: bool) -> Result<(), String> {
        let Some(area) = &self.places[place] else {
            return Ok(());
        };
        if area.access == Access::Nothing || (is_child && area.kind == Kind::Shared) {
            return Ok(());
        }
        for (page, &content) in area.pages.iter().enumerate() {
            let words = match content {
                Content::Unmapped => continue,
                Content::Zeros => [(0, 0), (255, 0), (511, 0)],
                Content::Written(write) => [0, Self::inner_word(write), 511]
                    .map(|word| (word, self.word_of(write, page, word))),
            };
            for (word, wanted) in words {
                let found = self.field.load(offset(place, page) + word * 8);
                if found != wanted {
                    return Err(format!(
                        "word {word} of page {page} of place {place} of field {} ({:?}, {content:?}) \
                         is {found:#x}, not {wanted:#x}",
                        self.number, area.kind
                    ));
                }
            }
        }
        Ok(())
    }
}
