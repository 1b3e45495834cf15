// SPDX-License-Identifier: GPL-2.0
//! Which pages may move, told from what the kernel says of them before anything is disturbed.
//!
//! The answers are advisory: pages change until a batch has collected them. What must hold then is
//! checked again in [`crate::window`]. Pages that cannot move are recognised here so that they are not
//! unmapped in vain, and so that each gets its reason.

use cohmem_uapi::{Direction, Reason};

use crate::{
    host::{Host, Mapping, PageFacts, Pfn, Vma},
    request::MigrateRequest,
};

/// What to do with one page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It stays.
    Stay(Reason),
    /// It moves, from system memory or from the device with that number; `hint` is why it may fail.
    Move { from: Origin, hint: Option<Reason> },
    /// There is nothing; fill it, if asked to.
    #[default]
    Absent,
}

/// Where a page is before it moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    System,
    Device(u32),
}

/// Why nothing in `vma` moves, whatever its pages are.
pub(crate) fn vma_reason(
    vma: &Vma,
    direction: Direction,
    moves_executable: bool,
) -> Option<Reason> {
    if vma.is_hugetlb {
        return Some(Reason::Hugetlb);
    }
    if vma.is_special {
        return Some(Reason::Special);
    }
    if vma.is_shared {
        return Some(Reason::File);
    }
    if vma.is_unreadable {
        return Some(Reason::NoPermission);
    }
    if vma.is_executable && direction == Direction::ToDevice && !moves_executable {
        return Some(Reason::Executable);
    }
    None
}

/// What the page tables and the devices say of one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Absent,
    /// There was a page, which the hardware lost.
    Poisoned,
    /// The shared zero page: read, never written.
    Zero,
    Forbidden,
    /// System memory.
    System {
        facts: PageFacts,
        is_huge: bool,
    },
    /// A device of ours.
    Device {
        number: u32,
        facts: PageFacts,
    },
    /// Memory of another driver.
    Foreign,
}

/// Resolves a mapping. `device_of` tells number and facts of a page of one of our devices.
pub(crate) fn place<H: Host>(
    host: &H,
    mapping: Mapping,
    device_of: impl Fn(Pfn) -> Option<(u32, PageFacts)>,
) -> Place {
    match mapping {
        Mapping::Absent => Place::Absent,
        Mapping::Poisoned => Place::Poisoned,
        Mapping::Forbidden => Place::Forbidden,
        Mapping::Present { pfn, is_huge } => match device_of(pfn) {
            Some((number, facts)) => Place::Device { number, facts },
            None => match host.system_page(pfn) {
                Some(facts) if facts.is_zero => Place::Zero,
                Some(facts) => Place::System { facts, is_huge },
                None => Place::Foreign,
            },
        },
    }
}

/// What `request` does with a page at `place`, to or from the device `own`.
pub(crate) fn verdict<H: Host>(
    host: &H,
    place: Place,
    request: &MigrateRequest,
    own: u32,
) -> Verdict {
    match (place, request.direction) {
        (Place::Absent, _) => Verdict::Absent,
        (Place::Poisoned, _) => Verdict::Stay(Reason::Poisoned),
        (Place::Zero, _) if request.fills_holes => Verdict::Absent,
        (Place::Zero, _) => Verdict::Stay(Reason::Untouched),
        (Place::Forbidden, _) => Verdict::Stay(Reason::NoPermission),
        (Place::Foreign, _) => Verdict::Stay(Reason::OtherDevice),
        (Place::System { .. }, Direction::ToSystem) => Verdict::Stay(Reason::AlreadyThere),
        (Place::System { facts, is_huge }, Direction::ToDevice) => system_verdict(
            &facts,
            is_huge,
            host.moves_partly_mapped_folios(),
            request.moves_shared,
        ),
        (Place::Device { number, .. }, Direction::ToDevice) if number == own => {
            Verdict::Stay(Reason::AlreadyThere)
        }
        (Place::Device { number, .. }, Direction::ToSystem) if number != own => {
            Verdict::Stay(Reason::OtherDevice)
        }
        (Place::Device { number, facts }, _) => {
            device_verdict(number, &facts, request.moves_shared)
        }
    }
}

fn system_verdict(
    facts: &PageFacts,
    is_huge: bool,
    moves_partly_mapped: bool,
    moves_shared: bool,
) -> Verdict {
    let stay = if !facts.is_anonymous {
        Some(Reason::File)
    } else if facts.is_ksm {
        Some(Reason::Ksm)
    } else if facts.is_poisoned {
        Some(Reason::Poisoned)
    } else if facts.is_large && !is_huge && !moves_partly_mapped {
        Some(Reason::LargeFolio)
    } else if facts.is_pinned {
        Some(Reason::Pinned)
    } else if is_shared(facts, is_huge) && !moves_shared {
        Some(Reason::Shared)
    } else {
        None
    };
    match stay {
        Some(reason) => Verdict::Stay(reason),
        None => Verdict::Move {
            from: Origin::System,
            hint: system_hint(facts),
        },
    }
}

/// Several processes map a page of system memory.
fn is_shared(facts: &PageFacts, is_huge: bool) -> bool {
    if facts.is_large && !is_huge {
        // Each of its pages counts as a map.
        facts.is_shared
    } else {
        facts.maps > 1
    }
}

/// What would explain a failure. Passing states (a lock, an LRU batch) do not keep us from trying.
fn system_hint(facts: &PageFacts) -> Option<Reason> {
    if facts.is_locked {
        return Some(Reason::Locked);
    }
    let expected = facts
        .maps
        .saturating_add(u32::from(facts.is_in_swapcache))
        .saturating_add(u32::from(!facts.is_on_lru));
    (!facts.is_large && facts.refs > expected).then_some(Reason::ExtraRef)
}

fn device_verdict(number: u32, facts: &PageFacts, moves_shared: bool) -> Verdict {
    if facts.is_poisoned {
        return Verdict::Stay(Reason::Poisoned);
    }
    if facts.is_pinned {
        return Verdict::Stay(Reason::Pinned);
    }
    if facts.maps > 1 && !moves_shared {
        return Verdict::Stay(Reason::Shared);
    }
    let hint = if facts.refs > facts.maps {
        Some(Reason::ExtraRef)
    } else if facts.is_locked {
        Some(Reason::Locked)
    } else {
        None
    };
    Verdict::Move {
        from: Origin::Device(number),
        hint,
    }
}
