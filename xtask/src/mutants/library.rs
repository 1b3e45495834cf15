//! Faults of the library.

use super::{Mutant, Test};

const fn suite(name: &'static str) -> Test {
    Test::Host {
        package: "cohmem",
        target: "conformance",
        name,
    }
}

const fn unit(name: &'static str) -> Test {
    Test::Host {
        package: "cohmem",
        target: "lib",
        name,
    }
}

pub(super) const MUTANTS: &[Mutant] = &[
    Mutant {
        name: "library_moves_what_is_pinned",
        guards: "pins: what is pinned stays",
        changes: &[(
            "crates/cohmem/src/pins.rs",
            "let parts = split(&range, &state.pinned);",
            "let parts = split(&range, &[]);",
        )],
        test: suite("pins::a_pinned_part_stays_and_the_rest_moves"),
        is_in_ci: true,
    },
    Mutant {
        name: "library_never_unpins",
        guards: "pins: they end with their guard",
        changes: &[(
            "crates/cohmem/src/pins.rs",
            "remove(&mut self.pins.lock().pinned, &self.range);",
            "let _ = (&self.pins, &self.range);",
        )],
        test: suite("pins::a_pinned_part_stays_and_the_rest_moves"),
        is_in_ci: false,
    },
    Mutant {
        name: "library_keeps_freed_blocks",
        guards: "heap: freed blocks are used again",
        changes: &[(
            "crates/cohmem/src/sys/heap.rs",
            "self.give(block, layout);",
            "let _ = (block, layout);",
        )],
        test: suite("heap::freed_blocks_are_used_again"),
        is_in_ci: true,
    },
    Mutant {
        name: "library_hands_out_a_block_twice",
        guards: "heap: blocks do not overlap",
        changes: &[(
            "crates/cohmem/src/heap/blocks.rs",
            "self.free.insert(at + bytes, end);",
            "self.free.insert(at + bytes / 2, end);",
        )],
        test: unit("blocks_never_overlap_and_all_come_back"),
        is_in_ci: false,
    },
    Mutant {
        name: "library_takes_any_range",
        guards: "C10: a range lies in its region",
        changes: &[(
            "crates/cohmem/src/pool/memory.rs",
            "if range.start() < whole.start() || range.end() > whole.end() {",
            "if range.start() < whole.start() {",
        )],
        test: suite("bad_input::ranges_that_are_not_the_regions_are_refused"),
        is_in_ci: false,
    },
    Mutant {
        name: "library_ignores_unknown_options",
        guards: "C10: an option that does nothing is refused",
        changes: &[(
            "crates/cohmem/src/pool/memory.rs",
            "        memory.check_options(options)?;\n",
            "",
        )],
        test: suite("bad_input::options_that_the_backend_lacks_are_refused"),
        is_in_ci: false,
    },
    Mutant {
        name: "library_leaves_a_strict_region_at_home",
        guards: "C8: it never lands somewhere else silently",
        changes: &[(
            "crates/cohmem/src/pool/mod.rs",
            "let is_on_device = matches!(birth, Birth::Device(_));",
            "let is_on_device = birth == Birth::Device(Placement::Spill);",
        )],
        test: suite("placement::a_region_born_on_the_device_is_there_and_zeroed"),
        is_in_ci: false,
    },
];
