//! The mutants of `cohmem run`.

use super::{Mutant, Test};

const fn unit(name: &'static str) -> Test {
    Test::Host {
        package: "cohmem-cli",
        target: "bin",
        name,
    }
}

pub(super) const MUTANTS: &[Mutant] = &[
    Mutant {
        name: "follow_holes_are_not_counted",
        guards: "a hole that is touched before the call is over the limit",
        changes: &[(
            "crates/cli/src/follow/pieces.rs",
            "let nr_new = nr_between + 1;",
            "let nr_new = 1;",
        )],
        test: unit("a_hole_that_is_touched_before_the_call_is_in_the_limit"),
        is_in_ci: true,
    },
    Mutant {
        name: "follow_pulls_pages_of_other_devices",
        guards: "pages on another device are left there",
        changes: &[(
            "crates/cli/src/follow/pieces.rs",
            "entry.device() != Some(device)",
            "entry.tier() == Tier::System",
        )],
        test: unit("a_piece_spans_small_gaps_and_no_other_device"),
        is_in_ci: false,
    },
    Mutant {
        name: "follow_counts_without_new_processes",
        guards: "a process that comes while the others are counted",
        changes: &[(
            "crates/cli/src/follow/stock.rs",
            "if new.is_empty() {",
            "if new.len() < asked.len() || new.is_empty() {",
        )],
        test: unit("a_child_that_comes_while_the_others_are_counted_is_counted"),
        is_in_ci: true,
    },
    Mutant {
        name: "follow_counts_moving_mappings",
        guards: "a mapping that goes elsewhere while it is counted",
        changes: &[(
            "crates/cli/src/follow/stock.rs",
            "is_complete && self.machine.areas(&one.process)? == areas",
            "is_complete",
        )],
        test: unit("pages_of_a_mapping_that_goes_elsewhere_meanwhile_stay_counted"),
        is_in_ci: true,
    },
    Mutant {
        name: "follow_forgets_guard_mappings",
        guards: "pages in a mapping without access are in the limit",
        changes: &[(
            "crates/cli/src/follow/stock.rs",
            "self.machine.present(process, range)",
            "Ok(0)",
        )],
        test: unit("pages_of_a_guard_mapping_stay_counted"),
        is_in_ci: false,
    },
    Mutant {
        name: "follow_ignores_the_limit",
        guards: "C8: the limit",
        changes: &[(
            "crates/cli/src/follow/place.rs",
            "nr_free.min(self.left)",
            "nr_free",
        )],
        test: unit("a_limit_is_filled_to_the_last_page"),
        is_in_ci: false,
    },
    Mutant {
        name: "follow_yields_for_ever",
        guards: "memory does not go to and fro",
        changes: &[(
            "crates/cli/src/follow/place.rs",
            "is_some_and(|seen| !seen.has_yielded)",
            "is_some()",
        )],
        test: unit("older_memory_yields_once"),
        is_in_ci: false,
    },
    Mutant {
        name: "follow_looks_all_the_time",
        guards: "looks take a small part of the time",
        changes: &[(
            "crates/cli/src/follow/stock.rs",
            "one.rest.max(cost)",
            "one.rest",
        )],
        test: unit("a_look_that_takes_long_is_followed_by_a_pause"),
        is_in_ci: false,
    },
    Mutant {
        name: "follow_loses_a_new_program",
        guards: "a program that a process becomes is followed at once",
        changes: &[(
            "crates/cli/src/follow/stock.rs",
            "for _try in 0..2 {",
            "for _try in 0..1 {",
        )],
        test: unit("children_are_followed_and_a_new_program_is_another_process"),
        is_in_ci: false,
    },
    Mutant {
        name: "follow_leaves_pages_behind",
        guards: "what the program leaves running goes home",
        changes: &[(
            "crates/cli/src/follow/place.rs",
            "                if area.is_accessible {\n",
            "                if area.is_accessible && !area.is_anonymous {\n",
        )],
        test: unit("what_the_program_leaves_behind_goes_home"),
        is_in_ci: false,
    },
];
